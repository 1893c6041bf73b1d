"""The log: structlog events, bound to a run's id where there is one."""

from __future__ import annotations

import logging
import sys
from typing import Any

from crosstask.errors import printable


def logger() -> Any:
    """structlog as the application set it up; if it did not, warnings only, to standard error."""
    import structlog  # deferred: most imports of the kernel log nothing

    if structlog.is_configured():
        return structlog.get_logger("crosstask")
    quiet = structlog.make_filtering_bound_logger(logging.WARNING)
    return structlog.wrap_logger(structlog.PrintLogger(sys.stderr), processors=_processors(), wrapper_class=quiet)


def log_everything() -> None:
    """Every event to standard error, for a command."""
    import structlog

    structlog.configure(processors=_processors(), logger_factory=structlog.PrintLoggerFactory(sys.stderr))


def _processors() -> list[Any]:
    """structlog's own; what an event tells, such as a task's id, does nothing to the terminal."""
    import structlog

    *first, last = structlog.get_config()["processors"]
    return [*first, _readable, last]


def _readable(_: Any, __: str, event: dict[str, Any]) -> dict[str, Any]:
    return {key: printable(value) if isinstance(value, str) else value for key, value in event.items()}
