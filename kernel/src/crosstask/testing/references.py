"""The smallest component of each contract that does all that the contract says: nothing that one would use.

Wrappers are checked around them, and tests of the kernel and of the kit itself can use them as they are.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, ClassVar

import attrs
import numpy as np
import torch
from torch import Tensor, nn

from crosstask.components import Component, hookimpl
from crosstask.context import Job, run_now
from crosstask.errors import DataError, OptionError, RunError, nearest
from crosstask.graph import TransferEdge, TransferGraph
from crosstask.learning.adapted_layers import LayerAdapter, LayersHandle, match_targets
from crosstask.learning.continual import Batch, ContinualModel
from crosstask.learning.episodes import Episodes, episode_accuracy, episode_losses, of_task
from crosstask.learning.gradients import TaskGradients
from crosstask.learning.modules import seeded
from crosstask.learning.spaces import SearchSpace
from crosstask.learning.training import History, fit
from crosstask.manifest import Extension, Plugin
from crosstask.options import component, option, state
from crosstask.points.adapter import Adapter, AdapterHandle
from crosstask.points.balancer import Balancer
from crosstask.points.continual import ContinualStrategy
from crosstask.points.curriculum import CurriculumPlanner
from crosstask.points.discovery import Discoverer
from crosstask.points.distillation import Distilled, Distiller
from crosstask.points.executor import Executor
from crosstask.points.meta_learner import MetaLearner
from crosstask.points.observer import Observer
from crosstask.points.sampler import Sampler
from crosstask.points.search import Search
from crosstask.points.sharing import MultiTaskModule, Sharing
from crosstask.points.source import Source
from crosstask.points.store import Store, StoreOpener
from crosstask.points.synthesis import Synthesizer
from crosstask.points.transfer import Transfer
from crosstask.points.wrapper import Wrapper
from crosstask.records import Budget, MetaKnowledge, Provenance, Trial
from crosstask.registry import Registry
from crosstask.store.sql import SqlStore
from crosstask.tasks import Portfolio, Task, TaskDescriptor, TensorData
from crosstask.testing.tasks import small_portfolio


def _bias_of(layer: nn.Module) -> Tensor:
    bias = layer._parameters["bias"]
    assert bias is not None
    return bias.detach()  # not layer.bias: another adapter may have changed what that gives


class BiasShift(LayerAdapter):
    """b + shift."""

    weight_space = True
    additive = True

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros_like(_bias_of(layer)))

    def change(self, layer: nn.Module, name: str, value: Tensor) -> Tensor:
        return value + self.shift if name == "bias" else value

    def around(self, layer: nn.Module, inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return inner(*args, **kwargs) + self.shift


@component
class ReferenceAdapter(Adapter):
    """Shifts the biases of the linear layers."""

    capabilities: ClassVar[frozenset[str]] = frozenset({"mergeable"})

    def attach(self, model: nn.Module, targets: Sequence[str], generator: torch.Generator) -> AdapterHandle:
        names = match_targets(model, targets, lambda _, layer: isinstance(layer, nn.Linear), "linear layers")
        return LayersHandle(model, {name: BiasShift(model.get_submodule(name)) for name in names})


@component
class ReferenceBalancer(Balancer):
    """The mean of the gradients."""

    capabilities: ClassVar[frozenset[str]] = frozenset(
        {"permutation_invariant", "scale_equivariant", "linear_under_scaling", "convex_weights"}
    )
    scale: float = option(1.0, gt=0, le=1, help="factor of the update")

    def balance(self, losses: Tensor, gradients: TaskGradients) -> Tensor:
        return torch.full_like(losses, self.scale / len(losses))


@component
class ReferenceContinual(ContinualStrategy):
    """Pulls every weight to where the last task left it."""

    capabilities: ClassVar[frozenset[str]] = frozenset({"task", "domain"})
    unsuited: ClassVar[dict[str, str]] = {"class": "no loss compares classes of different tasks"}
    strength: float = option(0.1, ge=0, help="half of it times the squared distance is added to the loss")
    last: dict[str, Tensor] = state(factory=dict)

    def penalty(self, model: ContinualModel, batch: Batch, outputs: Tensor) -> Tensor | None:
        total = outputs.new_zeros(())
        for name, weight in model.named_parameters():
            if name in self.last:
                old = self.last[name].to(weight)
                total = total + (weight[: len(old)] - old).square().sum()  # a head may have grown
        return self.strength / 2 * total

    def task_ends(self, model: ContinualModel, task: Task) -> None:
        self.last = {name: weight.detach().clone() for name, weight in model.named_parameters()}


@component
class ReferencePlanner(CurriculumPlanner):
    """Easy tasks first."""

    def rank(self, portfolio: Portfolio, graph: TransferGraph, target: str, candidates: list[str]) -> list[str]:
        return sorted(candidates, key=lambda t: (portfolio[t].descriptor.complexity, t))


@component
class ReferenceDiscoverer(Discoverer):
    """Tasks of one domain help each other."""

    capabilities: ClassVar[frozenset[str]] = frozenset({"descriptors_only"})
    coefficient: float = option(0.5, ge=-1, le=1, help="of two tasks of one domain")

    def discover(self, portfolio: Portfolio, graph: TransferGraph) -> list[TransferEdge]:
        return [
            TransferEdge(
                source=source.task_id,
                target=target.task_id,
                transfer_coefficient=self.coefficient,
                found_by="reference",
            )
            for source, target in portfolio.pairs()
            if source.descriptor.domain == target.descriptor.domain
        ]


@component
class ReferenceDistiller(Distiller):
    """How large weights are on average."""

    def distill(self, tasks: list[Task], samples: Tensor | None) -> Distilled:
        models = [task.model for task in tasks if task.model is not None]
        if not models:
            raise DataError("nothing to distil: no task has a trained model")
        sizes = torch.stack([nn.utils.parameters_to_vector(m.parameters()).detach().norm() for m in models])
        named = tuple(task.task_id for task in tasks if task.model is not None)
        knowledge = MetaKnowledge(kind="prior", source_tasks=named, seed=self.context.seed)
        return Distilled(knowledge=knowledge, tensors={"norm": sizes.mean()})

    def apply(self, model: nn.Module, knowledge: Distilled, rate: float) -> nn.Module:
        if not 0 <= rate <= 1:
            raise OptionError(f"rate must be between 0 and 1, got {rate}")
        changed = copy.deepcopy(model)
        with torch.no_grad():
            own = nn.utils.parameters_to_vector(changed.parameters()).norm()
            for parameter in changed.parameters():
                parameter.mul_(1 + rate * (knowledge.tensors["norm"].to(own) / own - 1))
        return changed


@component
class ReferenceExecutor(Executor):
    """Here and now."""

    def submit(self, job: Job) -> Future[Any]:
        return run_now(job)


@component
class ReferenceMetaLearner(MetaLearner):
    """First-order MAML, one episode after the other."""

    capabilities: ClassVar[frozenset[str]] = frozenset({"regression"})
    rate: float = option(0.1, gt=0, help="step size of the adaptation")

    def meta_step(self, model: nn.Module, episodes: Episodes, optimizer: torch.optim.Optimizer) -> dict[str, float]:
        if episodes.ways is not None and model(episodes.query_inputs[0]).shape[1] != episodes.ways:
            raise DataError(f"the model's head does not fit {episodes.ways} classes")
        optimizer.zero_grad()
        losses, scores = [], []
        for number in range(len(episodes)):
            adapted = self.adapt(model, episodes.support(number), None)
            outputs = adapted(episodes.query_inputs[number])
            loss = _episode_loss(outputs, episodes.query_targets[number])
            if not bool(torch.isfinite(loss)):
                raise RunError(f"{self.origin}: the loss of episode {number} is {float(loss.detach())}")
            found = torch.autograd.grad(loss / len(episodes), list(adapted.parameters()))
            for parameter, gradient in zip(model.parameters(), found, strict=True):
                parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
            losses.append(float(loss.detach()))
            scores.append(outputs.detach())
        optimizer.step()
        metrics = {"loss": sum(losses) / len(losses)}
        if episodes.ways is not None:
            metrics["accuracy"] = float(episode_accuracy(torch.stack(scores), episodes.query_targets).mean())
        return metrics

    def adapt(self, model: nn.Module, support: TensorData, steps: int | None) -> nn.Module:
        adapted = copy.deepcopy(model).eval()
        outputs = adapted(support.inputs[:1]).shape[1]
        support, _ = of_task(support, outputs)
        for _ in range(1 if steps is None else steps):
            loss = _episode_loss(adapted(support.inputs), support.targets)
            found = torch.autograd.grad(loss, list(adapted.parameters()))
            with torch.no_grad():
                for parameter, gradient in zip(adapted.parameters(), found, strict=True):
                    parameter.sub_(self.rate * gradient)
        return adapted


def _episode_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return episode_losses(outputs[None], targets[None])[0]


@component
class ReferenceObserver(Observer):
    """Counts stages."""

    stages: int = state(0)

    def stage_started(self, stage: str, total: int | None) -> None:
        self.stages += 1


@component
class ReferenceSampler(Sampler):
    """One task at random."""

    def sample(self, tasks: list[str], history: dict[str, list[float]], rng: torch.Generator) -> list[str]:
        if not tasks:
            raise DataError("no tasks to draw from")
        return [tasks[int(torch.randint(len(tasks), (1,), generator=rng))]]


class Heads(MultiTaskModule):
    """A trunk and a linear head per task."""

    def __init__(self, trunk: nn.Module, heads: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.trunk, self.heads = trunk, nn.ModuleDict(heads)

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        for task_id in inputs:
            if task_id not in self.heads:
                raise DataError(f"no head for task {task_id!r}{nearest(task_id, self.heads)}")
        return {task_id: self.heads[task_id](self.trunk(batch)) for task_id, batch in inputs.items()}

    def shared_parameters(self) -> Iterator[nn.Parameter]:
        return self.trunk.parameters()

    def task_parameters(self, task_id: str) -> Iterator[nn.Parameter]:
        return self.heads[task_id].parameters()


@component
class ReferenceSharing(Sharing):
    """One trunk, a head per task."""

    def build(self, tasks: list[Task], trunk: nn.Module) -> MultiTaskModule:
        if not tasks:
            raise DataError("no tasks to build heads for")
        heads = {}
        weight = next(trunk.parameters())
        for task in tasks:
            with torch.no_grad(), seeded(self.context.seed_for("head", task.task_id)):
                example = torch.zeros(2, *task.descriptor.input_shape).to(weight)
                width = trunk(example).shape[1]
                heads[task.task_id] = nn.Linear(width, task.descriptor.output_dim or 1).to(weight)
        return Heads(trunk, heads)


@component
class ReferenceSource(Source):
    """The small tasks of the kit."""

    def load(self) -> Portfolio:
        return small_portfolio(models=False)


@component
class ReferenceStore(StoreOpener):
    """The kernel's own."""

    def open(self, url: str, weights: Path | None) -> Store:
        return SqlStore(url, weights)


