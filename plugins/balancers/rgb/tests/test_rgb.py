"""RGB against a slow twin that rotates the gradients themselves and differentiates by autograd."""

import math

import pytest
import torch
from torch import Tensor

from crosstask import OptionError, RunError
from crosstask_rgb import RGB


class Twin:
    """The definition, word for word, on [T, D]."""

    def __init__(self, mu: float, lambd: float, steps: int, rate: float) -> None:
        self.mu, self.lambd, self.steps, self.rate = mu, lambd, steps, rate
        self.d: Tensor | None = None
        self.angles: Tensor | None = None

    def __call__(self, gradients: Tensor) -> Tensor:
        count = len(gradients)
        g = gradients / gradients.norm(dim=1, keepdim=True)
        y = g.mean(0) / g.mean(0).norm()
        d = y if self.d is None else self.mu * self.d + (1 - self.mu) * y
        self.d = d = d / d.norm()
        along = g @ d
        w = d - along[:, None] * g
        w = w / w.norm(dim=1, keepdim=True)
        limit = torch.minimum(torch.arccos(along), torch.tensor(math.pi / 2, dtype=g.dtype))
        limit[along.abs() > 0.999] = 0
        angles = torch.zeros(count, dtype=g.dtype) if self.angles is None else self.angles
        angles = angles.clamp_min(0).minimum(limit)
        for _ in range(self.steps):
            angles = angles.detach().requires_grad_()
            r = angles.cos()[:, None] * g + angles.sin()[:, None] * w
            conflict = sum(1 - r[i] @ r[j] for i in range(count) for j in range(i + 1, count)) / (count * (count - 1))
            proximity = ((r - g) ** 2).sum() / (4 * count)
            (slope,) = torch.autograd.grad(conflict + self.lambd * proximity, angles)
            angles = (angles - self.rate * slope).clamp_min(0).minimum(limit)
        self.angles = angles.detach()
        return (self.angles.cos()[:, None] * g + self.angles.sin()[:, None] * w).mean(0)


@pytest.mark.parametrize(
    ("tasks", "options"),
    [
        (2, {}),
        (3, {"lambd": 0.1, "lr_inner": 2.0}),
        (8, {"alpha_steps": 20, "lr_inner": 5.0}),
        (16, {"mu": 0.5}),
    ],
)
def test_ten_updates_agree_with_the_twin(tasks: int, options: dict[str, float]) -> None:
    rgb = RGB(**options)
    twin = Twin(rgb.mu, rgb.lambd, rgb.alpha_steps, rgb.lr_inner)
    generator = torch.Generator().manual_seed(tasks)
    for _ in range(10):
        gradients = torch.randn(tasks, 30, generator=generator, dtype=torch.float64)
        torch.testing.assert_close(rgb.combine(gradients), twin(gradients), rtol=1e-9, atol=1e-11)
        found = torch.tensor([rgb.angles[str(task)] for task in range(tasks)], dtype=torch.float64)
        torch.testing.assert_close(found, twin.angles, rtol=1e-8, atol=1e-10)
    assert (found > 0).any()


def test_two_orthogonal_tasks() -> None:
    """By hand: g = e1, e2; d = (1, 1)/√2, 45° from both. One step of rate r from 0: the slope of the conflict term is
    -(w_i·g_j)/2 = -1/2, that of the other term 0, so both turn by r/2."""
    update = RGB(alpha_steps=1, lr_inner=0.4).combine(torch.tensor([[3.0, 0.0], [0.0, 0.1]], dtype=torch.float64))
    turned = (math.cos(0.2) + math.sin(0.2)) / 2
    torch.testing.assert_close(update, torch.tensor([turned, turned], dtype=torch.float64))


def test_never_beyond_the_consensus() -> None:
    gradients = torch.tensor([[1.0, 0.1, 0.0], [1.0, -0.1, 0.2], [1.0, 0.0, -0.3]], dtype=torch.float64)
    rgb = RGB(alpha_steps=200, lr_inner=50.0, lambd=0.0)
    update = rgb.combine(gradients)
    torch.testing.assert_close(update, rgb.consensus, rtol=1e-6, atol=1e-6)


def test_one_task_and_zero_gradients() -> None:
    one = torch.tensor([[3.0, 4.0]])
    torch.testing.assert_close(RGB().combine(one), torch.tensor([0.6, 0.8]))
    torch.testing.assert_close(RGB().combine(torch.zeros(3, 4)), torch.zeros(4))
    some = torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.6, 0.8]])
    rgb = RGB()
    for _ in range(3):
        assert torch.isfinite(rgb.combine(some)).all()
    assert rgb.angles["1"] == 0


