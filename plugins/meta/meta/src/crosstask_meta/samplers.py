"""N-way K-shot episodes drawn from any labelled data; classes of it (or writers) kept apart for the test."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from crosstask.descriptors import TaskDescriptor, TensorData
from crosstask.errors import DataError, nearest
from crosstask.learning.episodes import Episodes
from crosstask.reading import read_split
from crosstask.tasks import Task


class EpisodeSampler:
    """Draws batches of N-way K-shot episodes.

    `data`: a `Task` (its `split`), `TensorData`, a pair (inputs, labels) of tensors or arrays, or a list of these: each
    episode is then drawn from one of them, all equally often. Labels may be any integers. Every episode has `ways`
    classes in random order with `shots` support samples and `queries` queries of each, no sample twice. With
    `ways=None` targets are values: an episode has `shots` + `queries` samples of one data set.

    All episodes of a batch come from two gathers, whatever their number. DataError names a data set with too few
    classes, and classes with too few samples, with their counts.
    """

    def __init__(
        self, data: Any, *, ways: int | None = 5, shots: int = 1, queries: int = 15, split: str = "train"
    ) -> None:
        if (ways is not None and ways < 2) or shots < 1 or queries < 1:
            raise DataError(f"episodes need ways >= 2, shots >= 1, queries >= 1, got {ways}, {shots}, {queries}")
        self.ways, self.shots, self.queries = ways, shots, queries
        sources = [_labelled(item, split, number) for number, item in enumerate(data if _several(data) else [data])]
        if not sources:
            raise DataError("no data to draw episodes from")
        shapes = {tuple(data.inputs.shape[1:]) for _, data, _ in sources}
        if len(shapes) > 1:
            told = ", ".join(f"{name} {tuple(data.inputs.shape[1:])}" for name, data, _ in sources)
            raise DataError(f"data sets of one batch of episodes need inputs of one shape, got {told}")
        one = len(sources) == 1
        self._inputs = sources[0][1].inputs if one else torch.cat([data.inputs for _, data, _ in sources])
        self._targets = sources[0][1].targets if one else torch.cat([data.targets for _, data, _ in sources])
        rows, sizes, classes = [], [], []
        start = 0
        for name, own, names in sources:
            labels = own.targets.cpu() if ways is not None else torch.zeros(len(own), dtype=torch.long)
            values, counts = torch.unique(labels, return_counts=True)
            self._check(name, [names.get(v, str(v)) for v in values.tolist()], counts.tolist())
            rows.append(start + torch.argsort(labels, stable=True))
            sizes.append(counts)
            classes.append(len(values))
            start += len(own)
        self._rows = torch.cat(rows).to(self._inputs.device)
        self._sizes = torch.cat(sizes)
        self._starts = self._sizes.cumsum(0) - self._sizes  # of each class in `rows`
        self._classes = torch.tensor(classes)
        self._first = self._classes.cumsum(0) - self._classes  # class of each source

    def sample(self, count: int, generator: torch.Generator | None = None) -> Episodes:
        """`count` episodes, by torch's own random numbers where no generator is given."""
        source = torch.randint(len(self._classes), (count,), generator=generator)
        chosen = self._first[source, None] + _distinct(self._classes[source], self.ways or 1, generator)
        size = self.shots + self.queries
        place = _distinct(self._sizes[chosen].flatten(), size, generator).reshape(*chosen.shape, size)
        place = (place + self._starts[chosen, None]).to(self._rows.device)
        support = self._rows[place[:, :, : self.shots].flatten(1)]
        query = self._rows[place[:, :, self.shots :].flatten(1)]
        return Episodes(
            _gather(self._inputs, support), self._labels(support), _gather(self._inputs, query), self._labels(query),
            self.ways,
        )  # fmt: skip

    def _labels(self, rows: Tensor) -> Tensor:
        if self.ways is None:
            return _gather(self._targets, rows)
        own = torch.arange(self.ways, device=self._targets.device).repeat_interleave(rows.shape[1] // self.ways)
        return own.expand(len(rows), -1).contiguous()

    def _check(self, name: str, names: list[str], counts: list[int]) -> None:
        told = ", ".join(names[:12]) + (", …" if len(names) > 12 else "")
        if self.ways is not None and len(names) < self.ways:
            raise DataError(f"{self.ways}-way episodes need {self.ways} classes, {name} has {len(names)}: {told}")
        needed = self.shots + self.queries
        few = [f"{label} has {n}" for label, n in zip(names, counts, strict=True) if n < needed]
        if few:
            of_each = "samples" if self.ways is None else "samples of each class"
            where = f"{name}" if self.ways is None else f"in {name}, class {'; class '.join(few[:8])}"
            where += f" has {counts[0]}" if self.ways is None else ("; …" if len(few) > 8 else "")
            raise DataError(
                f"{self.shots} support and {self.queries} query samples need {needed} {of_each}: {where}. "
                "Ask for fewer, or leave small classes out"
            )


def create_meta_batch(
    tasks: Any,
    batch_size: int = 4,
    *,
    ways: int | Literal["auto"] | None = "auto",
    shots: int | None = None,
    queries: int | None = None,
    split: str = "train",
    generator: torch.Generator | None = None,
) -> Episodes:
    """One batch of tasks for a meta-step, drawn with the generator (default: torch's own random numbers).

    `tasks`: a list of tasks that are episodes already, (support inputs, support targets, query inputs, query targets),
    or a mapping that names them: `batch_size` different ones, all where there are no more, padded where they are of
    unequal sizes; or labelled data, a pair (inputs, labels), a `Task` (its `split`), several of them or a portfolio:
    episodes are drawn from it, see `EpisodeSampler` and `sampler_of`, which are quicker for many batches.
    """
    if batch_size < 1:
        raise DataError(f"a batch needs at least one task, batch_size is {batch_size}")
    if isinstance(tasks, Episodes):
        rows = _some(len(tasks), batch_size, generator)
        return tasks if rows is None else tasks.select(rows.to(tasks.support_targets.device))
    made = sampler_of(tasks, ways=ways, shots=shots, queries=queries, split=split)
    if made is not None:
        return made.sample(batch_size, generator)
    given = [tasks] if isinstance(tasks, tuple) else tasks
    rows = _some(len(given), batch_size, generator)
    if rows is None:
        return Episodes.of(given)
    if isinstance(given, Mapping):
        names = list(given)
        return Episodes.of({names[row]: given[names[row]] for row in rows.tolist()})
    return Episodes.of([given[row] for row in rows.tolist()])


def sampler_of(
    tasks: Any,
    *,
    ways: int | Literal["auto"] | None = "auto",
    shots: int | None = None,
    queries: int | None = None,
    split: str = "train",
) -> EpisodeSampler | None:
    """The sampler of labelled data, with sizes that suit it where none are given: five classes or as many as there are,
    one support sample of each and 15 queries or as many as the smallest class has left; of values (floating-point
    targets) five support samples. None for tasks that are episodes already.
    """
    if isinstance(tasks, Episodes) or _given(tasks):
        return None
    data = list(tasks.values()) if isinstance(tasks, Mapping) else tasks
    found = [_labelled(item, split, number)[1] for number, item in enumerate(data if _several(data) else [data])]
    values = any(own.targets.is_floating_point() for own in found)
    if ways == "auto":
        ways = None if values or not found else min(5, *(len(torch.unique(own.targets)) for own in found))
    shots = shots or (5 if ways is None else 1)
    if queries is None and found:
        counts = [
            len(own) if ways is None else int(torch.unique(own.targets, return_counts=True)[1].min()) for own in found
        ]
        queries = max(1, min(15, *(count - shots for count in counts)))
    return EpisodeSampler(data, ways=ways, shots=shots, queries=queries or 1, split=split)


def _given(tasks: Any) -> bool:
    """Whether these are episodes already: four tensors each."""
    if isinstance(tasks, tuple) and len(tasks) == 4:
        return True
    if not isinstance(tasks, Mapping | list | tuple) or not len(tasks) or isinstance(tasks, tuple):
        return False
    each = tasks.values() if isinstance(tasks, Mapping) else tasks
    return all(isinstance(task, tuple | list) and len(task) == 4 for task in each)


def _some(count: int, size: int, generator: torch.Generator | None) -> Tensor | None:
    """`size` of so many, in random order; None for all of them as they are."""
    return None if size >= count else torch.randperm(count, generator=generator)[:size]


def split_classes(
    data: Task | TensorData | tuple[Any, Any], held_out: int | Sequence[Any], generator: torch.Generator | None = None
) -> tuple[TensorData, TensorData]:
    """(data of the other classes, data of the classes held out): no class is in both. Labels stay as they are.

    `held_out`: labels or class names, or how many, drawn with the generator.
    """
    name, own, names = _labelled(data, "train", 0)
    known = {names.get(v, str(v)): v for v in torch.unique(own.targets).tolist()}
    if not isinstance(held_out, int):
        held_out = [known.get(str(value), value) for value in held_out]
    return _split(own, own.targets, held_out, generator, f"{name}: class", {v: n for n, v in known.items()})


def split_groups(
    data: Task | TensorData | tuple[Any, Any],
    groups: Any,
    held_out: int | Sequence[Any],
    generator: torch.Generator | None = None,
) -> tuple[TensorData, TensorData]:
    """Like `split_classes` by a number per sample, `groups` [N]: who drew it, who wrote it, when it was taken."""
    name, own, _ = _labelled(data, "train", 0)
    numbers = torch.as_tensor(groups).reshape(-1)
    if len(numbers) != len(own):
        raise DataError(f"{name}: {len(numbers)} groups for {len(own)} samples")
    return _split(own, numbers, held_out, generator, f"{name}: group", {})


def _split(
    data: TensorData, values: Tensor, held_out: Any, generator: torch.Generator | None, what: str, names: dict[Any, str]
) -> tuple[TensorData, TensorData]:
    known = torch.unique(values).tolist()
    if isinstance(held_out, int):
        if generator is None:
            raise DataError(f"{what}: drawing {held_out} to hold out needs a generator")
        order = torch.randperm(len(known), generator=generator).tolist()
        chosen = [known[place] for place in order[:held_out]]
    else:
        chosen = list(held_out)
    for value in chosen:
        if value not in known:
            raise DataError(
                f"{what} {value!r} is not in the data{nearest(value, [names.get(v, str(v)) for v in known])}"
            )
    if not 0 < len(set(chosen)) < len(known):
        raise DataError(f"{what}: {len(set(chosen))} of {len(known)} held out; both sides need at least one")
    out = torch.isin(values, torch.tensor(sorted(set(chosen)), dtype=values.dtype, device=values.device))
    out = out.to(data.inputs.device)
    return TensorData(data.inputs[~out], data.targets[~out]), TensorData(data.inputs[out], data.targets[out])


def _several(data: Any) -> bool:
    """A tuple is one pair (inputs, labels); every other iterable of data sets is several."""
    return not isinstance(data, Task | TensorData | tuple) and isinstance(data, Iterable)


def _labelled(item: Any, split: str, number: int) -> tuple[str, TensorData, dict[int, str]]:
    """(name for messages, data, class names by label)."""
    if isinstance(item, Task):
        names = dict(enumerate(item.descriptor.classes))
        data = item.data(split)
        if not isinstance(data.inputs, Tensor):
            raise DataError(f"task {item.task_id!r} has several inputs; episodes need one tensor [samples, …]")
        return f"task {item.task_id!r}", data, names
    # As values: labels may be any integers here
    data = read_split(item, TaskDescriptor(task_id=f"data set {number}", task_type="labelled"), "given")
    return f"data set {number}", data, {}


def _distinct(sizes: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
    """For each of `sizes` [M], `count` different integers below it in random order: [M, count]."""
    largest = int(sizes.max())
    if largest <= 4096:
        keys = torch.rand(len(sizes), largest, generator=generator)
        if int(sizes.min()) < largest:
            keys.masked_fill_(torch.arange(largest) >= sizes[:, None], 2.0)
        return keys.topk(count, largest=False).indices
    # Floyd's algorithm (Bentley & Floyd 1987), all rows at once: its cost does not depend on the sizes
    found = torch.full((len(sizes), count), -1)
    for step in range(count):
        last = sizes - count + step
        drawn = (torch.rand(len(sizes), generator=generator, dtype=torch.float64) * (last + 1)).long()
        drawn = torch.minimum(drawn, last)
        found[:, step] = torch.where((found == drawn[:, None]).any(1), last, drawn)
    return found.gather(1, torch.rand(found.shape, generator=generator).argsort(1))


def _gather(values: Tensor, rows: Tensor) -> Tensor:
    return values.index_select(0, rows.flatten()).reshape(*rows.shape, *values.shape[1:])
