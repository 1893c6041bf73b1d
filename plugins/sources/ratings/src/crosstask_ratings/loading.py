"""A file of ratings as a table of interactions."""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crosstask.errors import DataError, OptionError, nearest
from crosstask_sources.files import SUFFIXES, Coded, Format, Part, columns_of, read_columns, shown
from crosstask_sources.interactions import FEEDBACK, Interactions

MISSING = frozenset({"", "?", "NA", "N/A", "NaN", "nan", "null", "None"})
"""What a text stands for no value."""

TABLES = ("ratings", "history")
"""Arrays of the packed layout that hold rows of users and items."""

_WORD = re.compile(r"\w+")


def load_ratings(
    file: str | Path,
    *,
    user: str = "user",
    item: str = "item",
    rating: str | None = "rating",
    time: str | None = None,
    text: str | None = None,
    user_columns: Sequence[str] = (),
    item_columns: Sequence[str] = (),
    feedback: str | None = None,
    table: str = "ratings",
    categories: int = 20,
    words: int = 5000,
    text_length: int = 16,
    delimiter: str = ",",
    encoding: str = "utf-8",
) -> Interactions:
    """The rows of a CSV, Parquet or NPZ file whose columns are named, or of an NPZ file in the packed layout.

    Users and items, of whatever type, are numbered from 1 in the order of their names (numbers by their size); their
    names stay in `user_names` and `item_names`. `rating=None` makes the feedback implicit, and of implicit feedback no
    column of ratings is read. A pair that stands there
    twice counts once: with the latest rating (by time, or else the last row). `text` becomes ids of words, by a hash,
    from 1 to `words`, cut after `text_length`; 0 is padding. Columns of side information: numbers are standardised (a
    missing or infinite one is 0), of others the commonest `categories` become a column each.

    Packed: arrays `ratings` [n, 3] (user, item, rating) and perhaps `history` [n, 2] (user, item), ids from 1, chosen
    by `table`; arrays `user_…` and `item_…` by id are side information, `text` names one of them, and `countries` is
    what `user_country` counts. What `history` has and `ratings` has not is no negative either.

    A relative `file` is looked for here, in `$CROSSTASK_DATA` and in `../shared/data`. DataError for a file or a column
    that is not there (with the nearest), a rating that is no number, a row without user or item.
    """
    path = _found(Path(file))
    if feedback is not None and feedback not in FEEDBACK:
        raise OptionError(f"feedback: unknown kind {feedback!r}{nearest(feedback, FEEDBACK)}")
    if path.suffix not in SUFFIXES:
        raise DataError(
            f"{path.name}: a file of ratings is {', '.join(SUFFIXES)}, not {path.suffix or 'without one'!r}"
        )
    form = Format(delimiter, encoding)
    there = columns_of(path, form)
    if rating is None and feedback == "explicit":
        raise OptionError("feedback: explicit feedback needs a column of ratings, and rating says that there is none")
    if user == item:
        raise OptionError(f"user and item are both column {shown(user)!r}")
    side = {"user": tuple(user_columns), "item": tuple(item_columns)}
    if path.suffix == ".npz" and set(there) & set(TABLES) and user not in there:
        if time is not None:
            raise DataError(f"{path.name}: the packed layout has no time; for columns name those of user and item")
        asked = "implicit" if rating is None else feedback
        return _packed(
            path, form, there, side, categories, table=table, text=text, feedback=asked, words=words, length=text_length
        )
    implicit = rating is None or feedback == "implicit"
    rating = None if implicit else rating  # of implicit feedback no value counts
    wanted = {"user": user, "item": item, "rating": rating, "time": time, "text": text}
    names = [name for name in (*wanted.values(), *side["user"], *side["item"]) if name is not None]
    for name in names:
        if name not in there:
            which = next((key for key, value in wanted.items() if value == name), "side information")
            told = "; where there are none, say feedback = 'implicit'" if which == "rating" else ""
            raise DataError(f"{path.name} has no column {shown(name)!r} ({which}){nearest(name, there)}{told}")
        if there.count(name) > 1:
            raise DataError(f"{path.name} has two columns {shown(name)!r}")
    columns = read_columns(path, form, list(dict.fromkeys(names)))
    for name, part in columns.items():
        if len(part) != len(columns[user]):
            raise DataError(f"{path.name}: {shown(name)!r} has {len(part)} rows, {shown(user)!r} {len(columns[user])}")
        if part.shape and name in wanted.values():
            raise DataError(f"{path.name}: {shown(name)!r} has rows of shape {part.shape}, one value each is expected")
    users, user_names = _numbered(path, columns[user], user)
    items, item_names = _numbered(path, columns[item], item)
    values = np.ones(len(users)) if rating is None else _numbers(path, columns[rating], rating)
    moments = None if time is None else _numbers(path, columns[time], time)
    kept = _once(users, items, moments)
    made = None if text is None else _words(_texts(columns[text]), words, text_length)[kept]
    features: dict[str, Any] = {}
    for what, ids, known in (("user", users, user_names), ("item", items, item_names)):
        if side[what]:
            parts = [(name, columns[name]) for name in side[what]]
            first = np.zeros(len(known), dtype=np.int64)
            first[ids[::-1]] = np.arange(len(ids))[::-1]
            features[f"{what}_features"] = _side(parts, first, categories)
    return Interactions.of(
        users[kept], items[kept], values[kept], feedback=FEEDBACK[implicit], users=len(user_names) - 1,
        items=len(item_names) - 1, time=None if moments is None else torch.from_numpy(moments[kept]), text=made,
        user_names=user_names, item_names=item_names, **features,
    )  # fmt: skip


