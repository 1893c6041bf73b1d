"""DSelect-k: gates that choose k experts, and how what makes them choose enters the gradients."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from crosstask.context import LocalContext
from crosstask.descriptors import TaskDescriptor
from crosstask.errors import OptionError
from crosstask.learning.gradients import gradients_of
from crosstask.records import Budget
from crosstask.tasks import Task
from crosstask_dselect_k import DSelectK, SelectorGate
from crosstask_dselect_k.gate import codes, smooth_step
from crosstask_dselect_k.plugin import PLUGIN
from crosstask_multitask import MultiTaskTrainer
from crosstask_multitask.headed import key


def task(name: str, outputs: int = 3, shape: tuple[int, ...] = (4,), **splits: Any) -> Task:
    return Task(descriptor=TaskDescriptor(task_id=name, input_shape=shape, output_dim=outputs), **splits)


def made(**options: Any) -> Any:
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5))
    return DSelectK(**options).build([task("a"), task("b", 2)], trunk)


def test_the_manifest_names_the_component() -> None:
    assert [(e.point, e.name) for e in PLUGIN.extensions] == [("sharing", "dselect_k")]


def test_the_smooth_step() -> None:
    """Equation 4: at -1/4 and 1/4 of its width it is 5/32 and 27/32, flat outside, of slope 3/2 in the middle."""
    for gamma in (1.0, 3.0):
        at = gamma * torch.tensor([-2.0, -0.5, -0.25, 0.0, 0.25, 0.5, 2.0], dtype=torch.double)
        at.requires_grad_()
        found = smooth_step(at, gamma)
        torch.testing.assert_close(found, torch.tensor([0, 0, 5 / 32, 0.5, 27 / 32, 1, 1], dtype=torch.double))
        (slopes,) = torch.autograd.grad(found.sum(), at)
        torch.testing.assert_close(slopes[[0, 1, 3, 5, 6]] * gamma, torch.tensor([0, 0, 1.5, 0, 0], dtype=torch.double))


def test_the_codes_of_experts() -> None:
    """Equation 3, with the first bit the highest."""
    p, q, r = 0.2, 0.9, 0.6
    four = codes(torch.tensor([p, q], dtype=torch.double), 4)
    wanted = [(1 - p) * (1 - q), (1 - p) * q, p * (1 - q), p * q]
    torch.testing.assert_close(four, torch.tensor(wanted, dtype=torch.double))
    six = codes(torch.tensor([p, q, r], dtype=torch.double), 6)
    torch.testing.assert_close(six[5], torch.tensor(p * (1 - q) * r, dtype=torch.double))
    assert float(six.sum()) == pytest.approx(1 - p * q)  # what the two codes without an expert would have


def plain(gate: Any, x: Tensor) -> Tensor:
    """The gate of one sample after another, in Python's own numbers."""
    rows = []
    for sample in x:
        z = (gate.codes.weight @ sample + gate.codes.bias).tolist()
        alpha = (gate.weights.weight @ sample + gate.weights.bias).exp()
        shares = (alpha / alpha.sum()).tolist()
        row = [0.0] * gate.experts
        for i, share in enumerate(shares):
            bits = [
                float(smooth_step(torch.tensor(v, dtype=torch.double))) for v in z[i * gate.bits : (i + 1) * gate.bits]
            ]
            for expert in range(gate.experts):
                ones = [expert >> (gate.bits - 1 - j) & 1 for j in range(gate.bits)]
                row[expert] += share * math.prod(b if one else 1 - b for b, one in zip(bits, ones, strict=True))
        rows.append(row)
    return torch.tensor(rows)


@pytest.mark.parametrize("experts", [3, 4, 5, 8])
def test_gates_are_those_of_the_paper(experts: int) -> None:
    gate: Any = SelectorGate(4, experts, 2, 1.0, 0.1, False)
    x = torch.randn(6, 4)
    for spread in (None, 0.3):
        if spread:
            nn.init.normal_(gate.codes.weight, std=spread)
        torch.testing.assert_close(gate(x).detach(), plain(gate, x))
    assert gate.bits == math.ceil(math.log2(experts))


def test_outputs_are_the_experts_in_these_proportions() -> None:
    module, x = made(experts=3), torch.randn(6, 4)
    shares = plain(module.gates[key("a")], x)
    wanted = module.heads[key("a")](torch.einsum("ne,enf->nf", shares, module.experts(x)))
    torch.testing.assert_close(module({"a": x, "b": x})["a"], wanted)


def _penalty(gate: Any, x: Tensor) -> Tensor:
    """What the paper adds to the loss: the entropy, and for experts that are no power of two what is lost."""
    shares = gate.shares(x)
    total = -gate.entropy * (shares * (shares + 1e-6).log()).sum() / len(x)
    return total + ((1 / shares.sum(2)).sum() / len(x) if gate.experts == 3 else 0)


