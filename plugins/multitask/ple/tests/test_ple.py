"""PLE and CGC: experts of all and of each, level by level."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from crosstask.context import LocalContext
from crosstask.descriptors import MultiInput, TaskDescriptor
from crosstask.errors import DataError, OptionError
from crosstask.learning.models import ModelSpec
from crosstask.learning.modules import Headless
from crosstask.tasks import Task
from crosstask_multitask.headed import key
from crosstask_ple import CGC, PLE
from crosstask_ple.plugin import PLUGIN


def task(name: str, outputs: int = 3, shape: tuple[int, ...] = (4,), **splits: Any) -> Task:
    return Task(descriptor=TaskDescriptor(task_id=name, input_shape=shape, output_dim=outputs), **splits)


def trunk() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 7), nn.Tanh())


def made(names: Sequence[str] = "ab", seed: int = 0, base: nn.Module | None = None, **options: Any) -> Any:
    sharing = PLE(**options)
    sharing.bind(LocalContext(seed=seed))
    return sharing.build([task(name, 2 + n) for n, name in enumerate(names)], trunk() if base is None else base)


def softmax(scores: Tensor) -> Tensor:
    return scores.exp() / scores.exp().sum()


def experts(group: Any, sample: Tensor) -> list[Tensor]:
    """What each of a group of experts gives for one sample, layer by layer."""
    found = []
    for place in range(group.count):
        hidden = sample
        for layer in group.layers:
            hidden = layer.weight[place] @ hidden + layer.bias[place] if hasattr(layer, "weight") else hidden.tanh()
        found.append(hidden)
    return found


def plain(module: Any, names: str, sample: Tensor) -> dict[str, Tensor]:
    """Equations 1 to 6 of the paper for one sample."""
    shared, own = sample, dict.fromkeys(names, sample)
    for level in module.levels:
        common = experts(level.shared, shared)
        mine = {name: experts(level.own[key(name)], own[name]) for name in names}
        after = {}
        for name in names:
            gate = level.gates[key(name)].linear
            weights, selected = softmax(gate.weight @ own[name] + gate.bias), torch.stack([*mine[name], *common])
            after[name] = weights @ selected
        if level.gate is not None:
            every = torch.stack([*common, *(each for name in names for each in mine[name])])
            shared = softmax(level.gate.linear.weight @ shared + level.gate.linear.bias) @ every
        own = after
    return {name: module.heads[key(name)](own[name]) for name in names}


def test_the_manifest_names_the_components() -> None:
    assert [(e.point, e.name) for e in PLUGIN.extensions] == [("sharing", "ple"), ("sharing", "cgc")]


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_outputs_are_those_of_the_papers_equations(levels: int) -> None:
    module = made("abc", levels=levels, task_experts=2, shared_experts=3)
    x = torch.randn(5, 4)
    wanted = [plain(module, "abc", sample) for sample in x]
    outputs = module(dict.fromkeys("abc", x))
    for name in "abc":
        torch.testing.assert_close(outputs[name], torch.stack([each[name] for each in wanted]))
    rows = {"a": torch.tensor([3, 0]), "c": torch.tensor([1])}
    some = module.on_rows({"a": x, "c": x.clone()}, rows)
    for name, at in rows.items():
        torch.testing.assert_close(some[name], outputs[name][at])
    assert sum(level.gate is None for level in module.levels) == 1


def test_cgc_is_ple_of_one_level() -> None:
    base, x = trunk(), torch.randn(5, 4)
    names = [task(name) for name in "ab"]
    one, other = CGC().build(names, base), PLE(levels=1).build(names, base)
    other.load_state_dict(one.state_dict())
    assert torch.equal(one({"a": x})["a"], other({"a": x})["a"])
    assert torch.equal(next(one.shared_parameters())[0], base[0].weight)  # type: ignore[index]


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_shared_is_what_the_gates_of_the_shared_part_let_other_tasks_reach(levels: int) -> None:
    module = made("ab", levels=levels, shared_stages=0)
    x = torch.randn(5, 4)
    module({"a": x, "b": x})["a"].square().sum().backward()
    reached = {id(p) for p in module.parameters() if p.grad is not None and bool((p.grad != 0).any())}
    shared, own = {id(p) for p in module.shared_parameters()}, [{*map(id, module.task_parameters(n))} for n in "ab"]
    assert own[0] <= reached
    assert not own[1] & reached
    assert shared <= reached | {id(p) for level in module.levels for p in level.gates[key("b")].parameters()}
    assert shared | own[0] | own[1] == {id(p) for p in module.parameters()}
    assert not shared & (own[0] | own[1])
    b_experts = {id(p) for p in module.levels[0].own[key("b")].parameters()}
    assert (b_experts <= shared) == (levels > 1)


@pytest.mark.parametrize("kind", ["inputs", "features"])
@pytest.mark.parametrize("levels", [1, 3])
def test_a_task_that_is_added_changes_no_bit_of_the_others(levels: int, kind: str) -> None:
    base = trunk()
    module = made("ab", 3, base, levels=levels, gate_sees=kind).eval()
    x = torch.randn(5, 4)
    before = module({"a": x, "b": x})
    module.add_task(task("c", 4))
    alone = module({"c": x})["c"]
    for inputs in ({"a": x, "b": x}, {"a": x, "b": x, "c": x}):
        after = module(inputs)
        assert all(torch.equal(after[name], before[name]) for name in "ab")
    torch.testing.assert_close(after["c"], alone)
    torch.testing.assert_close(module.on_rows({"c": x}, {"c": torch.tensor([2, 0])})["c"], alone[[2, 0]])
    own = {id(p) for p in module.task_parameters("c")}
    new = [level.own[key("c")] for level in module.levels] + [level.gates[key("c")] for level in module.levels]
    assert {id(p) for part in new for p in part.parameters()} <= own
    module({"c": x})["c"].sum().backward()
    assert all(p.grad is not None for p in module.task_parameters("c"))
    if levels == 1:  # there is no shared gate that would have looked at it
        whole = made("abc", 3, base, levels=1, gate_sees=kind).eval()
        assert torch.equal(whole({"c": x})["c"], alone)
    with pytest.raises(DataError, match="has a task 'a' already"):
        module.add_task(task("a"))


def test_levels_of_images_mix_maps() -> None:
    base = nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )  # fmt: skip
    tasks, x = [task(n, 3, (1, 8, 8)) for n in "ab"], torch.randn(5, 1, 8, 8)
    pooled: Any = PLE(gate_sees="pooled").build(tasks, base)
    flat: Any = PLE().build(tasks, base)
    sizes = [[level.gates[key("a")].linear.in_features for level in m.levels] for m in (pooled, flat)]
    assert sizes == [[1, 3], [64, 48]]
    level = flat.levels[0]
    common = torch.stack([e(x) for e in level.shared.experts])
    mine = torch.stack([e(x) for e in level.own[key("a")].experts])
    weights = level.gates[key("a")].linear(x.flatten(1)).softmax(1)
    maps = torch.einsum("ne,enchw->nchw", weights, torch.cat([mine, common]))
    every = torch.cat([common, mine, torch.stack([e(x) for e in level.own[key("b")].experts])])
    shared = torch.einsum("ne,enchw->nchw", level.gate.linear(x.flatten(1)).softmax(1), every)
    last = flat.levels[1]
    both = torch.stack([e(maps) for e in last.own[key("a")].experts] + [e(shared) for e in last.shared.experts])
    features = torch.einsum("ne,enf->nf", last.gates[key("a")].linear(maps.flatten(1)).softmax(1), both)
    torch.testing.assert_close(flat({"a": x, "b": x})["a"], flat.heads[key("a")](features))


def test_embeddings_and_several_inputs() -> None:
    ids = torch.randint(9, (6, 2))
    tasks = [task(n, 3, (2,), train=(ids, torch.zeros(6).long())) for n in "ab"]
    base = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 5))
    with pytest.raises(DataError, match="PLE: gates would take the ids"):
        PLE().build(tasks, base)
    module: Any = PLE(shared_stages=1).build(tasks, base)
    assert sum(isinstance(each, nn.Embedding) for each in module.modules()) == 1
    assert module({"a": ids, "b": ids})["b"].shape == (6, 3)
    shapes: dict[str, tuple[int, ...]] = {"left": (2,), "right": (1, 3)}
    tasks = [Task(descriptor=TaskDescriptor(task_id=n, input_shapes=shapes, output_dim=2)) for n in "ab"]
    module = PLE().build(tasks, Headless(ModelSpec(hidden=(6, 5)).build(tasks[0].descriptor, 0)))
    batch = MultiInput({"left": torch.randn(3, 2), "right": torch.randn(3, 1, 3)})
    assert module({"a": batch, "b": batch})["a"].shape == (3, 2)
    assert module.learned({"b": batch})[0].rows == ("b",)


def test_what_was_learned_is_a_matrix_for_each_level() -> None:
    module, x = made("abc", levels=2, task_experts=2), torch.randn(6, 4)
    found = module.learned({"c": x, "a": x})
    assert [(m.rows, m.columns) for m in found] == 2 * [(("c", "a"), ("own 1", "own 2", "shared 1", "shared 2"))]
    for row, name in zip(found[0].values, "ca", strict=True):
        gate = module.levels[0].gates[key(name)].linear
        assert list(row) == pytest.approx(gate(x).softmax(1).mean(0).tolist())
    assert all(sum(row) == pytest.approx(1) for m in found for row in m.values)


def test_heads_give_logits_and_a_training_batch_of_one_is_taken() -> None:
    module = made().train()
    head = module.heads[key("b")]
    outputs = module({n: torch.randn(1, 4) for n in "ab"})
    sum(o.sum() for o in outputs.values()).backward()
    assert all(p.grad is not None for p in module.parameters())
    with torch.no_grad():
        head.weight.zero_()
        head.bias.copy_(torch.tensor([0.0, 50.0, 0.0]))
        perfect = module({"b": torch.randn(4, 4)})["b"]
    assert float(nn.functional.cross_entropy(perfect, torch.ones(4).long())) < 1e-6


def test_what_cannot_be_built_is_said() -> None:
    with pytest.raises(DataError, match="PLE: no tasks"):
        PLE().build([], trunk())
    with pytest.raises(DataError, match="PLE: the trunk has 3 stages, 4 levels need as many"):
        made(levels=4)
    with pytest.raises(OptionError, match="task_experts"):
        CGC(task_experts=0)
    with pytest.raises(DataError, match="did you mean 'digits'"):
        made(["digits", "odd"])({"digit": torch.randn(2, 4)})
