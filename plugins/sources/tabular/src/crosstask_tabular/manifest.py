"""The manifest of a folder: what its tasks are. Everything that can be wrong with it is found before data are read.

What is wrong with one task leaves out that task and those that need it; the others are read.
"""

from __future__ import annotations

import codecs
import itertools
import re
import tomllib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from fnmatch import translate
from pathlib import Path
from typing import Any

import attrs
import networkx as nx

from crosstask.errors import CrosstaskError, DataError, OptionError, nearest
from crosstask.learning.objectives import LOSSES, METRICS
from crosstask.options import build, option, record, structure
from crosstask.tasks import SPLITS
from crosstask_sources.files import SUFFIXES, Format, check_file, columns_of, shown
from crosstask_tabular.tables import Reading, spelled

_GLOB = "*?["
_MANY = 1000  # names among which the nearest one is looked for: it takes a while
_RANKED = ("ndcg", "hit_rate")
_VALUES = ("r2", "pearson", "spearman", "rmse", "mae", "mse")
FITTING: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "classification": (("cross_entropy",), tuple(name for name in METRICS if name not in (*_VALUES, *_RANKED))),
    "regression": (("mse", "mae", "huber"), (*_VALUES, *_RANKED)),
    "multilabel": (("bce_with_logits",), tuple(name for name in METRICS if name not in _VALUES)),
}
"""Type of a task -> the losses and metrics of such targets. Of a single logit `bce_with_logits` is one, too."""


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
    type: str = option("classification", choices=tuple(FITTING), help="what is learned")
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
    output_dim: int | None = option(None, ge=1, help="1: a single logit for two classes")
    delimiter: str = ","
    encoding: str = "utf-8"
    decimal: str = option(".", choices=(".", ","), help="what stands before the decimals of a number")
    split: SplitRule = attrs.field(factory=lambda: SplitRule(validation=0.15, test=0.15))
    loss: str | None = option(None, choices=(None, *LOSSES), help="by the task's type, if it is not given")
    metric: str | None = option(None, help="by the task's type, if it is not given")
    unseen: bool = False
    descriptor: About = attrs.field(factory=About)

    def __attrs_post_init__(self) -> None:
        if not self.id:
            raise OptionError("id must not be empty")
        if isinstance(self.missing, str) and self.missing not in ("mean", "median", "indicator", "error"):
            hint = nearest(self.missing, ("mean", "median", "indicator", "error"))
            raise OptionError(f"missing must be a number or a rule, got {self.missing!r}{hint}")
        if len(self.delimiter) != 1 or self.delimiter in '\r\n"\0':
            raise OptionError(f"delimiter must be one character, no quote and no end of a line, got {self.delimiter!r}")
        try:
            codecs.lookup(self.encoding).incrementaldecoder(errors="strict").decode(b"")
            object.__setattr__(self, "encoding", codecs.lookup(self.encoding).name)
        except (LookupError, ValueError, TypeError):
            known = ("utf-8", "utf-16", "cp1252", "latin-1", "shift_jis", "gb18030")
            raise OptionError(f"encoding cannot be {shown(self.encoding)!r}{nearest(self.encoding, known)}") from None
        if self.decimal == self.delimiter:
            raise OptionError(f"decimal and delimiter are both {self.decimal!r}; tables with decimal commas have ';'")
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
            told = "several labels at once are of type = 'multilabel'"
            raise OptionError(f"classification has one target column, got {list(self.targets)}; {told}")
        if self.type != "classification" and self.classes is not None:
            raise OptionError(f"classes are for classification; this is {self.type}")
        self._check_objectives()
        given = self.classes
        if given is not None and (len(given) < 2 or len({*map(spelled, given)}) < len(given)):
            raise OptionError(f"classes must be two or more different names, got {list(given)}")
        if self.shape is not None and self.categorical:
            raise OptionError("shape is for numeric columns; it cannot be given with categorical ones")

    def _check_objectives(self) -> None:
        """That loss, metric and number of outputs fit the type."""
        losses, metrics = FITTING[self.type]
        if self.output_dim is not None:
            if self.type != "classification":
                raise OptionError(f"output_dim is for classification; of {self.type} it is the number of targets")
            if self.output_dim == 1:
                losses = (*losses, "bce_with_logits")
        if self.loss is not None and self.loss not in losses:
            raise OptionError(f"loss {self.loss!r} is none of {self.type}{nearest(self.loss, losses)}")
        if self.metric is not None:
            name, cut, top = self.metric.partition("@")
            if name not in METRICS or (cut and (name not in _RANKED or not top.isdecimal() or int(top) < 1)):
                raise OptionError(f"metric cannot be {self.metric!r}{nearest(self.metric, METRICS)}")
            if name not in metrics:
                raise OptionError(f"metric {self.metric!r} is none of {self.type}{nearest(name, metrics)}")
            if self.ranked and self.type == "regression" and self.standardize_target:
                told = "ranks by relevances from 0 on, which standardising makes negative"
                raise OptionError(f"metric {self.metric!r} {told}; say standardize_target = false")

    @property
    def ranked(self) -> bool:
        """Whether the metric ranks several targets by relevance."""
        return self.metric is not None and self.metric.partition("@")[0] in _RANKED

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
    wanted: tuple[str, ...]
    """All columns that the task asks for: features, targets, those of `split` and `where`."""
    own: frozenset[str] = attrs.field(init=False, repr=False)
    """The features, to look them up."""

    @own.default
    def _own(self) -> frozenset[str]:
        return frozenset(self.features)

    @property
    def reading(self) -> Reading:
        """How its files are read."""
        paths = tuple(dict.fromkeys(path for own in self.parts.values() for path in own))
        missing = frozenset(text.strip() for text in self.entry.missing_values)
        return Reading(paths, Format(self.entry.delimiter, self.entry.encoding), missing, self.entry.decimal)


