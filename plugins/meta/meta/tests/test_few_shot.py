"""Meta-training and its test, with the slow and right reference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import pytest
import torch
from torch import nn

from crosstask.context import LocalContext
from crosstask.errors import DataError
from crosstask.learning.models import ModelSpec
from crosstask.options import component
from crosstask.points.adapter import AdapterHandle
from crosstask.tasks import Portfolio
from crosstask.testing.references import BiasHandle, ReferenceAdapter, ReferenceMetaLearner
from crosstask_meta.few_shot import run_few_shot
from crosstask_meta.start import Start
from crosstask_meta.testing import NearestMeans, clouds, some_episodes

START = Start(ModelSpec(kind="mlp", hidden=(16,)))
SMALL: dict[str, Any] = {"ways": 2, "shots": 2, "queries": 3, "steps": 40, "meta_batch": 4, "test_episodes": 60}


def test_classes_held_out() -> None:
    context = LocalContext(seed=1)
    given = (ReferenceMetaLearner(rate=0.5), START, clouds("c", 8))
    sizes = SMALL | {"steps": 150, "held_out": ["g", "h", "a"]}
    found, module = run_few_shot(context, *given, **sizes)
    assert (found.held_out, found.split) == ("classes", "test")
    assert set(found.test) == {"g", "h", "a"}
    assert set(found.train) == set("bcdef")
    assert found.accuracy.mean > found.chance + 0.2
    assert sum(found.losses[-30:]) < sum(found.losses[:30])
    assert found.accuracy.low < found.accuracy.mean < found.accuracy.high
    assert len(found.losses) == 150
    assert found.curve.steps == (25, 50, 75, 100, 125, 150)
    again, recalled = run_few_shot(context, *given, **sizes)
    assert again == found
    weights = module.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in recalled.state_dict().items())
    assert recalled is not module


def test_tasks_held_out() -> None:
    tasks = [clouds(name, 3, 10 * k) for k, name in enumerate("pqr")]
    found, _ = run_few_shot(LocalContext(), ReferenceMetaLearner(), START, Portfolio(tasks), held_out=["q"], **SMALL)
    assert (found.held_out, found.train, found.test) == ("tasks", ("p", "r"), ("q",))


@pytest.mark.parametrize(
    ("tasks", "options", "message"),
    [
        ([], {}, "no tasks to draw episodes from"),
        (clouds("c", 3), {"ways": 3}, r"3-way episodes need 3 classes to train on, got 0 \(none\)"),
        (
            clouds("c", 4),
            {"ways": 3, "held_out": ["a"]},
            "3-way episodes need 3 classes held out for the test, got 1 .a",
        ),
        (clouds("c", 4), {"held_out": ["z"]}, "task 'c' has no class 'z' to hold out; valid: a, b, c, d"),
        (
            [clouds("c", 3), clouds("d", 3)],
            {"held_out": ["e"]},
            "there is no task 'e' to hold out; did you mean|there is no task 'e' to hold out; valid: c, d",
        ),
        ([clouds("c", 3), clouds("d", 3)], {"ways": 4}, "4-way episodes need 4 classes, task '[cd]' has 3: a, b, c"),
    ],
)
def test_what_cannot_be_learned_from(tasks: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        run_few_shot(LocalContext(), ReferenceMetaLearner(), START, tasks, **(SMALL | options))


class Images(nn.Module):
    """Features [N, 3, 4] of vectors [N, 12]."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(12, 12)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.layer(inputs).unflatten(1, (3, 4)).tanh()
        return found


def encoder() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(12, 10), nn.BatchNorm1d(10), nn.ReLU(), nn.Linear(10, 5))


@pytest.mark.parametrize("network", [encoder, Images], ids=["flat", "shaped"])
def test_a_network_of_features_to_start_from(network: Any) -> None:
    """A copy of it: a learner of encoders trains that as it is, another with a head; results say where it is from."""
    start = network().eval().requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in start.state_dict().items()}
    given = Start(START.model, start, told="the encoder of s")
    headless, module = run_few_shot(LocalContext(), NearestMeans(), given, clouds("c", 6), **SMALL)
    assert type(module) is type(start)
    assert module.training
    headed, module = run_few_shot(LocalContext(), ReferenceMetaLearner(), given, clouds("c", 6), **SMALL)
    assert module(torch.ones(3, 12)).shape == (3, 2)
    for found in (headless, headed):
        assert (found.start, found.options["encoder"]) == ("the encoder of s", "the encoder of s")
        assert sum(found.losses[-10:]) < sum(found.losses[:10])
    assert all(torch.equal(tensor, before[name]) for name, tensor in start.state_dict().items())