def _found(path: Path) -> Path:
    given = os.environ.get("CROSSTASK_DATA")
    places = [path] if path.is_absolute() else [path, *([Path(given) / path] if given else []), "../shared/data" / path]
    for place in places:
        if place.is_file():
            return place
    near = [each.name for each in path.parent.iterdir()] if path.parent.is_dir() else []
    told = nearest(path.name, [name for name in near if name.endswith(SUFFIXES)])
    raise DataError(f"no file of ratings {shown(str(path))!r}, looked for {', '.join(map(str, places))}{told}")


# Columns --------------------------------------------------------------------------------------------------------------


def _numbered(path: Path, part: Part, name: str) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """(ids from 1 of each row, their names with "" first) of a column of any type."""
    codes, names = part.coded()
    gone = [place for place, each in enumerate(names) if each in MISSING]
    lost = np.flatnonzero((codes < 0) | np.isin(codes, gone))
    if len(lost):
        raise DataError(f"{path.name}: row {int(lost[0]) + 1} has no {name!r}: an interaction has a user and an item")
    order = sorted(range(len(names)), key=lambda place: _rank(names[place]))
    number = np.empty(len(names), dtype=np.int64)
    number[order] = np.arange(1, len(names) + 1)
    return number[codes], ("", *(names[place] for place in order))


def _rank(name: str) -> tuple[int, float, str]:
    try:
        return (0, float(name), name)
    except ValueError:
        return (1, 0.0, name)


def _numbers(path: Path, part: Part, name: str) -> NDArray[np.float64]:
    values = part.floats(MISSING, ".")
    if values is None:
        odd = next(each for each in part.coded()[1] if each not in MISSING and not _is_number(each))
        raise DataError(f"{path.name}: column {shown(name)!r} holds {shown(odd)!r}, which is no number")
    wrong = np.flatnonzero(~np.isfinite(values))
    if len(wrong):
        raise DataError(f"{path.name}: {shown(name)!r} of row {int(wrong[0]) + 1} is {values[wrong[0]]}, not a number")
    return values


def _is_number(text: str) -> bool:
    return _rank(text)[0] == 0


def _once(users: NDArray[np.int64], items: NDArray[np.int64], moments: NDArray[np.float64] | None) -> NDArray[np.int64]:
    """The row of each pair that counts, in the order of the file."""
    at = np.zeros(len(users)) if moments is None else moments
    order = np.lexsort((np.arange(len(users)), at, items, users))
    last = np.ones(len(users), dtype=bool)
    last[:-1] = (np.diff(users[order]) != 0) | (np.diff(items[order]) != 0)
    return np.sort(order[last])


def _texts(part: Part) -> list[str]:
    codes, names = part.coded()
    return ["" if code < 0 else names[code] for code in codes]


def _words(texts: Sequence[str], words: int, length: int) -> Tensor:
    """Ids of the words of each text [N, L], by a hash: 1 to `words`; 0 behind the last."""
    known: dict[str, Tensor] = {}
    found = torch.zeros(len(texts), length, dtype=torch.long)
    for row, text in enumerate(texts):
        if text not in known:
            ids = [1 + zlib.crc32(word.encode()) % words for word in _WORD.findall(text.lower())[:length]]
            known[text] = torch.tensor(ids, dtype=torch.long)
        found[row, : len(known[text])] = known[text]
    return found


def _side(columns: Sequence[tuple[str, Part]], rows: NDArray[np.int64], categories: int) -> Tensor:
    """Side information [ids + 1, F] of columns whose row for each id is given; row 0, of the unknown, is zeros."""
    made = []
    for _, part in columns:
        values = part.floats(MISSING, ".")
        if values is not None:
            own = values[rows].reshape(len(rows), -1)
            there = np.isfinite(own)
            real, count = np.where(there, own, 0.0), np.maximum(there[1:].sum(axis=0), 1)
            away = np.where(there, real - real[1:].sum(axis=0) / count, 0.0)
            spread = np.sqrt(np.square(away[1:]).sum(axis=0) / count)
            made.append(away / np.where(spread > 0, spread, 1))
            continue
        codes, names = part.coded()
        coded, gone = codes[rows[1:]], np.array([name in MISSING for name in names], dtype=bool)
        counts = np.bincount(coded[coded >= 0], minlength=len(names)) * ~gone
        common = [code for code in np.argsort(-counts, kind="stable")[:categories] if counts[code]]
        made.append(codes[rows][:, None] == np.array(common, dtype=np.int64))
    side = torch.from_numpy(np.concatenate(made, axis=1)).to(torch.get_default_dtype())
    side[0] = 0
    return side


