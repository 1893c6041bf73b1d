"""Tasks from data sets of `datasets`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import numpy as np
import torch

from crosstask.descriptors import MultiInput, TaskDescriptor
from crosstask.errors import DataError, OptionError, nearest
from crosstask.reading import TARGETS
from crosstask.tasks import SPLITS, Portfolio, Task
from crosstask_huggingface.libraries import library
from crosstask_huggingface.splits import PlainSplit, TextSplit, Tokens

ALSO = {"validation": ("validation", "valid", "dev", "val", "validation_matched"), "test": ("test", "test_matched")}
"""What splits are called in data sets."""

Columns = str | Sequence[str]


@attrs.frozen
class Goal:
    """A target: the task that it is of, its column and type and, of labels, the names of the classes."""

    task_id: str
    column: str
    kind: str
    classes: tuple[str, ...] = ()
    outputs: int | None = None


@attrs.frozen
class Corpus:
    """One data set: its splits, the columns with texts, its targets."""

    parts: dict[str, Any]
    texts: tuple[str, ...]
    goals: tuple[Goal, ...]

    @property
    def words(self) -> bool:
        """Whether texts are lists of words."""
        return bool(self.texts) and _is_list(_features(self.parts).get(self.texts[0]))


def tasks_from_datasets(
    data: Any,
    *,
    tokenizer: Any = None,
    text: Columns | None = None,
    target: Columns | None = None,
    inputs: Columns | None = None,
    task_type: str | Mapping[str, str] | None = None,
    splits: Mapping[str, str] | None = None,
    held_out: Mapping[str, float] | None = None,
    limit: int | None = None,
    max_length: int | None = None,
    padding: str = "longest",
    fields: Sequence[str] = (),
    seed: int = 0,
    name: str = "datasets",
    **options: Any,
) -> Portfolio:
    """A portfolio from a `Dataset` or `DatasetDict`, or several by task id.

    Of one data set each column in `target` is a task, called by the column; of several each is a task by its own name
    (`id.column` where it has several targets). Targets of one data set share its rows: joint training passes each text
    through the trunk once. `text` is the column with texts, or two that belong together; `tokenizer` (of transformers)
    makes inputs of them, by the names that models take, of which `fields` are kept. Without texts, `inputs` are the
    columns with numbers or images. What a target is follows from its feature: class labels and names, whole numbers,
    numbers (regression), lists of labels (multilabel, or a label for each word where texts are lists of words);
    `task_type` says otherwise, for all or by task id. A label -1, or None, is none.

    `splits` says what train, validation and test are called; `held_out` takes shares of the training data (or numbers
    of samples) for splits that there are not, drawn by `seed`; `limit` draws at most so many samples of each
    split (of a stream, the first).

    With `padding="longest"` all texts are tokenised once, for the longest of them (`max_length` at most): inputs of all
    tasks have that length, so that a model for one fits the others. With `"max_length"` nothing is tokenised before a
    split is asked for. Nothing but what is asked for comes into memory, unless several targets share rows. `options`
    are those of every `Task`. DataError and OptionError say what does not fit.
    """
    if padding not in ("longest", "max_length"):
        raise OptionError(f"unknown padding {padding!r}{nearest(padding, ('longest', 'max_length'))}")
    for called, number in (("limit", limit), ("max_length", max_length)):
        if number is not None and (isinstance(number, bool) or not isinstance(number, int) or number < 1):
            raise OptionError(f"{called} is a whole number from 1 on, got {number!r}")
    corpora = []
    for key, given in _corpora(data).items():
        parts = _parts(given, splits, held_out, limit, seed, key)
        columns = _columns(parts, key)
        texts, numbers = _chosen(text, columns, "text", key), _chosen(inputs, columns, "inputs", key)
        targets = _chosen(target, columns, "target", key)
        targets = targets or _found_target([n for n in columns if n not in (*texts, *numbers)], key)
        if not texts and tokenizer is not None:
            texts = _found_texts(_features(parts), columns, targets, key)
        elif texts and tokenizer is None:
            raise OptionError("texts need a tokenizer, which makes numbers of them")
        goals = []
        for each in targets:
            task_id = each if not key else key if len(targets) == 1 else f"{key}.{each}"
            wanted = task_type.get(task_id) if isinstance(task_type, Mapping) else task_type
            words = bool(texts) and _is_list(_features(parts).get(texts[0]))
            _one_order(parts, each, key)
            goals.append(_goal(task_id, each, _features(parts).get(each), wanted, words))
        corpora.append(Corpus(_labelled(parts, goals), texts, tuple(goals)))
    if isinstance(task_type, Mapping):
        ids = [goal.task_id for corpus in corpora for goal in corpus.goals]
        if unknown := [each for each in task_type if each not in ids]:
            raise OptionError(f"task_type: no task {unknown[0]!r}{nearest(unknown[0], ids)}")
    readers = _readers(corpora, tokenizer, max_length, tuple(fields), padding)
    portfolio = Portfolio(name=name)
    for corpus, own in zip(corpora, readers, strict=True):
        if not corpus.texts:
            wanted_inputs = _chosen(inputs, _columns(corpus.parts, ""), "inputs", "")
            tasks = [_plain(corpus, goal, wanted_inputs, options) for goal in corpus.goals]
        elif len(corpus.goals) > 1:
            tasks = _on_one_table(corpus, own, options)
        else:
            goal = corpus.goals[0]
            tasks = [Task(descriptor=_descriptor(goal, corpus, own), **{**options, **own[goal.task_id]})]
        for task in tasks:
            portfolio.add(task)
    return portfolio


# What there is --------------------------------------------------------------------------------------------------------


def _corpora(data: Any) -> dict[str, Any]:
    """Data sets by task id; a single one has none, ""."""
    datasets = library("datasets")
    if not isinstance(data, Mapping) or isinstance(data, datasets.DatasetDict | datasets.IterableDatasetDict):
        return {"": data}
    if not data:
        raise DataError("no data set was given")
    return {str(key): value for key, value in data.items()}


def _parts(
    given: Any,
    splits: Mapping[str, str] | None,
    held_out: Mapping[str, float] | None,
    limit: int | None,
    seed: int,
    key: str,
) -> dict[str, Any]:
    """The splits of a data set, by crosstask's names."""
    datasets, where = library("datasets"), f"data set {key!r}: " if key else ""
    if isinstance(given, datasets.Dataset | datasets.IterableDataset):
        given = {"train": given}
    elif not isinstance(given, datasets.DatasetDict | datasets.IterableDatasetDict):
        raise DataError(f"{where}expected a Dataset or DatasetDict of `datasets`, got a {type(given).__name__}")
    for name in (*(splits or {}), *(held_out or {})):
        if name not in SPLITS:
            raise OptionError(f"unknown split {name!r}{nearest(name, SPLITS)}")
    called = {name: next((n for n in (name, *ALSO.get(name, ())) if n in given), None) for name in SPLITS}
    called |= dict(splits or {})
    parts = {}
    for name, theirs in called.items():
        if theirs is not None:
            if theirs not in given:
                raise DataError(f"{where}there is no split {theirs!r}{nearest(theirs, given)}")
            parts[name] = given[theirs]
    if not parts:
        raise DataError(f"{where}which of {', '.join(map(repr, given))} is for training? Say it with splits=")
    for name, share in (held_out or {}).items():
        if name not in parts:
            parts["train"], parts[name] = _divided(parts.get("train"), share, name, seed, where)
    return {name: _at_most(part, limit, seed) for name, part in parts.items()}