@pytest.mark.parametrize("mode", ["auto", "batched"])
@pytest.mark.parametrize(("experts", "kind"), [(4, "inputs"), (3, "features")])
def test_the_penalty_reaches_every_gate_and_nothing_that_is_balanced(experts: int, kind: str, mode: Any) -> None:
    """LibMTL's gives its own to the last task's gate alone, and calls backward in forward."""
    module = made(experts=experts, gate_sees=kind, entropy=0.7, shared_stages=1).train()
    x, labels = torch.randn(6, 4), torch.tensor([0, 1, 0, 1, 1, 0])

    def losses() -> dict[str, Tensor]:
        return {n: nn.functional.cross_entropy(o, labels) for n, o in module({"a": x, "b": x}).items()}

    shared = list(module.shared_parameters())
    gates = {name: list(module.gates[key(name)].parameters()) for name in "ab"}
    own = [p for name in "ab" for p in module.task_parameters(name)]
    module.eval()  # in which there is no penalty
    without = torch.autograd.grad(torch.stack([*losses().values()]).sum(), [*shared, *own], allow_unused=True)
    plain = dict(zip([*shared, *own], without, strict=True))
    entering = module.bottom(x).detach()
    seen = entering if kind == "inputs" else module.experts(entering).mean(0).detach()
    extra: dict[Tensor, Tensor] = {}
    for name in "ab":
        found = torch.autograd.grad(_penalty(module.gates[key(name)], seen), gates[name], allow_unused=True)
        extra |= {p: g for p, g in zip(gates[name], found, strict=True) if g is not None}
    assert sum(float(g.abs().sum()) > 1e-6 for g in extra.values()) == 4
    module.train()
    gradients = gradients_of(losses(), shared, own, mode=mode)
    gradients.write(torch.ones(2), None, True)
    for p, expected in plain.items():
        torch.testing.assert_close(p.grad, expected + extra.get(p, 0), rtol=1e-4, atol=1e-6)


def test_a_loss_that_is_weighed_does_not_weigh_the_penalty() -> None:
    module, x = made(entropy=0.5).train(), torch.randn(5, 4)
    gate = module.gates[key("a")]
    (0 * module({"a": x})["a"].sum()).backward()
    wanted = torch.autograd.grad(_penalty(gate, x), gate.codes.weight)[0]
    torch.testing.assert_close(gate.codes.weight.grad, wanted)
    with torch.no_grad():
        assert module({"a": x})["a"].shape == (5, 3)
    for p in module.parameters():
        p.requires_grad_(False)
    assert not module({"a": x})["a"].requires_grad


@pytest.mark.parametrize("static", [False, True])
def test_each_task_comes_to_use_k_experts_and_only_these_are_computed(static: bool) -> None:
    from crosstask_weighting import Equal

    pixels, labels = load_digits(return_X_y=True)
    images, digit = torch.tensor(pixels / 16, dtype=torch.float32), torch.tensor(labels)
    tasks = [
        task(name, int(t.max()) + 1, (64,), train=(images[:1200], t[:1200]), test=(images[1200:], t[1200:]))
        for name, t in (("digit", digit), ("odd", digit % 2))
    ]
    context, sharing, balancer = LocalContext(seed=0), DSelectK(experts=8, static=static), Equal()
    for each in (sharing, balancer):
        each.bind(context)
    torch.manual_seed(0)
    module: Any = sharing.build(tasks, nn.Sequential(nn.Linear(64, 16), nn.ReLU()))
    start = module.learned(dict.fromkeys(("digit", "odd"), images[:50]))[0].values
    assert all(abs(value - 1 / 8) < 0.03 for row in start for value in row)  # of all about as much
    budget = Budget(steps=150, batch_size=128, learning_rate=0.01)
    trainer = MultiTaskTrainer(module, tasks, balancer, budget, context)
    trainer.fit()
    module.eval()
    weights = [module.gates[key(name)](images[1200:]) for name in ("digit", "odd")]
    chosen = torch.stack([(each > 1e-6).sum(1) for each in weights]).float()
    assert float((chosen <= 2).float().mean()) > 0.95
    assert min(trainer.scores("test").values()) > 0.85
    asked: list[Any] = []
    module.experts.register_forward_hook(lambda _, inputs, __: asked.append(inputs[1:]))
    answers = module(dict.fromkeys(("digit", "odd"), images[:1]))
    ((some,),) = asked
    used = sorted(
        {n for name in ("digit", "odd") for n in module.gates[key(name)](images[:1]).nonzero()[:, 1].tolist()}
    )
    assert some == used
    assert len(some) <= 4 < 8
    every = module.experts(images[:1])
    for name, answer in answers.items():
        whole = torch.einsum("ne,enf->nf", module.gates[key(name)](images[:1]), every)
        torch.testing.assert_close(answer, module.heads[key(name)](whole))


def test_experts_without_any_weight_leave_no_features() -> None:
    """Three experts have four codes, and a gate may choose the one that means none."""
    module = made(experts=3, static=True).eval()
    with torch.no_grad():
        module.gates[key("a")].codes.values.fill_(5.0)
    torch.testing.assert_close(module({"a": torch.randn(2, 4)})["a"], module.heads[key("a")].bias.expand(2, 3))
    assert torch.isfinite(module.gates[key("a")].penalty(module.gates[key("a")].shares(torch.zeros(2, 4))))


def test_what_cannot_be_is_said() -> None:
    with pytest.raises(OptionError, match="DSelectK: 5 selectors cannot choose among 4 experts"):
        DSelectK(selectors=5)
    with pytest.raises(OptionError, match="gamma"):
        DSelectK(gamma=0.0)
