"""A meta-learner at work on one model: what keeps the model and its optimiser between the steps."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from crosstask.errors import DataError, RunError
from crosstask.learning.batched import batch_statistics, forget_statistics
from crosstask.learning.episodes import Episodes
from crosstask.learning.training import device_of
from crosstask.points.meta_learner import MetaLearner
from crosstask.tasks import TensorData


class BaseMetaLearner:
    """A `MetaLearner` with the model it trains and its optimiser, for use without a run.

        trainer = BaseMetaLearner(MAML(num_inner_steps=5), model)
        metrics = trainer.meta_train_step(episodes)
        adapted = trainer.adapt_to_task(support_x, support_y)

    The algorithm is in the learner's hooks `meta_step` and `adapt`; anyone's learner works here, by composition.
    Batches come from `create_meta_batch` or `EpisodeSampler` (crosstask.learning.episodes), or are lists of tasks
    (support inputs, support labels, query inputs, query labels). `optimizer`: of `model`'s parameters (default: the
    learner's own).
    """

    def __init__(self, learner: MetaLearner, model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> None:
        self.learner, self.model, self.optimizer = learner, model, optimizer
        self._prepared = False

    def meta_train_step(self, batch: Episodes | Iterable[Sequence[Any]]) -> dict[str, float]:
        """One step on a batch: metrics, `loss` (of the queries, after adaptation) and `accuracy` among them."""
        episodes = self._prepare(batch)
        if self.optimizer is None:
            self.optimizer = self.learner.optimizer(self.model)
        return self.learner.meta_step(self.model, episodes, self.optimizer)

    def adapt_to_task(self, support_x: Any, support_y: Any, num_steps: int | None = None) -> nn.Module:
        """The model of the task of a support set; columns of its scores follow the labels in rising order."""
        device = device_of(self.model)
        support = TensorData(torch.as_tensor(support_x).to(device), torch.as_tensor(support_y).to(device))
        self._prepare_for(support)
        return self.learner.adapt(self.model, support, num_steps)

    def predict(self, batch: Episodes | Iterable[Sequence[Any]], num_steps: int | None = None) -> Tensor:
        """Scores [B, Q, ways] of the queries of each task after adaptation to its support set."""
        return self.learner.predict(self.model, self._prepare(batch), num_steps)

    def state_dict(self) -> dict[str, Any]:
        """Model, optimiser and learner: everything that training changes."""
        made = None if self.optimizer is None else self.optimizer.state_dict()
        return {"model": self.model.state_dict(), "optimizer": made, "learner": self.learner.state_dict()}

    def load_state_dict(self, state: dict[str, Any], batch: Episodes | Iterable[Sequence[Any]]) -> None:
        """Go on where `state_dict` was taken. `batch`: any tasks like those of the training, to prepare the model."""
        self._prepare(batch)
        self.model.load_state_dict(state["model"])
        self.learner.load_state_dict(state["learner"])
        if state["optimizer"] is not None:
            if self.optimizer is None:
                self.optimizer = self.learner.optimizer(self.model)
            self.optimizer.load_state_dict(state["optimizer"])

    def _prepare(self, batch: Episodes | Iterable[Sequence[Any]]) -> Episodes:
        episodes = (batch if isinstance(batch, Episodes) else Episodes.of(batch)).to(device_of(self.model))
        if not self._prepared:
            self.model, self._prepared = self.learner.prepare(self.model, episodes), True
        return episodes

    def _prepare_for(self, support: TensorData) -> None:
        if not self._prepared:
            one = Episodes(support.inputs[None], support.targets[None], support.inputs[None], support.targets[None])
            self._prepare(one)


def with_parameters(model: nn.Module, parameters: Mapping[str, Tensor]) -> nn.Module:
    """A copy of a model with other values of these parameters, in evaluation mode, as an adaptation leaves it.

    Its batch normalisation goes by the batch that it is given, as it did while the copy was adapted.
    """
    made = copy.deepcopy(model).eval()
    made.zero_grad(set_to_none=True)
    forget_statistics(made)
    own = dict(made.named_parameters())
    with torch.no_grad():
        for name, value in parameters.items():
            own[name].copy_(value)
    return made


def outputs_of(model: nn.Module, inputs: Tensor) -> int:
    """How many outputs a model has, found by asking it for two of the inputs; the model is left as it was."""
    mode = model.training
    model.eval()
    try:
        with torch.no_grad(), batch_statistics(model):
            return int(model(inputs[:2]).shape[-1])
    finally:
        model.train(mode)


def check_head(model: nn.Module, episodes: Episodes) -> None:
    """DataError unless the model has one output for each class of the episodes, or as many as there are values."""
    check_outputs(outputs_of(model, episodes.query_inputs[0]), episodes.query_targets, episodes.ways)


def check_outputs(outputs: int, targets: Tensor, ways: int | None) -> None:
    """The same of a number of outputs, for learners that look at them when they have been computed anyway."""
    if ways is None:
        wanted = targets[0, 0].numel()
        if outputs != wanted:
            raise DataError(f"the tasks have {wanted} values to predict, the model's head has {outputs} outputs")
    elif outputs != ways:
        raise DataError(
            f"the episodes have {ways} classes, the model's head has {outputs} outputs: they must be as many"
        )


def report_divergence(who: str, option: str, rate: float, support: Tensor, query: Tensor) -> None:
    """RunError if an adaptation broke down; a RuntimeWarning if it made the support loss ten times worse, not better.

    `support` [steps, B] are the support losses before each inner step (and after the last, where they are known),
    `query` [B] other losses after the last; `option` is the name of the inner step size and `rate` its value, which
    the message names beside the step and the losses.
    """
    losses = torch.cat([support, query[None]])
    finite = torch.isfinite(losses)
    if not bool(finite.all()):
        step = int((~finite).any(1).nonzero()[0])
        task = int((~finite[step]).nonzero()[0])
        value, before = float(losses[step, task]), float(losses[0, task])
        if step == 0:
            raise RunError(
                f"{who}: the support loss of episode {task} is {value} before the first inner step: inputs, targets or "
                "weights are not finite"
            )
        raise RunError(
            f"{who}: the loss of episode {task} is {value} after {step} inner steps with {option} = {rate:g} (it was "
            f"{before:.4g} before): the inner loop diverges; try a smaller {option}"
        )
    along = support.mean(1)
    if len(support) > 1 and float(along[-1]) > 10 * max(float(along[0]), 1e-3):
        warnings.warn(
            f"{who}: the support loss rises from {float(along[0]):.4g} to {float(along[-1]):.4g} over "
            f"{len(support) - 1} inner steps with {option} = {rate:g}: the inner loop diverges; try a smaller {option}",
            RuntimeWarning,
            stacklevel=3,
        )
