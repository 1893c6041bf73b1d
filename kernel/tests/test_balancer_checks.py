"""The checks of balancers pass a right balancer, and each of them catches the fault that it is there for."""

from collections.abc import Callable
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from crosstask import component, state
from crosstask.errors import DataError
from crosstask.learning.gradients import TaskGradients
from crosstask.points.balancer import Balancer, Direction
from crosstask.testing import balancers as checks
from crosstask.testing import run_checks


@component
class Mean(Balancer):
    """Right in everything it claims."""

    capabilities: ClassVar[frozenset[str]] = frozenset(
        {"permutation_invariant", "scale_equivariant", "linear_under_scaling", "convex_weights"}
    )

    def balance(self, losses: Tensor, gradients: TaskGradients) -> Tensor:
        return torch.full_like(losses, 1 / len(losses))


def faulty(answer: Callable[[Balancer, Tensor, TaskGradients], Tensor | Direction]) -> type[Balancer]:
    @component
    class Faulty(Balancer):
        seen: int = state(0)
        kept: list[float] = state(factory=list)
        by_name: dict[str, float] = state(factory=dict)
        hidden = 0

        def balance(self, losses: Tensor, gradients: TaskGradients) -> Tensor | Direction:
            return answer(self, losses, gradients)

    return Faulty


def first_only(balancer: Balancer, losses: Tensor, gradients: TaskGradients) -> Tensor:
    return torch.eye(len(losses), dtype=losses.dtype)[0]


def doubled(balancer: Balancer, losses: Tensor, gradients: TaskGradients) -> Tensor:
    gradients.matrix.mul_(2)
    return torch.ones_like(losses)


def in_double(balancer: Balancer, losses: Tensor, gradients: TaskGradients) -> Direction:
    return Direction(vector=gradients.matrix.double().sum(dim=0))


def too_short(balancer: Balancer, losses: Tensor, gradients: TaskGradients) -> Direction:
    return Direction(vector=gradients.matrix[0, :2])


def by_norms(balancer: Balancer, losses: Tensor, gradients: TaskGradients) -> Tensor:
    return 1 / gradients.gramian.diagonal().sqrt()  # zero gradients give 0/0


def noisy(balancer: Balancer, losses: Tensor, gradients: TaskGradients) -> Tensor:
    return torch.rand(len(losses), dtype=losses.dtype)


def backwards(balancer: Balancer, losses: Tensor, gradients: TaskGradients) -> Tensor:
    return -torch.ones_like(losses)


def forgetful(balancer: Balancer, losses: Tensor, gradients: TaskGradients) -> Tensor:
    balancer.hidden += 1
    return torch.full_like(losses, balancer.hidden)


def in_place(balancer: Balancer, losses: Tensor, gradients: TaskGradients) -> Tensor:
    balancer.kept.append(1.0)
    return torch.ones_like(losses)


def by_losses(balancer: Balancer, losses: Tensor, gradients: TaskGradients) -> Tensor:
    return 1 / losses


def seeded(balancer: Balancer, losses: Tensor, gradients: TaskGradients) -> Tensor:
    draws = torch.rand(len(losses), generator=balancer.context.generator("x"), dtype=torch.float64)
    return draws.to(losses)


def unlike(balancer: Balancer, losses: Tensor, gradients: TaskGradients) -> Tensor:
    return torch.ones_like(losses) * (1 if losses.dtype == torch.float64 else 2)


def only_directly(balancer: Balancer, losses: Tensor, gradients: TaskGradients) -> Tensor:
    return torch.ones_like(losses) * (1 if type(gradients).__name__ == "MatrixGradients" else 2)


def by_place(balancer: Balancer, losses: Tensor, gradients: TaskGradients) -> Tensor:
    before = balancer.kept if len(balancer.kept) == len(losses) else [1.0] * len(losses)
    balancer.kept = losses.tolist()
    return losses.new_tensor(before)


def decaying(balancer: Balancer, losses: Tensor, gradients: TaskGradients) -> Tensor:
    old = {name: 0.9 * value for name, value in balancer.by_name.items()}
    balancer.by_name = {**old, **dict(zip(gradients.names, losses.tolist(), strict=True))}
    return torch.ones_like(losses)


@pytest.mark.parametrize("check", checks.checks_of(Mean), ids=lambda check: check.__name__)
def test_a_right_balancer_passes(check: checks.Check) -> None:
    check(Mean)


@pytest.mark.parametrize(
    ("check", "answer"),
    [
        (checks.check_shapes, too_short),
        (checks.check_keeps_dtype_and_device, in_double),
        (checks.check_single_precision_agrees, unlike),
        (checks.check_inputs_untouched, doubled),
        (checks.check_zero_gradients, by_norms),
        (checks.check_one_task, backwards),
        (checks.check_same_seed_same_answer, noisy),
        (checks.check_global_generator_untouched, noisy),
        (checks.check_state_round_trip, forgetful),
        (checks.check_state_is_a_snapshot, in_place),
        (checks.check_backward_agrees_with_combine, only_directly),
        (checks.check_state_by_name, by_place),
        (checks.check_absent_tasks_keep_their_state, decaying),
        (checks.check_permutation_invariant, first_only),
        (checks.check_scale_equivariant, by_norms),
        (checks.check_non_conflicting, backwards),
        (checks.check_linear_under_scaling, by_norms),
        (checks.check_convex_weights, backwards),
        (checks.check_stochastic, first_only),
        (checks.check_not_stochastic, seeded),
        (checks.check_ignores_losses, by_losses),
    ],
    ids=lambda value: value.__name__,
)
def test_a_fault_is_caught(check: checks.Check, answer: Callable[..., Tensor | Direction]) -> None:
    with pytest.raises(AssertionError):
        check(faulty(answer))


@component
class NeedsFour(Balancer):
    """The mean, of four tasks or more."""

    least_tasks = 4

    def balance(self, losses: Tensor, gradients: TaskGradients) -> Tensor:
        if len(losses) < 4:
            raise RuntimeError("asked with too few tasks")
        return torch.full_like(losses, 1 / len(losses))


def test_a_balancer_says_how_many_tasks_it_needs() -> None:
    outcomes = {o.name: o for o in run_checks(NeedsFour)}
    assert [o.message for o in outcomes.values() if not o.ok] == []
    assert outcomes["check_one_task"].status == "skipped"
    weight = torch.ones(2, requires_grad=True)
    with pytest.raises(DataError, match="needs at least 4 tasks, got 2"):
        NeedsFour().backward([weight[0] ** 2, weight[1] ** 2], [weight])


@component
class ByPlace(Balancer):
    """Weights by the place of a task."""

    capabilities = frozenset({"permutation_invariant"})

    def balance(self, losses: Tensor, gradients: TaskGradients) -> Tensor:
        return torch.arange(1, len(losses) + 1).to(losses)


def test_a_counter_example_is_shown() -> None:
    (told,) = [o.message for o in run_checks(ByPlace) if o.name == "check_permutation_invariant"]
    assert "with losses [0.833, 1.17] and gradients [[" in told
    assert "in the order [1, 0] it is [" in told
