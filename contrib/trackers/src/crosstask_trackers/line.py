"""What waits to be written: a bounded queue, and the thread that empties it. A run never waits for a tracker."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from crosstask_trackers.sink import Point, Sink

Work = Callable[[Sink], None]
_LOOK = 0.5
"""Seconds between two looks at what waits; a training wakes nobody."""
_AT_ONCE = 500
"""Points that a sink is given together."""
_TRIES = 4
"""How often one thing is tried; after one that was given up the next are tried once, until one succeeds."""
_PAUSE = 1.0
"""Seconds before the second try; twice as many before each that follows."""


class Line:
    """Calls of a sink in order. Of points at most `most` wait and newer ones are dropped, as are calls beyond `calls`.

    `told` is called with a sentence, in the thread: once when something fails first.
    """

    def __init__(self, make: Callable[[], Sink], *, most: int, calls: int, told: Callable[[str], None]) -> None:
        self._make, self._told, self._most, self._calls = make, told, most, calls
        self._sink: Sink | None = None
        self._waiting: deque[Point | Work] = deque()
        self._wake, self._hurry = threading.Event(), threading.Event()
        self._over = self._failing = self._has_told = False
        self.lost_points = self.lost_calls = 0
        self._thread = threading.Thread(target=self._run, name="crosstask tracker", daemon=True)
        self._thread.start()

    def point(self, point: Point) -> None:
        """Never waits, and wakes nobody."""
        if len(self._waiting) >= self._most:
            self.lost_points += 1
        else:
            self._waiting.append(point)

    def call(self, work: Work) -> None:
        """Something to do with the sink. Beyond the bound it is lost, like a point."""
        if len(self._waiting) >= self._most + self._calls:
            self.lost_calls += 1
        else:
            self._waiting.append(work)
            self._wake.set()

    def close(self, seconds: float) -> bool:
        """Have what waits written, for so many seconds at most. Whether all of it was done; what was not is lost."""
        self._over = True
        self._wake.set()
        self._thread.join(seconds)
        self._hurry.set()  # a thread that hangs is left: it ends with the process
        while self._waiting:
            self._lose(self._waiting.popleft())
        return not (self.lost_points or self.lost_calls or self._thread.is_alive())

    def _lose(self, item: Point | Work) -> None:
        if isinstance(item, Point):
            self.lost_points += 1
        else:
            self.lost_calls += 1

    def _run(self) -> None:
        while not self._hurry.is_set():
            if not self._waiting:
                if self._over:
                    return
                self._wake.wait(_LOOK)
                self._wake.clear()
                continue
            batch: list[Point] = []
            while self._waiting and isinstance(self._waiting[0], Point) and len(batch) < _AT_ONCE:
                first: Any = self._waiting.popleft()
                batch.append(first)
            if batch:
                if not self._done(lambda sink, batch=batch: sink.points(batch)):  # type: ignore[misc]
                    self.lost_points += len(batch)
            else:
                work: Any = self._waiting.popleft()
                if not self._done(work):
                    self.lost_calls += 1

    def _done(self, work: Work) -> bool:
        """Whether it could be done, be it at the fourth try."""
        pause = _PAUSE
        for left in reversed(range(1 if self._failing else _TRIES)):
            try:
                if self._sink is None:
                    self._sink = self._make()
                work(self._sink)
            except (Exception, SystemExit) as error:
                if not self._has_told:
                    self._has_told = True
                    self._told(f"{type(error).__name__}: {error}")
            else:
                self._failing = False
                return True
            if left and self._hurry.wait(pause):
                break
            pause *= 2
        self._failing = True
        return False
