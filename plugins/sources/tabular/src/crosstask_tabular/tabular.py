"""The `tabular` source."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from crosstask.descriptors import TaskDescriptor, TensorData
from crosstask.errors import CrosstaskError, DataError, OptionError
from crosstask.logs import logger
from crosstask.options import component, option
from crosstask.points.source import Source
from crosstask.tasks import Portfolio, Task
from crosstask_sources.difficulty import nearest_mean_difficulty
from crosstask_sources.files import shown
from crosstask_sources.names import check_names
from crosstask_tabular.encoding import LARGEST, Encoding, Floats, Member, check_mixed, digest, ordered
from crosstask_tabular.manifest import SHARED, Checked, Manifest, near, read_manifest
from crosstask_tabular.splits import Index, divide
from crosstask_tabular.tables import Files, Rows, Values, spelled

Targets = dict[str, NDArray[np.float64]]
"""Split -> targets of its rows, NaN where there is none."""
T = TypeVar("T")


class TablePortfolio(Portfolio):
    """The tasks of a manifest; it says why one is not among them."""

    def __init__(self, tasks: Iterable[Task] = (), *, left_out: Mapping[str, str] | None = None, name: str) -> None:
        super().__init__(tasks, name=name)
        self.left_out = dict(left_out or {})
        """Task -> why it could not be loaded."""

    def __getitem__(self, task_id: str) -> Task:
        if task_id in self.left_out:
            raise DataError(f"task {shown(task_id)!r} was left out: {self.left_out[task_id]}")
        return super().__getitem__(task_id)


@component
class Tabular(Source):
    """Tasks from a folder of CSV, NPZ or Parquet files, described by a TOML manifest in it; README.md shows all keys.

    The manifest is checked as a whole, files and columns too, before a row is read. Categories, means and scales are
    those of the training rows. OptionError for what is wrong with the manifest, DataError for what is wrong with the
    data; both name file, task and key or row. A task with which something is wrong is left out, with those that need
    it, and the log says why; one that `tasks` asks for, or the only one, is an error. Rows without a target are
    unlabelled: they count for the encoding of the inputs, and are no samples.

    Tasks that encode the same features of the same rows share one tensor of inputs, and joint training knows their rows
    for the same (`TensorData.table`).
    """

    folder: str = option(help="where the manifest and the files are")
    manifest: str = option("tasks.toml", help="name of the manifest in the folder")
    tasks: tuple[str, ...] | None = option(None, help="ids of the tasks wanted (default: all)")
    seed: int = option(0, ge=0, help="of random splits that name no seed, and of the order of rows")

    def load(self) -> TablePortfolio:
        manifest = read_manifest(Path(self.folder), self.manifest, self.tasks)
        check_names("tabular", "task", self.tasks or (), manifest.places)
        reasons = _Reasons(manifest, self.tasks)
        members = self._members(manifest, reasons)
        made: dict[str, Task] = {}
        tables = _Tables(reasons)
        ids = set(manifest.places if self.tasks is None else self.tasks)
        for member, encoding in tables.encoded(members):
            task_id = member.entry.id
            task = reasons.tried(task_id, lambda m=member, e=encoding: _task(m, e, tables, ids))  # type: ignore[misc]
            if task is not None:
                made[task_id] = task
        reasons.spread(ids)
        good = {task_id: task for task_id, task in made.items() if task_id not in reasons.wrong}
        unseen = {task_id for task_id in good if manifest.tasks[task_id].entry.unseen}
        if len(unseen) == len(good):
            reasons.raise_first()
            raise OptionError(f"source 'tabular': tasks {list(self.tasks or ())} leave nothing to learn; add another")
        portfolio = TablePortfolio(left_out=reasons.told(), name=manifest.name)
        for task_id in manifest.places:  # in the order of the manifest
            if task_id in good:
                portfolio.add(good[task_id], unseen=task_id in unseen)
        for task_id, reason in portfolio.left_out.items():
            logger().warning("task left out", task=task_id, reason=reason)
        portfolio.check()
        return portfolio

    def _members(self, manifest: Manifest, reasons: _Reasons) -> list[Member]:
        """The tasks that can be read, with their rows and splits."""
        files = Files()
        for task in manifest.tasks.values():
            files.expect(task.reading, task.wanted)

        def member(task: Checked) -> Member:
            rows = read_rows(files, task)
            return Member(task, rows, divide(task, rows, self.seed))

        found = [reasons.tried(task_id, lambda t=task: member(t)) for task_id, task in manifest.tasks.items()]  # type: ignore[misc]
        return [member for member in found if member is not None]


def read_rows(files: Files, task: Checked) -> Rows:
    """The rows of a task, with the columns that it asks for."""
    return files.rows(task.reading, task.wanted)


class _Reasons:
    """Why tasks are left out. What is wrong with one that was asked for by name is raised."""

    def __init__(self, manifest: Manifest, asked: Sequence[str] | None) -> None:
        self._manifest, self._asked = manifest, asked
        self.wrong = {t: e for t, e in manifest.wrong.items() if asked is None or t in asked}
        if asked is not None or not manifest.tasks:
            self.raise_first()

    def raise_first(self) -> None:
        """The first error that there is, if there is one."""
        for task_id in self._manifest.places:
            if task_id in self.wrong:
                raise self.wrong[task_id]

    def tried(self, task_id: str, work: Callable[[], T]) -> T | None:
        """What some work on a task gives; None if it fails."""
        try:
            return work()
        except CrosstaskError as error:
            self.wrong[task_id] = type(error)(f"{self._manifest.places[task_id]}: {error}")
            if self._asked is not None:
                raise self.wrong[task_id] from None
            return None

    def spread(self, ids: set[str]) -> None:
        """Leave out what needs a task that is left out."""
        tasks = self._manifest.tasks
        waiting = list(self.wrong)
        users: dict[str, list[str]] = {}
        for task_id, task in tasks.items():
            for needed in task.entry.descriptor.prerequisites:
                users.setdefault(needed, []).append(task_id)
        while waiting:
            needed = waiting.pop()
            for task_id in users.get(needed, ()):
                if task_id in ids and task_id not in self.wrong:
                    told = f"it needs {shown(needed)!r}, which is left out ({self.wrong[needed]})"
                    self.wrong[task_id] = DataError(f"{self._manifest.places[task_id]}: {told}")
                    waiting.append(task_id)

    def told(self) -> dict[str, str]:
        """Task -> reason, in the order of the manifest."""
        return {task_id: str(self.wrong[task_id]) for task_id in self._manifest.places if task_id in self.wrong}


class _Tables:
    """Encodings of spaces, and what they made: each once, whoever asks for it."""

    def __init__(self, reasons: _Reasons) -> None:
        self._reasons = reasons
        self._inputs: dict[tuple[Any, ...], torch.Tensor] = {}
        self._names: dict[tuple[Any, ...], str] = {}

    def encoded(self, members: Sequence[Member]) -> list[tuple[Member, Encoding]]:
        """Each task with the encoding of its space; those of one space follow one another. Tasks without a space share
        an encoding where it would be the same.
        """
        spaces: dict[Any, list[Member]] = {}
        for member in members:
            entry = member.entry
            same = (member.rows.how, member.task.features, entry.categorical, digest(member.splits["train"]))
            own = (*same, *(getattr(entry, key) for key in SHARED))
            spaces.setdefault(own if entry.space is None else entry.space, []).append(member)
        found = []
        for own_members in spaces.values():
            for member, encoding in self._of_space(own_members):
                found.append((member, encoding))
        return found

    def _of_space(self, members: list[Member]) -> list[tuple[Member, Encoding]]:
        """Of those that can be encoded together: all, or the first and what fits it."""
        try:
            encoding = Encoding(members)
            return [(member, encoding) for member in members]
        except DataError:
            kept: list[Member] = []
        for member in members:
            if self._reasons.tried(member.entry.id, lambda m=member: Encoding([*kept, m])) is not None:  # type: ignore[misc]
                kept.append(member)
        if not kept:
            return []
        encoding = Encoding(kept)
        return [(member, encoding) for member in kept]

    def data(self, member: Member, encoding: Encoding, split: str, targets: NDArray[np.float64]) -> TensorData:
        """A split of a task, whose inputs and rows are those of all tasks that have the same."""
        index = member.splits[split]
        table = (id(encoding), member.rows.how, member.task.features)
        key = (*table, digest(index))
        if key not in self._inputs:
            self._inputs[key] = torch.from_numpy(encoding.encode(member, index))
        name = self._names.setdefault(table, uuid.uuid4().hex)
        return TensorData(self._inputs[key], torch.from_numpy(targets), (name, split), torch.from_numpy(index))


def _task(member: Member, encoding: Encoding, tables: _Tables, wanted: set[str]) -> Task:
    entry = member.entry
    classes: tuple[str, ...] = ()
    if entry.type == "classification":
        targets, classes = _labels(member)
    elif entry.type == "multilabel":
        targets, classes = _several(member)
    else:
        targets = _values(member)
    known: dict[str, NDArray[np.bool_]] = {
        split: np.logical_not(np.isnan(values.reshape(len(values), -1)).all(axis=1))
        for split, values in targets.items()
    }
    for split, labelled in known.items():
        if not labelled.any():
            told = ", ".join(map(repr, map(shown, entry.targets)))
            raise DataError(f"no row of the {split} split has a target ({told})")
    data: dict[str, Any] = {split: tables.data(member, encoding, split, values) for split, values in targets.items()}
    if entry.type == "classification":
        single = entry.output_dim == 1 and len(classes) == 2
        if entry.output_dim not in (None, len(classes)) and not single:
            raise DataError(f"output_dim {entry.output_dim} for {len(classes)} classes ({', '.join(classes[:12])})")
    width = next(iter(targets.values()))
    about = entry.descriptor
    descriptor = TaskDescriptor(
        task_id=entry.id,
        task_name=about.name or entry.id,
        task_type=entry.type,
        domain=about.domain,
        input_shape=encoding.shape,
        output_dim=entry.output_dim or len(classes) or (1 if width.ndim == 1 else width.shape[1]),
        sample_count=int(known["train"].sum()),
        complexity=_complexity(entry.type, data, known, len(classes)) if about.complexity is None else about.complexity,
        required_skills=about.skills,
        domain_knowledge=about.knowledge,
        prerequisites=tuple(p for p in about.prerequisites if p in wanted),
        classes=classes,
    )
    return Task(descriptor=descriptor, loss=entry.loss, metric=entry.metric, **data)


def _complexity(
    kind: str, data: Mapping[str, TensorData], known: Mapping[str, NDArray[np.bool_]], classes: int
) -> float:
    """Of a classification, see `nearest_mean_difficulty`; of anything else the middle: nothing is known."""
    if kind != "classification":
        return 0.5
    held = "validation" if "validation" in data else "test"

    def labelled(split: str) -> tuple[Floats, NDArray[np.int64]]:
        inputs, targets, own = data[split].inputs.numpy(), data[split].targets.numpy(), known[split]
        return (inputs, targets.astype(np.int64)) if own.all() else (inputs[own], targets[own].astype(np.int64))

    return nearest_mean_difficulty(labelled("train"), labelled(held), classes)


def _labels(member: Member) -> tuple[Targets, tuple[str, ...]]:
    """Labels [N], and the names of the classes."""
    entry, rows = member.entry, member.rows
    (target,) = entry.targets
    column = member.column(target)
    told = f"target {shown(target)!r}"
    if column.shape:
        raise DataError(f"{told} has shape {column.shape} per row; one label is needed")
    names = column.names
    place_of: dict[int, int] = {}  # code -> label
    if entry.classes is None:
        seen = np.unique(column.codes[member.splits["train"]])
        classes = ordered({names[code] for code in seen if code >= 0})
        places = {name: place for place, name in enumerate(classes)}
        place_of = {int(code): places[names[code]] for code in seen if code >= 0}
    else:
        classes = tuple(map(spelled, entry.classes))
        for number, given in enumerate(entry.classes):
            for code in column.meant(given):
                if place_of.setdefault(code, number) != number:
                    both = f"{entry.classes[place_of[code]]!r} and {given!r}"
                    raise DataError(f"classes: {both} are both {names[code]!r}")
    if len(classes) < 2:
        raise DataError(f"{told} has {len(classes)} class in the training rows; two are needed")
    label = np.full(len(names) + 1, -1.0)
    label[list(place_of)] = list(place_of.values())
    label[-1] = np.nan
    labels = {}
    for split, index in member.splits.items():
        labels[split] = label[column.codes[index]]
        odd = np.flatnonzero(labels[split] < 0)
        if len(odd):
            row = int(index[odd[0]])
            said = column.said(row) or ""
            which = "is none of `classes`" if entry.classes else "is no class of the training rows"
            raise DataError(f"{rows.where(row)}: {told} is {shown(said)!r}, which {which}{near(said, classes)}")
    return labels, classes


_TRUTHS = {"0": 0.0, "1": 1.0, "false": 0.0, "true": 1.0}


def _several(member: Member) -> tuple[Targets, tuple[str, ...]]:
    """Several labels at once [N, K], each 0 or 1, and what they are called."""
    names: list[str] = []
    columns: list[Callable[[Index], NDArray[np.float64]]] = []
    for target in member.entry.targets:
        column = member.column(target)
        names += [target] if not column.shape else [f"{target} {place}" for place in range(int(np.prod(column.shape)))]
        columns.append(_truths(member, column))
    if len(names) < 2:
        told = f"target {shown(names[0])!r}" if names else "no target"
        raise DataError(f"several labels at once need two or more columns, got {told}; one is a classification")
    return {s: np.concatenate([of(index) for of in columns], axis=1) for s, index in member.splits.items()}, (*names,)


def _truths(member: Member, column: Values) -> Callable[[Index], NDArray[np.float64]]:
    """0 and 1 [n, K] of some rows of a target."""
    if column.shape:
        whole = column.numbers
        assert whole is not None  # arrays hold numbers
        held = whole.reshape(len(whole), -1)
        wrong = ~((held == 0) | (held == 1) | np.isnan(held)).all(axis=1)
        codes = np.arange(len(held))
    else:
        found = [_TRUTHS.get(str(name).lower().removesuffix(".0"), -1.0) for name in column.names]
        held, codes = np.array([*found, np.nan])[:, None], column.codes
        wrong = held[:, 0] == -1

    def of(index: Index) -> NDArray[np.float64]:
        odd = np.flatnonzero(wrong[codes[index]])
        if len(odd):
            row = int(index[odd[0]])
            said = str(held[row].tolist()) if column.shape else repr(shown(column.said(row) or ""))
            told = f"{member.rows.where(row)}: target {shown(column.name)!r} is {said}"
            raise DataError(f"{told}; a label of several is 0 or 1 (or true or false)")
        return held[codes[index]]

    return of


def _values(member: Member) -> Targets:
    """Values [N, K], standardised by the training rows if so asked."""
    columns = []
    for target in member.entry.targets:
        column = member.column(target)
        if column.numbers is None:
            check_mixed(column, member.rows, "targets of a regression are numbers")
            row = int(np.flatnonzero(column.codes >= 0)[0]) if column.names else 0
            told = f"target {shown(target)!r} does not hold one number per row"
            said = f" ({member.rows.where(row)}: {shown(column.said(row) or '')!r})" if column.names else ""
            raise DataError(f"{told}{said}; is it a classification?")
        columns.append(column.numbers.reshape(len(column.numbers), -1))
    names = [t for t, values in zip(member.entry.targets, columns, strict=True) for _ in range(values.shape[1])]
    found = {s: np.concatenate([values[index] for values in columns], axis=1) for s, index in member.splits.items()}
    for split, values in found.items():
        wrong = np.abs(values) > LARGEST
        if wrong.any():
            row, place = (int(each[0]) for each in np.nonzero(wrong))
            told = f"{member.rows.where(int(member.splits[split][row]))}: target {shown(names[place])!r}"
            raise DataError(f"{told} is infinite or too large: {values[row, place]:.3g}; it must be at most 3.4e38")
        if member.entry.ranked and (values < 0).any():
            row, place = (int(each[0]) for each in np.nonzero(values < 0))
            told = f"{member.rows.where(int(member.splits[split][row]))}: target {shown(names[place])!r}"
            raise DataError(
                f"{told} is {values[row, place]:.3g}; metric {member.entry.metric!r} needs values from 0 on"
            )
    if member.entry.standardize_target:
        train = found["train"]
        for place, name in enumerate(names):
            if np.isnan(train[:, place]).all():
                raise DataError(f"target {shown(name)!r} has no value in any training row")
        mean, spread = np.nanmean(train, axis=0), np.nanstd(train, axis=0)
        if (spread == 0).any():
            name = shown(names[int(np.flatnonzero(spread == 0)[0])])
            raise DataError(f"target {name!r} has the same value in every training row; there is nothing to learn")
        found = {split: (values - mean) / spread for split, values in found.items()}
    return found
