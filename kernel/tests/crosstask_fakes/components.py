"""Components of the kernel's own extension points."""

from __future__ import annotations

import attrs
import torch
from torch import nn

from crosstask import (
    Balancer,
    CurriculumPlanner,
    Discoverer,
    Distilled,
    Distiller,
    Evidence,
    MetaKnowledge,
    Observer,
    Portfolio,
    Provenance,
    Source,
    Synthesizer,
    Transfer,
    TransferEdge,
    Wrapper,
    component,
    hookimpl,
    option,
    state,
)
from crosstask.learning import fit
from crosstask.testing import blobs


@component
class FakeSource(Source):
    """Four tasks of blobs, the last held back."""

    count: int = option(3, ge=0, help="tasks")
    poison: bool = option(False, help="put a NaN into the first task")

    def load(self) -> Portfolio:
        tasks = [blobs(f"task{n}", seed=n) for n in range(self.count)]
        if self.poison:
            tasks[0].train[0][3, 0] = float("nan")
        return Portfolio(tasks, unseen=[blobs("new", seed=0)], name="fakes")


@component
class FakeDiscoverer(Discoverer):
    """The same coefficient for every pair."""

    capabilities = frozenset({"descriptors_only"})
    coefficient: float = option(0.5, ge=-1, le=1, help="of every pair")
    pairs: int = state(0)

    def discover(self, portfolio, graph):  # type: ignore[no-untyped-def]
        found = [
            TransferEdge(
                source=s.task_id,
                target=t.task_id,
                transfer_coefficient=self.coefficient,
                evidence=Evidence.ESTIMATED,
                found_by="fake",
            )
            for s, t in portfolio.pairs()
        ]
        self.pairs += len(found)
        return found


@component
class FakePlanner(CurriculumPlanner):
    """Alphabetical."""

    def rank(self, portfolio, graph, target, candidates):  # type: ignore[no-untyped-def]
        return sorted(candidates)


@component
class FakeTransfer(Transfer):
    """Plain fine-tuning; can be told to fail on a task."""

    fail_on: str = option("", help="task on which to raise")

    def learn(self, model, source, task, budget, generator):  # type: ignore[no-untyped-def]
        if task.task_id == self.fail_on:
            raise ZeroDivisionError("told to fail")
        return fit(model, task, budget, generator)


class _Constant(nn.Module):
    def __init__(self, outputs: int, provenance: Provenance) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.provenance = provenance

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.bias.expand(len(inputs), -1)


@component
class FakeSynthesizer(Synthesizer):
    """Always says class 0."""

    def synthesize(self, new_task, sources, graph, inputs):  # type: ignore[no-untyped-def]
        weights = {s.task_id: graph.coefficient(s.task_id, new_task.task_id) for s in sources}
        return _Constant(new_task.output_dim, Provenance(strategy="fake", new_task=new_task.task_id, sources=weights))


@component
class FakeBalancer(Balancer):
    """The mean."""

    def balance(self, losses, gradients):  # type: ignore[no-untyped-def]
        return torch.full_like(losses, 1 / len(losses))


@component
class FakeObserver(Observer):
    """Writes down which hooks it heard."""

    heard: list = state(factory=list)

    def run_started(self, record):  # type: ignore[no-untyped-def]
        self.heard.append(("run_started", record.run_id))

    def task_registered(self, task):  # type: ignore[no-untyped-def]
        self.heard.append(("task_registered", task.task_id))

    def edges_discovered(self, edges, discoverer):  # type: ignore[no-untyped-def]
        self.heard.append(("edges_discovered", len(edges)))

    def stage_started(self, stage, total):  # type: ignore[no-untyped-def]
        self.heard.append(("stage_started", stage))

    def stage_finished(self, stage, result):  # type: ignore[no-untyped-def]
        self.heard.append(("stage_finished", stage))

    def training_step(self, stage, step, metrics):  # type: ignore[no-untyped-def]
        self.heard.append(("training_step", step))

    def run_finished(self, record, error):  # type: ignore[no-untyped-def]
        self.heard.append(("run_finished", record.status))


@component
class FakeWrapper(Wrapper):
    """Turns every coefficient around."""

    @hookimpl(wrapper=True)
    def discover(self, portfolio):  # type: ignore[no-untyped-def]
        edges = yield
        return [attrs.evolve(e, transfer_coefficient=-e.transfer_coefficient) for e in edges]


@component
class FakeDistiller(Distiller):
    """The mean of the models' weights."""

    def distill(self, tasks, samples):  # type: ignore[no-untyped-def]
        states = [task.model.state_dict() for task in tasks]
        mean = {name: torch.stack([own[name] for own in states]).mean(0) for name in states[0]}
        known = MetaKnowledge(kind="prior", source_tasks=[t.task_id for t in tasks], generalization_score=0.25)
        return Distilled(known, mean)

    def apply(self, model, knowledge, rate):  # type: ignore[no-untyped-def]
        return model
