"""Which models know which outputs of a task that none was trained for."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from crosstask.errors import DataError
from crosstask.tasks import Task
from crosstask_synthesis.owners import lacks_outputs, owners_of, unfit
from crosstask_synthesis.testing import described, source


def known(name: str, classes: str = "", **more: Any) -> Task:
    return source(name, classes, nn.Linear(3, 2), **more)


def test_owners_by_class_with_their_places() -> None:
    one, two = known("one", "abc"), known("two", "cd")
    found = owners_of(described("new", "dca"), [one, two], {})
    assert found == [[(two, 1)], [(one, 2), (two, 0)], [(one, 0)]]


def test_owners_of_a_regression_are_all_of_the_same_place() -> None:
    one, two = (known(n, task_type="regression") for n in ("one", "two"))
    new = described("new", task_type="regression", output_dim=2)
    assert owners_of(new, [one, two], {}) == [[(one, 0), (two, 0)], [(one, 1), (two, 1)]]


def test_what_nobody_knows_is_named_with_the_reasons() -> None:
    with pytest.raises(DataError, match=r"'new': no source knows class 'x' \(far takes inputs \(9,\)\)"):
        owners_of(described("new", "ax"), [known("one", "ab")], {"far": "takes inputs (9,)"})
    with pytest.raises(DataError, match="needs the names of its classes, to be made"):
        owners_of(described("new"), [known("one", "ab")], {})


def test_why_a_source_does_not_fit() -> None:
    new = described("new", "ab", input_shape=(3,))
    assert unfit(new, known("same", "xy", input_shape=(3,))) is None
    assert unfit(new, known("any", "xy")) is None, "a source that says nothing of its inputs is tried"
    assert unfit(new, known("wide", "ab", input_shape=(9,))) == "takes inputs (9,)"
    assert unfit(new, known("values", task_type="regression")) == "is a regression task"
    assert unfit(new, source("bare", "ab")) == "has no trained model"
    assert lacks_outputs(new, known("part", "bz")) is None
    assert lacks_outputs(new, known("none", "xy")) == "has none of the classes"
    values = described("values", task_type="regression", output_dim=2)
    one = source("one", task_type="regression", output_dim=1)
    assert lacks_outputs(values, one) == "has 1 outputs"
