"""Which source to use: a closed form for the look at features, a world where the answer is known, the command."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from torch import nn

from crosstask import Advice as Advised
from crosstask import Budget, DataError, Interval, ModelSpec, StrategyAdvice, Task, TaskDescriptor, TransferEngine
from crosstask.advising import RIDGES, _of_folds, _shared, advise, left_one_out, paragraph
from crosstask.graph import Evidence, TransferEdge, TransferGraph
from crosstask.learning.metrics import confidence_interval
from crosstask.learning.objectives import METRICS
from crosstask.learning.training import evaluate, fit
from crosstask.learning.transferring import fresh_model, weights_digest
from crosstask.manifest import Extension, Plugin
from crosstask.parts import Choice
from crosstask.registry import Registry
from crosstask.testing import reference_registry, small_task
from crosstask.testing.references import ReferenceStrategist
from crosstask_transfer.advice import Advice
from crosstask_transfer.plugin import PLUGIN

FEW = Budget(steps=30, batch_size=16, learning_rate=0.01)


def test_left_one_out_is_what_refitting_without_each_sample_gives() -> None:
    """Against ridge regression that is fitted anew for every sample, with the ridge that it found best."""
    import numpy as np
    from sklearn.linear_model import Ridge

    generator = torch.Generator().manual_seed(0)
    features = torch.randn(20, 6, generator=generator).double()
    targets = (features[:, 0] > 0).long()
    task = Task(descriptor=TaskDescriptor(task_id="t", output_dim=2), train=(features, targets))
    found = left_one_out(features, targets, task)
    x = ((features - features.mean(0)) / features.std(0)).numpy() / 6**0.5
    wanted = torch.nn.functional.one_hot(targets, 2).double().numpy()
    errors = []
    for ridge in RIDGES:
        left = np.zeros((20, 2))
        for out in range(20):
            rest = [n for n in range(20) if n != out]
            model = Ridge(alpha=ridge).fit(x[rest], wanted[rest])
            left[out] = model.predict(x[[out]])[0]
        errors.append(((left - wanted) ** 2).mean())
    got = float((found.double() - torch.as_tensor(wanted)).square().mean())
    assert got == pytest.approx(min(errors), rel=1e-5)
    assert float((found.argmax(1) == targets).float().mean()) > 0.8


def test_a_label_that_no_sample_has_does_not_give_the_others_away() -> None:
    """Its mean is no number, and no ridge had a least error: what came out was what was to be found."""
    generator = torch.Generator().manual_seed(0)
    features, targets = torch.randn(40, 5, generator=generator), torch.rand(40, 3, generator=generator).round()
    task = Task(descriptor=TaskDescriptor(task_id="t", task_type="multilabel", output_dim=3))
    bare = torch.cat([targets[:, :2], torch.full((40, 1), float("nan"))], dim=1)
    zero = torch.cat([targets[:, :2], torch.zeros(40, 1)], dim=1)  # as easy to say: the others decide on the ridge
    found = left_one_out(features, bare, task)
    torch.testing.assert_close(found, left_one_out(features, zero, task))
    assert float(((found[:, :2] > 0) == (targets[:, :2] > 0.5)).float().mean()) < 0.8  # labels are drawn at random


def test_only_a_share_of_samples_has_the_interval_of_one() -> None:
    """By hand: Agresti and Coull of 15 of 20, (15 + 2)/24 and its error; R² and the like by Student over the folds."""
    found = _of_folds([0.7, 0.8], METRICS["accuracy"], 20)
    half = 1.96 * (17 / 24 * 7 / 24 / 24) ** 0.5
    assert (found.mean, found.low, found.high) == pytest.approx((0.75, 17 / 24 - half, 17 / 24 + half))
    for name in ("r2", "auroc", "f1"):
        assert _of_folds([0.7, 0.8], METRICS[name], 20) == confidence_interval([0.7, 0.8], (0.0, 1.0))


def world(**options: Any) -> TransferEngine:
    """A source whose features are the target's, one whose are not, one that takes other inputs."""
    generator = torch.Generator().manual_seed(0)

    def task(name: str, first: int, count: int) -> Task:
        x = torch.randn(count, 20, generator=generator)
        y = (x[:, first] * x[:, first + 1] > 0).long()
        return Task(descriptor=TaskDescriptor(task_id=name), train=(x, y), test=(x, y))

    engine = TransferEngine(
        discoverers=[], auto_discover=False, model=ModelSpec(hidden=(32, 16)), seeds=2, budget=FEW,
        train=Budget(steps=1500, batch_size=64, learning_rate=0.003), **options,
    )  # fmt: skip
    for each in (task("same", 0, 3000), task("other", 8, 3000), task("target", 0, 60)):
        engine.register_task(each)
    narrow = Task(descriptor="narrow", train=(torch.randn(20, 5), torch.arange(20) % 2))
    engine.register_task(narrow, nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 2)))
    return engine


