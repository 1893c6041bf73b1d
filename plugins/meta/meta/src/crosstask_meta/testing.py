"""What tests of meta-learning share: small episodes and tasks, components to make a stage of, digits to learn from."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from crosstask.descriptors import TaskDescriptor, TensorData
from crosstask.errors import DataError, RunError
from crosstask.learning.episodes import Episodes, episode_accuracy, episode_losses, of_task
from crosstask.learning.models import ModelSpec
from crosstask.learning.modules import seeded as made_from
from crosstask.manifest import Extension, Plugin
from crosstask.options import component, record
from crosstask.points.meta_learner import MetaLearner
from crosstask.points.stage import Engine, Outcome, Stage
from crosstask.tasks import Task
from crosstask_meta.samplers import EpisodeSampler, create_meta_batch, split_classes


def seeded(seed: int = 0) -> torch.Generator:
    """A generator of this seed."""
    return torch.Generator().manual_seed(seed)


def some_episodes(
    count: int = 4, ways: int = 3, shots: int = 2, shape: tuple[int, ...] = (6,), queries: int = 3
) -> Episodes:
    """Episodes of sixty samples of this shape, in six classes that nothing tells apart: the same each time."""
    generator = seeded(1)
    data = (torch.randn(60, *shape, generator=generator), torch.arange(60) % 6)
    return create_meta_batch(data, batch_size=count, ways=ways, shots=shots, queries=queries, generator=generator)


def network(outputs: int = 3, inputs: int = 6) -> nn.Sequential:
    """A small network with batch normalisation, the same each time."""
    with made_from(0):
        return nn.Sequential(nn.Linear(inputs, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, outputs))


def clouds(name: str, classes: int, seed: int = 0, test: bool = True) -> Task:
    """Classes around points of their own in three of twelve dimensions; the others are noise."""
    labels = torch.arange(40 * classes) % classes
    centres = 1.5 * torch.randn(classes, 3, generator=seeded(seed))
    points = torch.randn(len(labels), 12, generator=seeded(seed + 1))
    points[:, :3] += centres[labels]
    half = len(labels) // 2
    descriptor = TaskDescriptor(
        task_id=name, task_type="classification", classes=tuple("abcdefgh"[:classes]), input_shape=(12,)
    )
    return Task(
        descriptor=descriptor,
        train=(points[:half], labels[:half]),
        test=(points[half:], labels[half:]) if test else None,
    )


class _Nearest(nn.Module):
    """Scores by the squared distance to the mean of each class of a support set."""

    def __init__(self, encoder: nn.Module, support: TensorData) -> None:
        super().__init__()
        own, ways = of_task(support)
        if ways is None:
            raise DataError("values have no classes")
        self.encoder, features = encoder, encoder(own.inputs).flatten(1)
        self.means = torch.stack([features[own.targets == number].mean(0) for number in range(ways)])

    def forward(self, inputs: Tensor) -> Tensor:
        return -torch.cdist(self.encoder(inputs).flatten(1), self.means).square()


@component
class NearestMeans(MetaLearner):
    """A learner with the capability `encoder`: features in which samples lie near the mean of their class."""

    capabilities = frozenset({"encoder"})

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.01)

    def meta_step(self, model: nn.Module, episodes: Episodes, optimizer: torch.optim.Optimizer) -> dict[str, float]:
        self.check_episodes(episodes)
        nets = [_Nearest(model, episodes.support(number)) for number in range(len(episodes))]
        scores = torch.stack([net(inputs) for net, inputs in zip(nets, episodes.query_inputs, strict=True)])
        loss = episode_losses(scores, episodes.query_targets).mean()
        if not bool(torch.isfinite(loss)):
            raise RunError(f"{self.origin}: the loss is {float(loss.detach())}")
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        accuracy = episode_accuracy(scores.detach(), episodes.query_targets).mean()
        return {"loss": float(loss.detach()), "accuracy": float(accuracy)}

    def adapt(self, model: nn.Module, support: TensorData, steps: int | None) -> nn.Module:
        with torch.no_grad():
            return _Nearest(copy.deepcopy(model).eval(), support).eval()


@record
class Gave:
    """The result of `Giving`: nothing but its seed."""

    seed: int


@component
class Giving(Stage):
    """Gives an encoder of vectors [2], which it draws and trains on nothing, and a network to use."""

    Result: ClassVar[type] = Gave
    provides: ClassVar[Mapping[str, Any]] = {"encoder": nn.Module, "model": ModelSpec}

    def work(self, engine: Engine) -> Outcome:
        return Outcome(
            Gave(seed=engine.seed), {"encoder": self._encoder(), "model": ModelSpec(kind="mlp", hidden=(7,))}
        )

    def rebuild(self, engine: Engine, name: str, result: Any) -> nn.Module:
        return self._encoder()

    def _encoder(self) -> nn.Module:
        with made_from(self.context.seed_for("giving")):
            return nn.Sequential(nn.Linear(2, 9), nn.Tanh(), nn.Linear(9, 6))


PLUGIN = Plugin(
    "reference-meta",
    [
        Extension("meta_learner", "nearest_means", f"{__name__}:NearestMeans", summary="For tests"),
        Extension("stage", "giving", f"{__name__}:Giving", summary="For tests"),
    ],
    api=(2, 0),
)


def new_digits(learner: Any, model: nn.Module, steps: int = 100) -> tuple[float, float]:
    """Accuracy before and after so many meta-steps: on episodes of four of scikit-learn's digits, one sample of each,
    where the meta-steps saw the six others. Beside each image stand as many numbers of noise; inputs have shape [128].
    """
    from sklearn.datasets import load_digits  # deferred: only this needs it

    images, labels = load_digits(return_X_y=True)
    noise = torch.rand(len(images), 64, generator=seeded(5))
    data = (torch.cat([torch.tensor(images, dtype=torch.float32) / 16, noise], dim=1), torch.tensor(labels))
    train, test = (EpisodeSampler(part, ways=4, queries=5) for part in split_classes(data, [1, 4, 6, 8]))
    generator = seeded()
    fixed = test.sample(200, generator)
    model = learner.prepare(model, fixed)

    def accuracy() -> float:
        return float(episode_accuracy(learner.predict(model, fixed, None), fixed.query_targets).mean())

    before, optimizer = accuracy(), learner.optimizer(model)
    for _ in range(steps):
        learner.meta_step(model, train.sample(8, generator), optimizer)
    return before, accuracy()
