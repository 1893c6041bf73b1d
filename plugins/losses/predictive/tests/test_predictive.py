"""Movement of attention and the difference of slots, against closed forms."""

import pytest
import torch
from torch import Tensor

from crosstask.errors import DataError
from crosstask_losses import LossAggregator
from crosstask_predictive import Predictive
from crosstask_predictive.predictive import centre_of_mass


def points(*places: tuple[int, int]) -> Tensor:
    """Maps [1, S, 5, 5] of slots that each look at one (row, column)."""
    made = torch.zeros(1, len(places), 5, 5)
    for slot, (row, column) in enumerate(places):
        made[0, slot, row, column] = 1
    return made


def losses(maps: list[Tensor], movement: list[Tensor] | None = None, off: tuple[str, ...] = ()) -> dict[str, Tensor]:
    outputs = {"attention": maps} | ({} if movement is None else {"predicted_movement": movement})
    observations = torch.zeros(len(maps[0]), len(maps), 1, 2, 2)
    return LossAggregator([Predictive()], off=off).compute_losses(outputs, observations)[0]


def test_names_and_default_weights_are_those_of_the_specification() -> None:
    assert (Predictive.total, list(Predictive.weighting)) == (
        "attention_loss",
        ["attention_dynamics_loss", "attention_diversity"],
    )
    assert Predictive().weights() == {"lambda_att_dyn": 0.1, "diversity_weight": 0.1}


def test_centre_of_mass_is_x_and_y_from_minus_one_to_one() -> None:
    found = centre_of_mass(points((0, 0), (0, 4), (2, 2), (3, 1)))[0]
    torch.testing.assert_close(found, torch.tensor([[-1.0, -1.0], [1.0, -1.0], [0.0, 0.0], [-0.5, 0.5]]))
    assert torch.equal(centre_of_mass(torch.ones(1, 1)), torch.zeros(2))


def test_the_right_prediction_costs_nothing_and_a_wrong_one_its_square() -> None:
    """A slot moves two columns (x + 1), the other a row (y + .5)."""
    maps = [points((0, 0), (4, 4)), points((0, 2), (3, 4))]
    right = torch.tensor([[[1.0, 0.0], [0.0, -0.5]]])
    assert losses(maps, [right])["attention_dynamics_loss"] == 0
    wrong = right + torch.tensor([[[0.2, 0.0], [0.0, 0.0]]])
    torch.testing.assert_close(losses(maps, [wrong])["attention_dynamics_loss"], torch.tensor(0.04 / 4))


def test_the_prediction_after_the_last_step_is_not_judged() -> None:
    maps = [points((0, 0), (4, 4)), points((0, 2), (3, 4))]
    right = torch.tensor([[[1.0, 0.0], [0.0, -0.5]]])
    assert losses(maps, [right, torch.full((1, 2, 2), 9.0)])["attention_dynamics_loss"] == 0


def test_the_movement_that_was_is_a_target_without_a_gradient() -> None:
    maps = [torch.rand(2, 3, 4, 4).flatten(2).softmax(-1).view(2, 3, 4, 4).requires_grad_() for _ in range(3)]
    movement = [torch.zeros(2, 3, 2, requires_grad=True) for _ in range(2)]
    found = losses(maps, movement)["attention_dynamics_loss"]
    grads = torch.autograd.grad(found, [*maps, *movement], allow_unused=True)
    assert [grad is None for grad in grads] == [True, True, True, False, False]


def test_diversity_is_a_bonus() -> None:
    """Slots that look at the same have none, slots apart have one, and more of it makes the loss smaller."""
    still = [torch.zeros(1, 2, 2)]
    same = losses([points((1, 1), (1, 1))] * 2, still)
    apart = losses([points((1, 1), (3, 3))] * 2, still)
    assert (same["attention_diversity"].item(), apart["attention_diversity"].item()) == (0, 1)
    torch.testing.assert_close(apart["attention_loss"] - same["attention_loss"], torch.tensor(-0.1))


def test_diversity_is_the_mean_over_pairs() -> None:
    found = losses([points((1, 1), (1, 1), (3, 3))] * 2, off=("attention_dynamics_loss",))
    torch.testing.assert_close(found["attention_diversity"], torch.tensor(1 - 1 / 3))


def test_descending_the_loss_moves_slots_apart() -> None:
    torch.manual_seed(0)
    scores = torch.randn(1, 2, 16).mul(0.1).requires_grad_()
    for _ in range(200):
        maps = scores.softmax(-1).view(1, 2, 4, 4)
        found = losses([maps, maps], off=("attention_dynamics_loss",))
        (grad,) = torch.autograd.grad(found["attention_loss"], scores)
        scores = (scores - 50 * grad).detach().requires_grad_()
    assert found["attention_diversity"] > 0.9


@pytest.mark.parametrize(
    ("maps", "movement", "said"),
    [
        ([points((1, 1))] * 2, [torch.zeros(1, 1, 2)], "compares slots, and there is one: switch it off"),
        ([points((1, 1), (2, 2))], [torch.zeros(1, 2, 2)], "needs at least two time steps, got one"),
        ([points((1, 1), (2, 2))] * 2, [torch.zeros(1, 2, 3)], r"\[B, S, 2\] with B = 1, S = 2, got \[1, 2, 3\]"),
        ([points((1, 1), (2, 2))] * 3, [torch.zeros(1, 2, 2)], "has 1 tensors; it must have 2 or 3"),
    ],
)
def test_what_cannot_be_judged_is_said(maps: list[Tensor], movement: list[Tensor], said: str) -> None:
    with pytest.raises(DataError, match=said):
        losses(maps, movement)