@attrs.frozen
class Manifest:
    """A manifest: the tasks that are in order, and what is wrong with others."""

    path: Path
    name: str
    tasks: dict[str, Checked]
    wrong: dict[str, CrosstaskError]
    places: dict[str, str]
    """Task -> how messages call its place in the file."""


def read_manifest(folder: Path, file: str, wanted: Collection[str] | None = None) -> Manifest:
    """The manifest of a folder, checked against the files beside it; no row of data is read. Only the files of the
    tasks `wanted` are looked at (by default of all).

    OptionError or DataError name the file, the task and the key, and what would be right; where it is a single task
    that is wrong, they are in `Manifest.wrong`.
    """
    path = folder / file
    values = _parsed(folder, path)
    known = ("name", "defaults", "tasks")
    for key in values:
        if key not in known:
            raise OptionError(f"{path}: unknown key {shown(key)!r}{near(key, known)}")
    name = structure(values.get("name", folder.resolve().name), str, f"{path}: name")
    defaults, given = values.get("defaults", {}), values.get("tasks", [])
    if not isinstance(defaults, dict):
        raise OptionError(f"{path}: defaults must be a table ([defaults]), got {defaults!r}")
    if not isinstance(given, list) or not all(isinstance(entry, dict) for entry in given):
        raise OptionError(f"{path}: tasks must be a list of tables ([[tasks]]), got {given!r}")
    if not given:
        raise OptionError(f"{path} has no task: add a [[tasks]] table")
    if "id" in defaults:
        raise OptionError(f"{path}: defaults.id: every task has an id of its own")
    keys = [f.name for f in attrs.fields(TaskEntry)]
    for key in defaults:
        if key not in keys:
            raise OptionError(f"{path}: defaults: unknown key {shown(key)!r}{near(key, keys)}")
    entries: dict[str, TaskEntry] = {}
    wrong: dict[str, CrosstaskError] = {}
    places: dict[str, str] = {}
    for number, own in enumerate(given, 1):
        task_id = str(own["id"]) if "id" in own else f"tasks[{number}]"
        where = f"{path}: tasks[{number}] ({shown(str(own.get('id', 'without id')))!r})"
        if task_id in places:
            told = f"id {shown(task_id)!r} is taken by {places[task_id].removeprefix(f'{path}: ').partition(' ')[0]}"
            wrong[task_id] = OptionError(f"{where}: {told}")
            continue
        places[task_id] = where
        try:
            entries[task_id] = _entry(where, defaults, own)
        except CrosstaskError as error:
            wrong[task_id] = error
    for task_id in wrong:
        entries.pop(task_id, None)
    if entries and all(entry.unseen for entry in entries.values()) and not wrong:
        raise OptionError(f"{path}: every task is unseen; nothing is left to learn")
    wrong |= _wrong_together(entries, places, [str(own["id"]) for own in given if "id" in own])
    headers: dict[tuple[Path, Format], list[str]] = {}
    tasks: dict[str, Checked] = {}
    for task_id, entry in entries.items():
        if task_id not in wrong and (wanted is None or task_id in wanted):
            try:
                tasks[task_id] = _checked(places[task_id], folder, entry, headers)
            except CrosstaskError as error:
                wrong[task_id] = error
    return Manifest(path, name, tasks, wrong, places)


