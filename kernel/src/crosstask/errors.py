"""One small tree of exceptions. Every message can be shown to a user as it stands."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TypeVar

T = TypeVar("T")


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


def of_kind(value: object, kind: type[T], where: str) -> T:
    """`value` if it is a `kind`; DataError, which begins with `where`, if it is not."""
    if isinstance(value, kind):
        return value
    given = f"the class {value.__name__}" if isinstance(value, type) else f"a {type(value).__name__}"
    article = "an" if kind.__name__[0] in "AEIOUaeiou" else "a"
    raise DataError(f"{where} must be {article} {kind.__name__}, got {given}")


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

    if len(name) > 3:
        valid = [each for each in names if len(each) > 3 or _one_slip(name, each)]
        found = get_close_matches(name, valid, n=1, cutoff=0.6)
    else:
        valid = [each for each in names if _one_slip(name, each)]
        begun = [each for each in names if len(name) > 1 and each.startswith(name)]
        found = get_close_matches(name, valid, n=1, cutoff=0) or begun
    if found or all(each == each.lower() for each in (name, *names)):
        return found[0] if found else None
    lower = {each.lower(): each for each in names}  # whatever the one or the other writes in capitals
    close = name.lower() if name.lower() in lower else _close(name.lower(), sorted(lower))
    return lower[close] if close else None


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
