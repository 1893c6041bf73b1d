"""Real sentences, a tokeniser made of them, and nothing from the network."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"

import re
from typing import Any

import datasets
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_iris, load_linnerud, load_wine
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

LOADERS = {
    "iris": load_iris, "wine": load_wine, "cancer": load_breast_cancer, "digits": load_digits,
    "diabetes": load_diabetes, "linnerud": load_linnerud,
}  # fmt: skip


@pytest.fixture(scope="session")
def sentences() -> datasets.Dataset:
    """Lines of scikit-learn's descriptions of six data sets, and which of them each is from."""
    rows: dict[str, list[Any]] = {"text": [], "label": [], "length": [], "words": []}
    for number, load in enumerate(LOADERS.values()):
        for line in load()["DESCR"].splitlines():
            words = re.findall(r"[A-Za-z]+", line)
            if len(words) > 4:
                rows["text"].append(" ".join(words))
                rows["label"].append(number)
                rows["length"].append(len(words) / 10)
                rows["words"].append(words)
    features = datasets.Features(
        text=datasets.Value("string"), label=datasets.ClassLabel(names=list(LOADERS)),
        length=datasets.Value("float32"), words=datasets.List(datasets.Value("string")),
    )  # fmt: skip
    return datasets.Dataset.from_dict(rows, features=features)


@pytest.fixture(scope="session")
def tokenizer(sentences: datasets.Dataset) -> PreTrainedTokenizerFast:
    """Words of the sentences, with BERT's marks around a text."""
    made = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    marks = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    made.train_from_iterator(sentences["text"], trainers.WordLevelTrainer(vocab_size=600, special_tokens=marks))
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )
