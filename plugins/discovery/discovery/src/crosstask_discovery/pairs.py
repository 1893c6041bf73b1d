"""What discoverers say of a pair of tasks: an edge with its interval, or why the pair was left out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import NoReturn

from crosstask.descriptors import TaskDescriptor
from crosstask.errors import CrosstaskError, DataError
from crosstask.graph import Evidence, TransferEdge, TransferGraph, relation_type
from crosstask.logs import logger
from crosstask.points.discovery import Discoverer
from crosstask.records import Interval
from crosstask.tasks import Portfolio, Task

LeftOut = tuple[str, str, str]
"""A pair that was not looked at: source id, target id, why. A discoverer lists them in its attribute `skipped`."""


class UnusableModelError(DataError):
    """The code of a model raised for the inputs of a task: nothing can be transferred from it to that task."""


@contextlib.contextmanager
def using_model(source: Task, target: Task) -> Iterator[None]:
    """Inside, whatever the source's model raises for inputs of the target becomes an UnusableModelError. Errors of
    crosstask's are said already.
    """
    try:
        yield
    except CrosstaskError:
        raise
    except Exception as error:  # the user's own code
        raise UnusableModelError(model_failed(source, target, error)) from error


def model_failed(source: Task, target: Task, error: BaseException) -> str:
    """That, and with what error, a model cannot be used for a task, in a sentence."""
    who = f"the model of {source.task_id!r} ({type(source.model).__name__})"
    return f"{who} fails on samples of {target.task_id!r}: {in_a_line(error)}"


def in_a_line(error: BaseException) -> str:
    """An error in one line: what crosstask says as it is, others with their kind."""
    if isinstance(error, CrosstaskError):
        return str(error)
    told = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {told}" if told else type(error).__name__


def rule_out(graph: TransferGraph, source: Task, target: Task, reason: str) -> None:
    """Say in the graph that transfer between two tasks cannot be tried; one that does not hold them is left alone."""
    if source.task_id in graph.networkx and target.task_id in graph.networkx:
        graph.rule_out(source.task_id, target.task_id, reason)


def interval(coefficient: float, error: float) -> Interval:
    """A coefficient with its 95 % interval, both kept inside [-1, 1], from its standard error."""
    mean, low, high = _kept_inside(coefficient, error)
    return Interval(mean=mean, low=low, high=high)


def edge_between(
    source: TaskDescriptor,
    target: TaskDescriptor,
    coefficient: float,
    error: float,
    *,
    evidence: Evidence,
    found_by: str,
    estimates: Mapping[str, float] | None = None,
) -> TransferEdge:
    """An edge with a standard error, the interval that follows from it and the relation of the two tasks.

    `estimates` are the raw values that the coefficient was made of, for those who predict from them.
    """
    mean, low, high = _kept_inside(coefficient, error)
    return TransferEdge(
        source=source.task_id,
        target=target.task_id,
        transfer_coefficient=mean,
        evidence=evidence,
        found_by=found_by,
        relation=relation_type(mean, source, target),
        uncertainty=error,
        low=low,
        high=high,
        estimates=dict(estimates or {}),
    )


def _kept_inside(coefficient: float, error: float) -> tuple[float, float, float]:
    """(mean, low, high)."""
    inside = min(1.0, max(-1.0, coefficient))
    low, high = coefficient - 1.96 * error, coefficient + 1.96 * error
    return inside, max(-1.0, min(inside, low)), min(1.0, max(inside, high))


def samples_of(target: TaskDescriptor, samples: int | None, shots: int | None) -> int | None:
    """How many training samples of a target to look at: `shots` for each of its classes where it has classes and shots
    are wanted, else `samples`; None for all.
    """
    if shots is not None and target.task_type == "classification" and target.output_dim is not None:
        return shots * target.output_dim
    return samples


def refuse_none(portfolio: Portfolio, skipped: Iterable[LeftOut], done: str) -> NoReturn:
    """DataError with every reason: no pair of the portfolio can be `done` (estimated, measured)."""
    reasons = "; ".join(dict.fromkeys(reason for *_, reason in skipped))
    raise DataError(f"no pair of portfolio {portfolio.name!r} can be {done}: {reasons}")


def tell_left_out(discoverer: Discoverer, skipped: Iterable[LeftOut]) -> None:
    """Log how many pairs were left out, and why; nothing if none was."""
    told = list(skipped)
    if told:
        reasons = sorted({reason for *_, reason in told})
        logger().info("pairs left out", discoverer=discoverer.origin, count=len(told), reasons=reasons)
