"""Which layers carried a transfer: cases where the answer is known, and shares against simulation and bootstrap."""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from torch import nn

from crosstask.context import LocalContext
from crosstask.descriptors import TaskDescriptor
from crosstask.learning.models import ModelSpec
from crosstask.learning.modules import head_of, know
from crosstask.learning.own_models import prepare_model
from crosstask.learning.training import History, fit
from crosstask.learning.transferring import measure_transfer
from crosstask.options import component, state
from crosstask.points.transfer import Transfer
from crosstask.records import Budget, Interval
from crosstask.tasks import Task
from crosstask.testing import small_task
from crosstask_transfer.attribution import attribute_layers, blocks_of, share
from crosstask_transfer.records import LayerAttribution

BUDGET = Budget(steps=20, batch_size=16, learning_rate=1e-2, evaluate_every=5)


@component
class Tune(Transfer):
    """Plain fine-tuning; remembers what it was given."""

    seen: tuple[Any, ...] = state(())

    def learn(
        self, model: nn.Module, source: nn.Module, task: Task, budget: Budget, generator: torch.Generator
    ) -> History:
        before = copy.deepcopy(model)
        history = fit(model, task, budget, generator)
        self.seen = (*self.seen, (before, model, copy.deepcopy(source)))
        return history


@component
class Probe(Transfer):
    """Fits the head only, ten times as fast."""

    def learn(
        self, model: nn.Module, source: nn.Module, task: Task, budget: Budget, generator: torch.Generator
    ) -> History:
        faster = attrs.evolve(budget, learning_rate=10 * budget.learning_rate)
        return fit(model, task, faster, generator, parameters=head_of(model).parameters())


def pair(hidden: tuple[int, ...] = (16, 16), target: str = "quarters") -> tuple[Task, Task]:
    """A trained task, and another with a new head."""
    source = small_task("moons")
    source.model = ModelSpec(hidden=hidden).build(source.descriptor, 0)
    fit(source.model, source, Budget(steps=300, learning_rate=1e-2), torch.Generator().manual_seed(0))
    return source, small_task(target)


def explain(method: Transfer, source: Task, target: Task, seeds: int = 3) -> tuple[Any, LayerAttribution]:
    result = measure_transfer(method, source, target, BUDGET, seeds, "test")
    return result, attribute_layers(method, source, target, result)


def test_a_single_block_is_everything() -> None:
    result, found = explain(Tune(), *pair(hidden=(16,)))
    [block] = found.blocks
    assert (block.block, block.weights) == ("trunk.1", 2 * 16 + 16)
    assert block.without.values == result.scratch_score.values, "without it, training is from scratch"
    assert block.alone.values == result.score.values, "alone it is the whole transfer"
    assert block.lost_without.values == block.gained_alone.values == result.performance_gain.values
    assert found.gain == result.performance_gain


def test_with_a_probe_the_features_need_every_layer_and_nothing_adapts() -> None:
    result, found = explain(Probe(), *pair(), seeds=6)
    assert result.performance_gain.low > 0, "else there is nothing to explain"
    first, second = found.blocks
    for block in (first, second):
        assert block.lost_frozen is not None
        assert block.lost_frozen.values == (0.0,) * 6, "a probe leaves the trunk alone anyhow"
    # Two layers: without the one is alone with the other.
    assert first.without.values == second.alone.values
    assert second.without.values == first.alone.values
    for block, other in ((first, second), (second, first)):
        total = block.lost_without.mean + other.gained_alone.mean
        assert total == pytest.approx(result.performance_gain.mean, abs=1e-6)


def test_the_carrier_is_the_block_whose_loss_is_largest_beyond_doubt() -> None:
    _, found = explain(Tune(), *pair(), seeds=2)

    def with_losses(*losses: tuple[float, float]) -> LayerAttribution:
        made = [
            attrs.evolve(block, block=name, lost_without=Interval(mean=mean, low=mean - half, high=mean + half))
            for block, name, (mean, half) in zip([found.blocks[0]] * 3, "abc", losses, strict=True)
        ]
        return attrs.evolve(found, blocks=tuple(made))

    carrier = with_losses((0.1, 0.05), (0.2, 0.1), (0.3, 0.4)).carrier
    assert carrier is not None
    assert carrier.block == "b"
    assert with_losses((0.1, 0.2), (-0.2, 0.1), (0.0, 0.0)).carrier is None


def test_ablations_take_away_exactly_the_weights_they_say() -> None:
    method = Tune()
    source, target = pair()
    explain(method, source, target, seeds=1)
    model = source.model
    assert model is not None
    kept = model.state_dict()
    runs = dict(zip(["whole", "1 without", "1 alone", "1 frozen", "3 without", "3 alone", "3 frozen"], method.seen,
                    strict=True))  # fmt: skip
    for name, (before, after, seen) in runs.items():
        block, _, how = name.partition(" ")
        for key in ("trunk.1.weight", "trunk.3.weight"):
            own = block in key
            from_source = how in ("", "frozen") or own == (how == "alone")
            assert torch.equal(before.state_dict()[key], kept[key]) == from_source, (name, key)
            assert torch.equal(seen.state_dict()[key], before.state_dict()[key]), "the method sees the same source"
            assert torch.equal(after.state_dict()[key], before.state_dict()[key]) == (how == "frozen" and own)
    heads = [before.head.weight for before, _, _ in runs.values()]
    assert all(torch.equal(head, heads[0]) for head in heads), "the new head is the same in all of them"


def test_a_head_that_is_kept_is_a_block_of_its_own() -> None:
    source, target = pair(target="turned")
    _, found = explain(Tune(), source, target, seeds=2)
    assert [block.block for block in found.blocks] == ["trunk.1", "trunk.3", "head"]
    assert found.blocks[-1].lost_frozen is None


