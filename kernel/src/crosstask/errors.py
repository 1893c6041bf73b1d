"""One small tree of exceptions. Every message can be shown to a user as it stands."""

from __future__ import annotations

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
    from difflib import get_close_matches  # deferred: only errors need it

    names = sorted(map(str, valid))
    if not names:
        return " (there are none)"
    close = get_close_matches(str(name), names, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    shown = ", ".join(names[:12]) + (", …" if len(names) > 12 else "")
    return f"{hint} Valid: {shown}" if hint else f"; valid: {shown}"