def test_the_untrained_accuracy_is_that_of_the_start() -> None:
    """Taken up where an earlier meta-training left it, the network is judged at first as it was at last."""
    task, context, sizes = clouds("c", 8), LocalContext(), SMALL | {"ways": 3, "shots": 1}
    learned, module = run_few_shot(context, NearestMeans(), START, task, **sizes)
    again, _ = run_few_shot(context, NearestMeans(), Start(START.model, module, told="it"), task, **sizes)
    assert again.untrained_accuracy == learned.accuracy
    assert again.untrained_accuracy != learned.untrained_accuracy


def test_another_start_is_another_result() -> None:
    context, task, network = LocalContext(), clouds("c", 6), encoder()
    first, _ = run_few_shot(context, NearestMeans(), Start(START.model, network, told="it"), task, **SMALL)
    with torch.no_grad():
        network[0].weight.mul_(1.5)  # type: ignore[operator]
    second, _ = run_few_shot(context, NearestMeans(), Start(START.model, network, told="it"), task, **SMALL)
    third, _ = run_few_shot(
        context, NearestMeans(), Start(START.model, network, ReferenceAdapter(), told="it"), task, **SMALL
    )
    assert len({first.losses, second.losses, third.losses}) == 3


def test_only_the_adapter_is_trained() -> None:
    """The network under it keeps its bits, whether it was given or drawn."""
    network = encoder()
    for start in (
        Start(START.model, network, ReferenceAdapter(), told="it"),
        Start(START.model, adapter=ReferenceAdapter()),
    ):
        context, task = LocalContext(), clouds("c", 6)
        result, module = run_few_shot(context, NearestMeans(), start, task, **SMALL | {"steps": 20})
        assert result.adapter == "adapter ReferenceAdapter"
        trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
        assert trained
        assert all(name.endswith(".shift_0") and bool(p.any()) for name, p in trained.items())
        bare = attrs.evolve(start, adapter=None).build(
            context, NearestMeans(), task.descriptor, some_episodes(shape=(12,), ways=2)
        )
        frozen = [p for p in module.parameters() if not p.requires_grad]
        weights = [p for name, p in bare.named_parameters()]
        assert all(any(torch.equal(p, own) for own in frozen) for p in weights)
        assert len(frozen) == len(weights)


def test_a_head_is_trained_beside_the_adapter() -> None:
    for start in (
        Start(START.model, encoder(), ReferenceAdapter(), told="it"),
        Start(START.model, adapter=ReferenceAdapter()),
    ):
        episodes = some_episodes(shape=(12,), ways=2)
        module = start.build(LocalContext(), ReferenceMetaLearner(), clouds("c", 6).descriptor, episodes)
        trained = {name for name, p in module.named_parameters() if p.requires_grad}
        assert {"head.weight", "head.bias"} < trained
        assert all(name.startswith("head.") or name.endswith(".shift_0") for name in trained)


class Outside(BiasHandle):
    """Trains a weight that no model has."""

    def parameters(self) -> list[nn.Parameter]:
        return [nn.Parameter(torch.zeros(1))]


@component
class Beside(ReferenceAdapter):
    """An adapter whose weights are its handle's alone."""

    def attach(self, model: nn.Module, targets: Sequence[str], generator: torch.Generator) -> AdapterHandle:
        return Outside(model, [])


def test_adapters_beside_the_network_are_refused() -> None:
    """Learners that adapt by gradient steps work on copies of the network, in which such an adapter would not act."""
    start = Start(START.model, adapter=Beside())
    with pytest.raises(DataError, match="adapter Beside keeps its weights outside the network"):
        run_few_shot(LocalContext(), NearestMeans(), start, clouds("c", 6), **SMALL)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (nn.Linear(5, 2), r"the encoder of s does not take inputs of shape \(12,\): mat1 and mat2"),
        (nn.Flatten(0), r"gives no features \[N, …\] of inputs \[N, …\], but \(24,\) of two of them"),
        (nn.LSTM(12, 3), "gives no features .*, but tuple of two of them"),
    ],
)
def test_networks_that_give_no_features(network: nn.Module, message: str) -> None:
    start = Start(START.model, network, told="the encoder of s")
    with pytest.raises(DataError, match=message):
        run_few_shot(LocalContext(), NearestMeans(), start, clouds("c", 6), **SMALL)
