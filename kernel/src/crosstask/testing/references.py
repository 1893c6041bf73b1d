"""The smallest component of each contract that does all that the contract says: nothing that one would use.

Wrappers are checked around them, and tests of the kernel and of the kit itself can use them as they are.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, ClassVar

import attrs
import torch
from torch import Tensor, nn

from crosstask.builtin import PLUGIN as KERNEL
from crosstask.components import Component, Job, hookimpl, run_now
from crosstask.descriptors import MultiInput, TaskDescriptor, TensorData
from crosstask.errors import DataError, OptionError, RecipeError, RunError, nearest
from crosstask.graph import TransferEdge, TransferGraph
from crosstask.learning.episodes import Episodes, episode_accuracy, episode_losses, of_task
from crosstask.learning.gradients import TaskGradients
from crosstask.learning.modules import forward
from crosstask.learning.training import History, fit
from crosstask.manifest import API_VERSION, Extension, Plugin
from crosstask.options import component, option, record, state
from crosstask.points.adapter import Adapter, AdapterHandle
from crosstask.points.balancer import Balancer
from crosstask.points.curriculum import CurriculumPlanner
from crosstask.points.discovery import Discoverer
from crosstask.points.distillation import Distilled, Distiller
from crosstask.points.executor import Executor
from crosstask.points.meta_learner import MetaLearner
from crosstask.points.observer import Observer
from crosstask.points.source import Source
from crosstask.points.stage import Engine, Outcome, Section, Stage
from crosstask.points.store import Store, StoreOpener
from crosstask.points.strategist import Strategist
from crosstask.points.synthesis import Synthesizer
from crosstask.points.transfer import Transfer
from crosstask.points.wrapper import Wrapper
from crosstask.records import Budget, Interval, MetaKnowledge, Provenance, StrategyAdvice
from crosstask.registry import Registry
from crosstask.store.sql import SqlStore
from crosstask.tasks import Portfolio, Task
from crosstask.testing.tasks import small_portfolio


class BiasHandle(AdapterHandle):
    """b + shift, for the linear layers named: by a forward hook, or folded into the bias."""

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        self.model = model
        self.layers = {name: model.get_submodule(name) for name in names}
        self.trained = [p for p in model.parameters() if p.requires_grad]
        for parameter in self.trained:
            parameter.requires_grad_(False)
        self.norms = [m for m in model.modules() if getattr(m, "track_running_stats", False)]
        for norm in self.norms:
            norm.track_running_stats = False  # type: ignore[assignment]  # they keep what they know while it is trained
        self.on, self.kept = True, dict[str, Tensor]()
        for layer in self.layers.values():
            if "_bias_handles" not in layer.__dict__:  # else the hook is there, though all may have been taken off
                layer.__dict__["_bias_handles"] = []
                layer.register_forward_hook(_add_shifts)
            layer.__dict__["_bias_handles"].append(self)
        taken = {own for layer in self.layers.values() for own in layer._parameters}
        self.own = next(name for number in itertools.count() if (name := f"shift_{number}") not in taken)
        for layer in self.layers.values():  # in the model, so that it moves with it
            layer.register_parameter(self.own, nn.Parameter(torch.zeros_like(_bias_of(layer))))

    @property
    def shifts(self) -> dict[str, nn.Parameter]:
        """The shift of each layer, by its name."""
        return {name: layer._parameters[self.own] for name, layer in self.layers.items()}  # type: ignore[misc]

    def shift_of(self, layer: nn.Module) -> Tensor | None:
        """What this handle adds to a layer's answer now."""
        return layer._parameters[self.own] if self.on and not self.kept else None

    def parameters(self) -> list[nn.Parameter]:
        return list(self.shifts.values())

    def enable(self) -> None:
        self.on = True

    def disable(self) -> None:
        self.on = False

    def state(self) -> dict[str, Tensor]:
        return {name: shift.detach().clone() for name, shift in self.shifts.items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        wrong = set(state) ^ set(self.shifts)
        wrong |= {name for name in set(state) & set(self.shifts) if state[name].shape != self.shifts[name].shape}
        if wrong:
            raise DataError(f"state does not fit: {', '.join(sorted(wrong))}")
        with torch.no_grad():
            for name, value in state.items():
                self.shifts[name].copy_(value)

    def detach(self) -> None:
        self.unmerge()
        for layer in self.layers.values():
            layer.__dict__["_bias_handles"].remove(self)
            del layer._parameters[self.own]
        for norm in self.norms:
            norm.track_running_stats = True  # type: ignore[assignment]
        for parameter in self.trained:
            parameter.requires_grad_(True)

    def merge(self) -> None:
        if not self.kept:
            self.kept = {name: _bias_of(layer).clone() for name, layer in self.layers.items()}
            with torch.no_grad():
                for name, layer in self.layers.items():
                    _bias_of(layer).add_(self.shifts[name])

    def unmerge(self) -> None:
        with torch.no_grad():
            for name, bias in self.kept.items():
                _bias_of(self.layers[name]).copy_(bias)
        self.kept = {}

    def absorb(self) -> None:
        self.merge()
        self.kept = {}
        self.detach()


def _bias_of(layer: Any) -> Tensor:
    bias: Tensor = layer.bias
    return bias.detach()


def _add_shifts(layer: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    for handle in layer.__dict__["_bias_handles"]:
        shift = handle.shift_of(layer)
        output = output if shift is None else output + shift
    return output


@component
class ReferenceAdapter(Adapter):
    """Shifts the biases of the linear layers (outside of torch's fused blocks)."""

    capabilities: ClassVar[frozenset[str]] = frozenset({"mergeable"})

    def attach(self, model: nn.Module, targets: Sequence[str], generator: torch.Generator) -> AdapterHandle:
        # torch's attention and encoder layers read the weights of their linear layers past every hook
        fused = [
            n for n, m in model.named_modules() if isinstance(m, nn.MultiheadAttention | nn.TransformerEncoderLayer)
        ]
        linear = [
            name
            for name, layer in model.named_modules()
            if isinstance(layer, nn.Linear) and not any(name.startswith(f"{block}.") for block in fused)
        ]
        without = {name for t in targets if t.startswith("!") for name in _matching(t[1:], linear)}
        wanted = [t for t in targets if not t.startswith("!")]
        for target in wanted:
            if not _matching(target, linear):
                raise DataError(f"no linear layer matches {target!r}{nearest(target, linear)}")
        named = {name for t in wanted for name in _matching(t, linear)} if wanted else set(linear)
        if not named - without:
            raise DataError("no linear layer is left to adapt")
        return BiasHandle(model, [name for name in linear if name in named - without])


def _matching(target: str, names: Sequence[str]) -> list[str]:
    return [n for n in names if fnmatchcase(n, target) or f".{n}".endswith(f".{target}") or n.startswith(f"{target}.")]


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

    def distill(self, tasks: list[Task], samples: Tensor | MultiInput | None) -> Distilled:
        models = [task.model for task in tasks if task.model is not None]
        if not models:
            raise DataError("nothing to distil: no task has a trained model")
        sizes = torch.stack([nn.utils.parameters_to_vector(m.parameters()).detach().norm() for m in models])
        named = tuple(task.task_id for task in tasks if task.model is not None)
        knowledge = MetaKnowledge(kind="reference", source_tasks=named, seed=self.context.seed)
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

    capabilities: ClassVar[frozenset[str]] = frozenset({"regression", "ragged"})
    rate: float = option(0.1, gt=0, help="step size of the adaptation")

    def meta_step(self, model: nn.Module, episodes: Episodes, optimizer: torch.optim.Optimizer) -> dict[str, float]:
        self.check_episodes(episodes)
        if episodes.ways is not None and model(episodes.query_inputs[0]).shape[1] != episodes.ways:
            raise DataError(f"the model's head does not fit {episodes.ways} classes")
        optimizer.zero_grad()
        losses, right = [], []
        for number in range(len(episodes)):
            adapted, query = self.adapt(model, episodes.support(number), None), episodes.query(number)
            outputs = adapted(query.inputs)
            loss = _episode_loss(outputs, query.targets)
            if not bool(torch.isfinite(loss)):
                raise RunError(f"{self.origin}: the loss of episode {number} is {float(loss.detach())}")
            found = torch.autograd.grad(loss / len(episodes), _trained(adapted))
            for parameter, gradient in zip(_trained(model), found, strict=True):
                parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
            losses.append(float(loss.detach()))
            if episodes.ways is not None:
                right.append(float(episode_accuracy(outputs[None], query.targets[None])))
        optimizer.step()
        metrics = {"loss": sum(losses) / len(losses)}
        if right:
            metrics["accuracy"] = sum(right) / len(right)
        return metrics

    def adapt(self, model: nn.Module, support: TensorData, steps: int | None) -> nn.Module:
        adapted = copy.deepcopy(model).eval()
        outputs = adapted(support.inputs[:1]).shape[1]
        support, _ = of_task(support, outputs)
        for _ in range(1 if steps is None else steps):
            loss = _episode_loss(adapted(support.inputs), support.targets)
            found = torch.autograd.grad(loss, _trained(adapted))
            with torch.no_grad():
                for parameter, gradient in zip(_trained(adapted), found, strict=True):
                    parameter.sub_(self.rate * gradient)
        return adapted


def _trained(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def _episode_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return episode_losses(outputs[None], targets[None])[0]


@component
class ReferenceObserver(Observer):
    """Counts stages."""

    stages: int = state(0)

    def stage_started(self, stage: str, total: int | None) -> None:
        self.stages += 1


@component
class ReferenceSource(Source):
    """The small tasks of the kit."""

    def load(self) -> Portfolio:
        return small_portfolio(models=False)


@record
class Counted:
    """The result of the reference stage."""

    tasks: int
    seed: int = 0


@component
class ReferenceStage(Stage):
    """Counts the tasks, and draws a number."""

    Result: ClassVar[type] = Counted
    provides: ClassVar[dict[str, Any]] = {"names": tuple[str, ...], "drawn": torch.Tensor}
    at_least: int = option(1, ge=1, help="tasks that it needs")

    def check(self, portfolio: Portfolio) -> None:
        if len(portfolio) < self.at_least:
            raise RecipeError(f"at least {self.at_least} tasks are needed, there are {len(portfolio)}")

    def work(self, engine: Engine) -> Outcome:
        drawn = torch.rand(2, generator=self.context.generator("count"))
        names = tuple(task.task_id for task in engine.portfolio)
        return Outcome(Counted(tasks=len(names), seed=engine.seed), {"names": names, "drawn": drawn})

    @classmethod
    def summary(cls, result: Counted) -> dict[str, Any]:
        return {"counted": result.tasks}

    @classmethod
    def sections(cls, result: Counted, graph: TransferGraph) -> list[Section]:
        return [Section("Counted", f"<p>{result.tasks} tasks</p>")]


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

    whole_inputs = True

    def forward(self, inputs: Tensor | MultiInput) -> Tensor:
        found = forward(self.model, inputs)[:, : self.outputs]
        return nn.functional.pad(found, (0, self.outputs - found.shape[1]))


@component
class ReferenceSynthesizer(Synthesizer):
    """The model of the source that helps most."""

    def synthesize(
        self, new_task: TaskDescriptor, sources: list[Task], graph: TransferGraph, inputs: Tensor | MultiInput | None
    ) -> nn.Module:
        trained = [task for task in sources if task.model is not None]
        if not trained:
            raise DataError(f"task {new_task.task_id!r}: no source has a trained model")
        best = max(trained, key=lambda t: (graph.coefficient(t.task_id, new_task.task_id), t.task_id))
        told = Provenance(strategy=self.origin, new_task=new_task.task_id, sources={best.task_id: 1.0})
        return First(copy.deepcopy(best.model), new_task.output_dim or 1, told)  # type: ignore[arg-type]


@component
class ReferenceStrategist(Strategist):
    """The transfer method of the best mean score; of other kinds the usual."""

    def suggest(self, task: Task, portfolio: Portfolio, usual: dict[str, str]) -> list[StrategyAdvice]:
        known, found = [each.task_id for each in portfolio], list[StrategyAdvice]()
        for kind, plain in usual.items():
            scores = dict[str, list[float]]()
            for _, entry in self.context.past("transfers") if kind == "transfer" else ():
                if isinstance(entry, dict) and entry.get("target") in known and "strategy" in entry:
                    scores.setdefault(entry["strategy"].split("'")[1], []).append(entry["score"]["mean"])
            means = {name: sum(values) / len(values) for name, values in scores.items()}
            best = max(means, key=means.__getitem__, default=plain)
            level = Interval(mean=means[best], low=0.0, high=1.0) if means else None
            gain = means[best] - means.get(plain, 0.0) if means else 0.0
            more = Interval(mean=gain, low=-1.0, high=1.0) if means else None
            count = len(scores.get(best, ()))
            found.append(StrategyAdvice(kind=kind, strategy=best, usual=plain, expected=level, gain=more,
                                        evidence=count, text=f"{best}: the best of {count}."))  # fmt: skip
        return found


@component
class ReferenceTransfer(Transfer):
    """Train all of it."""

    def learn(
        self, model: nn.Module, source: nn.Module, task: Task, budget: Budget, generator: torch.Generator
    ) -> History:
        return fit(model, task, budget, generator)


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
        ReferencePlanner,
        ReferenceDiscoverer,
        ReferenceDistiller,
        ReferenceExecutor,
        ReferenceMetaLearner,
        ReferenceObserver,
        ReferenceSource,
        ReferenceStage,
        ReferenceStore,
        ReferenceStrategist,
        ReferenceSynthesizer,
        ReferenceTransfer,
        ReferenceWrapper,
    )
}


def reference_registry(*plugins: Plugin, **names: str) -> Registry:
    """A registry with the reference components under `reference`, and under other names: `lp_ft="transfer"`; `plugins`
    bring further points with reference components of their own.

    For checking a component that asks for others by name.
    """
    offers = [(point, "reference") for point in REFERENCES] + [(point, name) for name, point in names.items()]
    extensions = [
        Extension(
            point, name, f"{__name__}:{REFERENCES[point].__name__}", summary="For checks.",
            default=name == "reference" and not any(e.point == point and e.default for e in KERNEL.extensions),
        )
        for point, name in offers
    ]  # fmt: skip
    registry = Registry()
    registry.register(KERNEL)
    registry.register(Plugin("reference", extensions, api=API_VERSION))
    for plugin in plugins:
        registry.register(plugin)
    return registry
