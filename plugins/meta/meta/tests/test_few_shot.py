"""Meta-training and its test, with the slow and right reference."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from crosstask.context import LocalContext
from crosstask.errors import DataError
from crosstask.learning.models import ModelSpec
from crosstask.options import structure
from crosstask.tasks import Portfolio
from crosstask.testing.references import ReferenceAdapter, ReferenceMetaLearner
from crosstask_meta.few_shot import run_few_shot
from crosstask_meta.start import Start
from crosstask_meta.testing import NearestMeans, clouds

SPEC = structure({"kind": "mlp", "hidden": [16]}, ModelSpec, "model")
SMALL: dict[str, Any] = {"ways": 2, "shots": 2, "queries": 3, "steps": 40, "meta_batch": 4, "test_episodes": 60}


def test_classes_held_out() -> None:
    context = LocalContext(seed=1)
    given = (ReferenceMetaLearner(rate=0.5), SPEC, clouds("c", 8))
    sizes = SMALL | {"steps": 150, "held_out": ["g", "h", "a"]}
    found = run_few_shot(context, *given, **sizes)
    assert (found.held_out, found.split) == ("classes", "test")
    assert set(found.test) == {"g", "h", "a"}
    assert set(found.train) == set("bcdef")
    assert found.accuracy.mean > found.chance + 0.2
    assert sum(found.losses[-30:]) < sum(found.losses[:30])
    assert found.accuracy.low < found.accuracy.mean < found.accuracy.high
    assert len(found.losses) == 150
    assert found.curve.steps == (25, 50, 75, 100, 125, 150)
    again = run_few_shot(context, *given, **sizes)
    assert again == found  # recalled


def test_tasks_held_out() -> None:
    tasks = [clouds(name, 3, 10 * k) for k, name in enumerate("pqr")]
    found = run_few_shot(LocalContext(), ReferenceMetaLearner(), SPEC, Portfolio(tasks), held_out=["q"], **SMALL)
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
        (clouds("c", 4), {"held_out": ["z"]}, "class 'z' is not in the data"),
        ([clouds("c", 3), clouds("d", 3)], {"held_out": ["e"]}, "no task 'e' to hold out; the tasks are c, d"),
        ([clouds("c", 3), clouds("d", 3)], {"ways": 4}, "4-way episodes need 4 classes, task '[cd]' has 3: a, b, c"),
    ],
)
def test_what_cannot_be_learned_from(tasks: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        run_few_shot(LocalContext(), ReferenceMetaLearner(), SPEC, tasks, **(SMALL | options))