def test_the_source_with_the_same_features_is_advised() -> None:
    with world() as engine:
        cheap = engine.advise("target")
        assert (cheap.source, cheap.expected, cheap.spent) == ("same", None, 0)
        assert "No transfer was tried: a linear model on its features scores" in cheap.text
        advice = engine.advise("target", share=0.5)
        assert (advice.source, advice.strategy) == ("same", "lp_ft")
        assert 0.25 < advice.spent <= 0.5
        assert advice.expected is not None
        assert advice.expected.low <= advice.expected.mean <= advice.expected.high
        assert [row.source for row in advice.rows] == ["same", "other"]
        folds, count = len(advice.expected.values), advice.samples
        setting = f"30 steps on {count - count // folds} samples, one seed for each of {folds} folds"
        assert advice.rows[0].setting == setting
        assert f"{advice.expected.high:.3f} for {setting}); tried on {folds} folds" in advice.text
        assert cheap.rows[0].setting == ""
        assert advice.rows[0].helps
        assert advice.rows[0].screened > advice.rows[1].screened + 0.2
        assert "takes inputs (5,)" in advice.avoid["narrow"]
        assert not (advice.rows[1].helps and "other" in advice.avoid)
        assert str(advice).startswith("Learn 'target' from 'same' by lp_ft. Expected accuracy: ")
        assert engine.advise("target", share=0.5).spent == 0, "what was tried is remembered"
        assert engine.advise("target", share=0).source == "same", "by the look at features alone"
        measured = engine.transfer_knowledge("same", "target")
        again = engine.advise("target")
        assert again.rows[0].evidence == "measured on the test split, 2 seeds"
        assert again.rows[0].expected == measured.score
        assert again.rows[0].setting == "30 steps on all samples, 2 seeds"
        level = Interval(mean=0.8, low=0.7, high=0.9)
        few = attrs.evolve(measured, score=level, budget=attrs.evolve(FEW, samples=7), seeds=4)
        method, goal = engine.method(None), engine.portfolio["target"]
        told = advise(engine.run, method, goal, [(engine.portfolio["same"], few, None)], {}, FEW, 2, 0.0)
        assert told.rows[0].setting == "30 steps on 7 samples, 4 seeds", "of the measurement, not of now"
        assert "(95 % interval 0.700 to 0.900 for 30 steps on 7 samples, 4 seeds); measured on" in told.text
        (section,) = Advice.sections(again, engine.graph)
        assert "measured on the test split, 2 seeds; 30 steps on all samples, 2 seeds" in section.html
        engine.budget = attrs.evolve(FEW, steps=31)
        later = {row.source: row for row in engine.advise("target", share=0).rows}
        assert later["same"].expected is None, "what was measured with another budget says nothing of this one"
        engine.budget = FEW
        other = {
            row.source: row
            for row in engine.advise("target", Choice(use="lp_ft", options={"head_share": 0.7}), share=0).rows
        }
        assert other["same"].expected is None, "nor what was measured with other options"
        assert engine.advise("target", share=0).rows[0].expected == measured.score
        model = engine.portfolio["same"].model
        engine.portfolio["same"].model = copy.deepcopy(model).requires_grad_(True)
        assert engine.advise("target", share=0).rows[0].expected == measured.score, "the same weights"
        with torch.no_grad():
            engine.portfolio["same"].model.head.weight.mul_(2)
        later = {row.source: row for row in engine.advise("target", share=0).rows}
        assert later["same"].expected is None, "nor what was measured of another model of that name"
        engine.portfolio["same"].model = model
        with pytest.raises(DataError, match="no task 'tarket'"):
            engine.advise("tarket")
        with pytest.raises(DataError, match="share must be between 0 and 1"):
            engine.advise("target", share=2)