def _parsed(folder: Path, path: Path) -> dict[str, Any]:
    try:
        if folder.is_dir() and path.exists():
            check_file(path)  # a pipe would be waited for
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise OptionError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from None
    except DataError as error:
        raise DataError(f"no manifest {path}: {error}") from None
    except OSError as error:
        told = "" if _is_folder(folder) else f" ({shown(str(folder))} is no folder)"
        raise DataError(f"no manifest {shown(str(path))}: {error.strerror}{told}") from None
    except ValueError as error:  # a NUL in its name
        raise OptionError(f"no manifest {shown(str(path))!r}: {error}") from None
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise OptionError(f"{path}: {error}") from None


def _is_folder(folder: Path) -> bool:
    try:
        return folder.is_dir()
    except OSError:  # a name that is too long
        return False


def near(name: object, valid: Iterable[str]) -> str:
    """`nearest`, also among very many names."""
    text, names = shown(str(name)), list(valid)
    if len(names) > _MANY:
        like = (one for one in names if one[:2] == text[:2] or one.lower() == text.lower() or one[-3:] == text[-3:])
        names = list(itertools.islice(like, _MANY)) or names[:_MANY]
    return nearest(text, map(shown, names))


def _entry(where: str, defaults: Mapping[str, Any], own: Mapping[str, Any]) -> TaskEntry:
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


def _wrong_together(
    entries: Mapping[str, TaskEntry], places: Mapping[str, str], ids: Sequence[str]
) -> dict[str, CrosstaskError]:
    """Prerequisites and spaces: what only the tasks together can get wrong."""
    wrong: dict[str, CrosstaskError] = {}
    first: dict[str, TaskEntry] = {}
    known = {task_id for task_id in ids if task_id not in entries or not entries[task_id].unseen}
    for task_id, entry in entries.items():
        where = places[task_id]
        for needed in entry.descriptor.prerequisites:
            if needed not in known or needed == task_id:
                told = f"no task {shown(needed)!r}{near(needed, known - {task_id})}"
                wrong[task_id] = OptionError(f"{where}: descriptor.prerequisites: {told}")
        if entry.space is not None:
            peer = first.setdefault(entry.space, entry)
            for key in SHARED:
                ours, theirs = getattr(entry, key), getattr(peer, key)
                if ours != theirs:
                    told = f"{key} is {ours!r} here and {theirs!r} in {shown(peer.id)!r}"
                    wrong[task_id] = OptionError(
                        f"{where}: tasks of space {shown(entry.space)!r} share one encoding; {told}"
                    )
    graph = nx.DiGraph((needed, task_id) for task_id, e in entries.items() for needed in e.descriptor.prerequisites)
    for circle in nx.strongly_connected_components(graph):
        if len(circle) > 1:
            found = nx.find_cycle(graph.subgraph(circle), next(task_id for task_id in entries if task_id in circle))
            path = " -> ".join(shown(task_id) for task_id in [*(edge[0] for edge in found), found[0][0]])
            for task_id in circle:
                told = f"{places[task_id]}: descriptor.prerequisites: they form a cycle: {path}"
                wrong.setdefault(task_id, OptionError(told))
    return wrong


