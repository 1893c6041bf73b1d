"""Joint training on the tasks' own architectures: which is taken, what is said, and any network and kind of task."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from crosstask import Budget, DataError, ModelSpec, TransferEngine
from crosstask.context import LocalContext
from crosstask.descriptors import TaskDescriptor
from crosstask.learning.architecture import architecture
from crosstask.learning.modules import Headless, know
from crosstask.learning.own_models import prepare_model
from crosstask.points.balancer import Balancer
from crosstask.tasks import Task
from crosstask.testing import reference_registry
from crosstask_multitask import MultiTaskResult, MultiTaskTrainer, head_for
from crosstask_multitask.testing import REFERENCE, Heads, ReferenceSharing
from crosstask_multitask.trunks import of_architecture, of_module, of_task

SHORT = Budget(steps=6, batch_size=16, learning_rate=0.01, evaluate_every=3)


class Gated(nn.Module):
    """A network of somebody's own, whose last layer is not called head and whose answer is a mapping."""

    def __init__(self, outputs: int, width: int = 6) -> None:
        super().__init__()
        self.answer = nn.Linear(width, outputs)
        self.gate, self.value = nn.Linear(4, width), nn.Linear(4, width)

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        return {"logits": self.answer(torch.sigmoid(self.gate(inputs)) * self.value(inputs))}


def task(name: str, model: nn.Module | None = None, **more: Any) -> Task:
    generator = torch.Generator().manual_seed(len(name))
    inputs = torch.randn(40, 4, generator=generator)
    labels = inputs[:, 0].gt(0).long() + inputs[:, 1].gt(0).long()
    split = (inputs, labels)
    descriptor = TaskDescriptor(task_id=name, input_shape=(4,), output_dim=3)
    return Task(descriptor=descriptor, train=split, validation=split, test=split, model=model, **more)


def result(*tasks: Task, **options: Any) -> tuple[nn.Module, MultiTaskResult]:
    known: dict[str, Any] = {"model": ModelSpec(hidden=(5,)), "train": SHORT, "seeds": 1, "discoverers": []}
    with TransferEngine(registry=reference_registry(REFERENCE), **known) as engine:
        for each in tasks:
            engine.register_task(each)
        chosen = {"tasks": [t.task_id for t in tasks][:2], "budget": SHORT} | options
        outcome = engine.run_stage("multitask", **chosen)
        return outcome.artifacts["trunk"], outcome.record


def test_tasks_with_models_of_one_architecture_are_trained_on_it_drawn_anew() -> None:
    one, two = Gated(3), Gated(3)
    trunk, found = result(task("a", one), task("bb", two))
    assert architecture(trunk) == architecture(Headless(one))
    assert found.start is None
    assert found.notes == ("The trunk is that of Gated, drawn anew: the architecture of all these tasks' own models.",)
    assert isinstance(trunk, Headless)
    assert not torch.equal(trunk.model.gate.weight, one.gate.weight)


def test_factories_are_models_too() -> None:
    trunk, found = result(task("a", build=lambda: Gated(3)), task("bb", build=lambda: Gated(3)))
    assert isinstance(trunk.model, Gated)
    assert len(found.notes) == 1


def test_a_model_that_is_not_used_is_said() -> None:
    trunk, found = result(task("a", Gated(3)), task("bb"))
    assert not any(isinstance(m, Gated) for m in trunk.modules())
    (told,) = found.notes
    assert told == (
        "The own model of task 'a' (Gated) is not used: the trunk is that of a 'mlp' network; "
        "start = 'a' takes its own."
    )
    _, found = result(task("a", Gated(3)), task("bb", Gated(3, width=7)))
    assert [note.split("'")[1] for note in found.notes] == ["a", "bb"]
    _, found = result(task("a", Gated(3)), task("bb", Gated(3)), model={"hidden": [4]})
    assert len(found.notes) == 2
    one, two = Gated(3), Gated(3, width=7)
    trunk, found = result(task("a", one), task("bb", two), start="a", budget=Budget(steps=1, learning_rate=1e-30))
    inputs = torch.randn(3, 4)
    torch.testing.assert_close(trunk(inputs), Headless(one)(inputs))
    assert found.start == "the model of task 'a'"
    assert [note.split("'")[1] for note in found.notes] == ["bb"]


