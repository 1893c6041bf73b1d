"""What a user has as a task: a pair of tensors, a Dataset, a DataLoader, for training and for the test."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from crosstask.descriptors import TaskDescriptor, TensorData
from crosstask.errors import CrosstaskError, DataError, nearest, told
from crosstask.reading import Fields, read_described
from crosstask.tasks import Task


def task_from(
    given: Any, name: str, inputs: str | Sequence[str] | None, target: str | None, outputs: int | None
) -> Task:
    """A classification task with this training data, read and checked; `inputs` and `target` name fields of samples
    that are mappings. Labels that do not run from 0 on are names of its classes. DataError says what does not fit.
    """
    task = Task(descriptor=TaskDescriptor(task_id=name, output_dim=outputs), train=given, inputs=inputs, target=target)
    with _readable(name, "train"):
        task.data("train")
    return task


def asked_for(
    known: Task, test_data: Any, inputs: str | Sequence[str] | None, target: str | None, *, named: bool
) -> TensorData:
    """Test data of a task that is known; with `named` their labels are names of its classes, as those that it was
    trained on were. DataError for labels that are none of its classes, and for inputs of another shape.
    """
    descriptor = known.descriptor
    with _readable(known.task_id, "test"):
        columns = known.data("train").columns if known.has_data("train") else ()
        fields = Fields(inputs if inputs is None or isinstance(inputs, str) else tuple(inputs), target, columns=columns)
        if not named or isinstance(test_data, TensorData):
            return read_described(test_data, descriptor, "test", fields)[0]
        blank = TaskDescriptor(
            task_id=known.task_id, input_shape=descriptor.input_shape, input_shapes=descriptor.input_shapes
        )
        data, found = read_described(test_data, blank, "test", fields)
    places = []
    for label in range(int(data.targets.max()) + 1):
        name = found.classes[label] if found.classes else str(label)
        if name in descriptor.classes:
            places.append(descriptor.classes.index(name))
        elif bool((data.targets == label).any()):
            classes = nearest(name, descriptor.classes)
            raise DataError(f"task {known.task_id!r}, test data: label {name!r} is no class of it{classes}")
        else:
            places.append(-1)
    return TensorData(data.inputs, torch.tensor(places)[data.targets])


@contextlib.contextmanager
def _readable(name: str, split: str) -> Iterator[None]:
    """A Dataset or a loader that fails while it is read is named."""
    try:
        yield
    except CrosstaskError:
        raise
    except Exception as error:
        raise DataError(f"task {name!r}, {split} data: they cannot be read: {told(error)}") from error
