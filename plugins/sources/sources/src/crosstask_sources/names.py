"""The names that a user gives to a source: which tasks, which parts of the data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable

from crosstask.errors import OptionError, nearest


def check_names(source: str, what: str, asked: Iterable[str], known: Collection[str]) -> None:
    """OptionError for a name that stands twice, or is not known: it says the nearest one.

    `source` and `what` begin the message: `source 'digits': unknown task 'paritty'; did you mean 'parity'?`.
    """
    counts = Counter(asked)
    for name, count in counts.items():
        if name not in known:
            raise OptionError(f"source {source!r}: unknown {what} {name!r}{nearest(name, known)}")
        if count > 1:
            raise OptionError(f"source {source!r}: {what} {name!r} is named twice in {list(counts.elements())}")
