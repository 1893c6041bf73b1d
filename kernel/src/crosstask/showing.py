"""How values show themselves in Python: rows as pandas frames, short HTML tables in notebooks, gains in words."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from crosstask.errors import CrosstaskError
from crosstask.options import unstructure

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped]

_MOST = 20
"""Rows of a table in a notebook."""


def frame(rows: Iterable[Mapping[str, Any]], columns: Sequence[str] = ()) -> pd.DataFrame:
    """A pandas frame of these rows; `columns` are those of a frame without rows. CrosstaskError without pandas."""
    try:
        import pandas as pd
    except ImportError:
        raise CrosstaskError("a frame needs pandas: pip install pandas") from None
    made = list(rows)
    return pd.DataFrame(made) if made else pd.DataFrame(columns=list(columns))


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """A record as one row: of an interval its mean under the field's own name, and `_low` and `_high`; of a record
    inside its fields behind the name; nothing of curves, tables and lists.
    """
    row: dict[str, Any] = {}
    for field in attrs.fields(type(value)):
        inside, name = getattr(value, field.name), f"{prefix}{field.name}"
        if attrs.has(type(inside)):
            names = {f.name for f in attrs.fields(type(inside))}
            if {"mean", "low", "high"} <= names:
                row |= {name: inside.mean, f"{name}_low": inside.low, f"{name}_high": inside.high}
            elif not {"steps", "values"} <= names:
                row |= flat(inside, f"{name}_")
        elif inside is None or not isinstance(inside, Mapping | list | tuple | set | frozenset):
            row[name] = unstructure(inside)
    return row


def figure(value: Any) -> str:
    """A figure for people, as plain text: three decimals, an interval in brackets, a dash for what is not known."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3f}".replace("-", "−")
    if attrs.has(type(value)) and {"mean", "low", "high"} <= {f.name for f in attrs.fields(type(value))}:
        return f"{figure(value.mean)} [{figure(value.low)}, {figure(value.high)}]"
    return str(unstructure(value))


def times(gain: float | None, capped: bool = False, interval: Any = None) -> str:
    """A gain that is a ratio, in words: `at least 8×` where it is the most that could be seen, else with its interval
    where one is known: `2.4× [1.1×, 5.2×]`.
    """
    if gain is None:
        return "–"

    def ratio(value: float) -> str:
        return f"{value:,.0f}×" if value == round(value) or value >= 100 else f"{value:.1f}×"

    if capped:
        return f"at least {ratio(gain)}"
    if interval is None:
        return ratio(gain)
    return f"{ratio(interval.mean)} [{ratio(interval.low)}, {ratio(interval.high)}]"


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A short HTML table for a notebook: every text is escaped, and only the first rows are there."""

    def cells(values: Sequence[Any], tag: str) -> str:
        return "".join(f"<{tag}>{html.escape(_cut(figure(value)))}</{tag}>" for value in values)

    shown = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in rows[:_MOST])
    more = f"<tr><td colspan={len(head)}>and {len(rows) - _MOST} more</td></tr>" if len(rows) > _MOST else ""
    top = f"<thead><tr>{cells(head, 'th')}</tr></thead>" if any(head) else ""
    return f"<table><caption>{html.escape(title)}</caption>{top}<tbody>{shown}{more}</tbody></table>"


def _cut(text: str, length: int = 80) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"


class Shown:
    """What a result is in a notebook, and as a frame: its rows (`_rows`, or itself as the only one)."""

    def _rows(self) -> Iterable[Any]:
        return (self,)

    def to_frame(self) -> pd.DataFrame:
        """A pandas frame with a row for each part; intervals are three columns. CrosstaskError without pandas."""
        return frame([row if isinstance(row, dict) else flat(row) for row in self._rows()])

    def _headline(self) -> str:
        return type(self).__name__

    def _repr_html_(self) -> str:
        rows = [row if isinstance(row, dict) else _short(row) for row in self._rows()]
        if len(rows) == 1:
            return table(self._headline(), ("", ""), list(rows[0].items()))
        head = list(dict.fromkeys(name for row in rows for name in row))
        return table(self._headline(), head, [[row.get(name) for name in head] for row in rows])


def _short(value: Any) -> dict[str, Any]:
    """A record's figures and names, intervals in one piece; nothing of what has many parts."""
    found = {f.name: getattr(value, f.name) for f in attrs.fields(type(value))}
    plain = str | int | float | bool
    return {
        name: inside
        for name, inside in found.items()
        if (inside != "" and isinstance(inside, plain))
        or (attrs.has(type(inside)) and {"mean", "low", "high"} <= {f.name for f in attrs.fields(type(inside))})
    }