class First(nn.Module):
    """A model for another task: its outputs cut, or filled with zeros, to the number wanted."""

    def __init__(self, model: nn.Module, outputs: int, provenance: Provenance) -> None:
        super().__init__()
        self.model, self.outputs, self.provenance = model, outputs, provenance

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.model(inputs)[:, : self.outputs]
        return nn.functional.pad(found, (0, self.outputs - found.shape[1]))


@component
class ReferenceSynthesizer(Synthesizer):
    """The model of the source that helps most."""

    def synthesize(
        self, new_task: TaskDescriptor, sources: list[Task], graph: TransferGraph, inputs: Tensor | None
    ) -> nn.Module:
        trained = [task for task in sources if task.model is not None]
        if not trained:
            raise DataError(f"task {new_task.task_id!r}: no source has a trained model")
        best = max(trained, key=lambda t: (graph.coefficient(t.task_id, new_task.task_id), t.task_id))
        told = Provenance(strategy=self.origin, new_task=new_task.task_id, sources={best.task_id: 1.0})
        return First(copy.deepcopy(best.model), new_task.output_dim or 1, told)  # type: ignore[arg-type]


@component
class ReferenceTransfer(Transfer):
    """Train all of it."""

    def learn(
        self, model: nn.Module, source: nn.Module, task: Task, budget: Budget, generator: torch.Generator
    ) -> History:
        return fit(model, task, budget, generator)