def test_a_measurement_says_more_than_a_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a transfer or an edge, also where the features promise nothing."""
    with world() as engine:
        monkeypatch.setattr("crosstask.advising._screened", lambda *_: 0.4)
        monkeypatch.setattr("crosstask.advising._untrained", lambda *_: 0.5)
        assert engine.advise("target", share=0).source is None
        edge = TransferEdge(
            source="same", target="target", transfer_coefficient=0.4, evidence=Evidence.MEASURED, found_by="probe"
        )
        engine.graph.add(edge)
        advice = engine.advise("target", share=0)
        assert {row.source: row.helps for row in advice.rows} == {"same": True, "other": False}
        assert advice.source == "same"
        measured = engine.transfer_knowledge("other", "target")
        rows = {row.source: row for row in engine.advise("target", share=0).rows}
        assert rows["other"].helps is (measured.performance_gain.mean > 0)


def test_whether_a_source_helps_is_asked_of_training_from_scratch(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the same folds, where there are any: features that tell no more than untrained ones are not scratch."""
    from crosstask import advising

    real, scores = advising._fold_job, {"scratch": 0.5, "transfer": 0.9}
    monkeypatch.setattr(advising, "_fold_job", lambda method, *_: scores["transfer" if method else "scratch"])
    monkeypatch.setattr(advising, "_screened", lambda *_: 0.4)
    monkeypatch.setattr(advising, "_untrained", lambda *_: 0.5)
    monkeypatch.setattr("crosstask.engine.doubted", lambda task: None)
    for scratch, helps, source in ((0.5, True, "same"), (0.88, None, "same"), (0.97, False, None)):
        scores["scratch"] = scratch
        with world() as engine:
            engine.train_budget = Budget(steps=1)
            for name in ("other", "narrow"):
                engine.portfolio.remove(name)
                engine.graph.remove_task(name)
            advice = engine.advise("target", share=1.0)
            row = advice.rows[0]
            assert (advice.source, row.helps, row.scratch) == (source, helps, pytest.approx(scratch))
            assert f"raining from scratch{' to' if source is None else ':'} {scratch:.3f}" in advice.text
            assert ("Whether it helps is not known: the two are as good as alike." in advice.text) is (helps is None)
            assert advice.spent == 1.0, "two seeds with it and two without are what trying it takes"
            assert engine.advise("target", share=1.0).spent == 0
    monkeypatch.setattr(advising, "_fold_job", real)
    with world() as engine:
        engine.train_budget = Budget(steps=1)
        advice = engine.advise("target", share=1.0)
        (expected,) = {row.scratch for row in advice.rows}
        data, model = engine.portfolio["target"].data("train"), engine.portfolio["same"].model
        folds, found = len(advice.rows[0].expected.values), []
        for fold in range(folds):
            order = torch.randperm(len(data), generator=torch.Generator().manual_seed(folds))
            order = order[torch.argsort(data.targets[order], stable=True)]
            rest = torch.tensor(sorted(set(range(len(data))) - set(order[fold::folds].tolist())))
            task = engine.portfolio["target"].over(train=data.take(rest), test=data.take(order[fold::folds]))
            seed = engine.run.seed_for("advise", "target", fold)
            learner = fresh_model(model, task, seed)
            fit(learner, task, FEW, torch.Generator().manual_seed(seed))
            found.append(evaluate(learner, task, "test"))
        assert expected == pytest.approx(sum(found) / folds)


def test_samples_that_the_source_has_learned_from_are_told_and_leave_no_interval() -> None:
    """Its features know them: held-out folds of them are not held out from it."""
    with world() as engine:
        engine.train_budget = Budget(steps=1)
        target, source = engine.portfolio["target"].data("train"), engine.portfolio["same"].data("train")
        row = engine.advise("target", share=1.0).rows[0]
        assert (row.shared, row.expected.low < row.expected.mean) == (0, True)
        both = torch.cat([target.inputs[:10], source.inputs[:50]])
        for split, inputs in {"some": both, "other shape": both[:, :5]}.items():
            task = Task(descriptor=split, train=(inputs, torch.arange(60) % 2))
            shared = _shared(engine.portfolio["same"], task, Budget())
            assert shared == (50 if split == "some" else 0)
            assert _shared(engine.portfolio["same"], task, Budget(samples=20)) == (10 if split == "some" else 0)
        several = [Task(descriptor=name, train=({"a": both[rows], "b": both[rows]}, torch.arange(len(both[rows])) % 2))
                   for name, rows in (("one", slice(20)), ("two", slice(10, 60)))]  # fmt: skip
        assert _shared(*several, Budget()) == 10
        engine.register_task(Task(descriptor="some", train=(both, torch.arange(60) % 2)))
        row = next(r for r in engine.advise("some", share=1.0).rows if r.source == "same")
        assert (row.shared, row.expected.low, row.expected.high) == (50, row.expected.mean, row.expected.mean)
    told = paragraph(Advised(target="t", source="same", strategy="lp_ft", metric="accuracy", rows=(row,)))
    assert "50 of the target's training samples are also the source's: the expected score is too good." in told
    assert "95 %" not in told