def test_blocks_of_a_convolutional_model() -> None:
    def conv(width: int, out: int) -> list[nn.Module]:
        return [nn.Conv2d(width, out, 3), nn.BatchNorm2d(out), nn.ReLU()]

    model = nn.Sequential(*conv(1, 4), *conv(4, 8), nn.Flatten(), nn.Linear(8, 3))
    blocks = blocks_of(model)
    assert list(blocks) == ["0", "3"]
    assert set(blocks["0"]) == {"0.weight", "0.bias", *(f"1.{key}" for key in model[1].state_dict())}
    assert list(blocks_of(model, head=True)) == ["0", "3", "7"]
    covered = [key for keys in blocks_of(model, head=True).values() for key in keys]
    assert sorted(covered) == sorted(model.state_dict())


@pytest.mark.parametrize("depth", [1, 5, 8, 9, 20])
def test_deep_models_are_cut_into_few_blocks(depth: int) -> None:
    model = ModelSpec(hidden=(4,) * depth).build(small_task("moons").descriptor, 0)
    for head in (False, True):
        blocks = blocks_of(model, head=head, most=8)
        assert len(blocks) == min(depth + head, len(blocks))
        assert len(blocks) <= 8
        covered = [key for keys in blocks.values() for key in keys]
        assert covered == [key for key in model.state_dict() if head or not key.startswith("head.")]
    if depth == 20:
        assert next(iter(blocks_of(model))) == "trunk.1 to trunk.5"


def test_shares_hold_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    hits = trials = 0
    for _ in range(2000):
        noise = rng.standard_normal((2, 5)) * 0.03
        whole = 0.2 + noise[0]
        part = 0.06 + 0.5 * noise[0] + 0.5 * noise[1]
        found = share(part.tolist(), whole.tolist())
        if found is not None:
            trials += 1
            hits += found.low <= 0.3 <= found.high
    assert trials > 1900
    assert 0.93 < hits / trials < 0.97


def test_shares_of_a_certain_gain_agree_with_the_delta_method() -> None:
    rng = np.random.default_rng(1)
    whole, part = 1 + 0.01 * rng.standard_normal(200), 0.4 + 0.02 * rng.standard_normal(200)
    found = share(part.tolist(), whole.tolist())
    assert found is not None
    ratio = part.mean() / whole.mean()
    error = (part - ratio * whole).std(ddof=1) / whole.mean() / 200**0.5
    assert found.mean == pytest.approx(ratio)
    assert found.high - found.mean == pytest.approx(1.97 * error, rel=0.02)
    assert found.mean - found.low == pytest.approx(1.97 * error, rel=0.02)


def test_a_share_of_nothing_has_no_value() -> None:
    assert share([0.1, 0.2, 0.1], [0.1, -0.1, 0.02]) is None
    assert share([0.1], [0.2]) is None, "one seed says nothing of certainty"
    whole = share([0.2, 0.3, 0.25], [0.2, 0.3, 0.25])
    assert whole is not None
    assert (whole.mean, whole.low, whole.high) == pytest.approx((1, 1, 1))


def test_scores_below_zero_and_models_with_several_inputs() -> None:
    """An error is negative, and its differences are not cut to those of a share."""

    class Parts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right, self.answer = nn.Linear(3, 8), nn.Linear(2, 8), nn.Linear(8, 1)

        def forward(self, left: torch.Tensor, right: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"logits": self.answer((self.left(left) + self.right(right)).relu())}

    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(120, 5, generator=generator)
    values = 30 * rows.sum(1).relu()

    def made(name: str, factor: float) -> Task:
        parts = [
            ({"left": rows[own, :3], "right": rows[own, 3:]}, factor * values[own])
            for own in (slice(0, 60), slice(60, 90), slice(90, 120))
        ]
        about = TaskDescriptor(task_id=name, task_type="regression")
        task = Task(descriptor=about, train=parts[0], validation=parts[1], test=parts[2], metric="rmse", model=Parts())
        prepare_model(task)
        return task

    source, target = made("source", 1.0), made("target", 1.1)
    budget = Budget(steps=30, samples=40, learning_rate=0.03, evaluate_every=30)
    fit(source.model, source, budget, torch.Generator().manual_seed(0), steps=200, curve_split=None)  # type: ignore[arg-type]
    method = Tune()
    result = measure_transfer(method, source, target, budget, 3, "test")
    found = attribute_layers(method, source, target, result)
    assert found.metric == "neg_rmse"
    assert [block.block for block in found.blocks] == ["left", "right"]
    for block in found.blocks:
        assert block.without.low < block.without.mean < -1
        spread = statistics.stdev(block.without.values) / 3**0.5 * 4.303
        assert block.without.low == pytest.approx(block.without.mean - spread)
        assert block.lost_without.high - block.lost_without.mean == pytest.approx(
            statistics.stdev(block.lost_without.values) / 3**0.5 * 4.303
        )


def test_ablations_are_known_by_the_factory_of_the_source() -> None:
    """Whose layers are drawn anew by it."""

    def found(gain: float, context: LocalContext) -> LayerAttribution:
        source, target = pair(hidden=(16,))
        assert source.model is not None
        know(source.model, build=drawing(source.descriptor, gain))
        method = Tune()
        method.bind(context)
        return explain(method, source, target)[1]

    shared = LocalContext()
    first = found(1.0, shared)
    assert found(1.0, shared) == first
    again = found(5.0, shared)
    assert again == found(5.0, LocalContext()) != first


def drawing(descriptor: TaskDescriptor, gain: float) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        made = ModelSpec(hidden=(16,)).build(descriptor, int(torch.randint(2**31, (1,))))
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.mul_(gain)
        return made

    return build
