"""Speed of adaptation, efficiency in samples and in weights, against values by hand."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from crosstask.errors import DataError
from crosstask.testing.references import ReferenceMetaLearner
from crosstask_meta import (
    BaseMetaLearner,
    adaptation_curve,
    adaptation_speed,
    parameter_efficiency,
    run_meta_learning_demo,
    sample_efficiency,
)
from crosstask_meta.testing import NearestMeans, network, some_episodes


def test_speed_by_hand() -> None:
    assert adaptation_speed([0.2, 0.4, 0.6, 0.8], share=1.0) == pytest.approx(1 / 3)
    assert adaptation_speed([0.2, 0.4, 0.6, 0.8], share=0.5) == pytest.approx(1 / 1.5)
    assert adaptation_speed([0.2, 0.8, 0.8]) == 1.0  # within the first step
    assert adaptation_speed([0.0, 0.0, 1.0, 0.5], share=0.9) == pytest.approx(1 / 1.9)  # what is lost again counts not
    assert adaptation_speed([0.5, 0.4]) == 0.0
    for curve, share, message in (
        ([0.5], 0.9, "the scores after 0 and more steps"),
        ([0.1, 0.2], 0.0, r"share in \(0, 1\]"),
        ([0.1, math.nan], 0.9, "scores that are not finite"),
    ):
        with pytest.raises(DataError, match=message):
            adaptation_speed(curve, share)


def test_sample_efficiency_by_hand() -> None:
    """0.8 is reached with 2 samples, and by the baseline half of the way, of the logarithm, from 4 to 16: with 8."""
    baseline = {1: 0.5, 4: 0.7, 16: 0.9}
    assert sample_efficiency({1: 0.6, 2: 0.8}, baseline) == pytest.approx(4)
    assert sample_efficiency({1: 0.6, 2: 0.8}, baseline, target=0.7) == pytest.approx(4 / 2**0.5)
    assert sample_efficiency(baseline, baseline) == 1.0
    assert sample_efficiency({1: 0.95}, baseline, target=0.95) == math.inf
    assert sample_efficiency(baseline, {1: 0.95}, target=0.95) == 0.0
    assert math.isnan(sample_efficiency(baseline, baseline, target=0.99))
    for scores in ({}, {0: 0.5}):
        with pytest.raises(DataError, match="scores must map numbers of samples, at least 1, to scores"):
            sample_efficiency(scores, baseline)


def test_parameter_efficiency_by_hand() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))  # 56 + 16 + 27 numbers
    adapted = copy.deepcopy(model)
    assert parameter_efficiency(model, adapted) == 1.0
    with torch.no_grad():
        adapted[2].weight.add_(1.0)
    assert parameter_efficiency(model, adapted) == pytest.approx(1 - 24 / 99)
    with torch.no_grad():
        for parameter in adapted.parameters():
            parameter.add_(1.0)
    assert parameter_efficiency(model, adapted) == 0.0
    assert parameter_efficiency(model, nn.Sequential(*copy.deepcopy(model), nn.Linear(3, 5))) == pytest.approx(
        1 - 20 / 99
    )
    with pytest.raises(DataError, match="no parameters"):
        parameter_efficiency(nn.Tanh(), nn.Tanh())
    episodes = some_episodes()
    learner = BaseMetaLearner(network(8), NearestMeans())
    adapted = learner.adapt_to_task(*next(iter(episodes))[:2])
    assert parameter_efficiency(learner.model, adapted) == 1.0  # a copy inside; its means are no state


def test_the_curve_is_that_of_adapted_models() -> None:
    episodes = some_episodes()
    learner = BaseMetaLearner(nn.Linear(6, 3), ReferenceMetaLearner(rate=0.5))
    found = adaptation_curve(learner, episodes, steps=3)
    for steps, score in enumerate(found):
        right = 0.0
        for sx, sy, qx, qy in episodes:
            right += float((learner.adapt_to_task(sx, sy, steps)(qx).argmax(1) == qy).float().mean()) / 4
        assert score == pytest.approx(right)
    x = torch.randn(2, 5, 1)
    curve = adaptation_curve(
        BaseMetaLearner(nn.Linear(1, 1), ReferenceMetaLearner()), [(own, 2 * own, own, 2 * own) for own in x]
    )
    assert curve == sorted(curve)
    assert curve[-1] < 0


@pytest.mark.slow
def test_the_demonstration(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("crosstask_maml")
    found = run_meta_learning_demo(steps=100)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == list(found)
    for name in ("maml", "maml_first_order", "anil", "meta_sgd", "reptile"):
        assert found[name]["accuracy"] > found[name]["accuracy_start"]
        assert found[name]["sample_efficiency"] > 1
    assert found["anil"]["parameter_efficiency"] > 0.9
    assert found["multi_task"]["loop"] > found["multi_task"]["loop_start"] + 0.05


def test_the_demonstration_in_short(capsys: pytest.CaptureFixture[str], tmp_path: object) -> None:
    pytest.importorskip("crosstask_maml")
    found = run_meta_learning_demo(steps=2, test_episodes=4, echo=None)
    assert capsys.readouterr().out == ""
    assert {"maml", "unequal", "multi_task"} <= set(found)
    assert found["unequal"]["difference"] < 1e-5
    with pytest.raises(DataError, match=r"omniglot: .* is no file of its images"):
        run_meta_learning_demo(steps=1, test_episodes=2, omniglot=f"{tmp_path}/none.npz", echo=None)
