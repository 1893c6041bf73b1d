"""Joint training on two questions about real digits."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from crosstask.context import LocalContext
from crosstask.descriptors import TaskDescriptor
from crosstask.errors import DataError, OptionError, RunError, StoreError
from crosstask.learning.checkpoint import load_state, save_state
from crosstask.learning.gradients import TaskGradients
from crosstask.options import component, state
from crosstask.points.balancer import Balancer
from crosstask.records import Budget
from crosstask.tasks import Task
from crosstask_multitask import MultiTaskModule, MultiTaskTrainer, Sampler


class Listening(LocalContext):
    """A context that keeps what is told."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed)
        self.told: list[dict[str, Any]] = []
        self.answers: list[Any] = []

    def tell(self, hook: str, **arguments: Any) -> list[Any]:
        assert hook == "training_step"
        self.told.append(arguments)
        return self.answers


class Shared(MultiTaskModule):
    def __init__(self, tasks: list[Task]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.trunk = nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout(0.2))
        self.heads = nn.ModuleDict({t.task_id: nn.Linear(64, t.descriptor.output_dim or 1) for t in tasks})

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        features = self.trunk(torch.cat(list(inputs.values()))).split([len(x) for x in inputs.values()])
        return {name: self.heads[name](part) for name, part in zip(inputs, features, strict=True)}

    def shared_parameters(self) -> Iterator[nn.Parameter]:
        return self.trunk.parameters()

    def task_parameters(self, task_id: str) -> Iterator[nn.Parameter]:
        return self.heads[task_id].parameters()


@component
class Smoothed(Balancer):
    """Inverse gradient norms, averaged over steps: it looks at the Gram matrix and has a state."""

    norms: Tensor | None = state()

    def balance(self, losses: Tensor, gradients: TaskGradients) -> Tensor:
        norms = gradients.gramian.diagonal().sqrt()
        self.norms = norms if self.norms is None else 0.9 * self.norms + 0.1 * norms
        return self.norms.mean() / self.norms


@component
class Learned(Balancer):
    """Weights that the model's optimiser trains."""

    weighs_losses = True
    scales: Tensor | None = state()

    def __attrs_post_init__(self) -> None:
        self.parameter = nn.Parameter(torch.zeros(2))

    def parameters(self) -> list[nn.Parameter]:
        return [self.parameter]

    def balance(self, losses: Tensor, gradients: TaskGradients) -> Tensor:
        weights = (-self.parameter.detach()).exp()
        gradient = 1 - weights * losses
        self.parameter.grad = gradient if self.parameter.grad is None else self.parameter.grad + gradient
        return weights


@component
class Coin(Sampler):
    """One task, drawn; counts how often."""

    calls: int = state(0)

    def sample(self, tasks: list[str], history: dict[str, list[float]], rng: torch.Generator) -> list[str]:
        self.calls += 1
        return [tasks[int(torch.randint(len(tasks), (), generator=rng))]]


def digits() -> list[Task]:
    inputs, labels = load_digits(return_X_y=True)
    images, digit = torch.from_numpy(inputs).float() / 16, torch.from_numpy(labels)
    parts = {"train": slice(0, 1000), "validation": slice(1000, 1300), "test": slice(1300, None)}
    return [
        Task(
            descriptor=TaskDescriptor(task_id=name, input_shape=(64,), output_dim=classes),
            **{split: (images[rows], target[rows]) for split, rows in parts.items()},
        )
        for name, target, classes in [("digit", digit, 10), ("parity", digit % 2, 2)]
    ]


def trainer(
    balancer: Balancer | None = None,
    steps: int = 60,
    seed: int = 0,
    context: LocalContext | None = None,
    sampler: Sampler | None = None,
    features: bool = False,
    **more: Any,
) -> MultiTaskTrainer:
    tasks = digits()
    budget = Budget(steps=steps, batch_size=64, learning_rate=3e-3, evaluate_every=10, **more)
    context = context or Listening(seed)
    return MultiTaskTrainer(Shared(tasks), tasks, balancer or Smoothed(), budget, context, sampler, features=features)


