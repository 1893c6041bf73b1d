"""The head is that of all data in one place, as scikit-learn has it, and few samples are not told."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from crosstask.context import LocalContext
from crosstask.descriptors import TaskDescriptor
from crosstask.errors import DataError, RunError
from crosstask.learning.modules import seeded
from crosstask.records import Budget
from crosstask.tasks import Task
from crosstask_fed_statistics import FedStatistics
from crosstask_federation import Gathered, Plan, Rounds, Site
from crosstask_federation.testing import digits_at


@pytest.fixture(autouse=True)
def double() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def network(outputs: int = 10) -> nn.Module:
    with seeded(0):
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.Tanh(), nn.Linear(20, outputs))


def head(federation: FedStatistics, tasks: list[Task], made: nn.Module | None = None) -> tuple[Any, Any]:
    model = network() if made is None else made
    sites = {task.task_id: task for task in tasks}
    plan = Plan(federation, Budget(), rounds=1)
    shared = Rounds(LocalContext(), plan, sites, dict.fromkeys(sites, model), 0, "test").run().state.shared
    return shared["weights/3.weight"], shared["weights/3.bias"]


def pooled(tasks: list[Task]) -> tuple[Any, Any]:
    """(features, labels) of all sites."""
    inputs, labels = (torch.cat([getattr(t.data(), part) for t in tasks]) for part in ("inputs", "targets"))
    with torch.no_grad():
        return network()[:3](inputs).numpy(), labels.numpy()


def test_ridge_is_that_of_all_data_in_one_place() -> None:
    from sklearn.linear_model import Ridge

    tasks = digits_at(5, train=300, test=50)
    x, y = pooled(tasks)
    weight, bias = head(FedStatistics(penalty=0.02), tasks)
    theirs = Ridge(alpha=0.02 * len(x)).fit(x, np.eye(10)[y])
    assert np.abs(weight.numpy() - theirs.coef_).max() < 1e-9
    assert np.abs(bias.numpy() - theirs.intercept_).max() < 1e-9


def test_discriminants_are_those_of_all_data_in_one_place() -> None:
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    tasks = digits_at(5, train=300, test=50)
    x, y = pooled(tasks)
    weight, bias = head(FedStatistics(head="lda", shrinkage=0.0), tasks)
    theirs = LinearDiscriminantAnalysis(solver="lsqr").fit(x, y)
    ours = x @ weight.numpy().T + bias.numpy()
    want = x @ theirs.coef_.T + theirs.intercept_
    # what is common to all classes does not matter; the ridge of 1e-9 keeps a singular covariance solvable
    assert np.abs((ours - ours[:, :1]) - (want - want[:, :1])).max() < 1e-5
    shrunk = head(FedStatistics(head="lda", shrinkage=0.3), tasks)
    one = head(FedStatistics(head="lda", shrinkage=0.3), digits_at(2, by="iid", train=300, test=50))
    assert all(float((a - b).abs().max()) < 1e-9 for a, b in zip(shrunk, one, strict=True))  # whoever has which samples


def test_values_have_a_head_too() -> None:
    tasks = []
    for task in digits_at(3, train=90, test=30):
        ink = {split: task.data(split).inputs.flatten(1).mean(1) for split in ("train", "test")}
        descriptor = TaskDescriptor(task_id=task.task_id, task_type="regression", input_shape=(1, 8, 8), output_dim=1)
        tasks.append(Task(descriptor=descriptor, **{s: (task.data(s).inputs, ink[s]) for s in ink}))
    x, y = pooled(tasks)
    weight, bias = head(FedStatistics(penalty=1e-9), tasks, network(1))
    with_one = np.c_[x, np.ones(len(x))]
    theirs = np.linalg.lstsq(with_one, y.reshape(-1), rcond=None)[0]
    assert np.abs(np.r_[weight.numpy()[0], bias.numpy()] - theirs).max() < 1e-4


def test_a_class_that_nobody_has_is_never_chosen() -> None:
    tasks = digits_at(2, by="iid", train=100, test=50)
    for task in tasks:
        task.data().targets[task.data().targets == 7] = 8
    weight, bias = head(FedStatistics(head="lda"), tasks)
    assert bool(torch.isfinite(weight).all())
    assert 7 not in (pooled(tasks)[0] @ weight.numpy().T + bias.numpy()).argmax(1)


def test_sums_of_few_samples_are_not_told() -> None:
    with pytest.raises(RunError, match="13 samples, fewer than 20: their sums would tell too much"):
        head(FedStatistics(least=20), digits_at(3, by="iid", train=39, test=30))


class Twice(nn.Module):
    """Its answer is not what its head makes of the features."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(64, 10)

    def forward(self, inputs: Any) -> Any:
        return 2 * self.head(inputs.flatten(1))


def test_heads_that_do_not_follow_are_refused() -> None:
    task = digits_at(2, train=60, test=30)[0]
    federation = FedStatistics()

    def at(model: nn.Module, own: Task = task, of: FedStatistics = federation) -> Any:
        site = Site("s", own, model, Budget(), torch.Generator())
        return of.local(site, of.begin(model).shared)

    with pytest.raises(DataError, match="no head can be had in closed form: what Twice answers"):
        at(Twice())
    with pytest.raises(DataError, match="must be a linear layer with a bias, both trainable"):
        federation.begin(nn.Sequential(nn.Flatten(), nn.Linear(64, 10, bias=False)))
    values = Task(
        descriptor=TaskDescriptor(task_id="v", task_type="regression", input_shape=(1, 8, 8)),
        train=(task.data().inputs, torch.randn(len(task.data()))),
    )
    with pytest.raises(DataError, match="a head by 'lda' is of classes with an output each; the task is a regression"):
        at(network(1), values, FedStatistics(head="lda"))
    flat = {f"sums/{n}": t for n, t in (("n", torch.tensor(4.0)), ("x", torch.zeros(20)), ("xx", torch.zeros(20, 20)),
                                         ("y", torch.full((10,), 0.4)), ("xy", torch.zeros(20, 10)))}  # fmt: skip
    lda = FedStatistics(head="lda")
    with pytest.raises(RunError, match="features do not vary within classes"):
        lda.merge(lda.begin(network()), Gathered(("a",), torch.ones(1), flat))
