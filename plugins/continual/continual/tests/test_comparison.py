"""Whole runs: baselines beside them, going on after a kill, an adapter, and when nothing was learned."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor, nn

from crosstask.context import LocalContext
from crosstask.descriptors import TaskDescriptor
from crosstask.errors import DataError
from crosstask.learning.models import ModelSpec
from crosstask.options import component, structure, unstructure
from crosstask.records import Interval
from crosstask.tasks import Task
from crosstask.testing import reference_registry
from crosstask_continual import ContinualLearner, ContinualResult, NothingLearnedWarning, run_continual
from crosstask_continual.records import ContinualScores
from crosstask_continual.scores import lower_bound
from crosstask_continual.testing import REFERENCE, ReferenceContinual, ReferenceReplay, digits, pairs

MODEL = ModelSpec(hidden=(64,))


def test_a_run_has_its_baselines_beside_it() -> None:
    context = LocalContext(seed=3)
    result, _ = run_continual(
        context, [ReferenceReplay()], MODEL, pairs(), "class", epochs=2, learning_rate=3e-3, batch_size=32, seeds=2
    )
    assert structure(unstructure(result), ContinualResult, "result") == result
    assert result.scores.accuracy is not None
    assert result.naive is not None
    assert result.naive.accuracy is not None
    assert result.joint is not None
    assert result.naive.accuracy.mean < 0.4 < result.scores.accuracy.mean < result.joint.mean
    assert len(result.scores.accuracy.values) == result.seeds == 2
    assert result.scores.accuracy.values[0] != result.scores.accuracy.values[1]
    assert [len(row) for row in result.scores.matrix] == [1, 2, 3, 4, 5]
    assert result.naive.forgetting is not None
    assert result.naive.forgetting.mean > 0.5
    assert result.options["strategies"] == [{"strategy": "continual ReferenceReplay", "options": {"buffer_size": 40}}]


def test_a_killed_run_goes_on_after_the_last_finished_task(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"epochs": 1, "learning_rate": 3e-3, "batch_size": 32}
    whole, _ = run_continual(LocalContext(), [ReferenceReplay()], MODEL, pairs(), "class", **given)  # type: ignore[arg-type]
    learned: list[str] = []
    real = ContinualLearner._learn

    def until(self: ContinualLearner, task: Task, epochs: int) -> None:
        learned.append(task.task_id)
        if len(learned) == 4:
            raise KeyboardInterrupt
        real(self, task, epochs)

    monkeypatch.setattr(ContinualLearner, "_learn", until)
    context = LocalContext()
    with pytest.raises(KeyboardInterrupt):
        run_continual(context, [ReferenceReplay()], MODEL, pairs(), "class", **given)  # type: ignore[arg-type]
    again, _ = run_continual(context, [ReferenceReplay()], MODEL, pairs(), "class", **given)  # type: ignore[arg-type]
    assert again == whole
    assert len(learned) == 4 + 2 + 5  # the rest of the chosen run, and the naive baseline
    run_continual(context, [ReferenceReplay()], MODEL, pairs(), "class", **given)  # type: ignore[arg-type]
    assert len(learned) == 11
    run_continual(context, [ReferenceReplay()], MODEL, pairs()[:2], "class", **given)  # type: ignore[arg-type]
    assert len(learned) == 11 + 4  # another head, so another run


def test_runs_with_growing_heads_and_without_baselines() -> None:
    given = {"learning_rate": 3e-3, "batch_size": 32, "grow": True, "baselines": False}
    result, _ = run_continual(LocalContext(), [], MODEL, pairs()[:3], "class", **given)  # type: ignore[arg-type]
    assert (result.naive, result.joint, result.strategies) == (None, None, ())
    assert result.scores.accuracy is not None


def test_bad_runs() -> None:
    with pytest.raises(DataError, match="needs tasks"):
        run_continual(LocalContext(), [], MODEL, [])
    with pytest.raises(DataError, match="different ids"):
        run_continual(LocalContext(), [], MODEL, [pairs()[0]] * 2)
    with pytest.raises(DataError, match="has no train data"):
        run_continual(LocalContext(), [], MODEL, [Task(descriptor=digits().descriptor)])


def with_adapter(scenario: str = "class", **given: Any) -> tuple[ContinualResult, nn.Module]:
    context = LocalContext(seed=1, registry=reference_registry(REFERENCE))
    strategies = ["reference", "replaying"]
    given = {"epochs": 4, "learning_rate": 2e-2, "batch_size": 32, "adapter": "reference", **given}
    return run_continual(context, strategies, MODEL, pairs()[:3], scenario, **given)


def drawn(outputs: int) -> nn.Module:
    """The network of the first seed as it was before it learned anything, without its adapter."""
    seed = LocalContext(seed=1).seed_for("continual", 0, "model")
    return MODEL.build(attrs.evolve(pairs()[0].descriptor, classes=(), output_dim=outputs), seed)


@pytest.mark.filterwarnings("ignore::crosstask_continual.ScenarioWarning")
@pytest.mark.parametrize("grow", [False, True])
def test_an_adapter_learns_beside_a_network_that_stays_bit_for_bit(grow: bool) -> None:
    result, network = with_adapter(grow=grow)
    before, after = drawn(6).state_dict(), network.state_dict()
    base = {name for name in before if not name.startswith("head.")}
    assert base
    assert all(torch.equal(before[name], after[name]) for name in base)
    assert not torch.equal(before["head.weight"], after["head.weight"])
    own = {name: p for name, p in network.named_parameters() if name not in before}
    assert own
    assert all(bool(p.detach().any()) for p in own.values())  # they start at zero
    assert {name for name, p in network.named_parameters() if p.requires_grad} == {*own, "head.weight", "head.bias"}
    assert result.adapter == LocalContext(registry=reference_registry()).component("adapter", "reference").origin
    trained = [*own.values(), *network.get_submodule("head").parameters()]
    assert result.trained_weights == sum(p.numel() for p in trained)
    assert result.weights == sum(p.numel() for p in network.parameters())
    assert result.options["adapter"]["adapter"] == result.adapter
    assert result.scores.accuracy is not None
    assert result.naive is not None
    assert result.naive.accuracy is not None
    assert result.scores.accuracy.mean > result.naive.accuracy.mean + 0.1  # strategies act on what is trained


@pytest.mark.filterwarnings("ignore::crosstask_continual.ScenarioWarning")
def test_a_run_with_an_adapter_goes_on_from_the_store() -> None:
    context = LocalContext(seed=1, registry=reference_registry(REFERENCE))
    given: dict[str, Any] = {"learning_rate": 2e-2, "batch_size": 32, "baselines": False}

    def run(**more: Any) -> tuple[ContinualResult, nn.Module]:
        return run_continual(context, ["replaying"], MODEL, pairs()[:3], "class", **given, **more)

    first, one = run(adapter="reference")
    kept = len(context._memory)
    again, other = run(adapter="reference")
    assert len(context._memory) == kept
    assert again == first
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
    plain, network = run()
    assert len(context._memory) == kept + 3  # another network, so another run
    assert (plain.adapter, plain.trained_weights) == (None, plain.weights)
    assert plain.weights == sum(p.numel() for p in network.parameters())


def test_a_strategy_with_a_network_of_its_own_is_refused_beside_an_adapter() -> None:
    @component
    class Replaces(ReferenceContinual):
        def resumes(self, model: Any) -> None:
            model.network = nn.Linear(64, 6)

    context = LocalContext(registry=reference_registry(REFERENCE))
    with pytest.raises(DataError, match="Replaces changes the network itself: it cannot work beside adapter"):
        run_continual(context, [Replaces()], MODEL, pairs()[:2], adapter="reference")


@pytest.mark.parametrize(("scenario", "expected"), [("task", 0.5), ("domain", 0.5), ("class", 0.1)])
def test_says_when_nothing_was_learned(scenario: str, expected: float) -> None:
    spec = ModelSpec(kind=f"{__name__}:blind")
    with pytest.warns(NothingLearnedWarning, match="no better than that of always answering the majority class"):
        result, _ = run_continual(LocalContext(), [], spec, pairs(), scenario, baselines=False)
    assert result.learned_nothing
    assert result.majority == pytest.approx(expected, abs=0.03)
    assert len(result.majority_scores) == 5
    assert "nothing was learned" in result.warnings[-1]


class Blind(nn.Module):
    """Sees nothing of its inputs: whatever is learned above it answers all of them alike."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.new_zeros(len(inputs), 3)


