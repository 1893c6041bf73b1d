"""Own models with weights that cannot learn, have no size or no values yet, or are of another type than the data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from crosstask import Budget, DataError, Registry, Task, TransferEngine
from crosstask.learning.modules import load_matching, load_tensors, redraw, trainable
from crosstask.learning.own_models import copied
from crosstask.learning.training import dtype_of
from crosstask.learning.transferring import fresh_model, receive, unfit_pair
from crosstask.tasks import Portfolio
from crosstask.testing import blobs

BUDGET = Budget(steps=5)


class Picks(nn.Module):
    """Whole numbers, kept as a parameter, say in which order its inputs are taken; its trunk is frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.order = nn.Parameter(torch.tensor([1, 0]), requires_grad=False)
        self.body = nn.Linear(2, 8).requires_grad_(False)
        self.head = nn.Linear(8, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.head(self.body(inputs[:, self.order]).relu())
        return found


class Quantised(nn.Module):
    """A trunk of torch's dynamic quantisation before an ordinary head."""

    def __init__(self) -> None:
        super().__init__()
        body = nn.Sequential(nn.Linear(2, 8), nn.ReLU())
        self.body = torch.ao.quantization.quantize_dynamic(body, {nn.Linear})
        self.head = nn.Linear(8, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.head(self.body(inputs))
        return found


class Spare(nn.Module):
    """A lazy layer that no pass comes by."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.spare = nn.Linear(2, 3), nn.LazyLinear(3)

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.head(inputs)
        return found


def made(kind: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return kind()


def target() -> Task:
    task = blobs("b", seed=1)
    task.data()
    return task


def test_whole_numbers_and_frozen_weights(registry: Registry) -> None:
    source = made(Picks)
    for model in (copied(source), fresh_model(source, target(), 0), trainable(made(Picks))):
        learns = {name: p.requires_grad for name, p in model.named_parameters()}
        assert not learns.pop("order")
        assert all(learns.values())
        assert torch.equal(model.get_parameter("order"), torch.tensor([1, 0]))
    assert not source.get_parameter("body.weight").requires_grad, "the source is as it was"
    with TransferEngine(registry=registry, discoverers=[], seeds=1, budget=BUDGET) as engine:
        engine.register_task(blobs("a"), source)
        engine.register_task(target())
        assert "body.weight" in engine.transfer_knowledge("a", "b").transferred
        model: Any = engine.adapt("a", "b").model
        assert type(model) is Picks
        assert not torch.equal(model.body.weight, source.get_parameter("body.weight")), "it learned"


class OfAByte(nn.Module):
    """A frozen matrix in eight bits, as a parameter or a buffer, before a network."""

    def __init__(self, dtype: torch.dtype, *, learned: bool) -> None:
        super().__init__()
        matrix = torch.tensor([[1.0, 0.5], [0.5, 2.0]]).to(dtype)
        if learned:
            self.matrix: Any = nn.Parameter(matrix, requires_grad=False)
        else:
            self.register_buffer("matrix", matrix)
        self.net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 3))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.net(inputs @ self.matrix.float())  # type: ignore[no-any-return]


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_weights_of_a_byte_are_no_sources_and_what_would_be_right_is_said(
    dtype: torch.dtype, registry: Registry
) -> None:
    model = made(lambda: OfAByte(dtype, learned=True))
    told = rf"the weights 'matrix' are {dtype}: they can be neither trained .*; model\.float\(\) makes them float32"
    with TransferEngine(registry=registry, discoverers=[], seeds=1, budget=BUDGET) as engine:
        engine.register_task(blobs("a"), model)
        engine.register_task(blobs("as it says"), made(lambda: OfAByte(dtype, learned=True)).float())
        engine.register_task(target())
        for ask in (engine.transfer_knowledge, engine.adapt):
            with pytest.raises(DataError, match=f"no transfer from 'a' to 'b': of the model of 'a' {told}"):
                ask("a", "b")
        assert "matrix" in engine.transfer_knowledge("as it says", "b").transferred
    with pytest.raises(DataError, match=f"task 'b': {told}"):
        fresh_model(model, target(), 0)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_a_buffer_of_bytes_stays_and_is_said_to(dtype: torch.dtype, registry: Registry) -> None:
    model = made(lambda: OfAByte(dtype, learned=False))
    assert "as they are matrix" in redraw(copied(model), 0)
    with TransferEngine(registry=registry, discoverers=[], seeds=1, budget=BUDGET) as engine:
        engine.register_task(blobs("a"), model)
        engine.register_task(target())
        assert "net.0.weight" in engine.transfer_knowledge("a", "b").transferred
        adapted: Any = engine.adapt("a", "b").model
        assert adapted.matrix.dtype == dtype
        assert torch.equal(adapted.matrix.float(), model.get_buffer("matrix").float())


@pytest.mark.filterwarnings("ignore:.*deprecated")  # torch's own quantisation
def test_quantised_layers_are_no_sources_and_can_be_under_a_head_that_is_trained(registry: Registry) -> None:
    told = r"the layer 'body\.0' is quantised: its weights can be neither trained nor drawn anew"
    with TransferEngine(registry=registry, discoverers=[], seeds=1, budget=BUDGET) as engine:
        engine.register_task(blobs("a"), made(Quantised))
        engine.register_task(target())
        for ask in (engine.transfer_knowledge, engine.adapt):
            with pytest.raises(DataError, match=f"no transfer from 'a' to 'b': of the model of 'a' {told}"):
                ask("a", "b")
        assert "is quantised" in engine.advise("b").avoid["a"]
        data = blobs("c")
        built = Task(descriptor="c", train=data.train, test=data.test, build=Quantised)
        engine.register_task(built)
        engine.train(["c"])
        assert type(built.model) is Quantised
    with pytest.raises(DataError, match=f"task 'b': {told}"):
        receive(made(Quantised), target(), 0, False)
    whole = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(2, 3)), {nn.Linear})
    source = blobs("s")
    source.model = whole
    assert "the layer '0' is quantised" in str(unfit_pair(source, target(), Portfolio([source, target()])))


@pytest.mark.filterwarnings("ignore:.*deprecated")  # torch's own quantisation
def test_tensors_of_a_quantised_model_are_loaded_and_the_rest_stays() -> None:
    one, other = made(Quantised), Quantised()
    inputs = torch.randn(6, 2)
    body = other.get_submodule("body")(inputs)
    state = {name: value for name, value in one.state_dict().items() if isinstance(value, Tensor)}
    load_tensors(other, state)
    assert torch.equal(other.get_submodule("body")(inputs), body)
    assert torch.equal(other.get_parameter("head.weight"), one.get_parameter("head.weight"))
    fresh = Quantised()
    kept, left = load_matching(fresh, {**state, "head.bias": torch.zeros(7)})
    assert kept == ["body.0.scale", "body.0.zero_point", "head.weight"]
    assert "head.bias" in left
    with pytest.raises(RuntimeError, match="size mismatch"):
        load_tensors(fresh, {"head.bias": torch.zeros(7)})


class Extra(nn.Module):
    """Has a state besides its weights, which comes with no transfer."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.seen = nn.Linear(2, 3), 0

    def get_extra_state(self) -> int:
        return self.seen

    def set_extra_state(self, state: int) -> None:
        raise AssertionError("nobody gives it another")

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.head(inputs)
        return found


def test_extra_state_is_left_alone() -> None:
    one, other = Extra(), Extra()
    kept, left = load_matching(other, one.state_dict())
    assert (kept, left) == (["head.bias", "head.weight"], ["_extra_state"])


def test_lazy_layers_take_their_sizes_and_those_that_no_sample_reaches_are_said(registry: Registry) -> None:
    lazy = nn.Sequential(nn.LazyLinear(8), nn.LazyBatchNorm1d(), nn.ReLU(), nn.LazyLinear(3))
    with TransferEngine(registry=registry, discoverers=[], seeds=1, budget=BUDGET) as engine:
        engine.register_task(blobs("a"), lazy)
        engine.register_task(target())
        assert engine.transfer_knowledge("a", "b").transferred
        assert redraw(copied(lazy), 0) == "reset_parameters"
        told = r"task 'c': 'spare\.weight' of Spare has no size yet: .* samples of the task did not come by it: "
        with pytest.raises(DataError, match=told):
            engine.register_task(blobs("c"), Spare())


def test_models_of_another_type_or_without_values_say_what_would_be_right(registry: Registry) -> None:
    with TransferEngine(registry=registry, discoverers=[], seeds=1, budget=BUDGET) as engine:
        for kind in (torch.float16, torch.float64):
            told = rf"; its weights are {kind}: model\.to\(torch\.float32\) makes them alike"
            with pytest.raises(DataError, match=told):
                engine.register_task(blobs("a"), nn.Sequential(nn.Linear(2, 3)).to(kind))
        engine.register_task(blobs("a"), nn.Sequential(nn.Linear(2, 3)).double().to(torch.float32))
        with pytest.raises(DataError, match="cannot take inputs of shape") as caught:
            engine.register_task(blobs("d"), nn.Sequential(nn.Linear(5, 3)))
        assert "its weights are" not in str(caught.value)
        with torch.device("meta"):
            nowhere = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 3))
        with pytest.raises(DataError, match=r"'0\.weight' of Sequential lies on the meta device"):
            engine.register_task(blobs("c"), nowhere)


def test_the_type_of_a_model_is_of_its_first_real_numbers() -> None:
    model = made(Picks)
    assert next(model.parameters()).dtype == torch.int64
    assert dtype_of(model.double()) == torch.float64
    assert dtype_of(nn.Linear(2, 3, dtype=torch.complex128)) == torch.float64
    assert dtype_of(nn.ReLU()) == torch.get_default_dtype()
