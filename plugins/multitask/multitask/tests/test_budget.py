"""The options of a budget in joint training, against what a plain loop does with them."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from crosstask.context import LocalContext
from crosstask.descriptors import TaskDescriptor
from crosstask.learning.gradients import TaskGradients
from crosstask.learning.objectives import Metric
from crosstask.learning.training import fit
from crosstask.options import component, state
from crosstask.points.balancer import Balancer
from crosstask.records import Budget
from crosstask.tasks import Task
from crosstask_multitask import History, MultiTaskTrainer, Sampler
from crosstask_multitask.testing import Heads


class Answering(LocalContext):
    def __init__(self, stop_at: int) -> None:
        super().__init__()
        self.stop_at = stop_at

    def tell(self, hook: str, **arguments: Any) -> list[Any]:
        return [None, arguments["step"] >= self.stop_at]


@component
class Equal(Balancer):
    """The sum."""

    weighs_losses = True

    def balance(self, losses: Tensor, gradients: TaskGradients) -> Tensor:
        return torch.ones_like(losses)


def task(name: str = "a", seed: int = 0, **more: Any) -> Task:
    inputs = torch.randn(40, 3, generator=torch.Generator().manual_seed(seed))
    labels = (inputs[:, 0] > 0).long()
    split = (inputs, labels)
    descriptor = TaskDescriptor(task_id=name, input_shape=(3,), output_dim=2)
    return Task(descriptor=descriptor, train=split, validation=split, test=split, **more)


def module(*names: str) -> Heads:
    torch.manual_seed(1)
    return Heads(nn.Linear(3, 4), {name: nn.Linear(4, 2) for name in names})


OPTIONS: dict[str, dict[str, Any]] = {
    "schedule": {"schedule": "cosine", "warmup": 4},
    "linear": {"schedule": "linear"},
    "clip": {"clip": 0.05, "optimizer": "sgd"},
    "accumulate": {"accumulate": 3, "clip": 0.2, "optimizer": "sgd"},
    "half": {"precision": "bfloat16"},
}


@pytest.mark.parametrize("case", OPTIONS)
def test_one_task_alone_is_trained_as_fit_trains_it(case: str) -> None:
    """The same weights after the same batches: what each option does is what it does in `fit`."""
    budget = Budget(steps=20, batch_size=8, learning_rate=0.05, **OPTIONS[case])
    joint, context = module("a"), LocalContext()
    plain = nn.Sequential(joint.trunk, joint.heads["a"])
    start = {name: value.clone() for name, value in joint.state_dict().items()}
    MultiTaskTrainer(joint, [task()], Equal(), budget, context).fit()
    trained = {name: value.clone() for name, value in joint.state_dict().items()}
    joint.load_state_dict(start)
    fit(plain, task(), budget, context.generator("multitask", "a"))
    for name, value in joint.state_dict().items():
        torch.testing.assert_close(trained[name], value, rtol=1e-4, atol=1e-6)
        assert not torch.equal(value, start[name])


def test_an_observer_ends_the_training() -> None:
    made = MultiTaskTrainer(module("a"), [task()], Equal(), Budget(steps=50), Answering(stop_at=7))
    made.fit()
    assert made.done == 7
    assert made.stopped == "an observer asked for it at step 7"
    again = MultiTaskTrainer(module("a"), [task()], Equal(), Budget(steps=50), Answering(stop_at=7))
    again.load_state_dict(made.state_dict())
    again.fit()
    assert again.done == 7


def test_patience_weighs_every_metric_by_its_range() -> None:
    """A score in thousands does not drown one between 0 and 1."""
    measured: list[int] = []

    def rising(outputs: Tensor, targets: Tensor) -> float:
        measured.append(1)
        return 0.01 * len(measured)

    def falling(outputs: Tensor, targets: Tensor) -> float:
        return 1000.0 - 0.5 * len(measured)  # by more than the other rises, and next to nothing of what it is

    tasks = [task("a", metric=Metric(rising, low=0, high=1)), task("b", 1, metric=falling)]
    budget = Budget(steps=60, evaluate_every=10, patience=2)
    made = MultiTaskTrainer(module("a", "b"), tasks, Equal(), budget, LocalContext())
    made.fit()
    assert made.stopped == ""
    tasks = [task("a", metric=lambda o, t: 0.5), task("b", 1, metric=falling)]
    made = MultiTaskTrainer(module("a", "b"), tasks, Equal(), budget, LocalContext())
    measured.clear()
    tasks[0].metric = Metric(lambda o, t: measured.append(1) or 0.5, low=0, high=1)
    made.fit()
    assert made.stopped == "nothing better since step 1"
    assert made.done == 20


def test_samplers_are_told_what_was_measured() -> None:
    seen: list[tuple[dict[str, int], dict[str, tuple[float, float]]]] = []

    @component
    class Watching(Sampler):
        def sample(self, tasks: list[str], history: History, rng: torch.Generator) -> list[str]:
            seen.append(({t: len(s) for t, s in history.scores.items()}, dict(history.ranges)))
            assert all(len(history[t]) == len(seen) - 1 for t in tasks)
            return tasks

    other = task("b", 1, metric="rmse")
    other.validation = None
    budget = Budget(steps=5, evaluate_every=2)
    MultiTaskTrainer(module("a", "b"), [task("a"), other], Equal(), budget, LocalContext(), Watching()).fit()
    assert [counts for counts, _ in seen] == [{"a": n} for n in (0, 1, 2, 2, 3)]
    assert all(ranges == {"a": (0, 1)} for _, ranges in seen)


def test_parameters_that_a_balancer_comes_to_need_are_trained_and_resumed() -> None:
    @component
    class Growing(Balancer):
        """A parameter for each task, made when the task comes."""

        weighs_losses = True
        known: dict[str, Any] = state(factory=dict)

        def parameters(self) -> list[nn.Parameter]:
            return list(self.known.values())

        def balance(self, losses: Tensor, gradients: TaskGradients) -> Tensor:
            for name, loss in zip(gradients.names, losses, strict=True):
                if name not in self.known:
                    self.known = {**self.known, name: nn.Parameter(torch.zeros(()))}
                self.known[name].grad = 1 - loss
            return torch.ones_like(losses)

        def state_dict(self) -> dict[str, Any]:
            return {"known": {name: p.detach().clone() for name, p in self.known.items()}}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            self.known = {name: nn.Parameter(value.clone()) for name, value in state["known"].items()}

    @component
    class Later(Sampler):
        """The second task from the fourth step on."""

        def sample(self, tasks: list[str], history: History, rng: torch.Generator) -> list[str]:
            return tasks if len(history["a"]) >= 3 else tasks[:1]

    def made() -> MultiTaskTrainer:
        budget = Budget(steps=12, learning_rate=0.1, schedule="linear", optimizer="adam")
        return MultiTaskTrainer(
            module("a", "b"), [task("a"), task("b", 1)], Growing(), budget, LocalContext(), Later()
        )  # fmt: skip

    whole = made()
    whole.fit()
    first, second = made(), made()
    for number in range(1, 8):
        first.step(number)
    second.load_state_dict(first.state_dict())
    second.fit()
    one, other = whole.balancer.state_dict()["known"], second.balancer.state_dict()["known"]
    assert set(one) == {"a", "b"}
    assert all(torch.equal(one[name], other[name]) and float(one[name]) != 0 for name in one)
    assert second.history == whole.history