def blind(shape: Any, outputs: int) -> nn.Module:
    return nn.Sequential(OrderedDict(trunk=Blind(), head=nn.Linear(3, outputs)))


def unequal() -> list[Task]:
    """Digits below 7 against the others, twice: 70 % of them are of one class."""
    data = digits()
    made = []
    for number in range(2):
        splits = {}
        for split in ("train", "test"):
            inputs, labels = data.data(split).inputs[number::2], data.data(split).targets[number::2]
            splits[split] = (inputs, (labels >= 7).long())
        descriptor = TaskDescriptor(task_id=f"above six {number}", input_shape=(1, 8, 8), output_dim=2)
        made.append(Task(descriptor=descriptor, **splits))
    return made


def test_three_steps_teach_nothing_and_the_record_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    """The accuracy looks like one, .69 and more: it is the majority class, and the steps are too few."""
    given: dict[str, Any] = {"scenario": "domain", "batch_size": 200, "baselines": False}
    with pytest.warns(NothingLearnedWarning, match=r"no better than that of always answering the majority class, 0\.7"):
        result, _ = run_continual(LocalContext(), [], MODEL, unequal(), epochs=1, **given)
    assert result.scores.accuracy is not None
    assert result.majority is not None
    assert result.chance == 0.5
    assert 0.68 < result.majority < 0.72
    assert result.lower_bound is not None
    assert result.lower_bound <= result.majority
    assert "task 'above six 0' has 3 steps in an epoch and 3 in all (600 samples in " in result.warnings[0]
    assert "nothing was learned" in result.warnings[-1]
    log = "".join(capsys.readouterr())
    assert log.count("few steps") == 1
    assert log.count("nothing learned") == 1
    with pytest.warns(NothingLearnedWarning):
        all_of_it, _ = run_continual(
            LocalContext(), [], MODEL, unequal(), epochs=1, scenario="domain", batch_size=200, seeds=2
        )
    assert "".join(capsys.readouterr()).count("few steps") == 1  # of three trainings for each of two seeds
    others = ", ".join(repr(task.task_id) for task in unequal()[1:])
    assert [text.partition("; so for ")[2] for text in all_of_it.warnings] == [others, ""]
    more, _ = run_continual(LocalContext(), [], MODEL, unequal(), epochs=40, **given)
    assert not more.learned_nothing
    assert more.warnings == ()


def test_an_accuracy_within_the_noise_of_the_test_samples_is_not_above() -> None:
    """.74 where the majority class has .70: that may be chance on 100 samples, and is none on 10 000."""
    scores = ContinualScores(accuracy=Interval(mean=0.74, low=0, high=1, values=(0.74,)))
    for count, nothing in ((100, True), (10_000, False)):
        result = ContinualResult(
            tasks=("a",), scenario="task", scores=scores, majority=0.70, lower_bound=lower_bound([0.74], [count])
        )
        assert result.learned_nothing is nothing


def test_what_was_learned_is_said_beside_the_majority_class() -> None:
    result, network = run_continual(LocalContext(), [], MODEL, pairs()[:2], learning_rate=3e-3, batch_size=32)
    assert result.scores.accuracy is not None
    assert result.majority is not None
    assert not result.learned_nothing
    assert 0.5 <= result.majority < 0.6 < result.scores.accuracy.mean
    assert result.warnings == ()
    assert not network.training
    assert network(pairs()[0].data("test").inputs).shape[1] == result.outputs == 4