def test_the_order_is_that_of_the_scores_or_says_why_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was measured stood behind what was tried with less, because a look at features was in the score of one."""
    from crosstask import advising

    looks = {"same": 0.9, "other": 0.7}
    with world() as engine:
        engine.train_budget = Budget(steps=1)
        engine.train()
        monkeypatch.setattr("crosstask.engine.doubted", lambda task: None)
        models = {weights_digest(engine.portfolio[name].model): name for name in looks}
        monkeypatch.setattr(advising, "_screened", lambda model, *_: looks[models[weights_digest(model)]])
        monkeypatch.setattr(advising, "_untrained", lambda *_: 0.5)
        folds = {"same": 0.8, "other": 0.9}
        monkeypatch.setattr(
            advising,
            "_fold_job",
            lambda method, model, *_: 0.5 if method is None else folds[models[weights_digest(model)]],
        )
        both = engine.advise("target", share=1.0)
        assert [row.source for row in both.rows] == ["same", "other"]
        assert (
            "Next best: 'other' (0.900, tried on 2 folds of the target's samples). It comes after by the mean"
            in both.text
        )
        assert "0.800 and 0.850." in both.text
        measured = engine.transfer_knowledge("other", "target")
        method, target = engine.method(None), engine.portfolio["target"]
        for score, first in ((0.83, "other"), (0.77, "same")):
            level, gain = Interval(mean=score, low=0.7, high=0.9), Interval(mean=0.1, low=0.05, high=0.15)
            result = attrs.evolve(measured, score=level, performance_gain=gain)
            known = [(engine.portfolio["same"], None, None), (engine.portfolio["other"], result, None)]
            advice = advise(engine.run, method, target, known, {}, FEW, 2, 1.0)
            assert advice.source == first
            assert "tried on folds, which are other samples: their order is rough." in advice.text


def test_of_too_few_samples_a_guess_is_said_to_be_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """It read as a recommendation. The guess is the most similar source, whichever was registered first."""
    monkeypatch.setattr("crosstask.engine.doubted", lambda task: None)
    with world() as engine:
        engine.train_budget = Budget(steps=1)
        x = torch.randn(60, 20, generator=torch.Generator().manual_seed(4))
        near = TaskDescriptor(task_id="near", domain="pairs")
        engine.register_task(Task(descriptor=near, train=(x, torch.arange(60) % 2)))
        for count in (2, 3, 4):
            few = TaskDescriptor(task_id=f"few{count}", domain="pairs", output_dim=2)
            engine.register_task(Task(descriptor=few, train=(x[:count], torch.arange(count) % 2)))
            text = engine.advise(few.task_id, share=1.0).text
            guess = (
                f"A guess, no more: learn 'few{count}' from 'near' by lp_ft, by its description the most similar; "
                f"too few samples to tell ({count})."
            )
            assert text.startswith(guess) is (count < 4)
            assert "nothing is known" not in text
            engine.portfolio.remove(few.task_id)
            engine.graph.remove_task(few.task_id)
        engine.graph.add(TransferEdge(source="other", target="target", transfer_coefficient=0.3, found_by="told"))
        monkeypatch.setattr("crosstask.advising._screened", lambda *_: None)
        assert engine.advise("target", share=0).source == "other"
        engine.graph.remove_task("other")
        engine.portfolio.remove("other")
        text = engine.advise("target", share=0).text
        assert text.startswith("A guess, no more: learn 'target' from ")
        assert "its features could not be looked at, and no transfer was tried." in text


def test_a_near_tie_of_looks_tells_nothing_of_scratch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crosstask.advising._screened", lambda *_: 0.5)
    monkeypatch.setattr("crosstask.engine.doubted", lambda task: None)
    with world() as engine:
        engine.train_budget = Budget(steps=1)
        for untrained, source in ((0.45, "same"), (0.5, "same"), (0.55, "same"), (0.6, None)):  # √(.25/60) = .065
            monkeypatch.setattr("crosstask.advising._untrained", lambda *_, worth=untrained: worth)
            advice = engine.advise("target", share=0)
            assert (advice.source, advice.rows[0].helps) == (source, None if source else False)
            assert ("Whether it helps is not known: a linear model on untrained" in advice.text) is bool(source)


def test_what_was_measured_to_lose_is_not_advised(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the gain in the metric: near the best score the coefficient of a loss may be above zero. Nor is it the next
    best, and neither is what is not to be used.
    """
    with world() as engine:
        engine.train_budget = Budget(steps=1)
        engine.train()
        looks = {"same": 0.9, "other": 0.3}
        models = {id(engine.portfolio[name].model): name for name in looks}
        monkeypatch.setattr("crosstask.advising._screened", lambda model, *_: looks[models[id(model)]])
        monkeypatch.setattr("crosstask.advising._untrained", lambda *_: 0.5)
        monkeypatch.setattr("crosstask.engine.doubted", lambda task: None)
        advice = engine.advise("target", share=0)
        assert (advice.source, "other" in advice.avoid, "Next best" in advice.text) == ("same", True, False)
        looks["other"] = 0.48  # within a standard error of 60 samples: √(.25/60) = .065
        assert "Next best: 'other'." in engine.advise("target", share=0).text
        measured = engine.transfer_knowledge("other", "target")
        level = Interval(mean=0.93, low=0.9, high=0.96)
        loss = attrs.evolve(measured, score=level, performance_gain=Interval(mean=-0.01, low=-0.05, high=0.03),
                            coefficient=Interval(mean=0.03, low=-0.1, high=0.2))  # fmt: skip
        method, target = engine.method(None), engine.portfolio["target"]

        def advised(*rows: Any) -> Advised:
            known = [(engine.portfolio[name], result, edge) for name, result, edge in rows]
            return advise(engine.run, method, target, known, {}, FEW, 2, 0.0)

        alone = advised(("other", loss, None))
        assert (alone.source, alone.rows[0].helps) == (None, False)
        assert alone.text == (
            "No source is known to help 'target': train from scratch. A transfer from 'other' gained nothing over that "
            "(accuracy 0.930, measured on the test split, 2 seeds)."
        )
        both = advised(("other", loss, None), ("same", None, None))
        assert [row.source for row in both.rows] == ["same", "other"], "features that promise come before a loss"
        assert (both.source, "Next best" in both.text) == ("same", False)
        looks["same"] = 0.4
        neither = advised(("other", loss, None), ("same", None, None))
        assert neither.source is None
        assert "those of 'same', tell no more" in neither.text
        assert "A transfer from 'other' gained nothing" in neither.text
        found = TransferEdge(source="other", target="target", transfer_coefficient=0.02, accuracy_gain=-0.01,
                             evidence=Evidence.MEASURED, found_by="probe")  # fmt: skip
        by_edge = advised(("other", None, found))
        assert by_edge.source is None
        assert by_edge.text.endswith("gained nothing over that (measured by discovery: coefficient +0.02).")


