"""The samples of one step."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import torch
from torch import Tensor


@attrs.frozen(eq=False)
class Batch:
    """Samples of one step: `inputs` [N, …], `targets` [N] (numbers of the model's outputs) and the task that each
    belongs to, `task_ids` [N] (numbers in the order in which tasks came).

    The last `replayed` of them come from earlier tasks; `fresh`: the others are seen for the first time (epoch one).
    """

    inputs: Tensor
    targets: Tensor
    task_ids: Tensor
    replayed: int = 0
    fresh: bool = True

    def __len__(self) -> int:
        return len(self.targets)

    def part(self, index: Tensor | slice) -> Batch:
        """Some of the samples."""
        return Batch(self.inputs[index], self.targets[index], self.task_ids[index], 0, self.fresh)

    def current(self) -> Batch:
        """Without those that are replayed."""
        return self.part(slice(len(self) - self.replayed)) if self.replayed else self

    @staticmethod
    def joined(batches: Sequence[Batch]) -> Batch:
        """The first batch with all others as replayed."""
        columns = ([b.inputs for b in batches], [b.targets for b in batches], [b.task_ids for b in batches])
        inputs, targets, task_ids = (torch.cat(column) for column in columns)
        return Batch(inputs, targets, task_ids, batches[0].replayed + sum(map(len, batches[1:])), batches[0].fresh)
