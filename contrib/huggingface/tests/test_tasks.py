"""Data sets of `datasets` as tasks: what tensors they give, against the tokeniser's own padding."""

from __future__ import annotations

import pickle
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value
from PIL import Image
from sklearn.datasets import load_digits

from crosstask.errors import DataError, OptionError
from crosstask_huggingface import tasks_from_datasets
from crosstask_huggingface.splits import Tokens


def parts(task: Any, split: str = "train") -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = task.data(split).inputs.parts
    return found


def test_inputs_are_what_the_tokeniser_pads(sentences: Dataset, tokenizer: Any) -> None:
    portfolio = tasks_from_datasets(
        sentences.remove_columns("words"), tokenizer=tokenizer, target="label", held_out={"validation": 0.1, "test": 30}
    )
    task = portfolio["label"]
    assert task.descriptor.task_type == "classification"
    assert task.descriptor.classes == tuple(sentences.features["label"].names)
    assert len(task.data("test")) == 30
    assert len(task.data("validation")) == round(0.1 * len(sentences))
    assert task.descriptor.sample_count == len(task.data("train")) == len(sentences) - 30 - round(0.1 * len(sentences))
    longest = max(len(ids) for ids in tokenizer(sentences["text"][:])["input_ids"])
    assert task.descriptor.input_shapes == dict.fromkeys(("input_ids", "attention_mask"), (longest,))
    seen = {}
    for split in ("train", "validation", "test"):
        data = parts(task, split)
        for row, label in zip(range(len(data["input_ids"])), task.data(split).targets.tolist(), strict=True):
            seen[tuple(data["input_ids"][row].tolist())] = (label, data["attention_mask"][row].sum())
    expected = tokenizer(sentences["text"][:], padding="max_length", max_length=longest, return_tensors="pt")
    for row, ids in enumerate(expected["input_ids"].tolist()):
        assert seen[tuple(ids)][1] == expected["attention_mask"][row].sum()
    same = [row for row in sentences if sentences["text"][:].count(row["text"]) == 1]
    for row in same[::9]:
        ids = tokenizer(row["text"], padding="max_length", max_length=longest)["input_ids"]
        assert seen[tuple(ids)][0] == row["label"]
    assert len(seen) == len({tuple(row) for row in expected["input_ids"].tolist()})


@pytest.mark.parametrize("side", ["left", "right"])
def test_pairs_of_texts_and_either_side(tokenizer: Any, side: str) -> None:
    data = Dataset.from_dict(
        {"one": ["iris data", "wine"], "other": ["digits", "the classes of wine"], "label": [0, 1]}
    )
    tokenizer = pickle.loads(pickle.dumps(tokenizer))
    tokenizer.padding_side = side
    task = tasks_from_datasets(data, tokenizer=tokenizer, text=("one", "other"))["label"]
    expected = tokenizer(data["one"][:], data["other"][:], padding=True, return_tensors="pt")
    assert set(parts(task)) == set(expected)
    for name, tensor in parts(task).items():
        assert torch.equal(tensor, expected[name]), name


def test_texts_are_cut_and_padded_to_what_is_asked_for_and_no_sooner(sentences: Dataset, tokenizer: Any) -> None:
    counted = []

    class Counting:
        def __getattr__(self, name: str) -> Any:
            return getattr(tokenizer, name)

        def __call__(self, *texts: Any, **options: Any) -> Any:
            counted.append(len(texts[0]))
            return tokenizer(*texts, **options)

    data = DatasetDict(train=sentences.select(range(40)), test=sentences.select(range(40, 50)))
    task = tasks_from_datasets(
        data,
        tokenizer=Counting(),
        text="text",
        max_length=8,
        padding="max_length",
        fields=("input_ids", "attention_mask"),
    )["label"]
    assert sum(counted) < 5  # to see what it gives
    expected = tokenizer(
        data["train"]["text"][:], padding="max_length", max_length=8, truncation=True, return_tensors="pt"
    )
    found = parts(task)
    assert list(found) == ["input_ids", "attention_mask"]
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())
    assert 40 <= sum(counted) < 60  # the other split is not read


