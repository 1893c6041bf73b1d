"""One task as a sequence of tasks with some of its classes each."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from crosstask.errors import DataError
from crosstask_continual import split_by_classes
from crosstask_continual.testing import digits


@pytest.mark.parametrize(
    ("parts", "message"),
    [(11, "has 10 classes"), ([[0, 0]], "different labels from 0 to 9"), ([[10]], "labels from 0"), ([[]], "groups")],
)
def test_bad_splits(parts: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        split_by_classes(digits(), parts)


def test_split_by_classes_keeps_every_sample_once() -> None:
    whole = digits()
    made = split_by_classes(whole, [[7, 2], [0]])
    assert [t.task_id for t in made] == ["digits:7+2", "digits:0"]
    data = made[0].data("test")
    expected = whole.data("test").targets
    assert len(data) == int(((expected == 7) | (expected == 2)).sum())
    assert torch.equal(data.inputs[data.targets == 1], whole.data("test").inputs[expected == 2])
    assert [len(t.descriptor.classes) for t in split_by_classes(whole, 3)] == [4, 3, 3]
