"""What differs between two runs: recipes, versions, transfers, scores, cost. Plain data; nothing is drawn here."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs

from crosstask.graph import TransferGraph
from crosstask.learning.metrics import confidence_interval
from crosstask.records import Interval, RunRecord

_SETTING = ("metric", "split", "target", "task_id")
"""What a score is of: where two results differ in one of these, the figures beside and below it are of other things."""
_FIGURES = ("score", "accuracy", "gain", "coefficient", "error", "regret", "forgetting")
_COSTS = ("seconds", "spent", "total_steps", "trial_steps", "parameters", "trained_weights", "all_weights")
_NOT_FOUND = ("options", "budget", "recipe", "curve", "scratch_curve", "repeats", "seed", "seeds")
_OUTCOMES = ("metric", "split", "drawn_by", "evidence", "kept")
"""Short texts of a record that are no part of what it is called."""
_EDGE = ("transfer_coefficient", "low", "high", "evidence")
_SHORT = 60
_CALLED = ("name", "task", "task_id", "source", "target")
"""Texts of any length that are names."""


@attrs.frozen
class Difference:
    """Something that is not the same in both: `change` is the second less the first, where both are numbers, with a
    95 % interval where one is known, `paired` whether that is over the same seeds.
    """

    where: str
    first: Any
    second: Any
    change: float | None = None
    low: float | None = None
    high: float | None = None
    paired: bool = False

    @property
    def name(self) -> str:
        """Where it is, as a person reads it."""
        return self.where.removeprefix("summary.")

    @property
    def certain(self) -> bool:
        """Whether the whole interval lies to one side of zero."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


@attrs.frozen
class Edge:
    """One transfer that both runs know, with another coefficient, interval or evidence: `turned` if its sign is
    another, `certain` if both intervals say so.
    """

    source: str
    target: str
    change: Difference
    evidence: tuple[str, str]
    turned: bool
    certain: bool

    @property
    def sign(self) -> str:
        """What became of its sign; nothing if it is the same."""
        return "sign changed beyond doubt" if self.certain else "sign changed" if self.turned else ""


@attrs.frozen
class Comparison:
    """The second run beside the first. With `why_not` nothing was compared but what they were told. `same` counts the
    scores that are equal, `left_out` says which results are of other things, and so not compared.
    """

    first: str
    second: str
    why_not: tuple[str, ...] = ()
    recipe: tuple[Difference, ...] = ()
    versions: tuple[Difference, ...] = ()
    pairs: int = 0
    edges: tuple[Edge, ...] = ()
    only_first: tuple[str, ...] = ()
    only_second: tuple[str, ...] = ()
    scores: tuple[Difference, ...] = ()
    same: int = 0
    costs: tuple[Difference, ...] = ()
    left_out: tuple[str, ...] = ()

    @property
    def differs(self) -> bool:
        """Whether anything is another that the runs were told or found; versions and cost do not count."""
        return any((self.recipe, self.edges, self.only_first, self.only_second, self.scores, self.left_out))

    def told(self) -> str:
        """How much is the same, in a sentence."""
        turned, other = sum(edge.turned for edge in self.edges), sum(bool(edge.change.change) for edge in self.edges)
        return (
            f"{self.pairs} transfers are known to both, {other} of them with another coefficient, {turned} "
            f"with another sign; {self.same} scores are the same, {len(self.scores)} are not"
        )

    def ranked(self) -> list[Edge]:
        """The edges: first those of which the sign is another, then by how much they differ."""
        return sorted(self.edges, key=lambda edge: (not edge.certain, not edge.turned, -abs(edge.change.change or 0)))

    def lists(self) -> dict[str, tuple[str, ...]]:
        """What has no counterpart: headings with names."""
        found = {f"only {self.first} knows": self.only_first, f"only {self.second} knows": self.only_second}
        return {what: names for what, names in {"not compared": self.left_out, **found}.items() if names}


