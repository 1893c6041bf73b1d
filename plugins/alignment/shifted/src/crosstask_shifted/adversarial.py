"""The `adversarial` transfer method."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from crosstask.learning.modules import evaluating, forward
from crosstask.learning.objectives import loss_of
from crosstask.learning.training import History, fit
from crosstask.options import component, option
from crosstask.points.transfer import Transfer
from crosstask.records import Budget
from crosstask.tasks import Task
from crosstask_shifted.attacks import pgd
from crosstask_shifted.ranges import Range, range_of


@component
class AdversarialTransfer(Transfer):
    """Fine-tuning on the worst case in a ball around each input: in every step the batch is first moved against the
    model by `pgd`, within `radius` times the width of the inputs' range (Madry et al. 2018, equation 2.1).

    A step takes as many passes more as the attack has steps. What is gained against attacks is often paid for with
    accuracy on the data as they are.
    """

    radius: float = option(0.05, gt=0, le=1, help="of the ball, as a part of the inputs' range")
    attack_steps: int = option(5, ge=1, help="of the attack in every training step")
    share: float = option(1.0, gt=0, le=1, help="of each batch that is attacked; the rest is learned as it is")

    def learn(
        self, model: nn.Module, source: nn.Module, task: Task, budget: Budget, generator: torch.Generator
    ) -> History:
        made = task.over(**{s: task.data(s) for s in ("train", "validation") if task.has_data(s)})
        attacked = _Attacked(self, model, task, range_of(task), generator)
        made.loss = attacked.loss
        mode = model.training
        try:
            return fit(attacked, made, budget, generator)
        finally:
            model.train(mode)


class _Attacked(nn.Module):
    """A model, and a loss of it that is of the batch that went in last, moved against it."""

    def __init__(
        self, method: AdversarialTransfer, model: nn.Module, task: Task, known: Range, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.model = model
        self._method, self._task, self._known = method, task, known
        self._generator = generator.clone_state()  # the batches are those of a training without attacks
        self._loss = loss_of(task)
        self._inputs: Tensor | None = None

    def forward(self, inputs: Tensor) -> Tensor:
        if not self.training:
            return forward(self.model, inputs)
        self._inputs = inputs
        with torch.no_grad(), evaluating(self.model):  # for whoever looks at outputs; statistics are of what is learned
            return forward(self.model, inputs)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The task's loss on the batch, of which a share is attacked."""
        inputs, method = self._inputs, self._method
        assert inputs is not None
        count = max(1, round(method.share * len(inputs)))
        moved = pgd(
            self.model, self._task, inputs[:count], targets[:count], method.radius * self._known.width, self._known,
            self._generator, steps=method.attack_steps, step=2.5 / method.attack_steps, sure=False,
        )  # fmt: skip
        return self._loss(forward(self.model, torch.cat([moved, inputs[count:]])), targets)
