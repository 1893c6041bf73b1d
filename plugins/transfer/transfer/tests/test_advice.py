"""Which source to use: a closed form for the look at features, a world where the answer is known, the command."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
import torch
from torch import nn

from crosstask import Advice as Advised
from crosstask import Budget, DataError, Interval, ModelSpec, StrategyAdvice, Task, TaskDescriptor, TransferEngine
from crosstask.advising import RIDGES, left_one_out
from crosstask.graph import TransferGraph
from crosstask_transfer.advice import Advice

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
        with pytest.raises(DataError, match="no task 'tarket'"):
            engine.advise("tarket")
        with pytest.raises(DataError, match="share must be between 0 and 1"):
            engine.advise("target", share=2)


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
    known = StrategyAdvice(kind="transfer", strategy="l2_sp", usual="lp_ft", expected=level, gain=gain, evidence=7)
    silent = StrategyAdvice(kind="balancer", strategy="rgb", usual="rgb")
    told = Advised(target="t", source=None, strategy="lp_ft", metric="accuracy", strategies=(known, silent))
    (section,) = Advice.sections(told, TransferGraph())
    assert "Strategies, by what earlier runs came to" in section.html
    assert "+0.05" in section.html
    assert Advice.summary(told)["advised_transfer"] == "l2_sp (by 7 settings of earlier runs)"
    assert "advised_balancer" not in Advice.summary(told)
    (section,) = Advice.sections(attrs.evolve(told, strategies=()), TransferGraph())
    assert "Strategies" not in section.html
