"""Learning tasks one after another with strategies against forgetting."""

from __future__ import annotations

import attrs
from torch import Tensor


@attrs.frozen(eq=False)
class Batch:
    """Samples of one step: `inputs` [N, …], `targets` [N] (or [N, …]) and the task each belongs to, `task_ids` [N]
    (numbers in the order in which tasks came).
    """

    inputs: Tensor
    targets: Tensor
    task_ids: Tensor