def _divided(train: Any, share: float, name: str, seed: int, where: str) -> tuple[Any, Any]:
    """(what is left for training, a split drawn from it)."""
    if isinstance(share, bool) or not isinstance(share, int | float) or not math.isfinite(share):
        raise OptionError(f"{where}held_out: {name} is a share or a number of samples, got {share!r}")
    if not isinstance(train, library("datasets").Dataset):
        raise DataError(f"{where}held_out: there is no training data of a known length to take {name} data from")
    count = round(share * len(train)) if share < 1 else int(share)
    if not 0 < count < len(train):
        raise OptionError(f"{where}held_out: {name}={share:g} of {len(train)} samples leaves nothing on one side")
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed)).tolist()
    return train.select(sorted(order[count:])), train.select(sorted(order[:count]))


def _at_most(part: Any, limit: int | None, seed: int) -> Any:
    """So many samples, drawn: data sets are often sorted by class. Of a stream the first."""
    if limit is None:
        return part
    if not hasattr(part, "__len__"):
        return part.take(limit)
    order = torch.randperm(len(part), generator=torch.Generator().manual_seed(seed)).tolist()
    return part.select(sorted(order[:limit]))


def _features(parts: Mapping[str, Any]) -> Mapping[str, Any]:
    """What is known of the columns; nothing of what is streamed from files that do not say."""
    return next(iter(parts.values())).features or {}


