"""Attacks: never out of the ball or the range, as strong as others, in closed form where the model is linear."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from crosstask.descriptors import MultiInput, TaskDescriptor
from crosstask.errors import DataError
from crosstask.learning.modules import seeded
from crosstask.learning.training import fit, predict
from crosstask.records import Budget
from crosstask.tasks import Task
from crosstask_alignment.testing import digits
from crosstask_shifted import AdversarialTransfer, fgsm, losses_of, pgd, range_of

RADIUS = 0.06


@pytest.fixture(scope="module")
def trained() -> tuple[nn.Module, Task]:
    task = digits()
    with seeded(0):
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 10))
    fit(model, task, Budget(steps=80, batch_size=64, learning_rate=1e-2), torch.Generator().manual_seed(0))
    return model, task


def attacked(model: nn.Module, task: Task, rows: int = 200, **given: Any) -> tuple[Tensor, Tensor, Tensor]:
    """(inputs, targets, what an attack makes of them)"""
    data = task.data("test").take(slice(rows))
    generator = torch.Generator().manual_seed(3)
    made = pgd(
        model,
        task,
        data.inputs,
        data.targets,
        **{"radius": RADIUS, "known": range_of(task), "generator": generator, **given},
    )
    return data.inputs, data.targets, made


@pytest.mark.parametrize("given", [{}, {"step": 3.0}, {"steps": 2, "sure": False}, {"restarts": 3}])
def test_it_never_leaves_the_ball_or_the_range(trained: Any, given: Any) -> None:
    inputs, _, made = attacked(*trained, **given)
    assert float((made - inputs).abs().max()) <= RADIUS + 1e-6
    assert float(made.min()) >= 0
    assert float(made.max()) <= 1
    assert float((made - inputs).abs().max()) > 0.9 * RADIUS


def test_an_input_outside_of_the_range_is_not_moved_out_of_its_ball(trained: Any) -> None:
    model, task = trained
    data = task.data("test").take(slice(20))
    known, far = range_of(task), data.inputs + 0.5
    for made in (
        pgd(model, task, far, data.targets, RADIUS, known, torch.Generator().manual_seed(0)),
        fgsm(model, task, far, data.targets, RADIUS, known),
    ):
        assert float((made - far).abs().max()) <= RADIUS + 1e-6


def test_it_is_as_strong_as_one_step_and_as_random_noise(trained: Any) -> None:
    """Sample by sample: its loss is at least that of FGSM, of the noise, and of the inputs as they are."""
    model, task = trained
    inputs, targets, made = attacked(model, task)
    known, own = range_of(task), torch.Generator().manual_seed(3)
    noise = known.inside(inputs + RADIUS * (2 * torch.rand(inputs.shape, generator=own) - 1))
    worst = losses_of(task, predict(model, made), targets)
    for other in (inputs, noise, fgsm(model, task, inputs, targets, RADIUS, known)):
        assert bool((worst >= losses_of(task, predict(model, other), targets) - 1e-4).all())
    step = losses_of(task, predict(model, fgsm(model, task, inputs, targets, RADIUS, known)), targets)
    assert float(worst.mean()) > float(step.mean())
    more = losses_of(task, predict(model, attacked(model, task, restarts=4)[2]), targets)
    assert float(more.mean()) >= float(worst.mean())


def test_a_larger_ball_is_worse(trained: Any) -> None:
    model, task = trained
    found = []
    for radius in (0.0, 0.03, 0.1):
        _, targets, made = attacked(model, task, radius=radius)
        found.append(float((predict(model, made).argmax(1) == targets).double().mean()))
    assert found[0] > found[1] > found[2]
    assert torch.equal(attacked(model, task, radius=0.0)[2], task.data("test").inputs[:200])


def test_the_model_is_left_alone(trained: Any) -> None:
    model, task = trained
    before = {n: t.clone() for n, t in model.state_dict().items()}
    model.train()
    attacked(model, task)
    assert model.training
    model.eval()
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())
    assert all(p.grad is None or not bool(p.grad.isnan().any()) for p in model.parameters())


def linear(outputs: int) -> tuple[nn.Module, Task, Tensor, Tensor]:
    """A linear model, a task in a table whose columns have ranges of their own, its inputs and targets."""
    rows = torch.randn(50, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 10.0, 0.1, 3.0])
    with seeded(2):
        model = nn.Linear(4, outputs)
    if outputs == 3:
        descriptor, targets = TaskDescriptor(task_id="v", task_type="regression", output_dim=1), rows[:, :1] * 0.3
        model = nn.Linear(4, 1)
    else:
        descriptor, targets = TaskDescriptor(task_id="c", output_dim=outputs), (rows[:, 1] > 0).long()
    return model, Task(descriptor=descriptor, train=(rows, targets)), rows, targets


@pytest.mark.parametrize("outputs", [1, 2])
def test_of_a_linear_model_it_is_the_corner_of_the_ball(outputs: int) -> None:
    """The logit's margin falls along the sign of its weights: x - r sign(w), sign turned for the other class."""
    model, task, rows, targets = linear(outputs)
    known = range_of(task)
    width = 0.05 * known.width
    made = pgd(model, task, rows, targets, width, known, torch.Generator().manual_seed(0), steps=8)
    direction = model.weight[0] if outputs == 1 else model.weight[1] - model.weight[0]
    towards = torch.where(targets[:, None] == 1, -direction.sign(), direction.sign())
    corner = known.inside(rows + width * towards)
    assert torch.allclose(made, corner, atol=1e-6)
    assert torch.allclose(fgsm(model, task, rows, targets, width, known), corner, atol=1e-6)


