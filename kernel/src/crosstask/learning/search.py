"""Spaces to search and trials of their points."""

from __future__ import annotations

from typing import Any

import attrs

from crosstask.options import option, record


@record
class Trial:
    """One evaluation of a point. `value` is higher for better and None unless `status` is done."""

    number: int
    point: dict[str, Any]
    status: str = option("running", choices=("running", "done", "failed"), help="how far it came")
    value: float | None = None
    error: str | None = None
    seconds: float = 0.0


@record
class Parameter:
    """One dimension of a space: `choices` (categorical), or a range `low` to `high` (`log`: on a log scale;
    `integer`).
    """

    choices: tuple[Any, ...] = ()
    low: float | None = None
    high: float | None = None
    log: bool = False
    integer: bool = False


@record
class SearchSpace:
    """Named parameters."""

    parameters: dict[str, Parameter] = attrs.field(factory=dict)