def _checked(where: str, folder: Path, entry: TaskEntry, headers: dict[tuple[Path, Format], list[str]]) -> Checked:
    parts: dict[str, tuple[Path, ...]] = {}
    found: dict[Path, str] = {}  # file -> the key that names it
    form = Format(entry.delimiter, entry.encoding)
    for split, names in entry.parts().items():
        key = f"files.{split}" if entry.files else "file"
        parts[split] = tuple(_file(folder, name, f"{where}: {key}") for name in names)
        for file in parts[split]:
            found.setdefault(file, key)
            if (file, form) not in headers:
                try:
                    headers[file, form] = columns_of(file, form)
                except DataError as error:
                    raise DataError(f"{where}: {key}: {error}") from None
    columns = dict.fromkeys(name for file in found for name in headers[file, form])
    asks = _asks(entry)
    first = next(iter(found))
    for file, key in found.items():
        header = headers[file, form]
        twice = next((name for name, count in Counter(header).items() if count > 1 and asks(name)), None)
        if twice is not None:
            raise DataError(f"{where}: {key}: {file.name}: two columns are called {shown(twice)!r}")
        odd = sorted(name for name in set(header) ^ set(headers[first, form]) if asks(name))
        if odd:
            raise DataError(f"{where}: {key}: {file.name} and {first.name} differ in column {shown(odd[0])!r}")
    file_names = ", ".join(dict.fromkeys(file.name for files in parts.values() for file in files))

    def column(name: str, key: str) -> None:
        if name not in columns:
            told = f"{where}: {key}: no column {shown(name)!r} in {file_names}"
            other = next((d for d in ";,\t|" if len(columns) == 1 and name in next(iter(columns)).split(d)), None)
            hint = f"; its header is one column, is it written with delimiter = {other!r}?" if other else ""
            raise OptionError(told + (hint or near(name, columns)))

    for name in entry.targets:
        column(name, "target")
    for key in ("column", "stratify", "group"):
        if (given := getattr(entry.split, key)) is not None:
            column(given, f"split.{key}")
    for name in entry.where:
        column(name, "where")
    targets = set(entry.targets)
    named = {*targets, entry.split.column, entry.split.group}
    for name in entry.features:
        if name in targets:
            told = f"{shown(name)!r} is the target; what is predicted cannot be an input"
            raise OptionError(f"{where}: features: {told}")
    left_out = set(_matching(entry.exclude, columns, f"{where}: exclude", file_names))
    features = [
        name for name in _matching(entry.features, columns, f"{where}: features", file_names)
        if name not in named and name not in left_out
    ]  # fmt: skip
    if not features:
        some = ", ".join(map(shown, itertools.islice(columns, 12))) + (", …" if len(columns) > 12 else "")
        raise OptionError(f"{where}: no feature is left; {file_names} has the columns {some}")
    have = set(features)
    for name in entry.categorical or ():
        column(name, "categorical")
        if name not in have:
            told = f"{shown(name)!r} is not among the features{near(name, features)}"
            raise OptionError(f"{where}: categorical: {told}")
    return Checked(entry, parts, tuple(features), tuple(dict.fromkeys([*features, *_named(entry)])))


def _named(entry: TaskEntry) -> tuple[str, ...]:
    """The columns that a task names for something else than its inputs."""
    rule = entry.split
    return (*entry.targets, *filter(None, (rule.column, rule.stratify, rule.group)), *entry.where)


class _Patterns:
    """Names and patterns (`pixel*`), to be asked about many columns."""

    def __init__(self, given: Iterable[str]) -> None:
        own = list(given)
        self._names = set(own)
        globs = [translate(one) for one in own if any(sign in one for sign in _GLOB)]
        self._globs = re.compile("|".join(globs)) if globs else None

    def fit(self, column: str) -> bool:
        return column in self._names or (self._globs is not None and self._globs.match(column) is not None)


def _asks(entry: TaskEntry) -> Any:
    """Whether a task asks for a column; what is wrong with any other is none of its business."""
    taken, left_out, named = _Patterns(entry.features), _Patterns(entry.exclude), set(_named(entry))
    return lambda name: name in named or (taken.fit(name) and not left_out.fit(name))


def _matching(patterns: Sequence[str], columns: Mapping[str, None], where: str, file_names: str) -> list[str]:
    """The columns that a list of names and patterns (`pixel*`) stands for, each once, in the order of the list."""
    found: dict[str, None] = {}
    for pattern in patterns:
        matched = [pattern] if pattern in columns else []
        if any(sign in pattern for sign in _GLOB):
            fits = _Patterns([pattern]).fit
            matched = [column for column in columns if fits(column)]
        if not matched:
            raise OptionError(f"{where}: no column {shown(pattern)!r} in {file_names}{near(pattern, columns)}")
        found.update(dict.fromkeys(matched))
    return list(found)


def _file(folder: Path, name: str, where: str) -> Path:
    if "\0" in name:
        raise OptionError(f"{where}: {shown(name)!r} has a NUL character, which no file's name can have")
    path = folder / name
    try:
        inside, there = path.resolve().is_relative_to(folder.resolve()), path.exists()
    except (OSError, RuntimeError) as error:  # too long, or links in a circle
        raise OptionError(f"{where}: {shown(name)!r}: {getattr(error, 'strerror', None) or error}") from None
    if not inside:
        raise OptionError(f"{where}: {shown(name)!r} is outside the folder of the manifest")
    if path.suffix not in SUFFIXES:
        raise OptionError(f"{where}: {shown(name)!r} must end in {', '.join(SUFFIXES)}")
    if not there:
        every = itertools.islice(folder.rglob("*"), 10 * _MANY)
        others = [str(p.relative_to(folder)) for p in sorted(every) if p.suffix in SUFFIXES]
        raise OptionError(f"{where}: no file {shown(name)!r} in {folder}{near(name, others)}")
    try:
        check_file(path)
    except DataError as error:
        raise DataError(f"{where}: {error}") from None
    return path