@component
class ReferenceSearch(Search):
    """Random points that were not tried yet."""

    capabilities: ClassVar[frozenset[str]] = frozenset({"no_repeats"})

    def propose(self, space: SearchSpace, trials: Sequence[Trial]) -> dict[str, Any]:
        rng = np.random.default_rng(self.context.seed_for("propose", len(trials)))
        return space.fresh(rng, {space.key(trial.point) for trial in trials})


@component
class ReferenceWrapper(Wrapper):
    """Halves every coefficient."""

    @hookimpl(wrapper=True)
    def discover(self, portfolio: Portfolio, graph: TransferGraph) -> Any:
        edges = yield
        return [attrs.evolve(e, transfer_coefficient=e.transfer_coefficient / 2) for e in edges]


REFERENCES: dict[str, type[Component]] = {
    cls.point: cls
    for cls in (
        ReferenceAdapter,
        ReferenceBalancer,
        ReferenceContinual,
        ReferencePlanner,
        ReferenceDiscoverer,
        ReferenceDistiller,
        ReferenceExecutor,
        ReferenceMetaLearner,
        ReferenceObserver,
        ReferenceSampler,
        ReferenceSearch,
        ReferenceSharing,
        ReferenceSource,
        ReferenceStore,
        ReferenceSynthesizer,
        ReferenceTransfer,
        ReferenceWrapper,
    )
}


def reference_registry(**names: str) -> Registry:
    """A registry with the reference components under `reference`, and under other names: `lp_ft="transfer"`.

    For checking a component that asks for others by name.
    """
    offers = [(point, "reference") for point in REFERENCES] + [(point, name) for name, point in names.items()]
    extensions = [
        Extension(point, name, f"{__name__}:{REFERENCES[point].__name__}", summary="For checks.")
        for point, name in offers
    ]
    registry = Registry()
    registry.register(Plugin("reference", extensions))
    return registry