def test_several_data_sets_have_one_length(tokenizer: Any) -> None:
    short = Dataset.from_dict({"text": ["wine", "iris"], "label": [0, 1]})
    long = Dataset.from_dict({"sentence": ["the classes of wine are", "iris"], "score": [0.5, None], "label": [1, 0]})
    portfolio = tasks_from_datasets(
        {"a": short, "b": DatasetDict(train=long, dev=long)}, tokenizer=tokenizer,
        target="label",
    )  # fmt: skip
    assert portfolio.ids == ["a", "b"]
    assert portfolio["a"].descriptor.input_shapes == portfolio["b"].descriptor.input_shapes
    assert portfolio["a"].descriptor.input_shapes["input_ids"] == (7,)
    assert len(portfolio["b"].data("validation")) == 2


def test_targets_of_one_data_set_share_its_rows(sentences: Dataset, tokenizer: Any) -> None:
    portfolio = tasks_from_datasets(
        sentences, tokenizer=tokenizer, text="text", target=("label", "length"), held_out={"test": 0.2}
    )
    one, other = portfolio["label"].data("train"), portfolio["length"].data("train")
    assert one.table == other.table
    assert torch.equal(one.inputs.parts["input_ids"], other.inputs.parts["input_ids"])
    assert portfolio["length"].descriptor.task_type == "regression"
    assert portfolio["length"].descriptor.output_dim == 1
    lengths = {tuple(tokenizer(row["text"])["input_ids"]): row["length"] for row in sentences}
    ids, mask = other.inputs.parts["input_ids"], other.inputs.parts["attention_mask"]
    for row in range(0, len(ids), 17):
        assert float(other.targets[row]) == pytest.approx(lengths[tuple(ids[row, : mask[row].sum()].tolist())])


def test_what_a_column_is_says_its_feature(tokenizer: Any) -> None:
    features = Features(
        text=Value("string"), kind=Value("string"), sure=Value("bool"), stars=Value("int64"),
        topics=List(ClassLabel(names=["a", "b", "c"])), flags=List(Value("int64"), length=2),
        place=List(Value("float32"), length=2),
    )  # fmt: skip
    data = Dataset.from_dict(
        {
            "text": ["wine", "iris", "the data", "of"], "kind": ["x", None, "y", "x"],
            "sure": [True, False, None, True],
            "stars": [1, 2, 5, 4], "topics": [[0, 2], [], None, [1]], "flags": [[0, 1], [1, 1], [0, 0], None],
            "place": [[1.0, 2.0], None, [0.0, 1.0], [2.0, 2.0]],
        },
        features=features,
    )  # fmt: skip
    names = ["kind", "sure", "stars", "topics", "flags", "place"]
    portfolio = tasks_from_datasets(
        data, tokenizer=tokenizer, text="text", target=names, task_type={"flags": "multilabel"}
    )
    found = {name: portfolio[name].data("train").targets.tolist() for name in names}
    assert found["kind"] == [0, 1, 0]
    assert portfolio["kind"].descriptor.classes == ("x", "y")
    assert found["sure"] == [1, 0, 1]
    assert portfolio["stars"].descriptor.task_type == "classification"
    assert found["topics"] == [[1, 0, 1], [0, 0, 0], [0, 1, 0]]
    assert portfolio["topics"].descriptor.classes == ("a", "b", "c")
    assert found["flags"] == [[0, 1], [1, 1], [0, 0]]
    assert found["place"] == [[1, 2], [0, 1], [2, 2]]
    assert [portfolio[n].descriptor.task_type for n in ("topics", "flags", "place")] == [
        "multilabel", "multilabel", "regression",
    ]  # fmt: skip
    assert tasks_from_datasets(data, tokenizer=tokenizer, text="text", target="stars", task_type="regression")[
        "stars"
    ].data("train").targets.tolist() == [1, 2, 5, 4]


