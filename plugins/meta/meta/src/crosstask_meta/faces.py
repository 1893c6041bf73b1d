"""Meta-learners constructed with the model in hand, under the names of the papers.

    from crosstask_meta import MAML, create_meta_batch

    maml = MAML(model, lr_inner=0.05)
    metrics = maml.meta_train_step(create_meta_batch((images, labels), batch_size=4))
    adapted = maml.adapt_to_task(support_x, support_y)

Each is a `BaseMetaLearner` of the component that it names, found in the registry when it is constructed; the component
itself (`crosstask_maml.MAML`) knows no model and is what recipes and runs use. Its other options are taken too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import nn

from crosstask.errors import DataError
from crosstask_meta.trainer import BaseMetaLearner, Batch


class _GradientSteps(BaseMetaLearner):
    """Adaptation by gradient steps."""

    def __init__(
        self,
        model: nn.Module,
        lr_inner: float = 0.01,
        lr_meta: float = 0.001,
        num_inner_steps: int = 5,
        *,
        optimizer: torch.optim.Optimizer | None = None,
        seed: int = 0,
        **options: Any,
    ) -> None:
        steps = {"lr_inner": lr_inner, "lr_meta": lr_meta, "num_inner_steps": num_inner_steps}
        super().__init__(model, self.algorithm, optimizer, seed=seed, **steps, **options)


class MAML(_GradientSteps):
    """Model-agnostic meta-learning (Finn et al. 2017): meta-gradients go through the inner steps."""

    algorithm: ClassVar[str] = "maml"


class MAMLFirstOrder(_GradientSteps):
    """MAML without second derivatives (Finn et al. 2017, section 5.2)."""

    algorithm: ClassVar[str] = "maml_first_order"


class ANIL(_GradientSteps):
    """Almost no inner loop: only the head adapts (Raghu et al. 2020)."""

    algorithm: ClassVar[str] = "anil"


class MetaSGD(_GradientSteps):
    """MAML that learns a step size for each weight (Li et al. 2017); one inner step, as in the paper."""

    algorithm: ClassVar[str] = "meta_sgd"

    def __init__(
        self, model: nn.Module, lr_inner: float = 0.01, lr_meta: float = 0.001, num_inner_steps: int = 1, **given: Any
    ) -> None:
        super().__init__(model, lr_inner, lr_meta, num_inner_steps, **given)


class Reptile(_GradientSteps):
    """Moves the weights toward those of trained tasks (Nichol et al. 2018); tasks may be pairs (inputs, targets).

    `lr_meta` is the part of the way to their mean.
    """

    algorithm: ClassVar[str] = "reptile"

    def __init__(
        self, model: nn.Module, lr_inner: float = 0.01, lr_meta: float = 0.1, num_inner_steps: int = 5, **given: Any
    ) -> None:
        super().__init__(model, lr_inner, lr_meta, num_inner_steps, **given)


class MultiTaskMAML(_GradientSteps):
    """MAML whose tasks, the same in every step, are weighed as they are learned: by any balancer, from the query losses
    after adaptation and their gradients.

        maml = MultiTaskMAML(model, balancer="uncertainty")
        metrics = maml.meta_train_step({"digits": (sx, sy, qx, qy), "letters": (…)})
        maml.task_weights  # {"digits": 1.3, "letters": 0.7}

    `balancer`: a name, a table with `use` and options, or a component. One that remembers its tasks needs the same in
    each step: they are held to their names.
    """

    algorithm: ClassVar[str] = "maml"

    def __init__(
        self,
        model: nn.Module,
        lr_inner: float = 0.01,
        lr_meta: float = 0.001,
        num_inner_steps: int = 5,
        *,
        balancer: Any = "uncertainty",
        **given: Any,
    ) -> None:
        super().__init__(model, lr_inner, lr_meta, num_inner_steps, balancer=balancer, **given)
        self.task_weights: dict[str, float] = {}
        self._order: tuple[str, ...] = ()

    def meta_train_step(self, tasks: Batch) -> dict[str, float]:
        """One step on one episode of each task; beside the metrics of MAML `weight_<task>`."""
        if self._order and isinstance(tasks, Mapping) and set(tasks) == set(self._order):
            tasks = {name: tasks[name] for name in self._order}
        episodes = self.prepare(tasks)
        names = episodes.names or tuple(map(str, range(len(episodes))))
        if self._order and names != self._order:
            told = ", ".join(names)
            raise DataError(f"{type(self).__name__}: the tasks were {', '.join(self._order)}, and are now {told}")
        metrics = super().meta_train_step(episodes)
        self._order = names
        self.task_weights = {name: metrics[f"weight_{name}"] for name in names}
        return metrics
