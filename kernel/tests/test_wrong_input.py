"""What is wrong with an argument, a batch, a model or a file is said in a sentence, before anything is kept or made."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from torch import nn

from crosstask import (
    Budget,
    Metric,
    ModelSpec,
    Portfolio,
    Task,
    TaskDescriptor,
    TransferEngine,
    TransferGraph,
    load_model,
    save_model,
)
from crosstask.errors import CrosstaskError, DataError
from crosstask.identity import identity_of
from crosstask.learning.training import evaluate, fit, predict

PIXELS, DIGITS = (np.asarray(a)[:80] for a in load_digits(return_X_y=True))
EVEN = torch.as_tensor(DIGITS % 2 == 0).long()


def task(**more: Any) -> Task:
    data = (torch.as_tensor(PIXELS / 16, dtype=torch.float32), EVEN)
    return Task(**{"descriptor": "even", "train": data, "test": data, **more})


def trained(subject: Task, model: nn.Module) -> None:
    fit(model, subject, Budget(steps=1), torch.Generator().manual_seed(0))


class Says(nn.Module):
    """Its answer is made of its layer's."""

    def __init__(self, answer: Callable[[torch.Tensor], Any]) -> None:
        super().__init__()
        self.layer, self.answer = nn.Linear(64, 2), answer

    def forward(self, inputs: torch.Tensor) -> Any:
        return self.answer(self.layer(inputs))


# Heads ----------------------------------------------------------------------------------------------------------------


def test_a_head_that_the_model_does_not_have_is_said_with_the_task_and_what_it_has() -> None:
    plain = nn.Sequential(nn.Linear(64, 2))
    with TransferEngine(discoverers=[]) as engine:
        with pytest.raises(
            DataError, match=r"task 'even': head: Seq.* no module or parameter 'haed'; valid: 0, 0\.bias, 0"
        ):
            engine.register_task(task(model=plain, head="haed"))
        with pytest.raises(
            DataError, match=r"task 'even': head: Says .* 'laye'; did you mean 'layer'. Valid: layer, layer\."
        ):
            engine.register_task(task(model=Says(lambda answer: answer), head="laye"))


# Data -----------------------------------------------------------------------------------------------------------------


def test_several_numbers_for_each_sample_are_no_labels() -> None:
    pairs = torch.tensor([[3, 9], [9, 3], [3, 3], [9, 9]])  # not from 0 on: names of classes
    with pytest.raises(DataError, match="one label per sample is needed, got shape"):
        Task(descriptor="a", train=(torch.zeros(4, 2), pairs)).data()


@pytest.mark.parametrize(
    ("odd", "told"),
    [
        (torch.zeros(4, 2, device="meta"), "meta device, which has no values"),
        (torch.tensor(3.0), "single number"),
        (torch.zeros(4, 0), "hold no numbers"),
        ([10**400] * 4, "cannot be made a tensor"),
        ([[1], [1, 2], [3], [4]], "cannot be made a tensor"),
    ],
    ids=["meta", "single number", "no features", "huge", "ragged"],
)
def test_inputs_that_are_none(odd: Any, told: str) -> None:
    with pytest.raises(DataError, match=f"task 'a', train data: .*{told}"):
        Task(descriptor="a", train=(odd, [0, 1, 0, 1])).data()


@pytest.mark.filterwarnings("ignore:Sparse CSR")
def test_numbers_in_odd_forms_are_read() -> None:
    plain = torch.tensor([[0.5, 1.0], [0.25, 2.0], [1.5, 0.0], [4.0, 0.125]])
    sparse = [(row.to_sparse(), 0) for row in plain]
    for given in (plain.to_sparse(), plain.to_sparse_csr(), plain.to(torch.float8_e4m3fn), plain.to_mkldnn()):
        assert torch.equal(Task(descriptor="a", train=(given, [0, 1, 0, 1])).data().inputs, plain)
    assert torch.equal(Task(descriptor="a", train=sparse).data().inputs, plain)


def test_a_tensor_is_known_by_its_values_whatever_its_numbers() -> None:
    small = torch.tensor([0.5, 2.0], dtype=torch.bfloat16)
    assert identity_of(small) == identity_of(small.clone()) != identity_of(small + 1)
    with pytest.raises(TypeError, match="cannot be told from another"):
        identity_of(torch.zeros(2, device="meta"))