def _columns(parts: Mapping[str, Any], key: str) -> list[str]:
    """Columns that all splits have."""
    names: list[str] = []
    for split, part in parts.items():
        own = part.column_names or list(next(iter(part), {}))
        if not own:
            raise DataError(f"{key + ': ' if key else ''}the {split} data have no columns")
        names = [name for name in names if name in own] if names else list(own)
    return names


def _chosen(wanted: Columns | None, columns: Sequence[str], what: str, key: str) -> tuple[str, ...]:
    """Columns that were named. DataError for what there is not."""
    names = () if wanted is None else (wanted,) if isinstance(wanted, str) else tuple(wanted)
    for name in names:
        if name not in columns:
            raise DataError(
                f"{what}: {f'data set {key!r} has ' if key else 'there is '}no column {name!r}{nearest(name, columns)}"
            )
    return names


def _found_target(columns: Sequence[str], key: str) -> tuple[str, ...]:
    found = [name for name in TARGETS if name in columns]
    if len(found) != 1:
        raise DataError(
            f"{f'data set {key!r}: ' if key else ''}{'several' if found else 'none'} of the columns "
            f"{', '.join(map(repr, columns))} could be the target by its name: say which with target="
        )
    return (found[0],)


def _found_texts(
    features: Mapping[str, Any], columns: Sequence[str], targets: Sequence[str], key: str
) -> tuple[str, ...]:
    """The one column with texts, or with lists of words."""
    found = [n for n in columns if n not in targets and _of_text(features.get(n))]
    if len(found) != 1:
        told = f"the columns {', '.join(map(repr, found))}" if found else "none"
        raise DataError(
            f"{f'data set {key!r}: ' if key else ''}{told} could be the text: say which with text= (two that belong "
            "together are a pair)"
        )
    return (found[0],)


def _is_list(feature: Any) -> bool:
    return getattr(feature, "feature", None) is not None


def _of_text(feature: Any) -> bool:
    inner = feature.feature if _is_list(feature) else feature
    return getattr(inner, "dtype", "") in ("string", "large_string")


# What is to be learned ------------------------------------------------------------------------------------------------


def _goal(task_id: str, column: str, feature: Any, wanted: str | None, words: bool) -> Goal:
    """A target by its feature."""
    inner = feature.feature if _is_list(feature) else feature
    names = _classes(feature)
    numbers = str(getattr(inner, "dtype", "")).startswith("float")
    if _is_list(feature):
        kind = "regression" if numbers else "token_classification" if words else "multilabel"
    else:
        kind = "regression" if numbers else "classification"
    kind = wanted or kind
    size = getattr(feature, "length", -1) if _is_list(feature) else 1
    if kind == "regression" or (kind == "multilabel" and size > 0):
        return Goal(task_id, column, kind, outputs=size if size > 0 else None)
    return Goal(task_id, column, kind, names, len(names) or None)


def _one_order(parts: Mapping[str, Any], column: str, key: str) -> None:
    """DataError where a label is another class in another split."""
    known = {split: _classes((part.features or {}).get(column)) for split, part in parts.items()}
    first = next((split for split, names in known.items() if names), "")
    for split, names in known.items():
        if names and names != known[first]:
            raise DataError(
                f"{f'data set {key!r}: ' if key else ''}the classes of {column!r} are {', '.join(known[first][:5])} in "
                f"the {first} data and {', '.join(names[:5])} in the {split} data: a label would be another class "
                "there. Bring them to one order (`align_labels_with_mapping` of `datasets`)"
            )


def _classes(feature: Any) -> tuple[str, ...]:
    inner = feature.feature if _is_list(feature) else feature
    return tuple(getattr(inner, "names", None) or ())


def _labelled(parts: dict[str, Any], goals: Sequence[Goal]) -> dict[str, Any]:
    """The splits in which something has a label: those of contests are published without."""
    kept = {
        split: part
        for split, part in parts.items()
        if not hasattr(part, "__len__") or any(_known(part, goal) for goal in goals)
    }
    if not kept:
        raise DataError(f"no sample has a label in {', '.join(repr(goal.column) for goal in goals)}")
    return kept


