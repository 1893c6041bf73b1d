"""Recommenders with the network in hand: users are tasks, given as tensors of features and ratings.

    recommender = MAMLRecommender(input_dim=8)
    loss = recommender.meta_update([(support_x, support_y, query_x, query_y), …])
    params = recommender.adapt_to_new_task(support_x, support_y)
    ratings = recommender(items_x, params)

Each is a network and a meta-learner of the registry at work on it. Users may have unequal numbers of ratings.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from crosstask.errors import DataError, OptionError, nearest
from crosstask.learning.episodes import Episodes, episode_losses, relabel
from crosstask.learning.functional import call
from crosstask.options import structure
from crosstask_meta import BaseMetaLearner
from crosstask_meta.adaptation import gradients

Params = dict[str, Tensor]
"""Parameters of a network by name."""


def layers(input_dim: int, hidden_dims: Sequence[int], output_dim: int, dropout_rate: float) -> nn.Sequential:
    """Linear, ReLU and dropout of each hidden width, and a linear layer. OptionError for sizes that cannot be."""
    widths: tuple[int, ...] = structure(hidden_dims, tuple[int, ...], "hidden_dims")
    for told, size in (("input_dim", input_dim), ("output_dim", output_dim), *(("hidden_dims", w) for w in widths)):
        if structure(size, int, told) < 1:
            raise OptionError(f"{told} must be at least 1, got {size}")
    if not 0 <= structure(dropout_rate, float, "dropout_rate") < 1:
        raise OptionError(f"dropout_rate must be at least 0 and less than 1, got {dropout_rate}")
    made: list[nn.Module] = []
    for before, after in itertools.pairwise((input_dim, *widths)):
        made += [nn.Linear(before, after), nn.ReLU(), nn.Dropout(dropout_rate)]
    return nn.Sequential(*made, nn.Linear((input_dim, *widths)[-1], output_dim))


def _steps(given: Any) -> int:
    steps: int = structure(given, int, "num_steps")
    if steps < 0:
        raise OptionError(f"num_steps must be at least 0, got {steps}")
    return steps


class _Recommender(nn.Module):
    """A network of features [N, input_dim], and the meta-learner that trains it."""

    def __init__(self, network: nn.Sequential, learner: str, **options: Any) -> None:
        super().__init__()
        self.network = network
        self.learner = BaseMetaLearner(network, learner, **options)

    @property
    def input_dim(self) -> int:
        first = next(part for part in self.network if isinstance(part, nn.Linear))
        return first.in_features

    def _inputs(self, x: Any, who: str) -> Tensor:
        made = torch.as_tensor(x)
        if made.ndim != 2 or made.shape[1] != self.input_dim:
            raise DataError(f"{type(self).__name__}: {who} must be [N, {self.input_dim}], got {list(made.shape)}")
        return made.to(next(self.network.parameters()))


class _GradientSteps(_Recommender):
    """A network that adapts to a user by gradient steps."""

    algorithm: ClassVar[str]
    steps: ClassVar[int]

    def __init__(
        self,
        input_dim: int,
        hidden_dims: Sequence[int] = (128, 64),
        output_dim: int = 1,
        meta_lr: float = 0.01,
        inner_lr: float = 0.1,
        dropout_rate: float = 0.2,
        **options: Any,
    ) -> None:
        network = layers(input_dim, hidden_dims, output_dim, dropout_rate)
        options = {"lr_meta": meta_lr, "lr_inner": inner_lr, "num_inner_steps": self.steps, **options}
        super().__init__(network, self.algorithm, **options)
        self.output_dim, self.meta_lr, self.inner_lr = output_dim, meta_lr, inner_lr

    def forward(self, x: Tensor, params: Mapping[str, Tensor] | None = None) -> Tensor:
        """Predictions [N, output_dim] of the network, or with other parameters: all of them, by name."""
        inputs = self._inputs(x, "inputs")
        if params is None:
            made: Tensor = self.network(inputs)
            return made
        own = dict(self.network.named_parameters())
        for what, names, valid in (("has no", own, params), ("holds an unknown", params, own)):
            if wrong := [name for name in names if name not in valid]:
                raise DataError(f"{type(self).__name__}: params {what} {wrong[0]!r}{nearest(wrong[0], valid)}")
        for name, value in own.items():
            if params[name].shape != value.shape:
                told = f"{list(params[name].shape)}, not {list(value.shape)}"
                raise DataError(f"{type(self).__name__}: {name!r} of params has the shape {told}")
        return call(self.network, params, inputs)

    def adapt_to_new_task(self, support_x: Any, support_y: Any, num_steps: int = 5) -> Params:
        """The parameters of a user with these ratings: plain tensors, without a graph. Dropout is off."""
        x, y = self._task((support_x, support_y), "the support set")
        adapted = self.learner.adapt_to_task(x, y, _steps(num_steps))
        return {name: value.detach() for name, value in adapted.named_parameters()}

    def _task(self, task: Any, who: str, sizes: tuple[int, ...] = (2,)) -> tuple[Tensor, ...]:
        """The tensors of a task: targets [N, output_dim] of values, [N] of labels."""
        if not isinstance(task, Sequence) or len(task) not in sizes:
            told = " or ".join(f"{size} tensors" for size in sizes)
            got = f"{len(task)}" if isinstance(task, Sequence) else f"a {type(task).__name__}"
            raise DataError(f"{type(self).__name__}: {who} must be {told} (inputs, targets, …), got {got}")
        parts = []
        for x, y in zip(task[::2], task[1::2], strict=True):
            inputs, targets = self._inputs(x, f"inputs of {who}"), torch.as_tensor(y)
            if not len(inputs):
                raise DataError(f"{type(self).__name__}: {who} has no samples")
            labels = not targets.is_floating_point() and self.output_dim > 1
            shape = (len(inputs),) if labels else (len(inputs), self.output_dim)
            if targets.numel() != len(inputs) * (1 if labels else self.output_dim):
                raise DataError(
                    f"{type(self).__name__}: {who} has inputs {list(inputs.shape)} and targets {list(targets.shape)}; "
                    f"targets {list(shape)} are needed"
                )
            parts += [inputs, (targets if labels else targets.to(inputs)).reshape(shape)]
            if not bool(torch.isfinite(parts[-1]).all()):
                raise DataError(f"{type(self).__name__}: {who} has targets that are not finite")
        return tuple(parts)

    def _tasks(self, tasks: Any, sizes: tuple[int, ...]) -> Any:
        if isinstance(tasks, Episodes):
            return tasks
        made = [self._task(task, f"task {number}", sizes) for number, task in enumerate(tasks)]
        if not made:
            raise DataError(f"{type(self).__name__}: a batch needs a task")
        return made

    def _along(self, task: tuple[Tensor, ...], steps: int, *, graph: bool) -> Params:
        """The parameters after so many plain gradient steps."""
        x, y = task
        if not y.is_floating_point():
            classes, y = relabel(y)
            if len(classes) != self.output_dim:
                told = f"labels of {len(classes)} classes, the network has {self.output_dim} outputs"
                raise DataError(f"{type(self).__name__}: {told}")
        params: Params = dict(self.network.named_parameters())
        for _ in range(_steps(steps)):
            loss = episode_losses(call(self.network, params, x)[None], y[None])
            found = gradients(loss, list(params.values()), type(self).__name__, create_graph=graph)
            params = {
                name: value if step is None else value - self.inner_lr * step
                for (name, value), step in zip(params.items(), found, strict=True)
            }
        return params


class MAMLRecommender(_GradientSteps):
    """A network from whose weights a few gradient steps lead to those of a user (Finn et al. 2017; for recommendation
    Lee et al. 2019, MeLU).

    Targets are values [N], [N, 1] or [N, output_dim] (mean squared error), or, with `output_dim` of 2 or more, labels
    [N] of any names (cross-entropy; implicit feedback: 1 for what was taken, 0 for sampled negatives). Training takes
    as many inner steps as adapting by default does. Other options are those of the learner `maml`.
    """

    algorithm = "maml"
    steps = 5

    def inner_update(self, support_x: Any, support_y: Any, num_steps: int = 1) -> Params:
        """The parameters after so many steps, as a function of the network's own: gradients go through the steps, for
        training loops of one's own. `adapt_to_new_task` keeps no graph.
        """
        return self._along(self._task((support_x, support_y), "the support set"), num_steps, graph=True)

    def meta_update(self, tasks: Any) -> float:
        """One meta-step on a batch of users (support x, support y, query x, query y), all in one backward pass: the
        loss of the queries after adaptation.
        """
        return self.learner.meta_train_step(self._tasks(tasks, (4,)))["loss"]


class ReptileRecommender(_GradientSteps):
    """A network whose weights move toward those that training on each user leads to (Nichol et al. 2018).

    `meta_lr` is the part of the way. Targets are as for `MAMLRecommender`; users are pairs (x, y).
    """

    algorithm = "reptile"
    steps = 10

    def inner_loop(self, task: Any, num_steps: int = 10) -> Params:
        """The parameters after so many steps on a user's (x, y): plain tensors; the network stays as it is."""
        found = self._along(self._task(task, "the task"), num_steps, graph=False)
        return {name: value.detach().clone() for name, value in found.items()}

    def meta_update(self, tasks: Any) -> None:
        """Train on each user of the batch, then move the weights: θ ← θ + meta_lr (mean φ - θ)."""
        self.learner.meta_train_step(self._tasks(tasks, (2, 4)))