def test_models_that_the_run_made_itself_are_none_of_the_tasks_own() -> None:
    known: dict[str, Any] = {"model": ModelSpec(hidden=(5,)), "train": SHORT, "seeds": 1, "discoverers": []}
    with TransferEngine(registry=reference_registry(REFERENCE), **known) as engine:
        for name in ("a", "bb"):
            engine.register_task(task(name))
        before = engine.run_stage("multitask", tasks=["a", "bb"], budget=SHORT).record
        engine.train()
        after = engine.run_stage("multitask", tasks=["a", "bb"], budget=SHORT).record
        assert before == after
        assert before.notes == ()


def test_scores_come_with_their_metric_and_what_they_can_be() -> None:
    _, found = result(task("a"), task("bb", metric="matthews"))
    assert found.metrics == {"a": "accuracy", "bb": "matthews"}
    assert (found.intervals["a"].low, found.intervals["a"].high) == (0.0, 1.0)
    assert (found.intervals["bb"].low, found.intervals["bb"].high) == (-1.0, 1.0)
    assert (found.gains["bb"].low, found.gains["bb"].high) == (-2.0, 2.0)
    assert found.gains["a"].mean == pytest.approx(found.scores["a"] - found.single_task_scores["a"])
    from crosstask_multitask import Multitask

    rows = Multitask.summary(found)
    assert "joint_mean_score" not in rows
    assert rows["joint_score_of_bb"].startswith("matthews ")


# --- Any network, any kind of task


def pcgrad() -> Balancer:
    made: Balancer = pytest.importorskip("crosstask_pcgrad").PCGrad()
    return made


def joint(tasks: list[Task], network: nn.Module, steps: int = 4, **more: Any) -> MultiTaskTrainer:
    module = ReferenceSharing().build(tasks, Headless(network))
    budget = Budget(**{"steps": steps, "batch_size": 16, "learning_rate": 0.01, **more})
    made = MultiTaskTrainer(module, tasks, pcgrad(), budget, LocalContext())
    before = [p.clone() for p in module.shared_parameters()]
    made.fit()
    assert any(not torch.equal(a, b) for a, b in zip(before, module.shared_parameters(), strict=True))
    assert all(len(made.history[t.task_id]) == steps for t in tasks)
    return made


def test_a_transformer_under_pcgrad() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=30, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=12, num_labels=3,
    )  # fmt: skip
    torch.manual_seed(0)
    network = transformers.BertForSequenceClassification(config)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, 30, (48, 10), generator=generator)
    mask = (torch.arange(10) < torch.randint(4, 11, (48, 1), generator=generator)).long()
    inputs = {"input_ids": ids * mask, "attention_mask": mask}
    kinds = {"first": (ids[:, 0] % 3, 3), "even": ((ids[:, 1] % 2 == 0).long(), 2)}
    tasks = []
    for name, (labels, classes) in kinds.items():
        split = (inputs, labels)
        descriptor = TaskDescriptor(task_id=name, output_dim=classes)
        tasks.append(Task(descriptor=descriptor, train=split, test=split, model=network))
    prepare_model(tasks[0])
    made = joint(tasks, network)
    given = tasks[0].data().inputs[:5]
    answers = made.module({"first": given, "even": given})
    assert {name: tuple(logits.shape) for name, logits in answers.items()} == {"first": (5, 3), "even": (5, 2)}
    assert set(made.scores("test")) == {"first", "even"}


class Maps(nn.Module):
    """A network for every pixel, whose head is a 1x1 convolution; `whole` averages it over the image."""

    def __init__(self, outputs: int, whole: bool = False, stride: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1, stride=stride), nn.BatchNorm2d(6), nn.ReLU())
        self.last, self.whole = nn.Conv2d(6, outputs, 1), whole

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        features = self.body(inputs)
        logits = self.last(features)
        return (logits.mean(dim=(2, 3)) if self.whole else logits), features


def images(kind: str, **more: Any) -> Task:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(40, 1, 8, 8, generator=generator)
    bright = inputs[:, 0] > 0
    share = bright.float().mean(dim=(1, 2))
    targets: dict[str, Any] = {
        "classes": (share > 0.5).long(),
        "single": (share > 0.5).long(),
        "labels": torch.stack([(share > 0.5).float(), (inputs[:, 0, 0, 0] > 0).float()], dim=1),
        "numbers": torch.stack([share, torch.where(share > 0.52, torch.nan, share)], dim=1),
        "pixels": bright.long(),
    }
    types = {"labels": "multilabel", "numbers": "regression", "pixels": "segmentation"}
    outputs = 1 if kind == "single" else 2
    descriptor = TaskDescriptor(task_id=kind, task_type=types.get(kind, "classification"), output_dim=outputs)
    split = (inputs, targets[kind])
    return Task(descriptor=descriptor, train=split, validation=split, test=split, **more)