def compare(one: tuple[RunRecord, TransferGraph], two: tuple[RunRecord, TransferGraph]) -> Comparison:
    """The second run beside the first."""
    (a, graph), (b, other) = one, two
    told = Comparison(
        a.run_id,
        b.run_id,
        tuple(_why_not(graph, other)),
        tuple(_told(dict(_flat(a.recipe)), dict(_flat(b.recipe)))),
        tuple(_told({**a.versions, **a.used}, {**b.versions, **b.used})),
    )
    if told.why_not:
        return told
    paired = (a.seed, a.recipe.get("seeds")) == (b.seed, b.recipe.get("seeds"))
    found = _Found(paired)
    found.look("summary", a.summary, b.summary, True)
    for name in a.results:
        if name not in b.results:
            continue
        if a.stage_of(name) != b.stage_of(name):
            found.left_out.append(f"{name}: stage {a.stage_of(name)} against {b.stage_of(name)}")
        else:
            found.look(name, a.results[name], b.results[name])
    for first, second, record in ((a, b, a), (b, a, b)):
        missing = [name for name in first.results if name not in second.results]
        found.left_out += [f"{name}: only {record.run_id} has come to it" for name in missing]
    edges = list(_edges(graph, other))
    pairs = [{(edge.source, edge.target) for edge in each.edges()} for each in (graph, other)]
    only = [tuple(f"{s} → {t}" for s, t in sorted(x - y)) for x, y in (pairs, pairs[::-1])]
    return attrs.evolve(
        told, pairs=len(pairs[0] & pairs[1]), edges=tuple(edges), only_first=only[0], only_second=only[1],
        scores=tuple(found.scores), same=found.same, left_out=tuple(found.left_out),
        costs=(*_of_numbers("seconds", a.seconds, b.seconds), *found.costs),
    )  # fmt: skip


def _why_not(one: TransferGraph, two: TransferGraph) -> Iterator[str]:
    """Figures can be compared if they are of the same data: the same tasks, drawn and split in the same way."""
    for which, graph in (("first", one), ("second", two)):
        if not graph.task_ids:
            yield f"the {which} run has no tasks (yet)"
            return
    for which, graph, other in (("first", one, two), ("second", two, one)):
        if missing := [task for task in graph.task_ids if task not in other.task_ids]:
            yield f"only the {which} run has {_some(missing)}"
    prints = {task: (one.fingerprint(task), two.fingerprint(task)) for task in one.task_ids if task in two.task_ids}
    if changed := [task for task, both in prints.items() if both[0] != both[1] and None not in both]:
        yield f"other data, or another split of them, behind {_some(changed)}"
    if unknown := [task for task, both in prints.items() if both[0] != both[1] and None in both]:
        yield f"only one of them says which data are behind {_some(unknown)}"


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"task{'s' * (len(names) > 1)} {', '.join(map(repr, names[:5]))}{more}"


def _flat(value: Any, at: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _flat(item, f"{at}.{key}" if at else str(key))
    elif isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value):
        for number, item in enumerate(value):
            yield from _flat(item, f"{at}[{number}]")
    else:
        yield at, value


def _told(one: Mapping[str, Any], two: Mapping[str, Any]) -> Iterator[Difference]:
    for key in dict.fromkeys([*one, *two]):  # what is not there is nothing: other releases have other options
        if one.get(key) != two.get(key):
            yield Difference(key, one.get(key), two.get(key))


class _Found:
    """Looks through two results side by side."""

    def __init__(self, paired: bool) -> None:
        self.paired = paired
        self.scores: list[Difference] = []
        self.costs: list[Difference] = []
        self.left_out: list[str] = []
        self.same = 0

    def look(self, where: str, one: Any, two: Any, figure: bool = False, cost: bool = False) -> None:
        """`figure`: whether numbers here are scores, by the names above them; `cost`: whether they are what it took."""
        a, b = _interval(one), _interval(two)
        if a is not None and b is not None:
            self._take(where, a, b, "scores")
        elif a is not None or b is not None:  # the other is none, or is not finite
            self.scores.append(Difference(where, _mean(one) if a is None else a, _mean(two) if b is None else b))
        elif isinstance(one, Mapping) and isinstance(two, Mapping):
            for key in _SETTING:
                if one.get(key) != two.get(key) and not figure:
                    self.left_out.append(f"{where}: {key} {one.get(key)} against {two.get(key)}")
                    return
            for key in dict.fromkeys([*one, *two]):
                if key not in _NOT_FOUND:
                    means = figure or any(word.rstrip("s") in _FIGURES for word in str(key).split("_"))
                    took = cost or key in _COSTS or str(key).endswith("cost")
                    self.look(f"{where}.{key}", one.get(key), two.get(key), means, took and not means)
        elif isinstance(one, list | tuple) and isinstance(two, list | tuple):
            self._lists(where, one, two, figure)
        elif (figure or cost) and (_is_number(one) and _is_number(two)):
            self._take(where, one, two, "scores" if figure else "costs")
        elif figure and not _alike(one, two):  # texts; what only one has; what is not finite
            self.scores.append(Difference(where, one, two))
        elif bool(one) != bool(two) and isinstance(one or two, Mapping):
            self.left_out.append(f"{where}: only the {'first' if one else 'second'} has it")

    def _lists(self, where: str, one: Sequence[Any], two: Sequence[Any], figure: bool) -> None:
        if figure and not any(isinstance(item, Mapping) for item in (*one, *two)):
            if len(one) == len(two):
                for number, (item, other) in enumerate(zip(one, two, strict=True)):
                    self.look(f"{where}[{number}]", item, other, True)
            else:
                self.scores.append(Difference(where, one, two))
            return
        rows, others = _named(one), _named(two)
        for name in rows:
            if name in others:
                self.look(f"{where}[{name}]", rows[name], others[name], figure)
        if alone := len(rows.keys() ^ others.keys()):
            self.left_out.append(f"{where}: {alone} rows that only one of them has")

    def _take(self, where: str, one: Any, two: Any, kind: str) -> None:
        found = list(_of_numbers(where, one, two, self.paired))
        getattr(self, kind).extend(found)
        self.same += not found and kind == "scores"


