"""Who hears every optimiser step of a training in this process, and may ask it to stop."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

Listener = Callable[[int, dict[str, Any]], bool]
"""Called with the number of the step and its metrics; whether the training is to stop."""

_LISTENER: ContextVar[Listener | None] = ContextVar("crosstask_steps", default=None)


@contextlib.contextmanager
def heard_by(listener: Listener | None) -> Iterator[None]:
    """Inside, trainings tell `listener` of their steps. A run does this around every call of a component."""
    before = _LISTENER.set(listener)
    try:
        yield
    finally:
        _LISTENER.reset(before)


def listener() -> Listener | None:
    """Who listens now; None: a training need not look at its losses at every step."""
    return _LISTENER.get()