def test_a_source_that_learned_nothing_helps_beyond_doubt_or_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chance puts it first among sources of which none helps much. A model that the user gave is a source all the same:
    a head may be new, and what is below it not.
    """
    why = "its model is hardly better than chance on its own task"
    told = {"target": "target", "evidence": Evidence.MEASURED, "found_by": "probe", "best_strategy": "lp_ft"}
    asked, looks = [], {"look": 0.55}
    monkeypatch.setattr("crosstask.engine.doubted", lambda task: asked.append(task.task_id) or "so it seems")
    monkeypatch.setattr("crosstask.advising._screened", lambda *_: looks["look"])
    monkeypatch.setattr("crosstask.advising._untrained", lambda *_: 0.5)
    with world() as engine:
        engine.train_budget = Budget(steps=1)
        x = torch.randn(200, 20, generator=torch.Generator().manual_seed(3))
        task = Task(descriptor="given", train=(x, (x[:, 4] > 0).long()))
        engine.register_task(task, nn.Sequential(nn.Linear(20, 8), nn.ReLU(), nn.Linear(8, 2)))
        alone = TransferEdge(source="other", transfer_coefficient=0.1, accuracy_gain=0.01, accuracy_gain_low=-0.02,
                             accuracy_gain_high=0.04, **told)  # fmt: skip
        engine.graph.add(alone)
        worse = TransferEdge(source="given", transfer_coefficient=-0.1, accuracy_gain=-0.1, **told)
        engine.graph.add(worse)
        asked.clear()
        advice = engine.advise("target", share=0)
        assert asked == ["same", "other"]
        assert {name: advice.avoid[name] for name in ("same", "other")} == {"same": why, "other": why}
        assert advice.rows[0].source == "given"
        assert advice.source is None, "neither what was measured to lose nor what learned nothing"
        engine.portfolio.remove("given")
        engine.graph.remove_task("given")
        assert f"train from scratch. 'same' is not to be used: {why}." in engine.advise("target", share=0).text
        looks["look"] = 0.7  # beyond a standard error of 60 samples, √(.25/60) = .065
        assert engine.advise("target", share=0).source == "same", "features that tell more than untrained ones"
        looks["look"] = 0.5
        sure = attrs.evolve(alone, accuracy_gain=0.05, accuracy_gain_low=0.01, accuracy_gain_high=0.09)
        engine.graph.add(sure)
        assert engine.advise("target", share=0).source == "other"
        measured = engine.transfer_knowledge("same", "target")
        given = [(engine.portfolio["same"], measured, None)]
        for low, source in ((-0.01, None), (0.01, "same")):
            gain = Interval(mean=0.02, low=low, high=0.05)
            known = [(task, attrs.evolve(result, performance_gain=gain), edge) for task, result, edge in given]
            method, target = engine.method(None), engine.portfolio["target"]
            assert advise(engine.run, method, target, known, {}, FEW, 2, 0.0, ["same"]).source == source


def test_what_discovery_measured_is_expected_as_it_was_measured() -> None:
    """The score itself, where the edge has it and it was with this method: gains near zero tell no score."""
    told = {"target": "target", "evidence": Evidence.MEASURED, "found_by": "probe", "best_strategy": "lp_ft"}
    with world() as engine:
        engine.graph.add(
            TransferEdge(source="same", transfer_coefficient=0.02, accuracy_gain=0.05, score=0.7, score_low=0.6,
                         score_high=0.8, **told)
        )  # fmt: skip
        row = engine.advise("target", share=0).rows[0]
        assert (row.source, row.expected, row.evidence) == (
            "same", Interval(mean=0.7, low=0.6, high=0.8), "measured by discovery"
        )  # fmt: skip
        assert row.setting == "the budget of discovery, which may be another"
        row = next(r for r in engine.advise("target", "fine_tuning", share=0).rows if r.source == "same")
        assert (row.expected, row.evidence) == (None, "measured by discovery with lp_ft: coefficient +0.02")
        engine.graph.add(TransferEdge(source="other", transfer_coefficient=0.3, accuracy_gain=0.1, **told))
        row = next(r for r in engine.advise("target", share=0).rows if r.source == "other")
        assert (row.expected, row.evidence) == (None, "measured by discovery: coefficient +0.30")


def test_folds_are_learned_with_patience_as_transfers_are() -> None:
    with world() as engine:
        target = engine.portfolio["target"]
        x = torch.randn(40, 20, generator=torch.Generator().manual_seed(5))
        engine.portfolio.remove("target")
        engine.graph.remove_task("target")
        validation = x, (x[:, 0] * x[:, 1] > 0).long()
        engine.register_task(target.over(train=target.data("train"), test=target.data("test"), validation=validation))
        engine.budget = attrs.evolve(FEW, patience=1, evaluate_every=5)
        assert engine.advise("target", share=0.5).expected is not None


def test_where_nothing_fits_or_helps_it_says_so() -> None:
    with world() as engine:
        for name in ("same", "target"):
            engine.portfolio.remove(name)
            engine.graph.remove_task(name)
        x = torch.randn(60, 20, generator=torch.Generator().manual_seed(9))
        random = Task(descriptor="random", train=(x, torch.arange(60) % 2))
        engine.register_task(random)
        advice = engine.advise("random")
        if advice.source is None:
            assert "train from scratch" in advice.text
        engine.register_task(TaskDescriptor(task_id="told", input_shape=(3, 3), output_dim=2))
        nothing = engine.advise("told")
        assert nothing.source is None
        assert nothing.text.startswith("No source fits 'told': train from scratch.")


def test_a_source_that_is_all_head_is_left_out_with_its_reason() -> None:
    """It ended the advice for all, or was advised."""
    with world() as engine:
        model = nn.Sequential(nn.Flatten(), nn.Linear(20, 3))
        x = torch.randn(60, 20, generator=torch.Generator().manual_seed(9))
        engine.register_task(Task(descriptor="linear", train=(x, torch.arange(60) % 3)), model)
        for share in (0.0, 1.0):
            advice = engine.advise("target", share=share)
            assert advice.source == "same"
            assert "'linear' is no source for 'target': it is all head" in advice.avoid["linear"]
        with pytest.raises(DataError, match="'linear' is no source for 'target': it is all head"):
            engine.adapt("linear", "target")


def test_the_stage_gives_the_first_section() -> None:
    with world() as engine:
        outcome = engine.run_stage("advice", target="target")
        (section,) = Advice.sections(outcome.record, engine.graph)
    assert section.title == "What to do for target"
    assert "What not to use" in section.html
    assert Advice.leads
    assert Advice.summary(outcome.record)["advised_source"] == "same"


def test_strategies_are_shown_where_there_are_any() -> None:
    level, gain = Interval(mean=0.8, low=0.7, high=0.9), Interval(mean=0.05, low=0.01, high=0.09)
    known = StrategyAdvice(kind="transfer", strategy="l2_sp", usual="lp_ft", expected=level, gain=gain, evidence=7,
                           cost=Interval(mean=1240.0, low=960.0, high=1500.4))  # fmt: skip
    silent = StrategyAdvice(kind="balancer", strategy="rgb", usual="rgb")
    told = Advised(target="t", source=None, strategy="lp_ft", metric="accuracy", strategies=(known, silent))
    (section,) = Advice.sections(told, TransferGraph())
    assert "Strategies, by what runs of this store came to" in section.html
    assert "+0.05" in section.html
    assert "1,240 [960, 1,500]" in section.html, "steps are whole"
    assert Advice.summary(told)["advised_transfer"] == "l2_sp (by 7 settings that were tried so far)"
    assert "advised_balancer" not in Advice.summary(told)
    (section,) = Advice.sections(attrs.evolve(told, strategies=()), TransferGraph())
    assert "Strategies" not in section.html


def test_a_strategist_that_is_installed_later_is_asked_and_one_that_was_asked_is_said(tmp_path: Path) -> None:
    reference = reference_registry(PLUGIN)
    strategist = Extension("strategist", "told", f"{ReferenceStrategist.__module__}:ReferenceStrategist", default=True)

    def found(asked: bool) -> tuple[Advised, set[str]]:
        registry = Registry()
        for record in reference.records:
            assert record.plugin is not None
            others = [each for each in record.plugin.extensions if each.point != "strategist"]
            plugin = Plugin(record.plugin.name, others, points=record.plugin.points, api=record.plugin.api)
            registry.register(plugin, distribution=record.distribution, version=record.version)
        if asked:
            plugin = Plugin("asked", [strategist], api=(2, 0))
            registry.register(plugin, distribution="crosstask-asked", version="1.0")
        with TransferEngine(
            registry=registry, discoverers=[], model=ModelSpec(hidden=(4,)), train=FEW, budget=FEW, seeds=1,
            store=tmp_path / "store.db",
        ) as engine:  # fmt: skip
            for name in ("moons", "halves"):
                engine.register_task(small_task(name))
            heard = engine.run_stage("advice", target="halves").record
            return heard, engine.run.used()

    without, used = found(asked=False)
    assert without.strategies == ()
    assert "crosstask-asked 1.0" not in used
    fresh, used = found(asked=True)
    assert fresh.strategies
    assert "crosstask-asked 1.0" in used
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Advice, "work", lambda *_: pytest.fail("it has finished before"))
        assert found(asked=True) == (fresh, used)
        assert found(asked=False)[0] == without
