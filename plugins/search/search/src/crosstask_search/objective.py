"""Calling an objective: what it may return, and what became of a trial where it fails."""

from __future__ import annotations

import asyncio
import concurrent.futures
import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from crosstask.errors import CrosstaskError

_LONGEST = 1000
"""Characters of an error that are kept."""

Judgement = tuple[float | None, str | None]
"""(score, None), or (None, what failed)."""


class Several(ABC):
    """An objective that can evaluate several points at once: what each comes to is what it would alone."""

    @abstractmethod
    def __call__(self, point: dict[str, Any]) -> float:
        """What one comes to."""

    @abstractmethod
    def groups(self, points: Sequence[Mapping[str, Any]]) -> list[list[int]]:
        """Which of some points, by their places, `together` is to get at once: no place twice. The others go alone."""

    @abstractmethod
    def together(self, points: Sequence[Mapping[str, Any]]) -> list[Judgement]:
        """What each comes to. Only an interrupt is raised."""


class NoScoreError(CrosstaskError, ValueError):
    """An objective returned something else than one finite number."""


def measured(evaluate: Callable[..., Any], *arguments: Any) -> float:
    """`evaluate(*arguments)` as a float.

    A tensor or array of one element, a number of numpy or of `fractions`, and whatever else Python can make a float of
    count as numbers; text does not. What can be awaited (an objective that is a coroutine) is waited for, with a loop
    of its own; so is a `concurrent.futures.Future`. NoScoreError: not one finite number.
    """
    number = _number(_awaited(evaluate(*arguments)))
    if not math.isfinite(number):
        raise NoScoreError(f"the objective is {number}")
    return number


def what_failed(raised: BaseException) -> str:
    """An exception in one line for a trial's record, however oddly it is made."""
    try:
        text = str(raised)
    except Exception:  # an exception that cannot tell what it is has failed all the same
        text = ""
    # a lone surrogate or a NUL, as file names have, is refused by databases
    text = text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")
    named = [] if isinstance(raised, NoScoreError) else [type(raised).__name__]
    told = ": ".join([*named, text] if text else named)
    return told if len(told) <= _LONGEST else f"{told[:_LONGEST]} …"


def is_interrupt(raised: BaseException) -> bool:
    """Whether the user wants to stop: Ctrl-C, also within a group of tasks."""
    if isinstance(raised, BaseExceptionGroup):
        return raised.subgroup(KeyboardInterrupt) is not None
    return isinstance(raised, KeyboardInterrupt)


def _awaited(value: Any) -> Any:
    if isinstance(value, concurrent.futures.Future):
        return value.result()
    if not inspect.isawaitable(value):
        return value

    async def wait() -> Any:
        return await value

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(wait())
    with concurrent.futures.ThreadPoolExecutor(1) as pool:  # a notebook's loop already runs in this thread
        return pool.submit(asyncio.run, wait()).result()


def _number(value: Any) -> float:
    if value is None:
        raise NoScoreError("the objective returned None, not a number: is its `return` missing?")
    if isinstance(value, Mapping):
        names = list(map(repr, value))
        one = f", such as result[{names[0]}]" if names else ""
        raise NoScoreError(f"the objective returned a table ({', '.join(names[:6])}): it must return one number{one}")
    if hasattr(value, "item") and not isinstance(value, type):
        try:
            value = value.item()
        except (ValueError, RuntimeError, TypeError):  # numpy, torch: more than one element
            shape = tuple(getattr(value, "shape", ()))
            raise NoScoreError(
                f"the objective returned a {type(value).__name__} of shape {shape}: it must return one number, such as "
                "its mean"
            ) from None
    if hasattr(type(value), "__float__") or hasattr(type(value), "__index__"):
        try:
            return float(value)
        except OverflowError:
            raise NoScoreError("the objective is a number too large for a float") from None
    shown = repr(value)
    shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
    raise NoScoreError(f"the objective returned {shown} ({type(value).__name__}): it must return one number")