KINDS = ("classes", "single", "labels", "numbers", "pixels")


def test_a_network_of_maps_trains_every_kind_of_task_under_pcgrad() -> None:
    tasks = [images(kind) for kind in KINDS]
    network = Maps(2)
    owner = images("pixels", model=network)
    prepare_model(owner)
    made = joint(tasks, network, steps=80, evaluate_every=40, batch_size=80)
    batch = tasks[0].data().inputs[:3]
    shapes = {name: tuple(logits.shape) for name, logits in made.module(dict.fromkeys(KINDS, batch)).items()}
    assert shapes == {"classes": (3, 2), "single": (3, 1), "labels": (3, 2), "numbers": (3, 2), "pixels": (3, 2, 8, 8)}
    scores = made.scores("test")
    assert scores["pixels"] > 0.8  # a pixel's own brightness says it
    assert all(0 <= score <= 1 for score in scores.values())
    assert all(torch.isfinite(torch.tensor(losses)).all() for losses in made.history.values())


def test_a_convolutional_head_under_pcgrad() -> None:
    """Two kinds of labels for whole images, of a network that ends in a 1x1 convolution and a mean."""
    network = Maps(2, whole=True)
    tasks = [images("classes", model=network), images("single")]
    prepare_model(tasks[0])
    made = joint(tasks, network)
    assert isinstance(made.module, Heads)
    answers = made.module(dict.fromkeys(("classes", "single"), tasks[0].data().inputs[:3]))
    assert {name: tuple(logits.shape) for name, logits in answers.items()} == {"classes": (3, 2), "single": (3, 1)}


def test_heads_for_features_of_every_form() -> None:
    pixels, classes = images("pixels"), images("classes")
    pixels.data()
    maps = torch.randn(2, 6, 4, 4)
    head = head_for(pixels, maps)
    assert head(maps).shape == (2, 2, 8, 8)  # interpolated to the labels
    means = head_for(classes, maps, hidden=5)
    first, second = means[1][0], means[1][2]
    expected = second(torch.relu(first(maps.mean(dim=(2, 3)))))
    torch.testing.assert_close(means(maps), expected)
    words = TaskDescriptor(task_id="words", task_type="token_classification", output_dim=5)
    assert head_for(Task(descriptor=words), torch.randn(2, 7, 3))(torch.randn(4, 7, 3)).shape == (4, 7, 5)
    assert head_for(classes, maps.double())(maps.double()).dtype == torch.float64
    with pytest.raises(DataError, match=r"task 'pixels': the trunk must give maps \(2, F, H, W\) to segment, got"):
        head_for(pixels, torch.randn(2, 6))
    with pytest.raises(DataError, match=r"task 'words': .* of shape \(2, L, F\), got \(2, 6\)"):
        head_for(Task(descriptor=words), torch.randn(2, 6))
    with pytest.raises(DataError, match=r"task 'classes': .* of shape \(2, F\), got \(2, 6, 3\)"):
        head_for(classes, torch.randn(2, 6, 3))


@pytest.mark.parametrize("way", ["like", "start", "trunk"])
def test_a_trunk_is_known_by_the_factory_of_its_network(way: str) -> None:
    """By which it, or what it is compared with, is drawn."""

    def identity(gain: float | None) -> Any:
        torch.manual_seed(0)
        first = task("a", Gated(3))
        network = first.model if way != "trunk" else nn.Sequential(nn.Linear(4, 6), nn.Tanh())
        assert network is not None
        prepare_model(first)
        if gain is not None:
            know(network, build=functools.partial(_drawn, gain))
        if way == "trunk":
            return of_module(network, first, "it").identity
        return (of_task(first) if way == "start" else of_architecture(network, first, 0)).identity

    assert identity(1.0) == identity(1.0)
    assert len({str(identity(gain)) for gain in (None, 1.0, 2.0)}) == 3


def _drawn(gain: float) -> nn.Module:
    made = Gated(3)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(gain)
    return made