@pytest.mark.parametrize("side", ["left", "right"])
def test_words_have_labels_at_their_first_tokens(tokenizer: Any, side: str) -> None:
    tokenizer = pickle.loads(pickle.dumps(tokenizer))
    tokenizer.padding_side = side
    data = Dataset.from_dict(
        {"tokens": [["the", "wine-data"], ["iris"]], "tags": [[0, 1], [1]]},
        features=Features(tokens=List(Value("string")), tags=List(ClassLabel(names=["O", "NAME"]))),
    )
    task = tasks_from_datasets(data, tokenizer=tokenizer, target="tags")["tags"]
    assert task.descriptor.task_type == "token_classification"
    assert task.descriptor.classes == ("O", "NAME")
    rows = [[-100, 0, 1, -100, -100, -100], [-100, 1, -100]]  # marks; `wine`, `-`, `data` are three tokens
    empty = [-100] * 3
    assert task.data("train").targets.tolist() == [
        rows[0],
        [*empty, *rows[1]] if side == "left" else [*rows[1], *empty],
    ]
    short = data.map(lambda row: {"tags": row["tags"][:1]})
    with pytest.raises(DataError, match="column 'tags' has 1 labels for 2 words"):
        tasks_from_datasets(short, tokenizer=tokenizer, target="tags")["tags"].data("train")


def test_splits_without_labels_are_left_out_and_labels_that_are_missing(tokenizer: Any) -> None:
    """-1 is what published tests of contests have."""
    features = Features(text=Value("string"), label=ClassLabel(names=["no", "yes"]))
    train = Dataset.from_dict({"text": ["wine", "iris", "of"], "label": [1, -1, 0]}, features=features)
    test = Dataset.from_dict({"text": ["wine", "iris"], "label": [-1, -1]}, features=features)
    task = tasks_from_datasets(DatasetDict(train=train, test=test), tokenizer=tokenizer)["label"]
    assert not task.has_data("test")
    assert task.data("train").targets.tolist() == [1, 0]
    assert task.descriptor.sample_count == 2
    with pytest.raises(DataError, match="no sample has a label in 'label'"):
        tasks_from_datasets(test, tokenizer=tokenizer)


def test_columns_without_texts() -> None:
    pixels, digits = load_digits(return_X_y=True)
    images = [Image.fromarray((16 * row.reshape(8, 8)).clip(0, 255).astype("uint8")) for row in pixels[:20]]
    data = Dataset.from_dict({"image": images, "label": digits[:20]})
    assert isinstance(data.features["image"], datasets.Image)
    task = tasks_from_datasets(data, held_out={"test": 5})["label"]
    assert task.data("test").inputs.shape == (5, 8, 8)
    order = {tuple(np.asarray(i).reshape(-1).tolist()): n for i, n in zip(images, digits, strict=False)}
    for image, label in zip(task.data("train").inputs, task.data("train").targets, strict=True):
        assert order[tuple((image * 255).round().int().flatten().tolist())] == int(label)
    colour = Dataset.from_dict({"image": [i.convert("RGB") for i in images], "label": digits[:20]})
    assert tasks_from_datasets(colour)["label"].data("train").inputs.shape == (20, 3, 8, 8)
    table = Dataset.from_dict(
        {"x": [1.0, 2.0], "y": [3, 4], "z": [[1, 2], [3, 4]], "text": ["a", "b"], "label": [0, 1]}
    )
    assert tasks_from_datasets(table, inputs=("x", "y"))["label"].data("train").inputs.tolist() == [[1, 3], [2, 4]]
    both = tasks_from_datasets(table, inputs=("x", "z"), target="label")["label"].data("train").inputs.parts
    assert both["z"].tolist() == [[1, 2], [3, 4]]
    assert both["x"].tolist() == [1, 2]
    with pytest.raises(DataError, match="column 'text' holds no numbers"):
        tasks_from_datasets(table, target="label")["label"].data("train")
    odd = Dataset.from_dict({"x": [[1], [1, 2]], "label": [0, 1]})
    with pytest.raises(DataError, match="column 'x' has samples of different sizes"):
        tasks_from_datasets(odd)["label"].data("train")


