"""MMoE: experts for all, a gate and a head for each task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from crosstask.context import LocalContext
from crosstask.descriptors import MultiInput, TaskDescriptor
from crosstask.errors import DataError, OptionError
from crosstask.learning.models import ModelSpec
from crosstask.learning.modules import Headless
from crosstask.records import Budget
from crosstask.tasks import Task
from crosstask_mmoe import MMoE
from crosstask_mmoe.plugin import PLUGIN
from crosstask_multitask import MultiTaskTrainer, Sharing
from crosstask_multitask.headed import key
from crosstask_multitask.testing import ReferenceSharing


def task(name: str, outputs: int = 3, shape: tuple[int, ...] = (4,), **splits: Any) -> Task:
    return Task(descriptor=TaskDescriptor(task_id=name, input_shape=shape, output_dim=outputs), **splits)


def trunk() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.ReLU())


def made(names: Sequence[str] = "ab", seed: int = 0, base: nn.Module | None = None, **options: Any) -> Any:
    sharing = MMoE(**options)
    sharing.bind(LocalContext(seed=seed))
    return sharing.build([task(name, 2 + n) for n, name in enumerate(names)], trunk() if base is None else base)


def plain(module: Any, name: str, x: Tensor) -> Tensor:
    """Equations 6 and 7 of the paper, sample by sample, for the MLP above."""
    first, _, second, _ = module.experts.layers
    gate, head, answers = module.gates[key(name)].linear, module.heads[key(name)], []
    for sample in x:
        scores = gate.weight @ sample + gate.bias
        shares = scores.exp() / scores.exp().sum()
        total = torch.zeros(5)
        for i, share in enumerate(shares):
            hidden = (first.weight[i] @ sample + first.bias[i]).tanh()
            total = total + share * (second.weight[i] @ hidden + second.bias[i]).clamp_min(0)
        answers.append(head.weight @ total + head.bias)
    return torch.stack(answers)


def test_the_manifest_names_the_component() -> None:
    assert [(e.point, e.name) for e in PLUGIN.extensions] == [("sharing", "mmoe")]


def test_outputs_are_those_of_the_papers_equations() -> None:
    module, x, z = made("ab", experts=3), torch.randn(6, 4), torch.randn(2, 4)
    for inputs in ({"a": x, "b": x}, {"a": x, "b": z}):
        for name, answer in module(inputs).items():
            torch.testing.assert_close(answer, plain(module, name, inputs[name]))
    rows = {"a": torch.tensor([4, 1]), "b": torch.tensor([0])}
    for name, answer in module.on_rows({"a": x, "b": x}, rows).items():
        torch.testing.assert_close(answer, plain(module, name, x[rows[name]]))


def test_the_first_expert_is_the_trunk_and_the_others_are_not() -> None:
    base = trunk()
    module = made(base=base)
    x = torch.randn(3, 4)
    found = module.experts(x)
    torch.testing.assert_close(found[0], base(x))
    assert len({tuple(each.flatten().tolist()) for each in found}) == 4


def test_experts_are_shared_and_gates_are_not() -> None:
    module = made("ab", experts=2, shared_stages=1)
    shared, own = list(module.shared_parameters()), {n: list(module.task_parameters(n)) for n in "ab"}
    assert sum(p.numel() for p in shared) == 4 * 6 + 6 + 2 * (6 * 5 + 5)
    assert [sum(p.numel() for p in own[n]) for n in "ab"] == [2 * 6 + 2 + k * 6 for k in (2, 3)]


def test_images_are_looked_at_pixel_by_pixel_or_on_average() -> None:
    def network() -> nn.Module:
        return nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    tasks, images = [task(n, 3, (1, 8, 8)) for n in "ab"], torch.randn(5, 1, 8, 8)
    sizes = {}
    kinds: Any = (("inputs", 0), ("inputs", 1), ("pooled", 1), ("features", 0))
    for kind, stages in kinds:
        module: Any = MMoE(gate_sees=kind, shared_stages=stages, experts=2).build(tasks, network()).eval()
        sizes[kind, stages] = module.gates[key("a")].linear.in_features
        outputs = module({"a": images, "b": images})
        assert outputs["a"].shape == (5, 3)
        below = images if not stages else module.bottom(images)
        experts = torch.stack([expert(below) for expert in module.experts.experts])
        seen = below.flatten(1) if kind == "inputs" else below.mean((2, 3)) if kind == "pooled" else experts.mean(0)
        shares = module.gates[key("a")].linear(seen).softmax(1)
        torch.testing.assert_close(outputs["a"], module.heads[key("a")](torch.einsum("ne,enf->nf", shares, experts)))
    assert sizes == {("inputs", 0): 64, ("inputs", 1): 108, ("pooled", 1): 3, ("features", 0): 2}


def test_ids_are_looked_up_before_gates_see_them() -> None:
    ids = torch.randint(9, (6, 2))
    tasks = [task(n, 3, (2,), train=(ids, torch.zeros(6).long())) for n in "ab"]

    def network() -> nn.Module:
        return nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(8, 5), nn.ReLU())

    with pytest.raises(DataError, match="MMoE: gates would take the ids"):
        MMoE().build(tasks, network())
    module: Any = MMoE(shared_stages=1).build(tasks, network())
    assert module.gates[key("a")].linear.in_features == 8
    assert sum(isinstance(each, nn.Embedding) for each in module.modules()) == 1
    assert module({"a": ids})["a"].shape == (6, 3)
    assert MMoE(gate_sees="features").build(tasks, network())({"b": ids})["b"].shape == (6, 3)


def test_several_inputs_go_to_experts_and_gates_side_by_side() -> None:
    shapes = {"left": (2,), "right": (1, 3)}
    tasks = [Task(descriptor=TaskDescriptor(task_id=n, input_shapes=shapes, output_dim=2)) for n in "ab"]
    module: Any = MMoE().build(tasks, Headless(ModelSpec(hidden=(6,)).build(tasks[0].descriptor, 0)))
    batch = MultiInput({"left": torch.randn(3, 2), "right": torch.randn(3, 1, 3)})
    flat = torch.cat([batch.parts["left"], batch.parts["right"].flatten(1)], 1)
    shares = module.gates[key("a")].linear(flat).softmax(1)
    wanted = module.heads[key("a")](torch.einsum("ne,enf->nf", shares, module.experts(flat)))
    torch.testing.assert_close(module({"a": batch, "b": batch})["a"], wanted)


@pytest.mark.parametrize("kind", ["inputs", "features"])
def test_a_task_that_is_added_has_the_gate_it_would_have_had(kind: str) -> None:
    base = trunk()
    module, every = (made(names, 3, base, gate_sees=kind).eval() for names in ("ab", "abc"))
    inputs = {name: torch.randn(5, 4) for name in "ab"}
    before = module(inputs)
    module.add_task(task("c", 4))
    assert all(torch.equal(after, before[name]) for name, after in module(inputs).items())
    batch = torch.randn(5, 4)
    assert torch.equal(module({"c": batch})["c"], every({"c": batch})["c"])
    assert {id(p) for p in module.task_parameters("c")}.isdisjoint(map(id, module.shared_parameters()))
    with pytest.raises(DataError, match="has a task 'a' already"):
        module.add_task(task("a"))
    with pytest.raises(DataError, match="'d': a head needs output_dim"):
        module.add_task(Task(descriptor=TaskDescriptor(task_id="d", input_shape=(4,))))
    assert module.tasks == ["a", "b", "c"]
    assert list(module.gates) == [key(name) for name in "abc"]


def test_what_was_learned_is_the_mean_of_the_gates() -> None:
    module, x, z = made(experts=3, gate_sees="inputs"), torch.randn(6, 4), torch.randn(2, 4)
    (found,) = module.learned({"a": x, "b": z})
    assert (found.rows, found.columns) == (("a", "b"), ("expert 1", "expert 2", "expert 3"))
    wanted = [module.gates[key(n)].linear(batch).softmax(1).mean(0).tolist() for n, batch in (("a", x), ("b", z))]
    assert [list(row) for row in found.values] == [pytest.approx(row) for row in wanted]
    assert made(gate_sees="features").learned({"a": x})[0].rows == ("a",)


def test_a_perfect_prediction_costs_nothing_because_heads_give_logits() -> None:
    """With probabilities for logits cross-entropy of a perfect prediction is .551 for three classes."""
    module = made("ab")
    head = module.heads[key("b")]
    with torch.no_grad():
        head.weight.zero_()
        head.bias.copy_(torch.tensor([0.0, 50.0, 0.0]))
    outputs = module({"b": torch.randn(4, 4)})["b"].detach()
    assert float(nn.functional.cross_entropy(outputs, torch.ones(4).long())) < 1e-6


def test_a_training_batch_of_one_is_taken() -> None:
    module = made("ab").train()
    sum(o.sum() for o in module({n: torch.randn(1, 4) for n in "ab"}).values()).backward()
    assert all(p.grad is not None for p in module.parameters())


def test_what_cannot_be_built_is_said() -> None:
    with pytest.raises(DataError, match="MMoE: no tasks"):
        MMoE().build([], trunk())
    with pytest.raises(DataError, match="MMoE: the trunk has 2 stages, 1 level need as many beside 2"):
        MMoE(shared_stages=2).build([task("a")], trunk())
    with pytest.raises(OptionError, match="experts"):
        MMoE(experts=1)
    with pytest.raises(OptionError, match="gate_sees"):
        MMoE(gate_sees="input")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="did you mean 'digits'"):
        made(["digits", "odd"])({"digit": torch.randn(2, 4)})


def test_gates_part_where_tasks_have_nothing_in_common() -> None:
    """On digits: which digit, and (of the same table) whether the picture's left half is darker."""
    from crosstask_weighting import Equal

    pixels, labels = load_digits(return_X_y=True)
    images = torch.tensor(pixels / 16, dtype=torch.float32)
    left = (images.view(-1, 8, 8)[:, :, :4].sum((1, 2)) > images.view(-1, 8, 8)[:, :, 4:].sum((1, 2))).long()
    targets = {"digit": torch.tensor(labels), "left": left}
    tasks = [
        task(name, int(t.max()) + 1, (64,), train=(images[:1200], t[:1200]), test=(images[1200:], t[1200:]))
        for name, t in targets.items()
    ]
    scores = {}
    pairs: list[tuple[str, Sharing]] = [("mmoe", MMoE(experts=4)), ("shared", ReferenceSharing())]
    for name, sharing in pairs:
        context = LocalContext(seed=0)
        sharing.bind(context)
        balancer = Equal()
        balancer.bind(context)
        base = nn.Sequential(nn.Linear(64, 12), nn.ReLU())
        torch.manual_seed(0)
        module = sharing.build(tasks, base)
        trainer = MultiTaskTrainer(
            module, tasks, balancer, Budget(steps=300, batch_size=128, learning_rate=0.01), context
        )
        trainer.fit()
        scores[name] = trainer.scores("test")
    assert min(scores["mmoe"].values()) > 0.88
    assert sum(scores["mmoe"].values()) > sum(scores["shared"].values()) - 0.02