def test_of_values_it_moves_the_answer_away_from_the_target() -> None:
    model, task, rows, targets = linear(3)
    known = range_of(task)
    width = 0.02 * known.width
    made = pgd(model, task, rows, targets, width, known, torch.Generator().manual_seed(0))
    with torch.no_grad():
        off = (model(rows) - targets).sign()
        either = [((model(known.inside(rows + s * width * model.weight.sign())) - targets) ** 2)[:, 0] for s in (1, -1)]
        found = ((model(made) - targets) ** 2)[:, 0]
    assert off.shape == targets.shape
    assert torch.allclose(found, torch.maximum(*either), rtol=1e-4, atol=1e-6)


def test_losses_of_each_sample_are_torchs() -> None:
    logits, labels = torch.randn(6, 3), torch.tensor([0, 1, 2, 0, 1, 2])
    several = Task(descriptor=TaskDescriptor(task_id="m", task_type="multilabel", output_dim=3))
    wanted = torch.tensor([[1.0, 0.0, float("nan")]]).repeat(6, 1)
    found = losses_of(several, logits, wanted)
    each = functional.binary_cross_entropy_with_logits(logits[:, :2], wanted[:, :2], reduction="none").sum(1) / 3
    assert torch.allclose(found, each)
    classes = Task(descriptor=TaskDescriptor(task_id="c", output_dim=3))
    assert torch.allclose(losses_of(classes, logits, labels).mean(), functional.cross_entropy(logits, labels))
    places = Task(descriptor=TaskDescriptor(task_id="s", task_type="segmentation", output_dim=3))
    with pytest.raises(DataError, match="'s' is a segmentation: attacks are on classes, labels and values"):
        losses_of(places, logits, labels)


@pytest.mark.parametrize(
    ("radius", "told"),
    [(-0.1, "got -0.1"), (float("nan"), "got nan"), (float("inf"), "got inf"), (torch.tensor([0.1, -1.0, 0.1]), "-1")],
)
def test_what_is_no_ball_is_refused(radius: Any, told: str) -> None:
    """A negative radius would move points out of it, to the other side."""
    inputs, targets, model = torch.rand(4, 3), torch.zeros(4, dtype=torch.long), nn.Linear(3, 2)
    about = TaskDescriptor(task_id="t", task_type="classification", output_dim=2)
    task = Task(descriptor=about, train=(inputs, targets))
    known, generator = range_of(task), torch.Generator().manual_seed(0)
    with pytest.raises(DataError, match=f"radius of a ball must be a finite number, at least 0, got .*{told[-3:]}"):
        pgd(model, task, inputs, targets, radius, known, generator)
    with pytest.raises(DataError, match="radius of a ball"):
        fgsm(model, task, inputs, targets, radius, known)
    with pytest.raises(DataError, match=r"inputs are whole numbers \(torch.int64\)"):
        pgd(model, task, inputs.long(), targets, 0.1, known, generator)
    assert torch.equal(pgd(model, task, inputs, targets, 0.0, known, generator), inputs)


def test_what_has_no_range_is_told() -> None:
    ids = Task(descriptor=TaskDescriptor(task_id="i"), train=(torch.zeros(4, 2, dtype=torch.long), torch.arange(4) % 2))
    with pytest.raises(DataError, match="'i' has whole numbers"):
        range_of(ids)
    parts = MultiInput({"a": torch.zeros(4, 2), "b": torch.zeros(4, 1)})
    with pytest.raises(DataError, match="'p' has several inputs"):
        range_of(Task(descriptor=TaskDescriptor(task_id="p"), train=(parts, torch.arange(4) % 2)))
    one = Task(descriptor=TaskDescriptor(task_id="one", output_dim=2), train=(torch.ones(1, 2), torch.zeros(1).long()))
    assert float(range_of(one).spread.sum()) == 0


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_training_against_attacks_withstands_them(trained: Any, share: float) -> None:
    _, task = trained
    budget = Budget(steps=60, batch_size=64, learning_rate=5e-3)
    found = []
    for method in (None, AdversarialTransfer(radius=RADIUS, attack_steps=3, share=share)):
        with seeded(1):
            model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 10))
        generator = torch.Generator().manual_seed(0)
        if method is None:
            fit(model, task, budget, generator)
        else:
            model.eval()
            history = method.learn(model, model, task, budget, generator)
            assert len(history.losses) == 60
            assert not model.training  # as it was
            assert int(model[2].num_batches_tracked) == 60  # statistics are of what is learned, and of nothing else
        model.eval()
        _, targets, made = attacked(model, task)
        found.append(float((predict(model, made).argmax(1) == targets).double().mean()))
    assert found[1] > found[0] + 0.04
