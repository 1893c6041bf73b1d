"""Very many sources on disk, and a shortlist of them for a target."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from crosstask.descriptors import TaskDescriptor
from crosstask.errors import DataError, PluginError, StoreError, nearest, of_kind
from crosstask.options import structure, unstructure
from crosstask.writing import size_of, unwritten
from crosstask_hub.vectors import Card, Space, Vector, Weights

SCHEMA = "crosstask/hub-index/1"
FILTERS = ("licence", "modality", "task_type", "input_shape")
"""What a shortlist may be filtered by."""
CONNECTIVITY, EXPANSION_ADD, EXPANSION_SEARCH = 24, 192, 384
RARE = 0.1
"""Below this share of sources that pass a filter these are looked at one by one: the index would find too few."""
_HEADER = "hub.json"


@attrs.frozen
class Found:
    """A source of a shortlist and its score."""

    source: str
    score: float


class HubIndex:
    """Sources by what they are known by: `build`, `add`, `shortlist`, `save`, `open`.

    The neighbours are those of a graph of usearch's (HNSW); the vectors themselves are kept beside it (`exact` ranks
    all of them). One seed and one order of additions give one index. Sources are kept as their cards' JSON, not as
    objects: 100,000 take some hundred bytes each.
    """

    def __init__(self, space: Space, seed: int = 0) -> None:
        self.space, self.seed = space, structure(seed, int, "the seed of a hub index")
        self._graph = _new(space.width)
        self._vectors: Vector = np.zeros((0, space.width), np.float32)
        self._ids: list[str] = []
        self._cards: list[bytes] = []
        self._rows: dict[str, int] = {}
        self._first: dict[bytes, int] = {}  # the first source with a vector, which alone is in the graph
        self._same: dict[int, list[int]] = {}  # others with it: where many are the same, a graph of all loses others
        self._codes: NDArray[np.int32] = np.zeros((0, len(FILTERS)), np.int32)
        self._values: dict[str, dict[str, int]] = {name: {} for name in FILTERS}

    @classmethod
    def build(cls, cards: Iterable[Card], *, weights: Weights | None = None, seed: int = 0) -> HubIndex:
        """An index of these sources; their embeddings' width and their statistics' mean and spread are kept for all
        that are added later. DataError without a source, or for an id that comes twice.
        """
        given = _cards(cards)
        if not given:
            raise DataError("a hub index is built of at least one source")
        made = cls(Space.of(given, weights or Weights()), seed)
        made.add(given)
        return made

    def __len__(self) -> int:
        return len(self._ids)

    def __contains__(self, source: object) -> bool:
        return source in self._rows

    @property
    def sources(self) -> list[str]:
        """Ids, in the order in which they were added."""
        return list(self._ids)

    def card(self, source: str) -> Card:
        """What is known of a source. DataError for one that is not here."""
        if source not in self._rows:
            told = nearest(source, self._ids) if len(self) < 1000 else ""
            raise DataError(f"no source {source!r} in the hub index{told}")
        made: Card = structure(json.loads(self._cards[self._rows[source]]), Card, f"source {source!r}")
        return made

    def add(self, cards: Iterable[Card]) -> None:
        """Add sources. DataError for an id that is taken, or a card that does not fit; none of them is added then."""
        given = _cards(cards)
        new: dict[str, int] = {}
        for card in given:
            if card.source in self._rows or card.source in new:
                raise DataError(f"the hub index already has a source {card.source!r}")
            new[card.source] = len(self) + len(new)
        if not given:
            return
        vectors = np.stack([self.space.source(card) for card in given])
        lines = [json.dumps(unstructure(card), separators=(",", ":")).encode() for card in given]
        codes = np.array([self._coded(card) for card in given], np.int32)
        order = np.random.default_rng([self.seed, len(self)]).permutation(len(given))  # sorted input makes a poor graph
        fresh = np.zeros(len(given), bool)
        fresh[self._new_places(vectors)] = True
        order = order[fresh[order]]
        keys = len(self) + np.arange(len(given), dtype=np.uint64)
        if len(order):
            self._graph.add(keys[order], vectors[order], threads=1)
        self._vectors = _appended(self._vectors, vectors)
        self._codes = _appended(self._codes, codes)
        self._cards += lines
        self._ids += new
        self._rows |= new

    def _new_places(self, vectors: Vector) -> list[int]:
        """Which of these vectors, the next sources', no source before has."""
        found = []
        for place, vector in enumerate(vectors + np.float32(0)):  # -0 is 0
            row = len(self) + place
            first = self._first.setdefault(hashlib.blake2b(vector.tobytes(), digest_size=16).digest(), row)
            if first == row:
                found.append(place)
            else:
                self._same.setdefault(first, []).append(row)
        return found

    def shortlist(
        self,
        target: TaskDescriptor,
        count: int = 50,
        *,
        statistics: Mapping[str, float] | None = None,
        keep: Callable[[str], bool] | None = None,
        **filters: Any,
    ) -> list[Found]:
        """The sources of the highest score for a target, best first, itself left out: `count`, or all there are.

        `filters` are `licence`, `modality`, `task_type` and `input_shape`: a value, or a list of allowed ones; `keep`
        asks about single sources by id. A filter that few pass is answered exactly.
        """
        return self._search(target, count, statistics, keep, filters, exact=False)

    def exact(
        self,
        target: TaskDescriptor,
        count: int = 50,
        *,
        statistics: Mapping[str, float] | None = None,
        keep: Callable[[str], bool] | None = None,
        **filters: Any,
    ) -> list[Found]:
        """As `shortlist`, by the scores of all sources."""
        return self._search(target, count, statistics, keep, filters, exact=True)

    def _search(
        self,
        target: TaskDescriptor,
        count: int,
        statistics: Mapping[str, float] | None,
        keep: Callable[[str], bool] | None,
        filters: Mapping[str, Any],
        *,
        exact: bool,
    ) -> list[Found]:
        if structure(count, int, "the length of a shortlist") < 1:
            raise DataError(f"a shortlist has at least one place, got {count}")
        of_kind(target, TaskDescriptor, "the target of a shortlist")
        query = self.space.target(target, statistics)
        passing = self._passing(filters)
        if exact or (passing is not None and passing.sum() < RARE * len(self)):
            return self._best(query, count, target.task_id, keep, passing)
        wanted = count + 1  # the target may be a source itself
        while wanted < len(self._first):
            near = np.asarray(self._graph.search(query, wanted, threads=1).keys, np.int64)
            rows = np.unique([*near, *(row for first in near for row in self._same.get(int(first), ()))])
            found = self._told(rows, query, count, target.task_id, keep, passing)
            if len(found) == count:
                return found
            wanted *= 4
        return self._best(query, count, target.task_id, keep, passing)

    def _best(
        self, query: Vector, count: int, itself: str, keep: Callable[[str], bool] | None, passing: Any
    ) -> list[Found]:
        scores = self._vectors @ query
        if passing is not None:
            scores[~passing] = -np.inf
        wanted = count + 1
        while True:
            wanted = min(wanted, len(self))
            rows = np.argpartition(-scores, wanted - 1)[:wanted]
            found = self._told(rows, query, count, itself, keep, passing)
            if len(found) == count or wanted == len(self):
                return found
            wanted *= 4

    def _told(
        self, rows: Any, query: Vector, count: int, itself: str, keep: Callable[[str], bool] | None, passing: Any
    ) -> list[Found]:
        if passing is not None:
            rows = rows[passing[rows]]
        scores = self._vectors[rows] @ query
        found: list[Found] = []
        for at in np.lexsort((rows, -scores)):
            name = self._ids[rows[at]]
            if name != itself and (keep is None or keep(name)):
                found.append(Found(name, float(scores[at])))
                if len(found) == count:
                    break
        return found

    def _passing(self, filters: Mapping[str, Any]) -> NDArray[np.bool_] | None:
        found: NDArray[np.bool_] | None = None
        for name, wanted in filters.items():
            if name not in FILTERS:
                raise DataError(f"unknown filter {name!r} of a hub index{nearest(name, FILTERS)}")
            if not isinstance(wanted, Iterable):
                raise DataError(f"filter {name!r} is a value or a list of allowed ones, got {wanted!r}")
            single = isinstance(wanted, str) or (
                name == "input_shape" and all(isinstance(each, int) for each in wanted)
            )
            codes = [self._values[name].get(_text(each), -1) for each in ([wanted] if single else wanted)]
            passing = np.isin(self._codes[:, FILTERS.index(name)], codes)
            found = passing if found is None else found & passing
        return found

    def _coded(self, card: Card) -> list[int]:
        told = card.licence, card.modality, card.descriptor.task_type, card.descriptor.input_shape
        codes = [self._values[name] for name in FILTERS]
        return [known.setdefault(_text(value), len(known)) for known, value in zip(codes, told, strict=True)]

    # Files ------------------------------------------------------------------------------------------------------------

    def save(self, folder: str | Path) -> Path:
        """Write the index into a folder; what was there stays readable until all is written. StoreError where it cannot
        be.
        """
        where = Path(folder)
        stamp = f"{time.time_ns():x}"
        files = {part: where / f"{part}-{stamp}.hub" for part in ("cards", "vectors", "graph")}
        fresh = where / f"{_HEADER}.{os.getpid()}"
        try:
            where.mkdir(parents=True, exist_ok=True)
            self._write(where, files, fresh)
        except (OSError, RuntimeError) as error:  # usearch's own is the second
            told = unwritten(error, where, "hub index", written=size_of(*files.values(), fresh))
            for file in (*files.values(), fresh):
                with contextlib.suppress(OSError):
                    file.unlink(missing_ok=True)
            raise StoreError(told) from None
        return where

    def _write(self, where: Path, files: Mapping[str, Path], fresh: Path) -> None:
        before = set(where.glob("*-*.hub"))
        files["cards"].write_bytes(b"".join(line + b"\n" for line in self._cards))
        files["vectors"].write_bytes(np.ascontiguousarray(self._vectors).tobytes())
        self._graph.save(str(files["graph"]))
        header = {
            "schema": SCHEMA,
            "sources": len(self),
            "seed": self.seed,
            "space": self.space.to_json(),
            "files": {part: {"name": file.name, "sha256": _digest(file)} for part, file in files.items()},
        }
        fresh.write_text(json.dumps({**header, "sha256": _sum(header)}, indent=1), "utf-8")
        fresh.replace(where / _HEADER)
        for old in before:
            old.unlink(missing_ok=True)

    @classmethod
    def open(cls, folder: str | Path, *, rebuild: bool = False) -> HubIndex:
        """Read an index. StoreError if there is none, if it is of another version or if a file is damaged. With
        `rebuild` a damaged graph or damaged vectors are made again of the cards, and written.
        """
        where = Path(folder)
        try:
            header = json.loads((where / _HEADER).read_text("utf-8"))
            schema = header["schema"]
            if schema == SCHEMA:
                if header.pop("sha256") != _sum(header):
                    raise ValueError("it is not as it was written")
                space, files = Space.from_json(header["space"]), header["files"]
                names = {part: where / files[part]["name"] for part in ("cards", "vectors", "graph")}
                count, seed = int(header["sources"]), int(header["seed"])
        except FileNotFoundError:
            raise StoreError(
                f"no hub index in {where}: there is no {_HEADER}; HubIndex.build(…).save writes one"
            ) from None
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise StoreError(f"the hub index in {where}: {_HEADER} cannot be read ({error}); build it again") from None
        if schema != SCHEMA:
            raise StoreError(f"the hub index in {where} is of version {schema!r}, not {SCHEMA!r}: build it again")
        bad = [part for part, file in names.items() if not file.is_file() or _digest(file) != files[part]["sha256"]]
        if "cards" in bad or (bad and not rebuild):
            how = "build it again" if "cards" in bad else "open it with rebuild=True"
            raise StoreError(f"the hub index in {where}: {names[bad[0]].name} is damaged or missing; {how}")
        made = cls(space, seed)
        lines = names["cards"].read_bytes().splitlines()
        if bad:
            made.add(structure(json.loads(line), Card, "a source") for line in lines)
            made.save(where)
            return made
        told = [json.loads(line) for line in lines]
        vectors = np.frombuffer(names["vectors"].read_bytes(), np.float32).reshape(count, space.width)
        made._new_places(vectors)
        made._cards, made._ids = lines, [each["descriptor"]["task_id"] for each in told]
        made._rows = {name: row for row, name in enumerate(made._ids)}
        made._vectors = vectors
        made._codes = np.array([made._coded_plain(each) for each in told], np.int32).reshape(count, len(FILTERS))
        made._graph.load(str(names["graph"]))
        made._graph.expansion_add, made._graph.expansion_search = EXPANSION_ADD, EXPANSION_SEARCH
        return made

    def _coded_plain(self, told: Mapping[str, Any]) -> list[int]:
        own = told["descriptor"]
        values = told["licence"], told["modality"], own["task_type"], own["input_shape"]
        codes = [self._values[name] for name in FILTERS]
        return [known.setdefault(_text(value), len(known)) for known, value in zip(codes, values, strict=True)]


