"""Texts end to end: networks of transformers on tasks from `datasets`, through everything that an engine does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, BertModel

from crosstask import Budget, ModelSpec, Task, TransferEngine
from crosstask.errors import DataError, OptionError
from crosstask.job import run_recipe
from crosstask.learning.modules import forward
from crosstask.recipe import load_recipe
from crosstask.registry import Registry
from crosstask.testing import conformance
from crosstask_adapters import AdapterConfig, AdapterModel
from crosstask_huggingface import HuggingFaceSource, SequenceClassifier, tasks_from_datasets, text_network, trim_padding

TINY: dict[str, Any] = {
    "vocab_size": 600, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
    "max_position_embeddings": 128,
}  # fmt: skip
GPT: dict[str, Any] = {"vocab_size": 600, "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 128}


def portfolio_of(sentences: Dataset, tokenizer: Any) -> Any:
    """Which of two descriptions a line is from, three times."""
    pairs = {"a": (0, 1), "b": (2, 3), "c": (4, 5)}
    data = {}
    for name, (one, other) in pairs.items():
        own = sentences.filter(lambda label: label in (one, other), input_columns="label")  # noqa: B023
        binary = own.map(lambda row: {"side": int(row["label"] == one)}, remove_columns=["label", "length", "words"])  # noqa: B023
        data[name] = binary
    return tasks_from_datasets(
        data,
        tokenizer=tokenizer,
        text="text",
        target="side",
        held_out={"validation": 6, "test": 6},
        max_length=16,
        limit=30,
    )


def spec(kind: str = "bert", **more: Any) -> ModelSpec:
    config = TINY if kind == "bert" else GPT
    arguments = {"model_type": kind, **config, **more}
    return ModelSpec(kind="crosstask_huggingface.networks:text_network", arguments=arguments)


@pytest.mark.parametrize("pooling", ["mean", "own"])
def test_an_engine_does_all_it_does_with_texts(
    sentences: Dataset, tokenizer: Any, pooling: str, tmp_path: Path
) -> None:
    engine = TransferEngine(
        model=spec(pooling=pooling), budget=Budget(steps=3), seeds=1, auto_discover=False,
        discoverers=["skills", "probe"] if pooling == "mean" else ["skills"],
    )  # fmt: skip
    with engine:
        engine.register(portfolio_of(sentences, tokenizer))
        graph = engine.discover()
        assert set(graph.task_ids) == {"a", "b", "c"}
        adapted = engine.adapt("a", "c", "adapter")
        assert type(adapted.model) is (SequenceClassifier if pooling == "mean" else BertForSequenceClassification)
        if pooling == "own":
            return
        assert 0 <= engine.transfer_knowledge("a", "b").score.mean <= 1
        joint = engine.run_stage("multitask", tasks=["a", "b"], budget={"steps": 4})
        assert set(joint.record.scores) == {"a", "b"}
        assert engine.run_stage("curriculum", target="c", max_tasks=1).record is not None


def test_a_users_own_trunk_and_its_lora(sentences: Dataset, tokenizer: Any) -> None:
    portfolio = portfolio_of(sentences, tokenizer)
    torch.manual_seed(0)
    model = SequenceClassifier(BertModel(BertConfig(**TINY), add_pooling_layer=False), 2)
    task = portfolio["a"]
    with TransferEngine(budget=Budget(steps=4), seeds=1, discoverers=[], auto_discover=False) as engine:
        engine.register_task(Task(descriptor="mine", train=task.data("train")), model)
        engine.register_task(
            Task(descriptor="other", train=portfolio["b"].data("train"), test=portfolio["b"].data("test"))
        )
        better = engine.adapt("mine", "other", "adapter")
    assert type(better.model) is SequenceClassifier
    adapted = AdapterModel(model, AdapterConfig(lora_r=2, target_modules=("query", "value")))
    data = task.data("train").take(slice(8))
    loss = nn.functional.cross_entropy(adapted(**data.inputs.parts), data.targets)  # type: ignore[attr-defined]
    loss.backward()
    adapted.check_gradients()


@pytest.mark.parametrize("pooling", ["mean", "first", "last"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_pooling_takes_what_is_no_padding(pooling: str, side: str) -> None:
    class Echo(nn.Module):
        config = BertConfig(**TINY)

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> Any:
            class Found:
                last_hidden_state = input_ids[..., None].expand(-1, -1, 16) * self.weight

            return Found

    model = SequenceClassifier(Echo(), 1, pooling)
    nn.init.constant_(model.head.weight, 1 / 16)
    nn.init.zeros_(model.head.bias)
    ids = torch.tensor([[1.0, 2, 6], [4, 5, 0]])
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    if side == "left":
        ids[1], mask[1] = torch.tensor([0.0, 4, 5]), torch.tensor([0, 1, 1])
    expected = {"mean": [3, 4.5], "first": [1, 4], "last": [6, 5]}[pooling]
    assert model(input_ids=ids, attention_mask=mask)[:, 0].tolist() == pytest.approx(expected)
    whole = {"mean": 3, "first": 1, "last": 6}[pooling]
    assert float(model(input_ids=ids[:1]).detach()) == pytest.approx(whole)


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_padding_that_a_batch_does_not_need_is_cut_off(sentences: Dataset, tokenizer: Any, kind: str) -> None:
    made = tasks_from_datasets(
        sentences, tokenizer=tokenizer, text="text", target="label", padding="max_length", max_length=100
    )
    task = made["label"]
    data = task.data("train")
    spec_ = spec(kind, pooling="last" if kind == "gpt2" else "mean")
    whole = spec(kind, pooling="last" if kind == "gpt2" else "mean", trim=False).build(task.descriptor, 0).eval()
    trimmed = spec_.build(task.descriptor, 0).eval()
    widths = []
    trimmed.get_submodule("trunk").register_forward_pre_hook(
        lambda module, args, kwargs: widths.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    for rows in (slice(4), slice(20, 30)):
        part = data.take(rows)
        with torch.no_grad():
            torch.testing.assert_close(forward(trimmed, part.inputs), forward(whole, part.inputs), atol=1e-6, rtol=1e-5)
        assert widths[-1] == int(part.inputs.parts["attention_mask"].sum(1).max())  # type: ignore[attr-defined]
    part = data.take(slice(2))
    full = torch.ones_like(part.inputs.parts["attention_mask"])  # type: ignore[attr-defined]
    trimmed(input_ids=part.inputs.parts["input_ids"], attention_mask=full)  # type: ignore[attr-defined]
    trimmed(input_ids=part.inputs.parts["input_ids"])  # type: ignore[attr-defined]
    assert widths[-2:] == [100, 100]


def test_nothing_is_cut_off_in_a_transform_of_functions() -> None:
    """The mask of a sample under vmap cannot be looked at."""

    class Width(nn.Module):
        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            return input_ids.sum(1) + input_ids.shape[1]

    model, ids = trim_padding(Width()), torch.ones(2, 1, 5)
    mask = torch.tensor([[[1, 1, 0, 0, 0]], [[1, 0, 0, 0, 0]]])
    assert model(input_ids=ids[0], attention_mask=mask[0]).tolist() == [4]
    batched = torch.func.vmap(lambda one, other: model(input_ids=one, attention_mask=other))
    assert batched(ids, mask).tolist() == [[10], [10]]


def test_networks_begin_with_weights_of_a_folder(tmp_path: Path, tokenizer: Any) -> None:
    trunk = BertModel(BertConfig(**TINY), add_pooling_layer=False)
    trunk.save_pretrained(tmp_path)
    made = text_network({"input_ids": (8,)}, 3, folder=str(tmp_path), add_pooling_layer=False)
    for name, tensor in trunk.state_dict().items():
        assert torch.equal(made.get_submodule("trunk").state_dict()[name], tensor)
    tokens = text_network({"input_ids": (8,)}, 3, model_type="bert", pooling="none", **TINY)
    assert tokens(input_ids=torch.ones(2, 8, dtype=torch.long)).shape == (2, 8, 3)
    assert not tokens._forward_pre_hooks
    with pytest.raises(OptionError, match="needs a folder with a model, or a model_type"):
        text_network({}, 2)
    with pytest.raises(DataError, match="transformers cannot make 'nothing'"):
        text_network({}, 2, folder="nothing")
    with pytest.raises(OptionError, match="unknown pooling 'meen'; did you mean 'mean'"):
        text_network({}, 2, model_type="bert", pooling="meen", **TINY)
    odd = nn.Linear(1, 1)
    odd.config = object()  # type: ignore[assignment]
    with pytest.raises(DataError, match="its config does not say its width"):
        SequenceClassifier(odd, 2)


TESTS = Path(__file__).parent
SAVED: dict[str, Any] = {
    "folders": str(TESTS / "lines"), "tokenizer": str(TESTS / "lines" / "tokenizer"), "text": ("text",),
}  # fmt: skip
"""100 lines of scikit-learn's descriptions, as `save_to_disk` wrote them, and the tokeniser of `conftest.py`."""