def test_opposite_gradients_have_no_consensus_and_cancel() -> None:
    torch.testing.assert_close(RGB().combine(torch.tensor([[1.0, 0.0], [-2.0, 0.0]])), torch.zeros(2))


def test_between_two_solutions_the_mean_of_the_unit_gradients() -> None:
    rgb = RGB(update_interval=3, lr_inner=1.0)
    gradients = torch.tensor([[2.0, 0.0], [0.0, 5.0]])
    mean = torch.tensor([0.5, 0.5])
    updates = [rgb.combine(gradients) for _ in range(4)]
    torch.testing.assert_close(updates[1], mean)
    torch.testing.assert_close(updates[2], mean)
    assert updates[0].norm() > mean.norm() + 0.01
    assert updates[3].norm() > updates[0].norm()  # the angles go on from where they were


def test_adaptive_number_of_steps() -> None:
    rgb = RGB(adaptive=True)
    assert rgb._steps(torch.tensor([1.0, 1.0]), "ab") == 1
    assert rgb._steps(torch.tensor([1.0, 1.0]), "ab") == 1  # no change, no variability
    assert rgb._steps(torch.tensor([1.0, 3.0]), "ab") == round(1 + 9 * 1 / 2)  # changes 0 and 2: deviation 1
    assert rgb._steps(torch.tensor([1.0, 3e9]), "ab") == 10


def test_features_are_refused() -> None:
    weight, inputs = torch.nn.Parameter(torch.ones(3, 2)), torch.ones(4, 3)
    features = inputs @ weight
    with pytest.raises(RunError, match="balance parameters, not features"):
        RGB().backward([features.sum(), features[:, 0].square().sum()], [weight], [], features=features)


def test_a_gradient_of_subnormal_length_is_no_nan() -> None:
    """1/|g| is then beyond single precision: on digits this ended joint trainings after some thousand steps, when one
    task had been learned to a loss of 0.
    """
    weight = torch.nn.Parameter(torch.zeros(3))
    tiny, plain = torch.tensor([1e-41, 0.0, 0.0]), torch.tensor([0.0, 2.0, 0.0])
    RGB().backward([(weight * tiny).sum(), (weight * plain).sum()], [weight], [])
    assert weight.grad is not None
    assert bool(weight.grad.isfinite().all())
    assert 0 < float(weight.grad[0]) < 1e-2  # 1e-41 times the largest number, and some of the other's direction
    assert float(weight.grad[1]) > 0.4


def test_half_precision_losses_bound_no_weight() -> None:
    """1/|g| is soon beyond float16, in which a weight of 1e5 would be infinite."""
    weight = torch.nn.Parameter(torch.zeros(2, dtype=torch.float16))
    losses = [(weight * torch.tensor(row, dtype=torch.float16)).sum() for row in ([2.0**-17, 0.0], [0.0, 1.0])]
    found = RGB(lambd=1e9, lr_inner=1e-12).backward(losses, [weight], [])  # no angle: the mean of the unit gradients
    torch.testing.assert_close(found, torch.tensor([2.0**16, 0.5]), rtol=1e-5, atol=0)
    assert weight.grad is not None
    assert weight.grad.tolist() == [0.5, 0.5]


def test_state_survives() -> None:
    generator = torch.Generator().manual_seed(0)
    gradients = torch.randn(4, 5, 9, generator=generator)
    first, second = RGB(), RGB()
    for step in range(3):
        first.combine(gradients[step])
    second.load_state_dict(first.state_dict())
    torch.testing.assert_close(second.combine(gradients[3]), first.combine(gradients[3]), rtol=0, atol=0)


def test_a_consensus_of_other_parameters_starts_anew() -> None:
    """As when an objective is switched off, and parameters are no longer shared."""
    many, few = torch.randn(3, 5, 9), torch.randn(2, 4)
    rgb, fresh = RGB(), RGB()
    rgb.combine(many[0])
    rgb.consensus = fresh.consensus
    rgb.combine(many[1])
    rgb.angles = {}
    torch.testing.assert_close(rgb.combine(few), fresh.combine(few), rtol=0, atol=0)
    weights = [torch.nn.Parameter(torch.ones(size)) for size in (3, 2)]
    for parts in ((0, 1), (0,), (0, 1)):
        shared = sum(weights[part].square().sum() for part in parts)
        rgb.backward({"a": shared, "b": (shared + 1).log()})


@pytest.mark.parametrize(
    "options", [{"mu": 1.0}, {"alpha_steps": 0}, {"lr_inner": -1.0}, {"update_interval": 0}, {"lambd": "x"}]
)
def test_wrong_options(options: dict[str, object]) -> None:
    with pytest.raises(OptionError, match=next(iter(options))):
        RGB(**options)
