"""The log: structlog events, bound to a run's id where there is one."""

from __future__ import annotations

import logging
import sys
from typing import Any


def logger() -> Any:
    """structlog as the application set it up; if it did not, warnings only, to standard error."""
    import structlog  # deferred: most imports of the kernel log nothing

    if structlog.is_configured():
        return structlog.get_logger("crosstask")
    quiet = structlog.make_filtering_bound_logger(logging.WARNING)
    return structlog.wrap_logger(structlog.PrintLogger(sys.stderr), wrapper_class=quiet)
