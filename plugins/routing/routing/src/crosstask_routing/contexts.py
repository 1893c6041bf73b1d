"""What every router asks of its arguments, at little cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from crosstask.errors import DataError
from crosstask_routing.contract import Array

NUMBERS = (int, float, np.number)
LARGEST = 1e100
"""Contexts and rewards are smaller than this: their products are numbers."""


def as_context(context: Any, known: int, who: str) -> Array:
    """A context as a vector of `known` numbers or more. DataError for another shape, where it is too short, and for
    numbers that are not finite.
    """
    if type(context) is not np.ndarray or context.dtype != np.float64 or context.shape != (known,):
        context = _vector(context, known, who)
    found: Array = context
    for value in found.tolist():  # of few numbers quicker than numpy, and infinity times 0 warns there
        if not -LARGEST < value < LARGEST:
            raise DataError(f"{who}: a context is a vector of finite numbers, got {value} in it")
    return found


def _vector(context: Any, known: int, who: str) -> Array:
    try:
        made = np.asarray(context, dtype=np.float64)
    except (TypeError, ValueError):
        raise DataError(f"{who}: a context is a vector of numbers, got {_told(context)}") from None
    if made.ndim != 1 or not len(made):
        raise DataError(f"{who}: a context is a vector of numbers, got shape {made.shape}")
    if len(made) < known:
        raise DataError(f"{who}: the context has {len(made)} numbers, earlier ones had {known}")
    return made


def check_reward(reward: float, who: str) -> None:
    """DataError unless a reward is a finite number."""
    if not isinstance(reward, NUMBERS) or not -LARGEST < reward < LARGEST:
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