def _cards(given: Iterable[Card]) -> list[Card]:
    if isinstance(given, Card):
        raise DataError(f"a hub index takes a list of cards: [Card(…)] for {given.source!r} alone")
    return [of_kind(card, Card, "each source of a hub index") for card in given]


def _appended(held: NDArray[Any], rows: NDArray[Any]) -> NDArray[Any]:
    """`held`, a view of the beginning of an array that may have room for more, and rows after it. One source after
    another is then not a copy of all each time.
    """
    count = len(held) + len(rows)
    room = held.base
    if not (isinstance(room, np.ndarray) and room.shape[1:] == held.shape[1:] and len(room) >= count):
        room = np.empty((max(count, len(held) * 5 // 4), *held.shape[1:]), held.dtype)
        room[: len(held)] = held
    room[len(held) : count] = rows
    return room[:count]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "x".join(map(str, value))


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _sum(header: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(header, sort_keys=True).encode()).hexdigest()


def _new(width: int) -> Any:
    try:
        from usearch.index import Index  # deferred: the manifest needs none
    except ImportError:
        raise PluginError("the hub needs usearch: pip install crosstask-hub") from None
    return Index(
        ndim=width, metric="cos", dtype="f32", connectivity=CONNECTIVITY, expansion_add=EXPANSION_ADD,
        expansion_search=EXPANSION_SEARCH,
    )  # fmt: skip
