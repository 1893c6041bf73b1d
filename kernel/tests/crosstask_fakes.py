"""Fake plugins for the kernel's tests: small, honest components that no distribution ships."""

from __future__ import annotations

import torch
from torch import nn

from crosstask import (
    Balancer,
    CurriculumPlanner,
    Discoverer,
    Distilled,
    Distiller,
    Evidence,
    Extension,
    MetaKnowledge,
    MetaLearner,
    MultiTaskModule,
    Observer,
    Plugin,
    Portfolio,
    Provenance,
    Search,
    Sharing,
    Source,
    Synthesizer,
    Task,
    TaskDescriptor,
    Transfer,
    TransferEdge,
    Wrapper,
    component,
    hookimpl,
    option,
    state,
)
from crosstask.learning import fit


def blobs(task_id: str, seed: int = 0, classes: int = 3, count: int = 120, **fields: object) -> Task:
    """A classification task of Gaussian clusters in the plane, in three splits."""
    generator = torch.Generator().manual_seed(seed)
    centres = 3 * torch.randn(classes, 2, generator=generator)
    labels = torch.arange(count) % classes
    inputs = centres[labels] + 0.5 * torch.randn(count, 2, generator=generator)
    half, quarter = count // 2, count // 4
    names = tuple(f"{task_id}-{c}" for c in range(classes))
    known = {"input_shape": (2,), "output_dim": classes, "classes": names, "sample_count": half, **fields}
    return Task(
        descriptor=TaskDescriptor(task_id=task_id, **known),  # type: ignore[arg-type]
        train=(inputs[:half], labels[:half]),
        validation=(inputs[half : half + quarter], labels[half : half + quarter]),
        test=(inputs[half + quarter :], labels[half + quarter :]),
    )


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


class _Shared(MultiTaskModule):
    def __init__(self, trunk: nn.Module, heads: dict[str, nn.Module]) -> None:
        super().__init__()
        self.trunk, self.heads = trunk, nn.ModuleDict(heads)

    def forward(self, inputs):  # type: ignore[no-untyped-def]
        return {t: self.heads[t](self.trunk(x)) for t, x in inputs.items()}

    def shared_parameters(self):  # type: ignore[no-untyped-def]
        return self.trunk.parameters()

    def task_parameters(self, task_id):  # type: ignore[no-untyped-def]
        return self.heads[task_id].parameters()


@component
class FakeSharing(Sharing):
    """One trunk, a linear head per task."""

    def build(self, tasks, trunk):  # type: ignore[no-untyped-def]
        width = trunk(tasks[0].data("train").inputs[:1]).shape[1]
        return _Shared(trunk, {t.task_id: nn.Linear(width, t.descriptor.output_dim) for t in tasks})


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
        import attrs

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


class _Nearest(nn.Module):
    """Scores by the distance of the features to the mean of each class of a support set."""

    def __init__(self, encoder, support) -> None:  # type: ignore[no-untyped-def]
        super().__init__()
        self.encoder = encoder
        features, classes = encoder(support.inputs), support.targets.unique()
        self.means = torch.stack([features[support.targets == c].mean(0) for c in classes])

    def forward(self, inputs):  # type: ignore[no-untyped-def]
        return -torch.cdist(self.encoder(inputs), self.means).square()


@component
class FakeMetaLearner(MetaLearner):
    """Prototypes, one episode after another."""

    capabilities = frozenset({"encoder"})

    def meta_step(self, model, episodes, optimizer):  # type: ignore[no-untyped-def]
        losses, right = [], []
        for number in range(len(episodes)):
            scores = _Nearest(model, episodes.support(number))(episodes.query_inputs[number])
            losses.append(nn.functional.cross_entropy(scores, episodes.query_targets[number]))
            right.append((scores.argmax(1) == episodes.query_targets[number]).double().mean())
        optimizer.zero_grad()
        loss = torch.stack(losses).mean()
        loss.backward()
        optimizer.step()
        return {"loss": loss.item(), "accuracy": torch.stack(right).mean().item()}

    def adapt(self, model, support, steps):  # type: ignore[no-untyped-def]
        return _Nearest(model, support).eval()


@component
class FakeSearch(Search):
    """Any point."""

    def propose(self, space, trials):  # type: ignore[no-untyped-def]
        import numpy as np

        return space.sample(np.random.default_rng(self.context.seed_for("fake", len(trials))))[0]


PLUGIN = Plugin(
    name="fakes",
    extensions=[
        Extension("source", "fake", "crosstask_fakes:FakeSource"),
        Extension("discovery", "fake", "crosstask_fakes:FakeDiscoverer"),
        Extension("curriculum", "fake", "crosstask_fakes:FakePlanner"),
        Extension("transfer", "fake", "crosstask_fakes:FakeTransfer"),
        Extension("synthesis", "fake", "crosstask_fakes:FakeSynthesizer"),
        Extension("balancer", "fake", "crosstask_fakes:FakeBalancer"),
        Extension("sharing", "fake", "crosstask_fakes:FakeSharing"),
        Extension("observer", "fake", "crosstask_fakes:FakeObserver"),
        Extension("distillation", "fake", "crosstask_fakes:FakeDistiller"),
        Extension("meta_learner", "fake", "crosstask_fakes:FakeMetaLearner"),
        Extension("search", "fake", "crosstask_fakes:FakeSearch"),
        Extension("wrapper", "fake", "crosstask_fakes:FakeWrapper"),
    ],
)