def test_both_tasks_are_learned_and_every_step_is_told() -> None:
    context = Listening()
    made = trainer(context=context, steps=150)
    made.fit()
    scores = made.scores("test")
    assert scores["digit"] > 0.85
    assert scores["parity"] > 0.85
    assert [t["step"] for t in context.told] == list(range(1, 151))
    for told in context.told:
        assert told["stage"] == "multitask"
        assert set(told["metrics"]["conflicts"]) == {"mean_cosine", "conflict_share", "magnitude_similarity"}
        assert set(told["metrics"]["losses"]) == set(told["metrics"]["weights"]) == {"digit", "parity"}
    assert made.steps == [1, *range(10, 151, 10)]
    for rows in (made.weights, made.curves, made.conflicts):
        assert all(len(values) == len(made.steps) for values in rows.values())
    assert made.curves["digit"][-1] > made.curves["digit"][0]


CASES: dict[str, dict[str, Any]] = {
    "gram": {"balancer": Smoothed},
    "learned weights": {"balancer": Learned},
    "one task at a time": {"balancer": Smoothed, "sampler": Coin},
    "bfloat16": {"balancer": Smoothed, "precision": "bfloat16"},
    "float16": {"balancer": Learned, "precision": "float16", "clip": 1.0},
    "features": {"balancer": Smoothed, "features": True},
    "early stop": {"balancer": Smoothed, "patience": 2},
    "schedule": {"balancer": Smoothed, "schedule": "cosine", "warmup": 5},
    "accumulated": {"balancer": Learned, "accumulate": 3, "clip": 0.5},
}


def made(case: str, **more: Any) -> MultiTaskTrainer:
    arguments = {k: v() if isinstance(v, type) else v for k, v in CASES[case].items()}
    return trainer(**arguments, **more)


@pytest.mark.parametrize("case", CASES)
def test_a_resumed_training_is_the_uninterrupted_one(case: str, tmp_path: Path) -> None:
    """Bit for bit, whatever was drawn from torch's global generator in between."""
    whole = made(case)
    whole.fit()
    first = made(case)
    for number in range(1, 24):
        first.step(number, record=number % 10 == 0 or number == 1)
    first.save(tmp_path / "checkpoint")
    torch.manual_seed(12345)
    second = made(case)
    second.load(tmp_path / "checkpoint")
    second.fit()
    assert second.history == whole.history
    assert second.curves == whole.curves
    assert second.weights == whole.weights
    assert second.conflicts == whole.conflicts
    after, expected = second.module.state_dict(), whole.module.state_dict()
    assert all(torch.equal(after[name], value) for name, value in expected.items())
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint"]


def test_training_draws_nothing_from_the_global_generator() -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    made("gram", steps=3).fit()
    first = trainer(steps=3)  # the module itself is initialised from it
    torch.manual_seed(7)
    first.fit()
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_mixed_precision_learns_too(precision: str) -> None:
    made = trainer(steps=100, precision=precision)
    made.fit()
    assert made.scores("test")["digit"] > 0.8
    assert all(p.dtype == torch.float32 for p in made.module.parameters())


def test_weights_that_the_optimiser_trains_are_not_changed_by_the_scaler() -> None:
    plain, scaled = trainer(Learned(), steps=20), trainer(Learned(), steps=20, precision="float16")
    plain.fit()
    scaled.fit()
    torch.testing.assert_close(scaled.balancer.parameters()[0], plain.balancer.parameters()[0], rtol=0.05, atol=0.005)


def test_early_stop_goes_back_to_the_best() -> None:
    made = trainer(steps=2000, patience=2)
    made.fit()
    assert made.stopped
    assert made.done < 2000
    best = max(sum(values) / 2 for values in zip(*made.curves.values(), strict=True))
    assert sum(made.scores("validation").values()) / 2 == pytest.approx(best)


