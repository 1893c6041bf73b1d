"""The manifest of a folder: what its tasks are. Everything that can be wrong with it is found before data are read."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import attrs

from crosstask.errors import DataError, OptionError, nearest
from crosstask.learning.objectives import LOSSES, METRICS
from crosstask.options import build, option, record, structure
from crosstask.tasks import SPLITS
from crosstask_tabular.tables import SUFFIXES, columns_of, spelled

Files = tuple[str, ...]
_GLOB = "*?["


def _listed(value: Any) -> Any:
    """A single name stands for a list of one."""
    return (value,) if isinstance(value, str | int | float) and not isinstance(value, bool) else value


@record
class SplitRule:
    """How rows are divided: by a column, or at random into shares (training gets the rest)."""

    column: str | None = None
    values: dict[str, Any] = attrs.field(factory=dict)
    validation: float | None = option(None, ge=0, lt=1, help="share of the rows")
    test: float | None = option(None, ge=0, lt=1, help="share of the rows")
    seed: int | None = option(None, ge=0, help="of the division; the source's own seed if none")
    stratify: str | None = None
    group: str | None = None

    def __attrs_post_init__(self) -> None:
        shares = self.validation is not None or self.test is not None
        if self.column is not None and (shares or self.stratify or self.group):
            raise OptionError("`column` excludes validation and test shares, stratify and group")
        if self.column is None and self.values:
            raise OptionError("`values` needs `column`, which holds these values")
        for split in self.values:
            if split not in SPLITS:
                raise OptionError(f"values: unknown split {split!r}{nearest(split, SPLITS)}")
        if (self.validation or 0) + (self.test or 0) >= 1:
            raise OptionError(f"nothing is left to train on: validation {self.validation} + test {self.test}")
        if self.stratify and self.group:
            raise OptionError("rows are kept together by `group` or spread by `stratify`, not both")

    def values_of(self, split: str) -> tuple[Any, ...]:
        """What the column says for rows of this split; the split's own name by default."""
        given = self.values.get(split, split)
        return tuple(given) if isinstance(given, list | tuple) else (given,)


@record
class About:
    """What goes into the task's descriptor beside what its data say."""

    name: str | None = None
    domain: str = "tables"
    skills: tuple[str, ...] = ()
    knowledge: tuple[str, ...] = ()
    prerequisites: tuple[str, ...] = ()
    complexity: float | None = option(None, ge=0, le=1, help="measured, if it is not given")


@record
class TaskEntry:
    """One task of the manifest. README.md says what each key means."""

    id: str
    target: Any
    type: str = option("classification", choices=("classification", "regression"), help="what is learned")
    file: Any = None
    files: dict[str, Any] = attrs.field(factory=dict)
    where: dict[str, Any] = attrs.field(factory=dict)
    classes: tuple[str | bool | int | float, ...] | None = None
    features: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()
    categorical: tuple[str, ...] | None = None
    space: str | None = None
    shape: tuple[int, ...] | None = option(None, ge=1, help="of one input, such as [1, 8, 8]")
    missing: str | float = "mean"
    missing_values: tuple[str, ...] = ("", "?", "NA", "N/A", "NaN", "nan", "null")
    unknown: str = option("zeros", choices=("zeros", "error"), help="a category that the training rows do not have")
    max_categories: int = option(100, ge=2, help="more are taken for a mistake")
    standardize: bool = True
    standardize_target: bool = True
    drop_unlabelled: bool = False
    delimiter: str = ","
    split: SplitRule = attrs.field(factory=lambda: SplitRule(validation=0.15, test=0.15))
    loss: str | None = option(None, choices=(None, *LOSSES), help="by the task's type, if it is not given")
    metric: str | None = option(None, choices=(None, *METRICS), help="by the task's type, if it is not given")
    unseen: bool = False
    descriptor: About = attrs.field(factory=About)

    def __attrs_post_init__(self) -> None:
        if not self.id:
            raise OptionError("id must not be empty")
        if isinstance(self.missing, str) and self.missing not in ("mean", "median", "indicator", "error"):
            hint = nearest(self.missing, ("mean", "median", "indicator", "error"))
            raise OptionError(f"missing must be a number or a rule, got {self.missing!r}{hint}")
        if len(self.delimiter) != 1:
            raise OptionError(f"delimiter must be one character, got {self.delimiter!r}")
        if bool(self.file) == bool(self.files):
            raise OptionError("either `file` (its rows are split) or `files` (one for each split) is needed")
        for split in self.files:
            if split not in SPLITS:
                raise OptionError(f"files: unknown split {split!r}{nearest(split, SPLITS)}")
        if self.files and "train" not in self.files:
            raise OptionError("files needs `train`, what to learn from")
        if self.files and self.split.column is not None:
            raise OptionError("`files` says already which rows are in which split; leave out split.column")
        for split in self.files:
            if split != "train" and getattr(self.split, split):
                raise OptionError(f"files gives the {split} rows already; leave out split.{split}")
        if self.type == "classification" and len(self.targets) != 1:
            raise OptionError(f"classification has one target column, got {list(self.targets)}")
        if self.type == "regression" and self.classes is not None:
            raise OptionError("classes are for classification; this is regression")
        given = self.classes
        if given is not None and (len(given) < 2 or len({*map(spelled, given)}) < len(given)):
            raise OptionError(f"classes must be two or more different names, got {list(given)}")
        if self.shape is not None and self.categorical:
            raise OptionError("shape is for numeric columns; it cannot be given with categorical ones")

    @property
    def targets(self) -> tuple[str, ...]:
        return _names(self.target, "target")

    def parts(self) -> dict[str, tuple[str, ...]]:
        """Split -> its files; with `file`, all rows under "train"."""
        given = self.files or {"train": self.file}
        return {s: _names(given[s], f"files.{s}" if self.files else "file") for s in SPLITS if s in given}


