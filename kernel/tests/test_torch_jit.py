"""Models that torch.jit has made, whole or as a trunk: what is possible with them works, what is not is said."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from crosstask import Budget, DataError, ModelSpec, Registry, Task, TaskDescriptor, TransferEngine
from crosstask.learning.modules import Headless, copy_of, head_of, redraw
from crosstask.learning.own_models import copied, prepare_model
from crosstask.learning.training import evaluate, fit, misfit
from crosstask.learning.transferring import receive
from crosstask.testing import blobs

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit")  # torch deprecates it

KINDS = ("scripted", "traced")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(2, 8), nn.ReLU())
        self.head = nn.Linear(8, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.head(self.trunk(inputs))
        return found


class Before(nn.Module):
    """An ordinary last layer behind a trunk of torch.jit's."""

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.trunk, self.last = trunk, nn.Linear(8, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.last(self.trunk(inputs))
        return found


def made(kind: str, model: nn.Module) -> Any:
    if kind == "scripted":
        return torch.jit.script(model)
    return torch.jit.trace(model, torch.randn(4, 2))


def plain(seed: int = 0) -> Net:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Net()


@pytest.mark.parametrize("kind", KINDS)
def test_it_can_be_scored_and_trained_and_what_cannot_be_is_said(kind: str, registry: Registry, tmp_path: Any) -> None:
    module = plain()
    source, target = blobs("a"), blobs("b", seed=1)
    budget = Budget(steps=5)
    with TransferEngine(registry=registry, discoverers=[], seeds=1, budget=budget) as engine:
        engine.register_task(source, made(kind, module))
        engine.register_task(target)
        assert evaluate(engine.portfolio["a"].model, source) == evaluate(module, source)  # type: ignore[arg-type]
        told = r"no transfer from 'a' to 'b': of the model of 'a' the head cannot be had: torch.jit has made it a \w+, "
        for ask in (engine.transfer_knowledge, engine.adapt):
            with pytest.raises(DataError, match=told + r"whose layers .* give the module that it was made of"):
                ask("a", "b")
        assert "the head cannot be had" in str(engine.advise("b").avoid["a"])
        engine.save(tmp_path / "kept")
        named = Task(descriptor="named", train=source.train, model=made(kind, module), head="head")
        with pytest.raises(DataError, match=r"the head cannot be had: torch\.jit"):
            engine.register_task(named)
    built = Task(descriptor=source.descriptor, train=source.train, test=source.test, build=lambda: made(kind, plain()))
    with TransferEngine(registry=registry, discoverers=[], model=ModelSpec(hidden=(4,))) as engine:
        engine.register_task(built)
        engine.train()
        assert built.model is not None
        before, after = plain().state_dict(), built.model.state_dict()
        assert before.keys() == after.keys()
        assert not torch.equal(before["head.weight"], after["head.weight"])


@pytest.mark.parametrize("kind", KINDS)
def test_as_a_trunk_before_an_ordinary_head_it_can_be_a_source(kind: str, registry: Registry) -> None:
    def model() -> Before:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return Before(made(kind, nn.Sequential(nn.Linear(2, 8), nn.ReLU())))

    own, inputs = model(), blobs("a").data().inputs
    task = Task(descriptor="t", train=(inputs, torch.arange(len(inputs)) % 5))
    task.data()
    source = Task(descriptor=TaskDescriptor(task_id="s", output_dim=3), train=(inputs, torch.arange(len(inputs)) % 3))
    source.model = own
    prepare_model(source)
    assert head_of(own) is own.last
    torch.testing.assert_close(Headless(own)(inputs), own.trunk(inputs))
    receiver, kept, left = receive(own, task, 0, False)
    assert (len(kept), sorted(left)) == (2, ["last.bias", "last.weight"])
    assert all(torch.equal(a, b) for a, b in zip(receiver.trunk.parameters(), own.trunk.parameters(), strict=True))
    for each in (receiver, copied(own), copy_of(own)):
        assert all(p.is_leaf and p.requires_grad for p in each.parameters())
    before = [p.detach().clone() for p in own.parameters()]
    fit(receiver, task, Budget(steps=3), torch.Generator().manual_seed(0))
    moved = zip(receiver.trunk.parameters(), own.trunk.parameters(), strict=True)
    assert not any(torch.equal(a, b) for a, b in moved), "it was trained"
    assert all(torch.equal(a, b) for a, b in zip(before, own.parameters(), strict=True)), "the source was not"
    assert redraw(copy_of(own), 1).endswith("the spread of trunk.0.weight, trunk.0.bias")
    with TransferEngine(registry=registry, discoverers=[], seeds=1, budget=Budget(steps=5)) as engine:
        engine.register_task(blobs("a"), model())
        engine.register_task(blobs("b", seed=1))
        assert engine.transfer_knowledge("a", "b").transferred
        assert type(engine.adapt("a", "b").model) is Before


def test_a_copy_learns_as_the_model_does() -> None:
    model = plain()
    model.trunk.requires_grad_(False)
    found = {name: p.requires_grad for name, p in copy_of(model).named_parameters()}
    assert found == {name: p.requires_grad for name, p in model.named_parameters()}


def optimised(module: nn.Module) -> Any:
    return torch.jit.optimize_for_inference(torch.jit.script(module.eval()))


def frozen(module: nn.Module) -> Any:
    return torch.jit.freeze(torch.jit.script(module.eval()))


def exported(module: nn.Module) -> Any:
    rows = ({0: torch.export.Dim("rows")},)
    return torch.export.export(module.eval(), (torch.zeros(4, 2),), dynamic_shapes=rows).module()


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("kind", [frozen, optimised, exported])
def test_what_cannot_be_trained_any_more_says_what_to_give(kind: Any, whole: bool) -> None:
    model = kind(plain()) if whole else Before(kind(plain().trunk))
    who = type(model).__name__
    modes = [getattr(module, "training", None) for module in model.modules()]
    told = misfit(model, blobs("a")) or ""
    if kind is exported:
        assert told.startswith(f"{who} cannot be set to evaluation mode (Calling ")
        assert told.endswith("give the module that was exported, with its weights, and export what comes out")
    else:
        named = who if whole else f"'trunk' of {who}"
        assert told.startswith(f"{named} has neither a training mode nor parameters: torch.jit.freeze and ")
        assert told.endswith("give what was frozen, and freeze what comes out")
    assert [getattr(module, "training", None) for module in model.modules()] == modes
