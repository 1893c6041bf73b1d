"""For tests of synthesizers: descriptors and tasks in a line, and a check of what they expect."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from crosstask.descriptors import TaskDescriptor
from crosstask.graph import TransferGraph
from crosstask.points.synthesis import Synthesizer
from crosstask.tasks import Task
from crosstask.testing.kit import expect
from crosstask.testing.tasks import small_graph, small_portfolio


def described(name: str, classes: str = "", **more: Any) -> TaskDescriptor:
    """A descriptor whose classes are letters, with as many outputs; without letters it has none (unless given)."""
    return TaskDescriptor(**{"task_id": name, "classes": tuple(classes), "output_dim": len(classes) or None} | more)


def source(name: str, classes: str = "", model: nn.Module | None = None, **more: Any) -> Task:
    """A task that is described so and has no data."""
    return Task(descriptor=described(name, classes, **more), model=model)


def check_expectation(maker: Synthesizer) -> None:
    """CheckFailure unless a synthesizer says what its model can be expected to score on the small portfolio's unseen
    task, and how it knows.
    """
    portfolio = small_portfolio()
    sources, graph, new = list(portfolio), small_graph(portfolio), portfolio["mirrored"]

    def make(wanted: TaskDescriptor, known: list[Task], known_graph: TransferGraph, seen: Tensor | None) -> nn.Module:
        return maker.synthesize(wanted, known, known_graph, seen)

    model = make(new.descriptor, sources, graph, None)
    found = maker.expect(make, model, new.descriptor, sources, graph, None)
    expect(found is not None and found[0] is not None, f"{maker.origin} expects nothing: {found}")
    assert found is not None
    expected, how = found
    assert expected is not None
    inside = 0 <= expected.low <= expected.mean <= expected.high <= 1
    expect(inside and how.strip(), f"{maker.origin} expects {expected}: {how!r}")