test_conformance = conformance(
    HuggingFaceSource, options=SAVED | {"target": ("label", "length"), "max_length": 24, "unseen": ("length",)}
)


def test_a_recipe_names_a_folder(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        f"""
        seeds = 1
        [source]
        use = "huggingface"
        folders = {{ first = "{SAVED["folders"]}", second = "{SAVED["folders"]}" }}
        tokenizer = "{SAVED["tokenizer"]}"
        text = ["text"]
        target = ["label"]
        limit = 60
        max_length = 16
        [model]
        kind = "crosstask_huggingface.networks:text_network"
        arguments = {{ {", ".join(f"{k} = {v}" for k, v in TINY.items())}, model_type = "bert" }}
        [train]
        steps = 4
        [budget]
        steps = 4
        [discovery]
        discoverers = ["skills"]
        """
    )
    record = run_recipe(load_recipe(recipe, Registry.installed()).recipe, tmp_path / "run")
    assert "discovery" in record.results


def test_what_the_source_cannot_find_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no folder 'nowhere'"):
        HuggingFaceSource(folders="nowhere").load()
    with pytest.raises(DataError, match="is no folder of `save_to_disk`"):
        HuggingFaceSource(folders=str(tmp_path)).load()
    with pytest.raises(DataError, match="there is no folder 'nowhere' with a tokeniser"):
        HuggingFaceSource(**(SAVED | {"tokenizer": "nowhere"})).load()
    with pytest.raises(DataError, match="holds no tokeniser"):
        HuggingFaceSource(**(SAVED | {"tokenizer": str(tmp_path)})).load()
    with pytest.raises(OptionError, match="unseen: no task 'lable'; did you mean 'label'"):
        HuggingFaceSource(**SAVED, target=("label",), unseen=("lable",)).load()
    held = HuggingFaceSource(**SAVED, target=("label", "length"), unseen=("length",), pad_token="[SEP]", limit=9).load()
    assert held.ids == ["label"]
    assert [task.task_id for task in held.unseen] == ["length"]
    assert int(held["label"].data("train").inputs.parts["input_ids"][:, -1].min()) == 3  # type: ignore[attr-defined]