def _names(value: Any, where: str) -> tuple[str, ...]:
    names: tuple[str, ...] = structure(_listed(value), tuple[str, ...], where)
    if not names:
        raise OptionError(f"{where} names nothing")
    return names


# In one space these must be the same for all tasks, since they share one encoding.
SHARED = ("shape", "missing", "missing_values", "unknown", "max_categories", "standardize")


@attrs.frozen
class Checked:
    """A task whose files and columns are known to exist."""

    entry: TaskEntry
    parts: dict[str, tuple[Path, ...]]
    features: tuple[str, ...]
    space: str
    wanted: tuple[str, ...]
    """All columns that the task asks for: features, targets, those of `split` and `where`."""


@attrs.frozen
class Manifest:
    """A checked manifest."""

    name: str
    tasks: tuple[Checked, ...]


def read_manifest(folder: Path, file: str) -> Manifest:
    """The manifest of a folder, checked against the files beside it; no row of data is read.

    OptionError or DataError name the file, the task and the key, and what would be right.
    """
    path = folder / file
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        told = "" if folder.is_dir() else f" ({folder} is no folder)"
        raise DataError(f"no manifest {path}: {error.strerror}{told}") from None
    except UnicodeDecodeError as error:
        raise OptionError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from None
    except tomllib.TOMLDecodeError as error:
        raise OptionError(f"{path}: {error}") from None
    known = ("name", "defaults", "tasks")
    for key in values:
        if key not in known:
            raise OptionError(f"{path}: unknown key {key!r}{nearest(key, known)}")
    name = structure(values.get("name", folder.resolve().name), str, f"{path}: name")
    defaults, entries = values.get("defaults", {}), values.get("tasks", [])
    if not isinstance(defaults, dict):
        raise OptionError(f"{path}: defaults must be a table ([defaults]), got {defaults!r}")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise OptionError(f"{path}: tasks must be a list of tables ([[tasks]]), got {entries!r}")
    if not entries:
        raise OptionError(f"{path} has no task: add a [[tasks]] table")
    if "id" in defaults:
        raise OptionError(f"{path}: defaults.id: every task has an id of its own")
    tasks = [_entry(path, number, defaults, entry) for number, entry in enumerate(entries, 1)]
    _check_together(path, tasks)
    headers: dict[tuple[Path, str], list[str]] = {}
    return Manifest(name, tuple(_checked(path, number, entry, headers) for number, entry in enumerate(tasks, 1)))


def place(path: Path, number: int, task_id: str) -> str:
    return f"{path}: tasks[{number}] ({task_id!r})"


def _entry(path: Path, number: int, defaults: Mapping[str, Any], own: Mapping[str, Any]) -> TaskEntry:
    where = place(path, number, str(own.get("id", "without id")))
    for key in defaults:
        if key not in {f.name for f in attrs.fields(TaskEntry)}:
            raise OptionError(
                f"{path}: defaults: unknown key {key!r}{nearest(key, (f.name for f in attrs.fields(TaskEntry)))}"
            )
    merged = {**defaults, **own}
    for files, other in (("file", "files"), ("files", "file")):  # a task's own way to name files replaces the other
        if files in own and other not in own:
            merged.pop(other, None)
    if isinstance(own.get("descriptor"), dict) and isinstance(defaults.get("descriptor"), dict):
        merged["descriptor"] = {**defaults["descriptor"], **own["descriptor"]}
    if "files" in merged and "split" not in merged:
        merged["split"] = {}
    entry = build(TaskEntry, merged, where)
    try:
        for check in (entry.targets, entry.parts()):
            assert check
    except OptionError as error:
        raise OptionError(f"{where}: {error}") from None
    return entry


def _check_together(path: Path, tasks: list[TaskEntry]) -> None:
    """Ids, prerequisites and spaces: what only the tasks together can get wrong."""
    ids = [entry.id for entry in tasks]
    first: dict[str, TaskEntry] = {}
    for number, entry in enumerate(tasks, 1):
        where = place(path, number, entry.id)
        if ids.index(entry.id) != number - 1:
            raise OptionError(f"{where}: id {entry.id!r} is taken by tasks[{ids.index(entry.id) + 1}]")
        for needed in entry.descriptor.prerequisites:
            others = [other.id for other in tasks if other is not entry and not other.unseen]
            if needed not in others:
                raise OptionError(f"{where}: descriptor.prerequisites: no task {needed!r}{nearest(needed, others)}")
        if entry.space is not None:
            peer = first.setdefault(entry.space, entry)
            for key in SHARED:
                ours, theirs = getattr(entry, key), getattr(peer, key)
                if ours != theirs:
                    told = f"{key} is {ours!r} here and {theirs!r} in {peer.id!r}"
                    raise OptionError(f"{where}: tasks of space {entry.space!r} share one encoding; {told}")
    if all(entry.unseen for entry in tasks):
        raise OptionError(f"{path}: every task is unseen; nothing is left to learn")