# The packed layout ----------------------------------------------------------------------------------------------------


def _packed(
    path: Path, form: Format, there: list[str], side: dict[str, tuple[str, ...]], categories: int, *,
    table: str, text: str | None, feedback: str | None, words: int, length: int,
) -> Interactions:  # fmt: skip
    if table not in there:
        raise DataError(f"{path.name} has no table {table!r}{nearest(table, [n for n in TABLES if n in there])}")
    for name in (*side["user"], *side["item"], *([text] if text else [])):
        if name not in there:
            raise DataError(f"{path.name} has no array {shown(name)!r}{nearest(name, there)}")
    tables = [name for name in TABLES if name in there]
    counted = [name for name in there if name.startswith(("user_", "item_"))]
    parts = read_columns(path, form, list(dict.fromkeys([*tables, *counted])))
    held = {name: _rows(path, name, parts[name]) for name in tables}
    if not len(held[table]):
        raise DataError(f"{path.name}: {table!r} has no rows")
    sizes = {}
    for place, what in enumerate(("user", "item")):
        lengths = {name: len(parts[name]) for name in counted if name.startswith(f"{what}_")}
        highest = int(max(rows[:, place].max() for rows in held.values() if len(rows)))
        sizes[what] = max(highest, *(size - 1 for size in lengths.values())) if lengths else highest
        for name, size in lengths.items():
            if size != sizes[what] + 1:
                raise DataError(f"{path.name}: {name!r} has {size} rows, needed are {sizes[what] + 1} (0: unknown)")
    rows = held[table]
    if feedback == "explicit" and rows.shape[1] != 3:
        raise DataError(f"{path.name}: {table!r} has no ratings: its feedback is implicit")
    explicit = rows.shape[1] == 3 and feedback != "implicit"
    ids = rows[:, :2].astype(np.int64)
    kept = _once(ids[:, 0], ids[:, 1], None)
    pairs = torch.from_numpy(ids[kept])
    every = torch.from_numpy(np.concatenate([each[:, :2] for each in held.values()]).astype(np.int64))
    features: dict[str, Any] = {
        f"{what}_features": _side([(name, parts[name]) for name in names], np.arange(sizes[what] + 1), categories)
        for what, names in side.items()
        if names
    }
    told = None
    if text is not None:
        if not text.startswith(("user_", "item_")):
            raise DataError(
                f"{path.name}: text {text!r} is of no user and no item: its name begins with user_ or item_"
            )
        told = _words(_texts(parts[text]), words, length)[pairs[:, int(text.startswith("item_"))]]
    return Interactions.of(
        pairs[:, 0], pairs[:, 1], rows[kept, 2] if explicit else None, users=sizes["user"],
        items=sizes["item"], text=told, user_names=("", *map(str, range(1, sizes["user"] + 1))),
        item_names=_titles(parts, sizes["item"]), pairs=torch.unique(every[:, 0] * (sizes["item"] + 1) + every[:, 1]),
        **features,
    )  # fmt: skip


def _rows(path: Path, name: str, part: Part) -> NDArray[np.float64]:
    wide = (2, 3) if name == "history" else (3,)
    if part.shape not in [(count,) for count in wide]:
        raise DataError(f"{path.name}: array {name!r} has rows of shape {part.shape}, expected user, item, rating")
    rows = part.floats(MISSING, ".")
    assert rows is not None  # arrays of several numbers hold numbers
    wrong = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if len(wrong):
        raise DataError(f"{path.name}: row {int(wrong[0])} of {name!r} is not finite: {rows[wrong[0]].tolist()}")
    odd = np.flatnonzero((rows[:, :2] != np.floor(rows[:, :2])).any(axis=1))
    if len(odd):
        raise DataError(f"{path.name}: row {int(odd[0])} of {name!r} has an id that is no whole number: {rows[odd[0]]}")
    if (rows[:, :2] < 1).any():
        raise DataError(f"{path.name}: ids of {name!r} count from 1; 0 is whoever is not known")
    return rows


def _titles(parts: dict[str, Part], items: int) -> tuple[str, ...]:
    """What items are called: their titles where every one has one of its own, else their numbers."""
    title = parts.get("item_title")
    names = _texts(title) if isinstance(title, Coded) else []
    if len(names) == items + 1 and len(set(names)) == len(names) and not names[0]:
        return tuple(names)
    return ("", *map(str, range(1, items + 1)))
