"""A meta-learner at work on one model: what keeps the model and its optimiser between the steps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, overload

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from crosstask.context import LocalContext
from crosstask.descriptors import TensorData
from crosstask.errors import DataError, OptionError, PluginError, UnknownComponentError
from crosstask.learning.episodes import Episodes
from crosstask.learning.functional import call
from crosstask.learning.modules import forward
from crosstask.learning.training import device_of
from crosstask.options import structure
from crosstask.parts import Choice
from crosstask.points.meta_learner import MetaLearner
from crosstask_meta.heads import answer_of
from crosstask_meta.samplers import create_meta_batch, sampler_of

Batch = Episodes | Iterable[Sequence[Any]] | Mapping[str, Sequence[Any]]
"""Tasks: (support inputs, support targets, query inputs, query targets), or (inputs, targets) where no queries are
needed; by name, or in a row.
"""


class BaseMetaLearner:
    """A model, the meta-learner that trains it, and the optimiser of the meta-steps, for use without a run.

        trainer = BaseMetaLearner(model, "maml", lr_inner=0.1)
        metrics = trainer.meta_train_step(tasks)
        adapted = trainer.adapt_to_task(support_x, support_y)

    `learner`: the name of a component with its options, a table with `use`, or a component made already (which may also
    be given first). `optimizer`: of `model`'s parameters (default: the learner's own). `model` stays the module that
    was given, and is trained in place; `trained` is what the learner made of it, with what it learns beside.

    A class of one's own needs no component: it defines `meta_train_step` and `adapt_to_task`, and finds `model`,
    `optimizer` (Adam at `lr_meta`), `lr_inner`, `lr_meta`, `num_inner_steps` and every other keyword in `options`.
    """

    algorithm: ClassVar[str] = ""
    """The component that a class stands for, by name."""

    @overload
    def __init__(
        self,
        model: nn.Module,
        learner: MetaLearner | str | Mapping[str, Any] | None = None,
        optimizer: torch.optim.Optimizer | None = None,
        *,
        seed: int = 0,
        **options: Any,
    ) -> None: ...

    @overload
    def __init__(
        self, model: MetaLearner, learner: nn.Module, optimizer: torch.optim.Optimizer | None = None
    ) -> None: ...

    def __init__(
        self, model: Any, learner: Any = None, optimizer: Any = None, *, seed: int = 0, **options: Any
    ) -> None:
        if isinstance(model, MetaLearner):
            model, learner = learner, model
        if not isinstance(model, nn.Module):
            raise OptionError(f"{type(self).__name__}: model must be a torch.nn.Module, got {type(model).__name__}")
        self.model: nn.Module = model
        self.trained: nn.Module = model
        self.optimizer: torch.optim.Optimizer | None = optimizer
        self._learner = self._made(learner or self.algorithm or None, options, seed)
        self._prepared = False
        self.options = self._learner.options() if self._learner else {**_USUAL, **options}
        self.lr_inner: float = self.options.get("lr_inner", 0.0)
        self.lr_meta: float = self.options.get("lr_meta", 0.0)
        self.num_inner_steps: int = self.options.get("num_inner_steps", 0)
        if self._learner is None and optimizer is None:
            trained = [p for p in model.parameters() if p.requires_grad]
            self.optimizer = torch.optim.Adam(trained, lr=self.lr_meta) if trained else None

    def _made(self, learner: Any, options: Mapping[str, Any], seed: int) -> MetaLearner | None:
        if learner is None:
            own = type(self)
            if own.meta_train_step is BaseMetaLearner.meta_train_step:
                raise OptionError(
                    f"{own.__name__} needs a learner: the name of a component (`crosstask plugins list meta_learner`), "
                    "a component, or methods meta_train_step and adapt_to_task of its own"
                )
            return None
        if isinstance(learner, MetaLearner):
            if options:
                raise OptionError(
                    f"{type(self).__name__}: {', '.join(options)} are options of a learner that is to be made, and "
                    f"{learner.origin} is made already: give them to it"
                )
            return learner
        chosen: Choice = structure(learner, Choice, f"{type(self).__name__}: learner")
        context = LocalContext(seed=seed)
        try:
            made = context.component("meta_learner", chosen.use, {**chosen.options, **options})
        except UnknownComponentError as error:
            raise UnknownComponentError(f"{type(self).__name__}: {error}") from None
        assert isinstance(made, MetaLearner)
        return made

    @property
    def learner(self) -> MetaLearner:
        """The component. PluginError in a class that does without."""
        if self._learner is None:
            name = type(self).__name__
            raise PluginError(f"{name} has no learner: give it one, or define what is asked of it in {name} itself")
        return self._learner

    def meta_train_step(self, tasks: Batch) -> dict[str, float]:
        """One step on a batch: metrics, `loss` (of the queries, after adaptation) and `accuracy` among them."""
        episodes = self.prepare(tasks)
        if self.optimizer is None:
            self.optimizer = self.learner.optimizer(self.trained)
        return self.learner.meta_step(self.trained, episodes, self.optimizer)

    def meta_train(
        self,
        data: Any,
        steps: int = 100,
        batch_size: int = 4,
        *,
        generator: torch.Generator | None = None,
        **sizes: Any,
    ) -> list[dict[str, float]]:
        """So many steps, each on a batch of its own from `create_meta_batch(data, batch_size, **sizes)`: the metrics of
        each.
        """
        draw = sampler_of(data, **sizes)
        found = []
        for _ in range(steps):
            if draw is None:
                batch = create_meta_batch(data, batch_size, generator=generator, **sizes)
            else:
                batch = draw.sample(batch_size, generator)
            found.append(self.meta_train_step(batch))
        return found

    def adapt_to_task(self, support_x: Any, support_y: Any = None, num_steps: int | None = None) -> nn.Module:
        """The model of the task of a support set, given as inputs and targets or as a pair of them; columns of its
        scores follow the labels in rising order.

        A copy in evaluation mode, of the class of `model` where the learner trains that, which holds no graph.
        """
        if support_y is None:
            support_x, support_y = _pair(support_x)
        support = self._support(support_x, support_y)
        if not self._prepared:
            inputs, targets = support.inputs[None], support.targets[None]
            self.prepare(Episodes(inputs, targets, inputs, targets))
        return self.learner.adapt(self.trained, support, num_steps)

    def forward_with_weights(self, query_x: Any, adapted: nn.Module | Mapping[str, Tensor]) -> Tensor:
        """Outputs for inputs by an adapted model, or by `model` with these parameters, by name."""
        inputs = self._as_model(torch.as_tensor(query_x))
        if isinstance(adapted, nn.Module):
            return forward(adapted, inputs)
        known = dict(self.model.named_parameters(remove_duplicate=False))
        strange = [name for name in adapted if name not in known]
        if strange:
            raise DataError(f"{type(self).__name__}: the model has no parameter {strange[0]!r}")
        return call(self.model, adapted, inputs)

    def predict(self, tasks: Batch, num_steps: int | None = None) -> Tensor:
        """Scores [B, Q, ways] of the queries of each task after adaptation to its support set; 0 where it is padded."""
        episodes = self.prepare(tasks)
        return self.learner.predict(self.trained, episodes, num_steps)

    def state_dict(self) -> dict[str, Any]:
        """Model, optimiser and learner: everything that training changes."""
        made = None if self.optimizer is None else self.optimizer.state_dict()
        learner = {} if self._learner is None else self._learner.state_dict()
        return {"model": self.trained.state_dict(), "optimizer": made, "learner": learner}

    def load_state_dict(self, state: dict[str, Any], tasks: Batch | None = None) -> None:
        """Go on where `state_dict` was taken. `tasks`: any like those of the training, to prepare the model; not needed
        where the learner puts nothing beside it.
        """
        if tasks is not None:
            self.prepare(tasks)
        self.trained.load_state_dict(state["model"])
        if self._learner is not None:
            self._learner.load_state_dict(state["learner"])
        if state["optimizer"] is not None:
            if self.optimizer is None:
                self.optimizer = self.learner.optimizer(self.trained)
            self.optimizer.load_state_dict(state["optimizer"])

    def prepare(self, tasks: Batch) -> Episodes:
        """Tasks as a batch, where the model is and in its precision; the first tells the learner what is to come."""
        episodes = tasks if isinstance(tasks, Episodes) else Episodes.of(tasks)
        episodes = episodes.to(device_of(self.model), self._precision())
        if not self._prepared and self._learner is not None:
            if any(isinstance(p, UninitializedParameter) for p in self.model.parameters()):
                answer_of(self.model, episodes.support_inputs[0])  # lazy layers get their shapes
            self.trained, self._prepared = self._learner.prepare(self.model, episodes), True
        return episodes

    def _precision(self) -> torch.dtype:
        return next((p.dtype for p in self.model.parameters() if p.is_floating_point()), torch.get_default_dtype())

    def _as_model(self, tensor: Tensor) -> Tensor:
        kind = self._precision() if tensor.is_floating_point() else tensor.dtype
        return tensor.to(device_of(self.model), kind)

    def _support(self, x: Any, y: Any) -> TensorData:
        try:
            inputs, targets = torch.as_tensor(x), torch.as_tensor(y)
        except (TypeError, ValueError, RuntimeError) as error:
            raise DataError(f"a support set is inputs and targets, tensors or arrays ({error})") from None
        if inputs.ndim == 0 or targets.ndim == 0 or len(inputs) != len(targets):
            raise DataError(
                f"a support set needs a target for each sample, got inputs {list(inputs.shape)} and targets "
                f"{list(targets.shape)}"
            )
        return TensorData(self._as_model(inputs), self._as_model(targets))


_USUAL = {"lr_inner": 0.01, "lr_meta": 0.001, "num_inner_steps": 5}


def _pair(data: Any) -> tuple[Any, Any]:
    if isinstance(data, TensorData):
        return data.inputs, data.targets
    if isinstance(data, Sequence) and len(data) == 2:
        return data[0], data[1]
    raise DataError(f"a support set is a pair (inputs, targets), got {type(data).__name__}")
