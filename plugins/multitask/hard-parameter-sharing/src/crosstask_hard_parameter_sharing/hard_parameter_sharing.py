"""One trunk for all tasks, a head for each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from crosstask.descriptors import MultiInput
from crosstask.errors import DataError
from crosstask.learning.modules import forward
from crosstask.options import component, option
from crosstask.tasks import Task
from crosstask_multitask.headed import HeadedModule, HeadMaker, Rows
from crosstask_multitask.sharing import Inputs, MultiTaskModule, Sharing


class SharedTrunk(HeadedModule):
    """A trunk and a head per task. `features` holds what the trunk gave in the last forward pass, with graph."""

    def __init__(self, trunk: nn.Module, heads: Mapping[str, nn.Module], maker: HeadMaker | None = None) -> None:
        super().__init__(heads)
        self.trunk, self.maker = trunk, maker or HeadMaker()
        self.features: list[Tensor] = []

    def forward(self, inputs: Inputs, rows: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        self.features = []
        return super().forward(inputs, rows)

    def represent(self, batch: Tensor | MultiInput, rows: Rows) -> dict[str, Tensor]:
        features = forward(self.trunk, batch)
        self.features.append(features)
        return {task: features[places] for task, places in rows.items()}

    def __getstate__(self) -> dict[str, Any]:
        """Copies and files are without the features of the last pass, whose graph cannot be copied."""
        return {**self.__dict__, "features": []}

    def shared_parameters(self) -> Iterator[nn.Parameter]:
        return self.trunk.parameters()

    def make_parts(self, task: Task) -> nn.Module:
        return self.maker.make(task, self.trunk)


@component
class HardParameterSharing(Sharing):
    """Every task learns the same trunk and a head of its own: Caruana, Multitask learning (1997), section 2.

    `build` takes a trunk that maps inputs to features; each head is linear, from F features to output_dim logits, with
    an optional hidden layer (a 1x1 convolution from maps for a segmentation; see `crosstask_multitask.heads.head_for`),
    and initialised from the seed and the task id. DataError for a task without output_dim, or if the trunk gives no
    features that fit it.
    """

    hidden: int = option(0, ge=0, help="width of a ReLU layer in each head; 0 for none")

    def build(self, tasks: list[Task], trunk: nn.Module) -> MultiTaskModule:
        if not tasks:
            raise DataError("hard parameter sharing: no tasks to build heads for")
        maker = HeadMaker(self.hidden, self.context.seed, "hard_parameter_sharing")
        return SharedTrunk(trunk, {task.task_id: maker.make(task, trunk) for task in tasks}, maker)