def _known(part: Any, goal: Goal) -> int:
    """How many samples have a label."""
    column = part.with_format(None)[goal.column]
    if goal.kind == "classification" and goal.classes:
        return sum(value is not None and value != -1 for value in column)
    return sum(value is not None for value in column)


def _descriptor(goal: Goal, corpus: Corpus, own: Mapping[str, Mapping[str, TextSplit]]) -> TaskDescriptor:
    train = corpus.parts.get("train")
    reader = next(iter(own[goal.task_id].values()))
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys(reader.tokens.names(), (reader.length,))
    return TaskDescriptor(
        task_id=goal.task_id,
        task_type=goal.kind,
        domain="text",
        classes=goal.classes,
        output_dim=goal.outputs,
        input_shapes=shapes,
        sample_count=_known(train, goal) if hasattr(train, "__len__") else None,
    )


# Tasks ----------------------------------------------------------------------------------------------------------------


def _readers(
    corpora: Sequence[Corpus], tokenizer: Any, max_length: int | None, fields: tuple[str, ...], padding: str
) -> list[dict[str, dict[str, TextSplit]]]:
    """For each data set, by task and split, what reads it; all of one length."""
    found: list[dict[str, dict[str, TextSplit]]] = []
    first: list[TextSplit] = []
    for corpus in corpora:
        own: dict[str, dict[str, TextSplit]] = {}
        if corpus.texts:
            tokens = Tokens(tokenizer, max_length, fields, corpus.words)
            for goal in corpus.goals:
                own[goal.task_id] = {
                    split: TextSplit(part, tokens, corpus.texts, goal.column, goal.kind, goal.classes)
                    for split, part in corpus.parts.items()
                }
            first += own[corpus.goals[0].task_id].values()
        found.append(own)
    if first:
        most = first[0].tokens.max_length
        if padding == "max_length" and most is None:
            raise OptionError(
                "padding='max_length' needs max_length: the tokeniser does not know how long texts may be"
            )
        length = most if padding == "max_length" else max(reader.longest() for reader in first)
        for own in found:
            for splits in own.values():
                for reader in splits.values():
                    reader.length = int(length or 0)
    return found


def _on_one_table(corpus: Corpus, own: Mapping[str, Mapping[str, TextSplit]], options: Mapping[str, Any]) -> list[Task]:
    """Tasks with the same inputs, which are read now."""
    goals = corpus.goals
    inputs: dict[str, list[Any]] = {}
    targets: dict[str, list[Any]] = {goal.task_id: [] for goal in goals}
    rows, count = {}, 0
    for split in corpus.parts:
        begin = count
        batches = [own[goal.task_id][split]() for goal in goals]
        for together in zip(*batches, strict=True):
            for name, tensor in together[0][0].items():
                inputs.setdefault(name, []).append(tensor)
            for goal, (_, column) in zip(goals, together, strict=True):
                targets[goal.task_id].append(column)
            count += len(together[0][1])
        rows[split] = range(begin, count)
    whole = MultiInput({name: torch.cat(parts) for name, parts in inputs.items()})
    return list(
        Portfolio.from_table(
            whole,
            {task_id: _end_to_end(parts) for task_id, parts in targets.items()},
            descriptors={goal.task_id: _descriptor(goal, corpus, own) for goal in goals},
            splits=rows,
            **options,
        )
    )


def _end_to_end(parts: Sequence[Any]) -> Any:
    if all(isinstance(part, torch.Tensor) for part in parts):
        return torch.cat(list(parts))
    return np.concatenate([np.asarray(part, dtype=object) for part in parts])


def _plain(corpus: Corpus, goal: Goal, inputs: Sequence[str], options: Mapping[str, Any]) -> Task:
    """A task without texts: its samples are read as they are."""
    targets = {each.column for each in corpus.goals}
    chosen = list(inputs or [name for name in _columns(corpus.parts, "") if name not in targets])
    train = corpus.parts.get("train")
    descriptor = TaskDescriptor(
        task_id=goal.task_id, task_type=goal.kind, classes=goal.classes, output_dim=goal.outputs,
        sample_count=_known(train, goal) if hasattr(train, "__len__") else None,
    )  # fmt: skip
    splits = {
        split: PlainSplit(part, tuple(chosen), goal.column, goal.kind, goal.classes)
        for split, part in corpus.parts.items()
    }
    return Task(descriptor=descriptor, **{**options, **splits})
