"""What every router asks of its arguments, at little cost: what is wrong is looked for only where a number tells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from crosstask.errors import DataError
from crosstask_routing.contract import Array


def as_context(context: Any, known: int, who: str) -> Array:
    """A context as a vector of `known` numbers or more. DataError for another shape, or where it is too short."""
    if type(context) is np.ndarray and context.dtype == np.float64 and context.shape == (known,):
        return context
    try:
        made = np.asarray(context, dtype=np.float64)
    except (TypeError, ValueError):
        raise DataError(f"{who}: a context is a vector of numbers, got {_told(context)}") from None
    if made.ndim != 1 or not len(made):
        raise DataError(f"{who}: a context is a vector of numbers, got shape {made.shape}")
    if len(made) < known:
        raise DataError(f"{who}: the context has {len(made)} numbers, earlier ones had {known}")
    return made


def not_finite(context: Array, who: str) -> DataError:
    """The error for a context that led to a number that is none."""
    wrong = np.flatnonzero(~np.isfinite(context))
    if len(wrong):
        return DataError(f"{who}: number {int(wrong[0])} of the context is {float(context[wrong[0]])}")
    return DataError(f"{who}: the context is too large to compute with: {float(np.abs(context).max()):.3g}")


def check_reward(reward: float, who: str) -> None:
    """DataError unless a reward is a finite number."""
    if not isinstance(reward, int | float | np.floating | np.integer) or not -np.inf < reward < np.inf:
        raise DataError(f"{who}: a reward is a finite number, got {_told(reward)}")


def check_tools(tools: Sequence[str], who: str) -> tuple[str, ...]:
    """The names as a tuple. DataError where there is none, one twice, or no name."""
    if isinstance(tools, str) or not all(isinstance(name, str) for name in tools):
        raise DataError(f"{who}: tools are a tuple of names, got {_told(tools)}")
    if not tools:
        raise DataError(f"{who}: there is no tool to choose among")
    if len(set(tools)) != len(tools):
        twice = sorted({name for name in tools if list(tools).count(name) > 1})
        raise DataError(f"{who}: {', '.join(map(repr, twice))} stand there twice among the tools")
    return tuple(tools)


def _told(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