def test_a_limit_draws_samples_of_all_classes(tokenizer: Any) -> None:
    """A data set that is sorted by class, as many are."""
    data = Dataset.from_dict({"text": ["wine"] * 200, "label": [0] * 100 + [1] * 100})
    task = tasks_from_datasets(data, tokenizer=tokenizer, limit=40)["label"]
    assert len(task.data("train")) == 40
    assert 8 < int(task.data("train").targets.sum()) < 32
    other = tasks_from_datasets(data, tokenizer=tokenizer, limit=40, seed=1)["label"]
    assert task.data("train").targets.tolist() != other.data("train").targets.tolist()
    assert len(tasks_from_datasets(data, tokenizer=tokenizer, limit=900)["label"].data("train")) == 200


def test_streamed_data(sentences: Dataset, tokenizer: Any) -> None:
    stream = sentences.to_iterable_dataset()
    task = tasks_from_datasets(stream, tokenizer=tokenizer, text="text", target="label", limit=25)["label"]
    assert len(task.data("train")) == 25
    assert task.descriptor.sample_count is None
    assert task.data("train").targets.tolist() == sentences["label"][:25]
    with pytest.raises(DataError, match="no training data of a known length"):
        tasks_from_datasets(stream, tokenizer=tokenizer, text="text", target="label", held_out={"test": 0.1})


def test_a_task_can_be_sent_and_is_the_same(sentences: Dataset, tokenizer: Any) -> None:
    def made() -> Any:
        return tasks_from_datasets(sentences, tokenizer=tokenizer, text="text", target="label", limit=20)["label"]

    assert pickle.loads(pickle.dumps(made())).fingerprint() == made().fingerprint()


def test_a_mask_is_made_where_the_tokeniser_gives_none(tokenizer: Any) -> None:
    tokenizer = pickle.loads(pickle.dumps(tokenizer))
    tokenizer.model_input_names = ["input_ids"]
    tokenizer.model_max_length = 4
    tokens = Tokens(tokenizer)
    assert tokens.max_length == 4
    made = tokens.padded(tokens.encode([["iris", "the wine data of"]]), 4)
    assert made["attention_mask"].tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]


BAD: list[tuple[type[Exception], str, dict[str, Any]]] = [
    (OptionError, "unknown padding 'longst'; did you mean 'longest'", {"padding": "longst"}),
    (DataError, "target: there is no column 'labl'; did you mean 'label'", {"target": "labl"}),
    (DataError, "text: there is no column 'txt'; did you mean 'text'", {"text": "txt"}),
    (DataError, "the columns 'text', 'other' could be the text: say which with text=", {"text": None}),
    (OptionError, "texts need a tokenizer", {"tokenizer": None}),
    (OptionError, "unknown split 'tests'; did you mean 'test'", {"held_out": {"tests": 0.1}}),
    (DataError, "there is no split 'deev'", {"splits": {"validation": "deev"}}),
    (OptionError, "held_out: test=9 of 4 samples leaves nothing", {"held_out": {"test": 9}}),
    (OptionError, "task_type: no task 'lable'; did you mean 'label'", {"task_type": {"lable": "regression"}}),
    (OptionError, "the tokeniser gives no 'ids'", {"fields": ("ids",)}),
    (OptionError, "padding='max_length' needs max_length", {"padding": "max_length"}),
    (DataError, "column 'number' must hold text, got 1", {"text": "number"}),
]


@pytest.mark.parametrize(("error", "said", "given"), BAD, ids=[said for _, said, _ in BAD])
def test_what_does_not_fit_is_said(tokenizer: Any, error: type[Exception], said: str, given: dict[str, Any]) -> None:
    data = Dataset.from_dict(
        {"text": ["a", "b", "c", "d"], "other": ["e"] * 4, "number": [1] * 4, "label": [0, 1, 0, 1]}
    )
    with pytest.raises(error, match=said):
        tasks_from_datasets(data, **({"tokenizer": tokenizer, "text": "text"} | given))


