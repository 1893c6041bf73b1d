"""Episodes: small tasks with a few labelled samples to adapt to (support) and others to be judged on (query).

A value of the contract of meta-learners, with what every one of them needs: labels made an episode's own, losses of
episodes, accuracies. The package crosstask-meta draws them from data.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor
from torch.nn import functional

from crosstask.descriptors import TensorData
from crosstask.errors import DataError


@attrs.frozen(eq=False)
class Episodes:
    """A batch of B episodes of equal size; labels are relabelled 0..N-1 inside each.

    `support_inputs` [B, S, …], `support_targets` [B, S], `query_inputs` [B, Q, …], `query_targets` [B, Q];
    regression targets have [B, S, …]. `ways` is the number of classes N, or None for regression.
    """

    support_inputs: Tensor
    support_targets: Tensor
    query_inputs: Tensor
    query_targets: Tensor
    ways: int | None = None

    def __attrs_post_init__(self) -> None:
        sizes = {f.name: tuple(getattr(self, f.name).shape[:2]) for f in attrs.fields(Episodes) if f.name != "ways"}
        pairs = (("support_inputs", "support_targets"), ("query_inputs", "query_targets"))
        if any(sizes[a] != sizes[b] for a, b in pairs) or len({size[0] for size in sizes.values()}) > 1:
            told = ", ".join(f"{name} {list(size)}" for name, size in sizes.items())
            raise DataError(f"episodes: inputs and targets must have the same [episodes, samples], got {told}")
        if self.support_inputs.shape[2:] != self.query_inputs.shape[2:]:
            shapes = f"{tuple(self.support_inputs.shape[2:])} and {tuple(self.query_inputs.shape[2:])}"
            raise DataError(f"episodes: support and query inputs have shapes {shapes}")

    def __len__(self) -> int:
        return len(self.support_inputs)

    def support(self, number: int) -> TensorData:
        """The support set of one episode."""
        return TensorData(self.support_inputs[number], self.support_targets[number])

    def query(self, number: int) -> TensorData:
        """The queries of one episode."""
        return TensorData(self.query_inputs[number], self.query_targets[number])

    def split(self, size: int) -> Iterator[Episodes]:
        """Parts of at most `size` episodes, in order."""
        if size >= len(self):
            yield self
            return
        for start in range(0, len(self), size):
            part = slice(start, start + size)
            yield Episodes(
                self.support_inputs[part],
                self.support_targets[part],
                self.query_inputs[part],
                self.query_targets[part],
                self.ways,
            )

    def to(self, *where: Any) -> Episodes:
        """On another device; of another dtype, where a tensor holds floating-point numbers (as `Tensor.to`)."""
        device = [w for w in where if not isinstance(w, torch.dtype)]

        def moved(tensor: Tensor) -> Tensor:
            chosen = where if tensor.is_floating_point() else device
            return tensor.to(*chosen) if chosen else tensor

        return Episodes(
            moved(self.support_inputs),
            moved(self.support_targets),
            moved(self.query_inputs),
            moved(self.query_targets),
            self.ways,
        )

    @classmethod
    def of(cls, tasks: Iterable[Sequence[Any]]) -> Episodes:
        """A batch of tasks (support inputs, support labels, query inputs, query labels), each relabelled by its own
        support set. Floating-point targets make it regression. DataError names the task that does not fit.
        """
        columns: list[list[Tensor]] = [[], [], [], []]
        ways: set[int | None] = set()
        for number, task in enumerate(tasks):
            if len(task) != 4:
                raise DataError(
                    f"task {number} of the batch: support inputs, support targets, query inputs and query targets "
                    f"are needed, got {len(task)} of them"
                )
            sx, sy, qx, qy = (torch.as_tensor(part) for part in task)
            if not sy.is_floating_point():
                try:
                    classes, sy = relabel(sy)
                    qy = places(qy, classes)
                except DataError as error:
                    raise DataError(f"task {number} of the batch: {error}") from None
                ways.add(len(classes))
            else:
                ways.add(None)
            for column, part in zip(columns, (sx, sy, qx, qy), strict=True):
                column.append(part)
        if len(ways) != 1 or any(len({t.shape for t in column}) > 1 for column in columns):
            sizes = [
                f"{len(y)} + {len(q)} samples, {len(y.unique())} classes" for y, q in zip(*columns[1::2], strict=True)
            ]
            raise DataError(f"a batch needs tasks of equal size, got {'; '.join(sizes) or 'none'}")
        sx, sy, qx, qy = (torch.stack(column) for column in columns)
        return cls(sx, sy, qx, qy, ways.pop())


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


def episode_losses(outputs: Tensor, targets: Tensor) -> Tensor:
    """The loss of each episode [B] from its outputs [B, Q, N or …] and targets: cross-entropy of labels [B, Q], mean
    squared error of real values [B, Q, …].
    """
    if targets.is_floating_point():
        return (outputs - targets.reshape(outputs.shape)).square().flatten(1).mean(1)
    found = functional.cross_entropy(outputs.flatten(0, 1), targets.flatten(), reduction="none")
    return found.reshape(targets.shape).mean(1)


def episode_accuracy(scores: Tensor, targets: Tensor) -> Tensor:
    """Share of right answers of each episode [B] from scores [B, Q, N] and labels [B, Q]."""
    return (scores.argmax(dim=-1) == targets).to(torch.get_default_dtype()).mean(dim=1)
