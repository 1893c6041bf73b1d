"""Which tasks are worth training together."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from crosstask.graph import HELPS, TransferGraph
from crosstask.tasks import Portfolio, Task


def inputs_of(task: Task) -> tuple[object, ...]:
    """The shape of a task's inputs, or the shapes of all where a sample has several, read from its data if need be."""
    if task.has_data() and not task.descriptor.input_shape and not task.descriptor.input_shapes:
        task.data()
    return task.descriptor.input_shape or tuple(sorted(task.descriptor.input_shapes.items()))


def same_inputs(portfolio: Portfolio) -> list[Task]:
    """The tasks with training and test data whose inputs have the shape that most of them have; in the portfolio's
    order.
    """
    able = [task for task in portfolio if task.has_data() and task.has_data("test")]
    shapes = [inputs_of(task) for task in able]
    common = max(shapes, key=shapes.count, default=())
    return [task for task in able if inputs_of(task) == common]


def compatible_tasks(portfolio: Portfolio, graph: TransferGraph, minimum: float = HELPS / 2) -> list[str]:
    """Tasks worth training together, by the transfer graph; in the portfolio's order.

    Among tasks with data of the commonest input shape, the group grows from the pair that helps one another most,
    always by the task whose mean coefficient from and to the group is highest, while that is at least `minimum`.
    """
    able = [task.task_id for task in same_inputs(portfolio)]

    def mutual(task: str, group: Iterable[str]) -> float:
        between = [graph.coefficient(*pair) for other in group for pair in ((task, other), (other, task))]
        return sum(between) / len(between)

    pairs = [(mutual(a, [b]), [a, b]) for a, b in itertools.combinations(able, 2)]
    strength, group = max(pairs, default=(-1.0, []), key=lambda pair: pair[0])
    if strength < minimum:
        return []
    while rest := [(mutual(t, group), t) for t in able if t not in group]:
        strength, best = max(rest)
        if strength < minimum:
            break
        group.append(best)
    return [t for t in able if t in group]
