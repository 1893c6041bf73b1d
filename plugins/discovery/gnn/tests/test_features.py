"""What stands for a task: from its descriptor, data and model, not from its name."""

from __future__ import annotations

import attrs
import numpy as np
import pytest
import torch
from torch import nn

from crosstask.descriptors import TaskDescriptor
from crosstask.tasks import Portfolio, Task
from crosstask_discovery.testing import images
from crosstask_gnn.features import data_features, descriptor_features, model_features, task_features


def task(name: str, inputs: torch.Tensor, labels: torch.Tensor, model: nn.Module | None = None) -> Task:
    shape = tuple(inputs.shape[1:])
    descriptor = TaskDescriptor(task_id=name, input_shape=shape, output_dim=int(labels.max()) + 1)
    return Task(descriptor=descriptor, train=(inputs, labels), model=model)


def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """400 images as rows of 64 pixels, and which digit each is."""
    inputs, labels = images()
    return inputs[:400].flatten(1), labels[:400]


def net(seed: int, outputs: int = 10) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, outputs))


def test_a_name_changes_nothing() -> None:
    one = TaskDescriptor(task_id="a", task_name="A", domain="images/digits", required_skills=("edges", "shapes"))
    other = attrs.evolve(one, task_id="b", task_name="B")
    assert np.array_equal(descriptor_features(one), descriptor_features(other))


def test_likeness_of_descriptors_is_kept() -> None:
    base = TaskDescriptor(task_id="a", domain="images/digits", required_skills=("edges", "shapes"))
    near = attrs.evolve(base, domain="images/letters")
    far = attrs.evolve(base, domain="sound", required_skills=("pitch",), task_type="regression")
    a, b, c = (descriptor_features(each)[:24] for each in (base, near, far))
    assert np.linalg.norm(a - b) < np.linalg.norm(a - c)


def test_data_features_against_numpy() -> None:
    inputs, labels = digits()
    found = data_features(task("t", inputs[:200], labels[:200]))
    x, y = inputs[:200].double().numpy(), labels[:200].numpy()
    shares = np.bincount(y) / len(y)
    entropy = -(shares * np.log(shares)).sum()
    spectrum = np.linalg.eigvalsh(np.cov(x.T, bias=True))
    within = sum(((x[y == k] - x[y == k].mean(0)) ** 2).sum() for k in range(10))
    total = ((x - x.mean(0)) ** 2).sum()
    skew = ((x - x.mean()) ** 3).mean() / x.std(ddof=1) ** 3
    expected = [
        entropy, np.log(10) - entropy, x.mean(), x.std(ddof=1), skew, (x == 0).mean(),
        np.log1p(spectrum.sum() ** 2 / (spectrum**2).sum()), 1 - within / total,
    ]  # fmt: skip
    assert found == pytest.approx(np.array(expected), rel=1e-4)


def test_models_with_like_features_are_near_one_another() -> None:
    """Linear CKA does not see a rotation or a scale of the features: only what they tell apart."""
    inputs, labels = digits()
    one, turned, other = net(0), net(0), net(1)
    with torch.no_grad():
        order = torch.randperm(32, generator=torch.Generator().manual_seed(0))
        turned[0].weight.copy_(3 * one[0].weight[order])
        turned[0].bias.copy_(3 * one[0].bias[order])
    tasks = [task(f"t{n}", inputs, labels, model) for n, model in enumerate((one, turned, other))]
    found = model_features(tasks, seed=0)
    assert np.linalg.norm(found[0] - found[1]) < 1e-3
    assert np.linalg.norm(found[0] - found[2]) > 0.1


def test_what_is_held_back_is_not_looked_at() -> None:
    inputs, labels = digits()
    seen = [task("a", inputs, labels, net(0)), task("b", inputs, labels % 2, net(1, 2))]

    def trap() -> tuple[torch.Tensor, torch.Tensor]:
        raise AssertionError("the data of an unseen task was read")

    unseen = Task(descriptor=TaskDescriptor(task_id="c", input_shape=(64,), output_dim=10), train=trap)
    found = task_features([*seen, unseen], Portfolio(seen, unseen=[unseen]))
    assert found.shape[0] == 3
    assert np.isfinite(found).all()


def test_tasks_without_data_or_model_have_features() -> None:
    inputs, labels = digits()
    tasks = [
        task("a", inputs, labels, net(0)),
        task("b", inputs[:, :16], labels),
        Task(descriptor=TaskDescriptor(task_id="c")),
    ]
    assert np.isfinite(task_features(tasks, Portfolio(tasks))).all()
    only = [Task(descriptor=TaskDescriptor(task_id=name)) for name in "ab"]
    assert np.isfinite(task_features(only, Portfolio(only))).all()