def _named(items: Any) -> dict[str, Any]:
    """Records of a list by what they are called: their short texts, with a number where two are called the same."""
    found: dict[str, Any] = {}
    for item in items:
        if isinstance(item, Mapping):
            texts = [
                value.partition(" (")[0]  # an origin without its version
                for key, value in item.items()
                if isinstance(value, str) and (0 < len(value) <= _SHORT or key in _CALLED) and key not in _OUTCOMES
            ]
            name, number = ", ".join(texts), 1
            while (called := name if number == 1 else f"{name} #{number}") in found:
                number += 1
            found[called] = item
    return found


def _of_numbers(where: str, one: Any, two: Any, paired: bool = False) -> Iterator[Difference]:
    """Nothing if they are equal."""
    if one == two:
        return
    if not isinstance(one, Interval) or not isinstance(two, Interval):
        yield Difference(where, one, two, two - one)
        return
    count = len(one.values)
    paired = paired and count > 1 and count == len(two.values)
    if paired:
        found = confidence_interval([b - a for a, b in zip(one.values, two.values, strict=True)])
        yield Difference(where, one, two, found.mean, found.low, found.high, True)
    else:
        yield Difference(where, one, two, two.mean - one.mean, *_between(one, two))


def _between(one: Interval, two: Interval) -> tuple[float | None, float | None]:
    """The 95 % interval of a difference from the intervals of both (Zou and Donner 2008, "MOVER"), which need not be
    symmetric; none where one of them is a single value.
    """
    if any(len(each.values) == 1 or each.low == each.high for each in (one, two)):
        return None, None
    change = two.mean - one.mean
    below = math.hypot(two.mean - two.low, one.high - one.mean)
    above = math.hypot(two.high - two.mean, one.mean - one.low)
    return change - below, change + above


def _edges(one: TransferGraph, two: TransferGraph) -> Iterator[Edge]:
    for edge in one.edges():
        other = two.edge(edge.source, edge.target)
        if other is None or all(getattr(edge, name) == getattr(other, name) for name in _EDGE):
            continue
        a, b = (
            Interval(
                mean=each.transfer_coefficient,
                low=each.transfer_coefficient if each.low is None else each.low,
                high=each.transfer_coefficient if each.high is None else each.high,
            )
            for each in (edge, other)
        )
        where = f"{edge.source} → {edge.target}"
        change = next(_of_numbers(where, a, b), Difference(where, a, b, 0.0))
        turned = a.mean * b.mean < 0
        known = None not in (edge.low, edge.high, other.low, other.high)
        apart = known and ((edge.helps and other.hurts) or (edge.hurts and other.helps))
        yield Edge(edge.source, edge.target, change, (edge.evidence.value, other.evidence.value), turned, apart)


def _alike(one: Any, two: Any) -> bool:
    """Whether two plain values are the same; NaN is NaN."""
    return bool(one == two) or all(isinstance(value, float) and math.isnan(value) for value in (one, two))


def _mean(value: Any) -> Any:
    return value["mean"] if isinstance(value, Mapping) and "mean" in value else value


def _interval(value: Any) -> Interval | None:
    if isinstance(value, Interval):
        value = attrs.asdict(value)
    if not isinstance(value, Mapping) or not all(_is_number(value.get(key)) for key in ("mean", "low", "high")):
        return None
    values = value.get("values", ())
    values = tuple(values) if isinstance(values, list | tuple) and all(map(_is_number, values)) else ()
    return Interval(mean=value["mean"], low=value["low"], high=value["high"], values=values)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
