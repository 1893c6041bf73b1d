"""One small tree of exceptions. Every message can be shown to a user as it stands."""

from __future__ import annotations

import re
from collections.abc import Iterable


class CrosstaskError(Exception):
    """Base of everything crosstask raises on purpose."""


class OptionError(CrosstaskError, ValueError):
    """An option, a field or a recipe entry is unknown, of the wrong type or out of range."""


class RecipeError(OptionError):
    """A recipe cannot be read or asks for something impossible."""


class PluginError(CrosstaskError):
    """A plugin or component exists but cannot be used."""


class UnknownComponentError(PluginError, LookupError):
    """No usable component has that name."""


class DataError(CrosstaskError, ValueError):
    """A task, its data or its labels are not usable for what was asked."""


class GraphError(CrosstaskError, ValueError):
    """A transfer graph or an edge is inconsistent."""


class StoreError(CrosstaskError):
    """The store cannot be opened, read or written."""


class RunError(CrosstaskError, RuntimeError):
    """A run failed while it worked: a loss that is not finite, a folder that cannot be written."""


def nearest(name: object, valid: Iterable[str]) -> str:
    """The end of an error message: the nearest valid name, then all of them (at most twelve)."""
    names = sorted(map(str, valid))
    if not names:
        return " (there are none)"
    close = _close(str(name), names)
    hint = f"; did you mean {close!r}?" if close else ""
    shown = ", ".join(names[:12]) + (", …" if len(names) > 12 else "")
    return f"{hint} Valid: {shown}" if hint else f"; valid: {shown}"


def _close(name: str, names: list[str]) -> str | None:
    """The name that was probably meant. Among names of one to three letters almost any two are similar by a share of
    letters: there it is one slip (a letter more, less, another one or two swapped), or a beginning of two letters.
    """
    from difflib import get_close_matches  # deferred: only errors need it

    by_lower = {each.lower(): each for each in reversed(names)}
    given = name.lower()
    if len(given) > 3:
        longer = [each for each in by_lower if len(each) > 3 or _one_slip(given, each)]
        return next((by_lower[each] for each in get_close_matches(given, longer, n=1, cutoff=0.6)), None)
    slips = [each for each in by_lower if each == given or _one_slip(given, each)]
    begun = [each for each in by_lower if len(given) > 1 and each.startswith(given)]
    return next((by_lower[each] for each in [*get_close_matches(given, slips, n=1, cutoff=0), *sorted(begun)]), None)


def _one_slip(one: str, other: str) -> bool:
    """Whether one edit makes the one the other, with two letters or more in common (or one that was typed twice)."""
    short, long = sorted((one, other), key=len)
    start = next((at for at, letter in enumerate(short) if letter != long[at]), len(short))
    head, tail = short[start:], long[start:]
    if len(short) == len(long):
        slipped = head[1:] == tail[1:] or (head[2:] == tail[2:] and head[:2] == tail[1::-1])
    else:
        slipped = head == tail[1:]
    return slipped and (len(set(one) & set(other)) >= 2 or (len(short) < len(long) and set(one) == set(other)))


def told(error: BaseException) -> str:
    """`ValueError: the message` of any exception. Never raises: one of foreign code may not let itself be printed."""
    kind = type(error).__name__
    try:
        text = str(error)
    except BaseException:  # whatever its `__str__` raises, KeyboardInterrupt and SystemExit too
        text = "(its message cannot be printed)"
    return f"{kind}: {text}" if text else kind


_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
"""Control characters, marks that turn the direction of writing, halves of surrogate pairs; not tab and line feed."""


def printable(text: object, *, lines: bool = True) -> str:
    """A foreign text as a terminal may show it: control characters as they are written in Python (`\\x1b`), so that it
    cannot move the cursor, change colours or titles, or hide a part of itself; without `lines` in one line.
    """
    shown = _UNPRINTABLE.sub(_escaped, str(text))
    return shown if lines else shown.replace("\n", "\\n").replace("\t", "\\t")


def _escaped(found: re.Match[str]) -> str:
    return repr(found[0])[1:-1]
