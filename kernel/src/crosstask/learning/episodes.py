"""Episodes: small tasks with a few labelled samples to adapt to (support) and others to be judged on (query).

A value of the contract of meta-learners, with what every one of them needs: labels made an episode's own, losses of
episodes, accuracies. The package crosstask-meta draws them from data.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor
from torch.nn import functional

from crosstask.descriptors import TensorData
from crosstask.errors import DataError


@attrs.frozen(eq=False)
class Episodes:
    """A batch of B episodes; labels are relabelled 0..N-1 inside each.

    `support_inputs` [B, S, …], `support_targets` [B, S], `query_inputs` [B, Q, …], `query_targets` [B, Q];
    regression targets have [B, S, …]. `ways` is the number of classes N, or None for regression. S and Q are those of
    the largest episode: `support_mask` [B, S] and `query_mask` [B, Q] are False where a smaller one is padded, and None
    where none is. What stands in a padded place does not matter: it becomes a repetition of a sample of the episode, so
    that no module meets an input that it could not meet anyway. Q may be 0 (see `MetaLearner`). `names`: of the tasks.
    """

    support_inputs: Tensor
    support_targets: Tensor
    query_inputs: Tensor
    query_targets: Tensor
    ways: int | None = None
    support_mask: Tensor | None = None
    query_mask: Tensor | None = None
    names: tuple[str, ...] = ()

    def __attrs_post_init__(self) -> None:
        sizes = {name: tuple(getattr(self, name).shape[:2]) for name in _TENSORS}
        pairs = (("support_inputs", "support_targets"), ("query_inputs", "query_targets"))
        if any(sizes[a] != sizes[b] for a, b in pairs) or len({size[0] for size in sizes.values()}) > 1:
            told = ", ".join(f"{name} {list(size)}" for name, size in sizes.items())
            raise DataError(f"episodes: inputs and targets must have the same [episodes, samples], got {told}")
        if self.support_inputs.shape[2:] != self.query_inputs.shape[2:]:
            shapes = f"{tuple(self.support_inputs.shape[2:])} and {tuple(self.query_inputs.shape[2:])}"
            raise DataError(f"episodes: support and query inputs have shapes {shapes}")
        if self.names and len(self.names) != len(self):
            raise DataError(f"episodes: {len(self.names)} names for {len(self)} episodes")
        for part in ("support", "query"):
            self._clean(part, sizes[f"{part}_inputs"])

    def _clean(self, part: str, size: tuple[int, ...]) -> None:
        """Check the mask of one part; put samples where its padding is, or take off a mask that hides nothing."""
        mask: Tensor | None = getattr(self, f"{part}_mask")
        if mask is None:
            return
        if mask.dtype != torch.bool or tuple(mask.shape) != size:
            raise DataError(f"episodes: {part}_mask must be bool {list(size)}, got {mask.dtype} {list(mask.shape)}")
        none = (~mask.any(1)).nonzero().flatten().tolist()
        if none and part == "support":
            raise DataError(f"episodes: {self.name(none[0])} has no support sample that is not masked")
        if bool(mask.all()):
            object.__setattr__(self, f"{part}_mask", None)
            return
        first, each = mask.int().argmax(1), torch.arange(len(mask), device=mask.device)
        for what in ("inputs", "targets"):
            values: Tensor = getattr(self, f"{part}_{what}")
            real = values[each, first]
            if none:  # no queries: a support sample is as good
                other: Tensor = getattr(self, f"support_{what}")
                real = torch.where(_over(mask.any(1), real), real, other[:, 0].to(real.dtype))
            object.__setattr__(self, f"{part}_{what}", torch.where(_over(mask, values), values, real[:, None]))

    def __len__(self) -> int:
        return len(self.support_inputs)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """Each task without padding: (support inputs, support targets, query inputs, query targets)."""
        for number in range(len(self)):
            support, query = self.support(number), self.query(number)
            yield support.inputs, support.targets, query.inputs, query.targets

    @property
    def padded(self) -> bool:
        """Whether some episodes are smaller than others."""
        return self.support_mask is not None or self.query_mask is not None

    @property
    def support_counts(self) -> Tensor:
        """How many support samples each episode has [B]."""
        return _counts(self.support_targets, self.support_mask)

    @property
    def query_counts(self) -> Tensor:
        """How many queries each episode has [B]."""
        return _counts(self.query_targets, self.query_mask)

    def name(self, number: int) -> str:
        """What a message calls an episode."""
        return f"task {self.names[number]!r}" if self.names else f"episode {number}"

    def support(self, number: int) -> TensorData:
        """The support set of one episode, without padding."""
        return _real(self.support_inputs[number], self.support_targets[number], self.support_mask, number)

    def query(self, number: int) -> TensorData:
        """The queries of one episode, without padding."""
        return _real(self.query_inputs[number], self.query_targets[number], self.query_mask, number)

    def select(self, rows: slice | Tensor) -> Episodes:
        """Some of the episodes."""
        tensors: dict[str, Any] = {name: getattr(self, name) for name in (*_TENSORS, *_MASKS)}
        places = range(len(self))[rows] if isinstance(rows, slice) else rows.tolist()
        names = tuple(self.names[place] for place in places) if self.names else ()
        chosen: dict[str, Any] = {name: None if tensor is None else tensor[rows] for name, tensor in tensors.items()}
        return Episodes(**chosen, ways=self.ways, names=names)

    def split(self, size: int) -> Iterator[Episodes]:
        """Parts of at most `size` episodes, in order."""
        if size >= len(self):
            yield self
            return
        for start in range(0, len(self), size):
            yield self.select(slice(start, start + size))

    def equal(self) -> Iterator[tuple[Tensor, Episodes]]:
        """(numbers of the episodes, they themselves) for each pair of sizes that there is: parts without padding."""
        if not self.padded:
            yield torch.arange(len(self), device=self.support_targets.device), self
            return
        sizes = torch.stack([self.support_counts, self.query_counts], dim=1)
        for support, query in torch.unique(sizes, dim=0).tolist():
            rows = ((sizes[:, 0] == support) & (sizes[:, 1] == query)).nonzero().flatten()
            part = self.select(rows)
            made: dict[str, Any] = {"support_mask": None, "query_mask": None}
            for name, mask, size in (("support", part.support_mask, support), ("query", part.query_mask, query)):
                places = None if mask is None else mask.int().argsort(dim=1, descending=True, stable=True)[:, :size]
                for what in ("inputs", "targets"):
                    values: Tensor = getattr(part, f"{name}_{what}")
                    made[f"{name}_{what}"] = values if places is None else _taken(values, places)
            yield rows, attrs.evolve(part, **made)

    def to(self, *where: Any) -> Episodes:
        """On another device; of another dtype, where a tensor holds floating-point numbers (as `Tensor.to`)."""
        device = [w for w in where if not isinstance(w, torch.dtype)]

        def moved(tensor: Tensor | None) -> Any:
            if tensor is None:
                return None
            chosen = where if tensor.is_floating_point() else device
            return tensor.to(*chosen) if chosen else tensor

        return attrs.evolve(self, **{name: moved(getattr(self, name)) for name in (*_TENSORS, *_MASKS)})

    @classmethod
    def of(cls, tasks: Iterable[Sequence[Any]] | Mapping[str, Sequence[Any]]) -> Episodes:
        """A batch of tasks (support inputs, support labels, query inputs, query labels), each relabelled by its own
        support set; of pairs (inputs, labels), which have no queries; of a mapping, whose keys become `names`.

        Tasks of fewer samples than others are padded. Floating-point targets make it regression. DataError names the
        task that does not fit.
        """
        names = tuple(map(str, tasks)) if isinstance(tasks, Mapping) else ()
        columns: list[list[Tensor]] = [[], [], [], []]
        ways: list[int | None] = []
        for number, task in enumerate(tasks.values() if isinstance(tasks, Mapping) else tasks):
            who = f"task {names[number]!r}" if names else f"task {number} of the batch"
            parts, classes = _task_of(task, who)
            ways.append(classes)
            for column, part in zip(columns, parts, strict=True):
                column.append(part)
        told = [
            f"{len(s)} + {len(q)} samples" + (f", {n} classes" if n else "")
            for s, q, n in zip(*columns[1::2], ways, strict=True)
        ]
        if len(set(ways)) != 1:
            raise DataError(
                f"the tasks of a batch need the same number of classes, got {'; '.join(told) or 'none'}: a model has "
                "one output for each; make a batch of those that have as many"
            )
        for what, both in (("inputs", columns[0] + columns[2]), ("targets", columns[1] + columns[3])):
            shapes = sorted({tuple(part.shape[1:]) for part in both})
            if len(shapes) > 1:
                raise DataError(f"the tasks of a batch need {what} of one shape, got {', '.join(map(str, shapes))}")
        kind = functools.reduce(torch.promote_types, (part.dtype for part in columns[0] + columns[2]))
        (sx, mask), (sy, _), (qx, asked), (qy, _) = (
            pad([part.to(kind) for part in column] if place in (0, 2) else column)
            for place, column in enumerate(columns)
        )
        return cls(sx, sy, qx, qy, ways[0], mask, asked, names)


_TENSORS = ("support_inputs", "support_targets", "query_inputs", "query_targets")
_MASKS = ("support_mask", "query_mask")


def _task_of(task: Any, who: str) -> tuple[tuple[Tensor, Tensor, Tensor, Tensor], int | None]:
    """(support inputs, targets, query inputs, targets) of one task, relabelled, and its number of classes."""
    if not isinstance(task, Sequence) or isinstance(task, str) or len(task) not in (2, 4):
        several = isinstance(task, Sequence) and not isinstance(task, str)
        got = f"{len(task)} of them" if several else f"a {type(task).__name__}"
        raise DataError(
            f"{who}: support inputs, support targets, query inputs and query targets are needed, or inputs and targets "
            f"without queries, got {got}"
        )
    try:
        sx, sy, *rest = (torch.as_tensor(part) for part in task)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"{who}: its inputs and targets must be tensors or arrays ({error})") from None
    qx, qy = rest or (sx[:0], sy[:0])
    for what, x, y in (("support", sx, sy), ("query", qx, qy)):
        if x.ndim == 0 or y.ndim == 0 or len(x) != len(y):
            raise DataError(f"{who}: {what} inputs {list(x.shape)} and targets {list(y.shape)} have unequal lengths")
    if not len(sx):
        raise DataError(f"{who}: the support set has no samples")
    if sy.is_floating_point():
        return (sx, sy, qx, qy.to(sy.dtype)), None
    try:
        classes, sy = relabel(sy)
        return (sx, sy, qx, places(qy, classes)), len(classes)
    except DataError as error:
        raise DataError(f"{who}: {error}") from None


def pad(parts: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
    """(parts [N_b, …] of unequal lengths in one tensor [B, max N_b, …], where it holds a sample [B, N]; None where all
    are equally long). Padding repeats a part's first sample; of an empty part it is zero.
    """
    longest = max(len(part) for part in parts)
    if all(len(part) == longest for part in parts):
        return torch.stack(list(parts)), None
    rows = []
    for part in parts:
        more = longest - len(part)
        filled = part[:1].expand(more, *part.shape[1:]) if len(part) else part.new_zeros(more, *part.shape[1:])
        rows.append(torch.cat([part, filled]))
    lengths = torch.tensor([len(part) for part in parts], device=parts[0].device)
    return torch.stack(rows), torch.arange(longest, device=lengths.device) < lengths[:, None]


def _over(mask: Tensor, values: Tensor) -> Tensor:
    return mask.reshape(*mask.shape, *(1,) * (values.ndim - mask.ndim))


def _counts(targets: Tensor, mask: Tensor | None) -> Tensor:
    return torch.full(targets.shape[:1], targets.shape[1], device=targets.device) if mask is None else mask.sum(1)


def _real(inputs: Tensor, targets: Tensor, mask: Tensor | None, number: int) -> TensorData:
    return TensorData(inputs, targets) if mask is None else TensorData(inputs[mask[number]], targets[mask[number]])


def _taken(values: Tensor, places: Tensor) -> Tensor:
    return values[torch.arange(len(values), device=values.device)[:, None], places]


def relabel(labels: Tensor) -> tuple[Tensor, Tensor]:
    """(the classes [N] in rising order, each sample's place among them [S]) of any integer labels [S].

    DataError for fewer than two classes: there would be nothing to tell apart.
    """
    if labels.ndim != 1 or labels.is_floating_point():
        raise DataError(f"a support set needs one integer label per sample, got {labels.dtype} {tuple(labels.shape)}")
    classes, places = torch.unique(labels, return_inverse=True)
    if len(classes) < 2:
        found = f"one class, {int(classes[0])} ({len(labels)} samples)" if len(classes) else "no samples"
        raise DataError(f"the support set has {found}: there is nothing to tell apart; give samples of two or more")
    return classes, places


def of_task(support: TensorData, outputs: int | None = None) -> tuple[TensorData, int | None]:
    """(a support set relabelled 0..N-1 in the order of its labels, N); regression (real targets) as it is, with None.

    `outputs`: how many outputs the model has, for learners whose model has one for each class. DataError if the task
    has another number of classes.
    """
    if support.targets.is_floating_point():
        return support, None
    classes, labels = relabel(support.targets)
    if outputs is not None and outputs != len(classes):
        told = ", ".join(map(str, classes.tolist()[:12]))
        raise DataError(
            f"the support set has {len(classes)} classes (labels {told}), the model's head has {outputs} outputs: "
            "they must be as many; give the model another head, or the task other samples"
        )
    return TensorData(support.inputs, labels), len(classes)


def places(labels: Tensor, classes: Tensor) -> Tensor:
    """Where each label [Q] stands among the rising `classes` [N]. DataError names labels that are none of them."""
    found = torch.searchsorted(classes, labels.contiguous()).clamp_max(len(classes) - 1)
    strange = classes[found] != labels
    if bool(strange.any()):
        unknown = sorted(set(labels[strange].tolist()))
        raise DataError(f"query labels {unknown[:5]} are not among the classes of the support set {classes.tolist()}")
    return found


def episode_losses(outputs: Tensor, targets: Tensor, mask: Tensor | None = None) -> Tensor:
    """The loss of each episode [B] from its outputs [B, Q, N or …] and targets: cross-entropy of labels [B, Q], mean
    squared error of real values [B, Q, …]. Samples that `mask` [B, Q] leaves out do not count.
    """
    if targets.is_floating_point():
        each = (outputs - targets.reshape(outputs.shape)).square().reshape(*targets.shape[:2], -1).mean(2)
    else:
        found = functional.cross_entropy(outputs.flatten(0, 1), targets.flatten(), reduction="none")
        each = found.reshape(targets.shape)
    return episode_means(each, mask)


def episode_accuracy(scores: Tensor, targets: Tensor, mask: Tensor | None = None) -> Tensor:
    """Share of right answers of each episode [B] from scores [B, Q, N] and labels [B, Q], those of `mask` only."""
    return episode_means((scores.argmax(dim=-1) == targets).to(torch.get_default_dtype()), mask)


def episode_means(values: Tensor, mask: Tensor | None) -> Tensor:
    """The mean [B] over the samples of each episode [B, Q], those of `mask` only (0 where it leaves none)."""
    if mask is None:
        return values.mean(1)
    return torch.where(mask, values, 0).sum(1) / mask.sum(1).clamp_min(1)
