"""Models, parts and heads that went through torch.compile: found, drawn, replaced and measured as without it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from crosstask import Budget, DataError, Registry, Task, TransferEngine
from crosstask.learning.fisher import fisher_diagonal
from crosstask.learning.modules import (
    Headless,
    head_found,
    head_keys,
    head_of,
    know,
    last_layer,
    locate_head,
    origin_of,
    plain_name,
    redraw,
    replace_head,
)
from crosstask.learning.own_models import copied
from crosstask.learning.training import misfit
from crosstask.learning.transferring import fresh_model, receive
from crosstask.testing import blobs

pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch's own


@pytest.fixture(autouse=True)
def compiler() -> Iterator[None]:
    """What it learns here would count for the next test that compiles."""
    yield
    torch.compiler.reset()


class Odd(nn.Module):
    """Its last layer is declared first; with `named`, it has a head of two layers."""

    def __init__(self, named: bool = False) -> None:
        super().__init__()
        wide = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))
        setattr(self, "head" if named else "answer", wide if named else nn.Linear(5, 3))
        self.body = nn.Sequential(nn.Linear(2, 5), nn.ReLU(), nn.Linear(5, 5))
        self.named = named

    def forward(self, inputs: Tensor) -> Tensor:
        last: Any = self.head if self.named else self.answer
        found: Tensor = last(self.body(inputs).relu())
        return found


WAYS = ("all", "twice", "in place", "part", "last")


def models(how: str, named: bool = False) -> tuple[Any, Any]:
    """The same model as it is and compiled, after a first pass."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        plain: Any = Odd(named)
    made: Any = copy.deepcopy(plain)
    if how in ("all", "twice"):
        made = torch.compile(made, backend="eager")
        made = torch.compile(nn.Sequential(made), backend="eager") if how == "twice" else made
    elif how == "in place":
        made.compile(backend="eager")
    else:
        name = "body" if how == "part" else "head" if named else "answer"
        setattr(made, name, torch.compile(getattr(made, name), backend="eager"))
    for model in (plain, made):
        model(torch.randn(4, 2, generator=torch.Generator().manual_seed(1)))
    if how == "twice":
        plain = nn.Sequential(plain)
    return plain, made


def state(model: nn.Module) -> dict[str, Tensor]:
    return {plain_name(name): value.detach().clone() for name, value in model.state_dict().items()}


def same(one: nn.Module, other: nn.Module) -> bool:
    ours, theirs = state(one), state(other)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("how", WAYS)
def test_the_head_is_the_same(how: str, named: bool) -> None:
    plain, made = models(how, named)
    inputs = torch.randn(6, 2)
    ours, theirs = (locate_head(model, inputs) for model in (plain, made))
    assert ours.module is not None
    assert theirs.module is not None
    assert plain_name(theirs.module) == ours.module
    assert ours.module.endswith("answer" if not named else "head.2" if how == "twice" else "head")
    assert set(map(plain_name, head_keys(made))) == head_keys(plain)
    assert sorted(p.shape for p in head_of(made).parameters()) == sorted(p.shape for p in head_of(plain).parameters())
    assert last_layer(made) is not None
    again = copy.deepcopy(made)  # a copy of what torch.compile made is made anew
    assert head_found(again) == theirs
    assert head_found(copied(made)) == theirs
    torch.testing.assert_close(Headless(made)(inputs), Headless(plain)(inputs))
    know(made, head=None)
    static = head_found(made).module
    know(plain, head=None)
    assert static is not None
    assert plain_name(static) == head_found(plain).module


@pytest.mark.parametrize("how", WAYS)
def test_a_head_that_is_named_as_it_was_before(how: str) -> None:
    plain, made = models(how)
    name = "0.answer" if how == "twice" else "answer"
    ours, theirs = (locate_head(model, torch.randn(2, 2), name) for model in (plain, made))
    assert ours.module == plain_name(str(theirs.module)) == name
    found = locate_head(made, torch.randn(2, 2), f"{name}.weight")
    assert plain_name(found.weights[0][0]) == f"{name}.weight"
    with pytest.raises(DataError, match=r"has no module or parameter 'answr'"):
        locate_head(made, torch.randn(2, 2), "answr")


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("how", WAYS)
def test_fresh_models_and_other_heads_are_the_same(how: str, named: bool) -> None:
    plain, made = models(how, named)
    inputs = torch.randn(6, 2)
    task = Task(descriptor="t", train=(inputs, torch.arange(6) % 4))
    task.data()
    for model in (plain, made):
        locate_head(model, inputs)
    ours, theirs = (fresh_model(model, task, 3) for model in (plain, made))
    assert same(ours, theirs)
    assert theirs(inputs).shape == (6, 4)
    torch.testing.assert_close(theirs(inputs), ours(inputs))
    ours, theirs = (receive(model, task, 3, False)[0] for model in (plain, made))
    assert same(ours, theirs)
    for model in (plain, made):
        replace_head(model, 7, 0)
    assert same(plain, made)
    torch.testing.assert_close(made(inputs), plain(inputs))


def test_a_factory_makes_either() -> None:
    for compiled in (False, True):
        plain, made = models("all")

        def build(compiled: bool = compiled) -> Any:
            return torch.compile(Odd(), backend="eager") if compiled else Odd()

        for model in (plain, made):
            locate_head(model, torch.randn(2, 2))
            know(model, build=build)
            assert redraw(model, 5) == "its factory"
        assert same(plain, made)
        assert origin_of(made).build is build


@pytest.mark.parametrize("how", WAYS)
def test_the_fisher_diagonal_is_the_same(how: str) -> None:
    plain, made = models(how)
    inputs, labels = torch.randn(40, 2), torch.arange(40) % 3
    ours, theirs = (fisher_diagonal(model, inputs, labels) for model in (plain, made))
    theirs = {plain_name(name): value for name, value in theirs.items()}
    assert ours.keys() == theirs.keys()
    assert all(float(value.sum()) > 0 for value in ours.values())
    for name, value in ours.items():
        torch.testing.assert_close(theirs[name], value)


def test_a_transfer_measures_the_same(registry: Registry) -> None:
    found = []
    for place in (0, 1):
        source, target = blobs("a"), blobs("b", seed=1)
        model = models("all")[place]
        outputs = source.descriptor.output_dim
        assert outputs is not None
        locate_head(model, source.data().inputs[:2])
        replace_head(model, outputs, 0)
        with TransferEngine(registry=registry, discoverers=[], seeds=1, budget=Budget(steps=5)) as engine:
            engine.register_task(source, model)
            engine.register_task(target)
            result = engine.transfer_knowledge("a", "b")
        found.append((result.score.mean, result.scratch_score.mean, sorted(map(plain_name, result.transferred))))
    assert found[0] == found[1]


@pytest.mark.parametrize("how", WAYS)
def test_inputs_that_do_not_fit_are_said_without_a_log_of_torch(how: str, capfd: pytest.CaptureFixture[str]) -> None:
    """A trial pass through the compiled model wrote some 25 lines of what had failed in the compiler."""
    _, made = models(how)
    wide = Task(descriptor="wide", train=(torch.randn(8, 13), torch.arange(8) % 3))
    assert "13" in str(misfit(made, wide))
    assert capfd.readouterr() == ("", "")