def _checked(path: Path, number: int, entry: TaskEntry, headers: dict[tuple[Path, str], list[str]]) -> Checked:
    where = place(path, number, entry.id)
    folder = path.parent
    parts: dict[str, tuple[Path, ...]] = {}
    found: dict[Path, str] = {}  # file -> the key that names it
    for split, names in entry.parts().items():
        key = f"files.{split}" if entry.files else "file"
        parts[split] = tuple(_file(folder, name, f"{where}: {key}") for name in names)
        for file in parts[split]:
            found.setdefault(file, key)
            if (file, entry.delimiter) not in headers:
                try:
                    headers[file, entry.delimiter] = columns_of(file, entry.delimiter)
                except DataError as error:
                    raise DataError(f"{where}: {key}: {error}") from None
    columns = list(dict.fromkeys(name for file in found for name in headers[file, entry.delimiter]))
    first = next(iter(found))
    for file, key in found.items():
        header = headers[file, entry.delimiter]
        twice = next((name for name in header if header.count(name) > 1 and _asked(entry, name)), None)
        if twice is not None:
            raise DataError(f"{where}: {key}: {file.name}: two columns are called {twice!r}")
        odd = sorted(name for name in set(header) ^ set(headers[first, entry.delimiter]) if _asked(entry, name))
        if odd:
            raise DataError(f"{where}: {key}: {file.name} and {first.name} differ in column {odd[0]!r}")
    file_names = ", ".join(dict.fromkeys(file.name for files in parts.values() for file in files))

    def column(name: str, key: str) -> None:
        if name not in columns:
            raise OptionError(f"{where}: {key}: no column {name!r} in {file_names}{nearest(name, columns)}")

    for name in entry.targets:
        column(name, "target")
    for key in ("column", "stratify", "group"):
        if (given := getattr(entry.split, key)) is not None:
            column(given, f"split.{key}")
    for name in entry.where:
        column(name, "where")
    named = {*entry.targets, entry.split.column, entry.split.group}
    for name in entry.features:
        if name in entry.targets:
            raise OptionError(f"{where}: features: {name!r} is the target; what is predicted cannot be an input")
    left_out = _matching(entry.exclude, columns, f"{where}: exclude", file_names)
    features = [
        name for name in _matching(entry.features, columns, f"{where}: features", file_names)
        if name not in named and name not in left_out
    ]  # fmt: skip
    if not features:
        raise OptionError(f"{where}: no feature is left; {file_names} has the columns {', '.join(columns)}")
    for name in entry.categorical or ():
        column(name, "categorical")
        if name not in features:
            raise OptionError(f"{where}: categorical: {name!r} is not among the features{nearest(name, features)}")
    wanted = tuple(dict.fromkeys([*features, *_named(entry)]))
    return Checked(entry, parts, tuple(features), entry.space or f"task {entry.id}", wanted)


def _named(entry: TaskEntry) -> tuple[str, ...]:
    """The columns that a task names for something else than its inputs."""
    rule = entry.split
    return (*entry.targets, *filter(None, (rule.column, rule.stratify, rule.group)), *entry.where)


def _asked(entry: TaskEntry, name: str) -> bool:
    """Whether a task asks for a column; what is wrong with any other is none of its business."""
    taken, left_out = (any(_fits(name, one) for one in given) for given in (entry.features, entry.exclude))
    return name in _named(entry) or (taken and not left_out)


def _fits(column: str, pattern: str) -> bool:
    return column == pattern or (any(g in pattern for g in _GLOB) and fnmatchcase(column, pattern))


def _matching(patterns: tuple[str, ...], columns: list[str], where: str, file_names: str) -> list[str]:
    """The columns that a list of names and patterns (`pixel*`) stands for, each once, in the order of the list."""
    found: dict[str, None] = {}
    for pattern in patterns:
        matched = [column for column in columns if _fits(column, pattern)]
        if not matched:
            raise OptionError(f"{where}: no column {pattern!r} in {file_names}{nearest(pattern, columns)}")
        found.update(dict.fromkeys(matched))
    return list(found)


def _file(folder: Path, name: str, where: str) -> Path:
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise OptionError(f"{where}: {name!r} is outside the folder of the manifest")
    if path.suffix not in SUFFIXES:
        raise OptionError(f"{where}: {name!r} must end in {', '.join(SUFFIXES)}")
    if not path.is_file():
        there = [str(p.relative_to(folder)) for p in sorted(folder.rglob("*")) if p.suffix in SUFFIXES]
        raise OptionError(f"{where}: no file {name!r} in {folder}{nearest(name, there)}")
    return path