def test_conflicts_are_measured_even_if_the_balancer_does_not_look() -> None:
    made = trainer(Learned(), steps=20)
    made.fit()
    assert len(made.conflicts["mean_cosine"]) == 3
    assert any(value != 1.0 for value in made.conflicts["mean_cosine"])


def test_a_task_that_is_not_sampled_is_not_touched() -> None:
    @component
    class First(Sampler):
        def sample(self, tasks: list[str], history: dict[str, list[float]], rng: torch.Generator) -> list[str]:
            return tasks[:1]

    made = trainer(steps=5, sampler=First())
    before = [p.clone() for p in made.module.task_parameters("parity")]
    made.fit()
    assert all(torch.equal(a, b) for a, b in zip(before, made.module.task_parameters("parity"), strict=True))
    assert made.history["parity"] == []
    assert made.weights["parity"] == [0.0, 0.0]  # of the first step and the last


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_frozen_weights_stay_bit_for_bit_as_they_are(optimizer: str) -> None:
    """Also those that still hold a gradient from before."""
    tasks = digits()
    module = Shared(tasks)
    frozen = [module.trunk[0].weight, module.heads["parity"].bias]
    for parameter in frozen:
        parameter.grad = torch.ones_like(parameter)
        parameter.requires_grad_(False)
    before = [parameter.clone() for parameter in frozen]
    budget = Budget(steps=10, batch_size=64, learning_rate=3e-3, weight_decay=0.1, optimizer=optimizer, clip=1.0)
    made = MultiTaskTrainer(module, tasks, Smoothed(), budget, Listening())
    trained = {name: p.clone() for name, p in module.named_parameters() if p.requires_grad}
    made.fit()
    assert all(torch.equal(a, b) for a, b in zip(before, frozen, strict=True))
    assert not any(torch.equal(p, trained[name]) for name, p in module.named_parameters() if p.requires_grad)


def test_what_cannot_be_trained_is_said(tmp_path: Path) -> None:
    tasks = digits()
    with pytest.raises(DataError, match="no tasks"):
        MultiTaskTrainer(Shared(tasks), [], Smoothed(), Budget(), Listening())
    still = Shared(tasks)
    still.trunk.requires_grad_(False)
    with pytest.raises(DataError, match="no shared weight of the module can be trained"):
        MultiTaskTrainer(still, tasks, Smoothed(), Budget(), Listening())
    with pytest.raises(OptionError, match="precision cannot be 'float61'; did you mean 'float16'"):
        trainer(precision="float61")
    tasks[0].validation = None
    with pytest.raises(DataError, match="validation"):
        MultiTaskTrainer(Shared(tasks), tasks, Smoothed(), Budget(patience=1), Listening())
    others = digits()[:1]
    other = MultiTaskTrainer(Shared(others), others, Smoothed(), Budget(), Listening())
    with pytest.raises(DataError, match="state is of tasks"):
        other.load_state_dict(trainer().state_dict())
    with pytest.raises(StoreError, match="cannot read"):
        trainer().load(tmp_path / "nothing")

    @component
    class Nobody(Sampler):
        def sample(self, tasks: list[str], history: dict[str, list[float]], rng: torch.Generator) -> list[str]:
            return []

    with pytest.raises(RunError, match="sample must return some"):
        trainer(sampler=Nobody()).fit()


def test_states_survive_the_file(tmp_path: Path) -> None:
    shared = torch.arange(6.0)
    half = torch.tensor(1, dtype=torch.bfloat16)
    given = {"a": [1, 2.5, None, True, "x"], 3: (shared[:2], shared), "inf": float("-inf"), "b": half}
    save_state(tmp_path / "x", given)
    found = load_state(tmp_path / "x")
    assert found["a"] == given["a"]
    assert isinstance(found[3], tuple)
    assert torch.equal(found[3][0], shared[:2])
    assert found["inf"] == float("-inf")
    assert found["b"].dtype == torch.bfloat16
    with pytest.raises(StoreError, match=r"state\['f'\]\[0\]: it is a function"):
        save_state(tmp_path / "y", {"f": [digits]})