# Arguments ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: Portfolio("ab"), "the tasks of portfolio 'portfolio' must be a list, got 'ab'"),  # type: ignore[arg-type]
        (lambda: Portfolio([]).add("a"), "what is added to a portfolio must be a Task, got a str"),  # type: ignore[arg-type]
        (lambda: task(descriptor=3), "the descriptor of a task must be a TaskDescriptor, got an? int"),
        (lambda: task().data(["test"]), r"unknown split \['test'\]"),  # type: ignore[arg-type]
        (lambda: TransferGraph().add_task("a"), "must be a TaskDescriptor, got a str"),  # type: ignore[arg-type]
        (lambda: TransferGraph().edge(["a"], "b"), "a task is named by its id, a string"),  # type: ignore[arg-type]
        (lambda: TransferGraph().direction("a", "b"), "no task 'a'"),
        (lambda: TransferEngine(seeds=0), "seeds must be at least 1"),
        (lambda: TransferEngine(train={"steps": "x"}), "steps must be an integer"),  # type: ignore[arg-type]
        (lambda: TransferEngine(observers=[3]), "observers must be observers or wrappers"),  # type: ignore[list-item]
        (lambda: TransferEngine().discover("skills"), "the discoverers must be a list|is empty"),
        (lambda: Metric("accuracy"), "a metric's function must be one"),  # type: ignore[arg-type]
        (lambda: ModelSpec(hidden=(10**15,)).build(TaskDescriptor(task_id="a", input_shape=(4,), output_dim=2), 0),
         "a network of inputs .* cannot be had"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_named(call: Callable[[], Any], told: str) -> None:
    with pytest.raises(CrosstaskError, match=told):
        call()


def test_an_engine_takes_budgets_as_tables() -> None:
    assert TransferEngine(train={"steps": 7}).train_budget == Budget(steps=7)  # type: ignore[arg-type]


# Training -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "model", "told"),
    [
        ({"loss": lambda o, t: 3.0}, Says(lambda y: y), "its loss must be a tensor of one number, got a float"),
        ({"loss": lambda o, t: o}, Says(lambda y: y), r"one real number, got shape \(32, 2\)"),
        ({"loss": lambda o, t: o[9999]}, Says(lambda y: y), "the loss <lambda> fails for outputs"),
        ({}, Says(lambda y: y.detach()), "does not depend on the model's trainable parameters"),
        ({}, nn.Linear(63, 2), r"Linear cannot take inputs of shape \(64,\)"),
        ({}, nn.Linear(64, 2, device="meta"), "'weight' of Linear lies on the meta device"),
        ({}, Says(lambda y: y.to_sparse()), "logits are a dense tensor"),
    ],
)
def test_what_cannot_be_trained_is_told_with_the_task(more: dict[str, Any], model: nn.Module, told: str) -> None:
    with pytest.raises(DataError, match=told) as caught:
        trained(task(**more), model)
    assert "task 'even'" in str(caught.value)


def test_what_the_users_own_code_raised_stays_the_cause() -> None:
    def broken(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        raise ZeroDivisionError("mine")

    with pytest.raises(DataError, match=r"the metric broken fails .*ZeroDivisionError: mine") as caught:
        evaluate(nn.Linear(64, 2), task(metric=broken))
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_memory_that_runs_out_is_told_as_it_is() -> None:
    class Large(nn.Linear):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            raise torch.OutOfMemoryError("too much")

    with pytest.raises(torch.OutOfMemoryError):
        predict(Large(64, 2), torch.zeros(3, 64))


class Forgetful(nn.Module):
    def __init__(self) -> None:
        pass


@pytest.mark.parametrize(
    ("model", "told"),
    [
        (Forgetful(), r"must call super\(\).__init__\(\) first"),
        (nn.Linear(64, 2, device="meta"), "meta device"),
        (Says(lambda y: y.to("meta")), "outputs on the meta device"),
    ],
)
def test_a_model_without_values_is_not_registered(model: nn.Module, told: str) -> None:
    engine = TransferEngine(auto_discover=False)
    with pytest.raises(DataError, match=told):
        engine.register_task(task(), model)
    assert (engine.portfolio.ids, engine.graph.task_ids, engine.given_models) == ([], [], {})


def test_a_lazy_model_is_registered_once_its_sizes_are_known() -> None:
    engine = TransferEngine(auto_discover=False)
    with pytest.raises(DataError, match="has no size yet"):
        engine.register_task(TaskDescriptor(task_id="blind"), nn.LazyLinear(2))
    model = nn.LazyLinear(2)
    engine.register_task(task(), model)
    assert model.weight.shape == (2, 64)


# Files ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        lambda told: told.update(outputs=2**31),
        lambda told: told["made"]["spec"].update(hidden=[2**31]),
        lambda told: told["made"]["descriptor"].update(input_shape=[2**40]),
    ],
    ids=["outputs", "width", "inputs"],
)
def test_a_damaged_model_file_takes_no_memory(tmp_path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    made = ModelSpec(hidden=(4,)).build(TaskDescriptor(task_id="a", input_shape=(64,), output_dim=2), 0)
    path = save_model(made, tmp_path / "m.safetensors")
    with safe_open(path, framework="pt") as file:
        told = json.loads(file.metadata()["crosstask"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 -- no mapping
    change(told)
    save_file(tensors, path, metadata={"crosstask": json.dumps(told)})
    with pytest.raises(DataError, match=r"has that size|not those of the mlp"):
        load_model(path)


def test_a_model_whose_head_was_replaced_is_read_again(tmp_path: Path) -> None:
    from crosstask.learning.modules import replace_head

    made = ModelSpec(hidden=(4,)).build(
        TaskDescriptor(task_id="a", input_shape=(64,), classes=("x", "y"), output_dim=2), 0
    )
    replace_head(made, 5, 0)
    again = load_model(save_model(made, tmp_path / "m.safetensors"))
    assert torch.equal(predict(again, torch.ones(1, 64)), predict(made, torch.ones(1, 64)))
    twice = load_model(save_model(again, tmp_path / "n.safetensors"))
    assert torch.equal(predict(twice, torch.ones(1, 64)), predict(made, torch.ones(1, 64)))
