"""Which tasks are worth training together, by the graph."""

from __future__ import annotations

from crosstask.descriptors import TaskDescriptor
from crosstask.graph import TransferEdge, TransferGraph
from crosstask.tasks import Portfolio, Task
from crosstask.testing import blobs
from crosstask_multitask import compatible_tasks

KNOWN = {"ab": 0.6, "ba": 0.4, "ac": 0.3, "cb": 0.3, "ad": 0.5, "da": -0.6, "cd": -0.5}


def portfolio() -> Portfolio:
    return Portfolio([*map(blobs, "abcd"), Task(descriptor=TaskDescriptor(task_id="bare"))])


def graph(known: dict[str, float]) -> TransferGraph:
    made = TransferGraph(task.descriptor for task in portfolio())
    for (source, target), value in known.items():
        made.add(TransferEdge(source=source, target=target, transfer_coefficient=value))
    return made


def test_they_grow_from_the_strongest_pair() -> None:
    assert compatible_tasks(portfolio(), graph({})) == []
    assert compatible_tasks(portfolio(), graph(KNOWN)) == ["a", "b", "c"]
    assert compatible_tasks(portfolio(), graph(KNOWN), minimum=0.35) == ["a", "b"]


def test_only_tasks_with_data_of_the_commonest_shape_count() -> None:
    tasks = portfolio()
    odd = blobs("odd")
    odd.descriptor = TaskDescriptor(task_id="odd", input_shape=(3,), output_dim=3)
    tasks.add(odd)
    made = graph({})
    made.add_task(odd.descriptor)
    for source, target in (("odd", "a"), ("a", "odd"), ("bare", "a"), ("a", "bare"), ("c", "d")):
        made.add(TransferEdge(source=source, target=target, transfer_coefficient=0.9))
    assert compatible_tasks(tasks, made) == ["c", "d"]