def test_data_sets_that_are_none(tokenizer: Any) -> None:
    with pytest.raises(DataError, match="expected a Dataset or DatasetDict of `datasets`, got a list"):
        tasks_from_datasets([1, 2])
    with pytest.raises(DataError, match="data set 'a': expected a Dataset"):
        tasks_from_datasets({"a": None})
    with pytest.raises(DataError, match="no data set was given"):
        tasks_from_datasets({})
    with pytest.raises(DataError, match="the train data have no columns"):
        tasks_from_datasets(Dataset.from_dict({}))
    data = Dataset.from_dict({"text": ["a"], "answer": [1]})
    with pytest.raises(DataError, match="none of the columns 'text', 'answer' could be the target"):
        tasks_from_datasets(data, tokenizer=tokenizer)
    with pytest.raises(DataError, match="several of the columns 'y', 'label'"):
        tasks_from_datasets(Dataset.from_dict({"y": [1], "label": [1]}))
    with pytest.raises(DataError, match="none could be the text"):
        tasks_from_datasets(Dataset.from_dict({"x": [1], "label": [1]}), tokenizer=tokenizer)
    with pytest.raises(DataError, match="which of 'a', 'b' is for training"):
        tasks_from_datasets(DatasetDict(a=data, b=data))
    bare = pickle.loads(pickle.dumps(tokenizer))
    bare.pad_token = None
    with pytest.raises(OptionError, match="the tokeniser has no token to pad with"):
        tasks_from_datasets(data, tokenizer=bare, text="text", target="answer")
    mixed = Dataset.from_dict({"x": [1.0, 2.0], "label": [[1], [1, 2]]})
    with pytest.raises(DataError, match="targets cannot be made a tensor"):
        tasks_from_datasets(mixed, task_type="regression")["label"].data("train")


def _labelled_rows(labels: Any, feature: Any) -> Any:
    rows = [[float(n), 1.0] for n in range(len(labels))]
    features = datasets.Features({"x": datasets.Sequence(datasets.Value("float32")), "label": feature})
    return datasets.Dataset.from_dict({"x": rows, "label": labels}, features=features)


@pytest.mark.parametrize("several", [False, True])
def test_splits_that_number_their_classes_in_another_order_are_refused(several: bool) -> None:
    def part(names: list[str]) -> Any:
        kind = datasets.ClassLabel(names=names)
        labels: Any = [[0], [1]] * 4 if several else [0, 1] * 4
        return _labelled_rows(labels, datasets.Sequence(kind) if several else kind)

    both = datasets.DatasetDict(train=part(["neg", "pos"]), test=part(["pos", "neg"]))
    with pytest.raises(DataError, match="neg, pos in the train data and pos, neg in the test data"):
        tasks_from_datasets(both, inputs="x")


def test_a_label_that_is_no_class_is_no_other_class() -> None:
    named = datasets.Sequence(datasets.ClassLabel(names=["a", "b", "c"]))
    with pytest.raises(DataError, match="label -1 is none of the 3 classes"):
        next(iter(tasks_from_datasets(_labelled_rows([[0], [-1]], named), inputs="x"))).data("train")
    plain = datasets.Sequence(datasets.Value("int64"))
    with pytest.raises(DataError, match="a place, 0 or 1, for each label"):
        next(iter(tasks_from_datasets(_labelled_rows([[0], [1, 2]], plain), inputs="x"))).data("train")
    large = _labelled_rows([2**53 + 1, 2**53] * 4, datasets.Value("int64"))
    with pytest.raises(DataError, match="label 9007199254740993 is too large"):
        next(iter(tasks_from_datasets(large, inputs="x"))).data("train")


@pytest.mark.parametrize("wrong", [{"limit": -1}, {"limit": 2.5}, {"held_out": {"test": float("nan")}}])
def test_odd_numbers_of_samples_are_refused(wrong: Any) -> None:
    rows = _labelled_rows([0, 1] * 4, datasets.Value("int64"))
    with pytest.raises(OptionError, match="number"):
        tasks_from_datasets(rows, inputs="x", **wrong)
