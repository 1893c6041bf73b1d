"""The `tabular` source."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crosstask.descriptors import TaskDescriptor
from crosstask.errors import CrosstaskError, DataError, OptionError, nearest
from crosstask.options import component, option
from crosstask.points.source import Source
from crosstask.tasks import Portfolio, Task
from crosstask_sources.difficulty import nearest_mean_difficulty
from crosstask_sources.names import check_names
from crosstask_tabular.encoding import Encoding, Floats, Member, ordered
from crosstask_tabular.manifest import Checked, Manifest, place, read_manifest
from crosstask_tabular.splits import divide
from crosstask_tabular.tables import Files, Rows, spelled


@component
class Tabular(Source):
    """Tasks from a folder of CSV, NPZ or Parquet files, described by a TOML manifest in it; README.md shows all keys.

    The manifest is checked as a whole, files and columns too, before a row is read. Categories, means and scales are
    those of the training rows. OptionError for what is wrong with the manifest, DataError for what is wrong with the
    data; both name file, task and key or row.
    """

    folder: str = option(help="where the manifest and the files are")
    manifest: str = option("tasks.toml", help="name of the manifest in the folder")
    tasks: tuple[str, ...] | None = option(None, help="ids of the tasks wanted (default: all)")
    seed: int = option(0, ge=0, help="of random splits that name no seed, and of the order of rows")

    def load(self) -> Portfolio:
        manifest = read_manifest(Path(self.folder), self.manifest)
        path = Path(self.folder) / self.manifest
        numbers = {task.entry.id: number for number, task in enumerate(manifest.tasks, 1)}
        files = Files()
        spaces: dict[str, list[Member]] = {}
        for task in self._wanted(manifest):
            try:
                member = self._member(task, files)
            except CrosstaskError as error:
                raise type(error)(f"{place(path, numbers[task.entry.id], task.entry.id)}: {error}") from None
            spaces.setdefault(task.space, []).append(member)
        made: dict[str, Task] = {}
        for members in spaces.values():
            named = place(path, numbers[members[0].entry.id], members[0].entry.id)
            try:
                encoding = Encoding(members)
                for member in members:
                    named = place(path, numbers[member.entry.id], member.entry.id)
                    made[member.entry.id] = _task(member, encoding, set(numbers if self.tasks is None else self.tasks))
            except DataError as error:
                raise DataError(f"{named}: {error}") from None
        portfolio = Portfolio(name=manifest.name)
        for checked in self._wanted(manifest):
            portfolio.add(made[checked.entry.id], unseen=checked.entry.unseen)
        if len(portfolio) == 0:
            raise OptionError(f"source 'tabular': tasks {list(self.tasks or ())} leave nothing to learn; add another")
        try:
            portfolio.check()
        except DataError as error:
            raise DataError(f"{path}: {error}") from None
        return portfolio

    def _wanted(self, manifest: Manifest) -> list[Checked]:
        ids = [task.entry.id for task in manifest.tasks]
        check_names("tabular", "task", self.tasks or (), ids)
        return [task for task in manifest.tasks if self.tasks is None or task.entry.id in self.tasks]

    def _member(self, task: Checked, files: Files) -> Member:
        paths = tuple(dict.fromkeys(path for own in task.parts.values() for path in own))
        rows = read_rows(files, paths, task)
        return Member(task, rows, divide(task, rows, self.seed))


def read_rows(files: Files, paths: Sequence[Path], task: Checked) -> Rows:
    """The rows of a task, with the columns that it asks for."""
    return files.rows(paths, task.entry.delimiter, task.entry.missing_values, task.wanted)


def _task(member: Member, encoding: Encoding, wanted: set[str]) -> Task:
    entry = member.entry
    inputs = {split: encoding.encode(member, index) for split, index in member.splits.items()}
    targets, classes = _labels(member) if entry.type == "classification" else (_values(member), ())
    data: dict[str, Any] = {split: (inputs[split], targets[split]) for split in inputs}
    about = entry.descriptor
    descriptor = TaskDescriptor(
        task_id=entry.id,
        task_name=about.name or entry.id,
        task_type=entry.type,
        domain=about.domain,
        input_shape=encoding.shape,
        output_dim=len(classes) or len(entry.targets),
        sample_count=len(inputs["train"]),
        complexity=_complexity(inputs, targets, len(classes)) if about.complexity is None else about.complexity,
        required_skills=about.skills,
        domain_knowledge=about.knowledge,
        prerequisites=tuple(p for p in about.prerequisites if p in wanted),
        classes=classes,
    )
    return Task(descriptor=descriptor, loss=entry.loss, metric=entry.metric, **data)


def _complexity(inputs: dict[str, Floats], targets: dict[str, NDArray[Any]], classes: int) -> float:
    """Of a classification, see `nearest_mean_difficulty`; of a regression, the middle: nothing is known."""
    if not classes:
        return 0.5
    held = "validation" if "validation" in inputs else "test"
    return nearest_mean_difficulty((inputs["train"], targets["train"]), (inputs[held], targets[held]), classes)


def _labels(member: Member) -> tuple[dict[str, NDArray[Any]], tuple[str, ...]]:
    """Split -> labels [N], and the names of the classes."""
    entry, rows = member.entry, member.rows
    (target,) = entry.targets
    if rows.table[target].ndim > 1:
        raise DataError(f"target {target!r} has shape {rows.table[target].shape[1:]} per row; one label is needed")
    said = rows.said(target)
    if entry.classes is None:
        seen = {value for row in member.splits["train"] if (value := said[row]) is not None}
        classes = ordered(seen)
        place_of = {name: number for number, name in enumerate(classes)}
    else:
        classes = tuple(map(spelled, entry.classes))
        place_of = {}
        for number, given in enumerate(entry.classes):
            for name in rows.values[target].meant(given):
                if place_of.setdefault(name, number) != number:
                    raise DataError(f"classes: {entry.classes[place_of[name]]!r} and {given!r} are both {name!r}")
    if len(classes) < 2:
        raise DataError(f"target {target!r} has {len(classes)} class in the training rows; two are needed")
    labels = {}
    for split, index in member.splits.items():
        for row in index:
            if said[row] is None:
                raise _unlabelled(member, target, int(row))
            if said[row] not in place_of:
                told = f"{rows.where(int(row))}: target {target!r} is {said[row]!r}"
                which = "is none of `classes`" if entry.classes else "is no class of the training rows"
                raise DataError(f"{told}, which {which}{nearest(said[row], classes)}")
        labels[split] = np.array([place_of[said[row]] for row in index], dtype=np.int64)
    return labels, classes


def _values(member: Member) -> dict[str, NDArray[Any]]:
    """Split -> values [N, K], standardised by the training rows if so asked."""
    found = {}
    for target in member.entry.targets:
        column = member.rows.table[target]
        if column.dtype == object or column.ndim > 1:
            raise DataError(f"target {target!r} does not hold one number per row; is it a classification?")
    for split, index in member.splits.items():
        values = np.stack([member.rows.table[target][index] for target in member.entry.targets], axis=1)
        odd = np.flatnonzero(~np.isfinite(values).all(axis=1))
        if len(odd):
            first = int(np.flatnonzero(~np.isfinite(values[odd[0]]))[0])
            raise _unlabelled(member, member.entry.targets[first], int(index[odd[0]]))
        found[split] = values
    if member.entry.standardize_target:
        mean, spread = found["train"].mean(axis=0), found["train"].std(axis=0)
        if (spread == 0).any():
            name = member.entry.targets[int(np.flatnonzero(spread == 0)[0])]
            raise DataError(f"target {name!r} has the same value in every training row; there is nothing to learn")
        found = {split: (values - mean) / spread for split, values in found.items()}
    return {split: values.astype(np.float32) for split, values in found.items()}


def _unlabelled(member: Member, target: str, row: int) -> DataError:
    told = f"{member.rows.where(row)}: target {target!r} is missing or infinite"
    return DataError(f"{told}; drop_unlabelled = true leaves out rows without a target")
