"""What discoverers say of a pair of tasks: an edge with its interval, or why the pair was left out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NoReturn

from crosstask.descriptors import TaskDescriptor
from crosstask.errors import DataError
from crosstask.graph import Evidence, TransferEdge, relation_type
from crosstask.logs import logger
from crosstask.points.discovery import Discoverer
from crosstask.records import Interval
from crosstask.tasks import Portfolio

LeftOut = tuple[str, str, str]
"""A pair that was not looked at: source id, target id, why. A discoverer lists them in its attribute `skipped`."""


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