class PrototypicalNetworkRecommender(_Recommender):
    """Classes of items, such as liked and not, as means of the user's own in a space of features (Snell et al. 2017).

    Labels are any whole numbers; columns of scores follow them in rising order.
    """

    def __init__(
        self,
        input_dim: int,
        embedding_dim: int = 64,
        hidden_dims: Sequence[int] = (128, 64),
        dropout_rate: float = 0.2,
        **options: Any,
    ) -> None:
        super().__init__(layers(input_dim, hidden_dims, embedding_dim, dropout_rate), "prototypical", **options)

    def forward(self, x: Tensor) -> Tensor:
        """Features [N, embedding_dim]."""
        made: Tensor = self.network(self._inputs(x, "inputs"))
        return made

    def compute_prototypes(self, embeddings: Tensor, labels: Any) -> Tensor:
        """The mean of the features of each class [C, E], classes in rising order."""
        named = torch.as_tensor(labels, device=embeddings.device)
        if len(named) != len(embeddings):
            raise DataError(f"{type(self).__name__}: {len(embeddings)} features but {len(named)} labels")
        classes, places = relabel(named)
        sums = embeddings.new_zeros(len(classes), embeddings.shape[1]).index_add(0, places, embeddings)
        return sums / torch.bincount(places, minlength=len(classes))[:, None]

    def classify(self, query_embeddings: Tensor, prototypes: Tensor) -> Tensor:
        """Log-probabilities log_softmax(-d²) [Q, C] of Euclidean distances d."""
        # -d² = 2 q·p - p·p - q·q, and log_softmax takes no notice of q·q
        near = 2 * query_embeddings @ prototypes.T - prototypes.square().sum(1)
        return torch.log_softmax(near, dim=1)

    def episode_forward(self, support_x: Any, support_y: Any, query_x: Any) -> Tensor:
        """Log-probabilities [Q, C] of queries by a support set."""
        prototypes = self.compute_prototypes(self(support_x), support_y)
        return self.classify(self(query_x), prototypes)

    def meta_update(self, tasks: Any) -> float:
        """One step on a batch of users (support x, labels, query x, labels): the loss of their queries."""
        return self.learner.meta_train_step(tasks)["loss"]
