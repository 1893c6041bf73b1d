"""Schedules against their formulas, groups of parameters, quantisation."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from crosstask.errors import DataError, OptionError
from crosstask.options import structure, unstructure
from crosstask_losses import (
    VectorQuantizer,
    WeightSchedule,
    constant,
    cosine,
    cyclical,
    linear,
    parameter_groups,
    sigmoid,
)


def test_constant() -> None:
    assert [constant(0.3)(step) for step in (0, 7, 1000)] == [0.3] * 3


def test_linear_and_cosine_reach_both_ends() -> None:
    assert [linear(1, 3, 4)(step) for step in range(6)] == [1, 1.5, 2, 2.5, 3, 3]
    found = [cosine(0, 2, 4)(step) for step in range(6)]
    assert found == pytest.approx([0, 1 - math.sqrt(0.5), 1, 1 + math.sqrt(0.5), 2, 2])
    assert [linear(2, 0, 2, delay=3)(step) for step in range(7)] == [2, 2, 2, 2, 1, 0, 0]


def test_sigmoid_is_a_logistic_curve_that_reaches_both_ends() -> None:
    made = sigmoid(0, 1, 100, steepness=8)
    assert (made(0), made(100), made(50)) == (0, 1, pytest.approx(0.5))

    def logistic(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    wanted = (logistic(8 * (0.3 - 0.5)) - logistic(-4)) / (logistic(4) - logistic(-4))
    assert made(30) == pytest.approx(wanted)
    assert sigmoid(0, 1, 100, steepness=4000)(70) == 1  # no overflow
    assert sigmoid(0, 1, 100, steepness=1e-17)(30) == pytest.approx(0.3)  # nearly a line


def test_cyclical_rises_in_half_of_each_cycle_and_stays_at_the_end() -> None:
    """Fu et al. 2019: tau = mod(t, T/M) / (T/M); tau / R up to R, then one."""
    made = cyclical(0, 1, 40, cycles=4, ratio=0.5)
    taus = [(step % 10) / 10 for step in range(40)]
    assert [made(step) for step in range(40)] == pytest.approx([min(1, tau / 0.5) for tau in taus])
    assert made(40) == made(400) == 1
    many = cyclical(0, 1, 200, cycles=100)  # .29 times 100 is less than 29
    assert all(many(step) == 0 for step in range(0, 200, 2))


def test_schedules_are_data() -> None:
    made = cyclical(0.1, 0.9, 50, cycles=5)
    assert structure(unstructure(made), WeightSchedule) == made
    assert structure({"kind": "cosine", "steps": 9}, WeightSchedule)(9) == 1
    assert structure(0.25, WeightSchedule)(3) == 0.25


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"kind": "liner"}, "kind cannot be 'liner'; did you mean 'linear'"),
        ({"step": 3}, "unknown option 'step'; did you mean 'steps'"),
        ({"start": -1.0}, "start must be >= 0"),
        ({"end": math.inf}, "start and end must be finite"),
        ({"kind": "cyclical", "steps": 3}, "3 steps are too few for 4 cycles"),
        ("fast", "must be a number"),
        (-2.0, "finite number from zero, got -2"),
    ],
)
def test_wrong_schedules_are_refused(wrong: Any, said: str) -> None:
    with pytest.raises(OptionError, match=said):
        structure(wrong, WeightSchedule, "weights['beta']")


# --- Learning rates


class Net(nn.Module):
    """A trunk, a perceiver and a part inside it."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.frozen = nn.Linear(2, 3), nn.Linear(3, 3).requires_grad_(False)
        self.perceiver = nn.ModuleDict({"vq": nn.Linear(3, 4), "head": nn.Linear(4, 1)})


def sizes(groups: list[dict[str, Any]]) -> dict[str, tuple[float, int]]:
    return {group["name"]: (group["lr"], sum(p.numel() for p in group["params"])) for group in groups}


def test_a_multiplier_makes_a_group() -> None:
    model = Net()
    groups = parameter_groups(model, 0.1, perceiver_lr_multiplier=1.5)
    assert sizes(groups) == {"model": (0.1, 9), "perceiver": (pytest.approx(0.15), 21)}
    optimizer = torch.optim.Adam(groups)
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, pytest.approx(0.15)]


def test_a_part_inside_another_has_its_own_rate_in_any_order() -> None:
    wanted = {"model": (0.1, 9), "perceiver": (pytest.approx(0.2), 5), "perceiver.vq": (pytest.approx(0.05), 16)}
    for chosen in ({"perceiver": 2, "perceiver.vq": 0.5}, {"perceiver.vq": 0.5, "perceiver": 2}):
        assert sizes(parameter_groups(Net(), 0.1, chosen)) == wanted


def test_no_parameter_is_in_two_groups_and_none_is_lost() -> None:
    model = Net()
    groups = parameter_groups(model, 0.1, {"trunk": 2, "perceiver": 3})
    assert sizes(groups) == {"trunk": (0.2, 9), "perceiver": (pytest.approx(0.3), 21)}
    found = [id(p) for group in groups for p in group["params"]]
    assert sorted(found) == sorted(id(p) for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    ("multipliers", "named", "said"),
    [
        ({"percever": 2.0}, {}, "'percever': the model has no such part; did you mean 'perceiver'"),
        ({"": 2.0}, {}, "'': the model has no such part"),
        ({"perceiver": 0.0}, {}, "must be a finite number above zero, got 0"),
        ({"perceiver": "fast"}, {}, "multiplier of 'perceiver' must be a number"),
        ({}, {"perceiver_lr": 2.0}, "no option 'perceiver_lr'; the rate of a part is <part>_lr_multiplier"),
        ({"frozen": 2.0}, {}, "'frozen': it has no parameter of its own to train"),
    ],
)
def test_wrong_groups_are_refused(multipliers: dict[str, Any], named: dict[str, float], said: str) -> None:
    with pytest.raises((OptionError, DataError), match=said):
        parameter_groups(Net(), 0.1, multipliers, **named)


def test_wrong_types_of_groups_are_refused() -> None:
    with pytest.raises(DataError, match="multipliers must be a Mapping, got a list"):
        parameter_groups(Net(), 0.1, [2.0])  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="learning_rate must be a number"):
        parameter_groups(Net(), "fast")  # type: ignore[arg-type]


def test_a_model_with_nothing_to_train_is_refused() -> None:
    with pytest.raises(DataError, match="no parameter of ReLU can be trained"):
        parameter_groups(nn.ReLU(), 0.1)
    with pytest.raises(DataError, match="the model must be a Module"):
        parameter_groups("net", 0.1)  # type: ignore[arg-type]


# --- Quantisation


def test_the_nearest_code_is_chosen_and_the_gradient_goes_straight_through() -> None:
    torch.manual_seed(0)
    made = VectorQuantizer(7, 3)
    inputs = torch.randn(5, 2, 3, requires_grad=True)
    found = made(inputs)
    distances = (inputs[..., None, :] - made.codebook).square().sum(-1)
    assert torch.equal(found.indices, distances.argmin(-1))
    torch.testing.assert_close(found.output, made.codebook[found.indices])
    seed = torch.randn(5, 2, 3)
    (grad,) = torch.autograd.grad(found.output, inputs, seed)
    assert torch.equal(grad, seed)
    assert torch.autograd.grad(found.codes.sum(), inputs, allow_unused=True) == (None,)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_inputs_of_another_precision_find_the_same_codes(dtype: torch.dtype) -> None:
    made, inputs = VectorQuantizer(7, 3), torch.randn(5, 3).bfloat16()
    assert torch.equal(made(inputs.to(dtype)).indices, made(inputs.float()).indices)


def test_codes_may_start_as_inputs() -> None:
    inputs = torch.randn(20, 3)
    made = VectorQuantizer(6, 3, inputs=inputs)
    assert all(any(torch.equal(code, row) for row in inputs) for code in made.codebook.detach())


def test_wrong_sizes_of_codes_are_refused() -> None:
    with pytest.raises(DataError, match=r"inputs must be vectors \[..., 3\], got \[5, 4\]"):
        VectorQuantizer(6, 3)(torch.zeros(5, 4))
    with pytest.raises(DataError, match="codes and dim must be at least 1"):
        VectorQuantizer(0, 3)
    with pytest.raises(OptionError, match="VectorQuantizer: codes must be an integer"):
        VectorQuantizer("many", 3)
    with pytest.raises(DataError, match=r"must be floating-point numbers, got torch.int64"):
        VectorQuantizer(6, 3)(torch.zeros(5, 3, dtype=torch.long))
    with pytest.raises(DataError, match=r"inputs must be \[N, 3\], got \[3\]"):
        VectorQuantizer(6, 3, inputs=torch.zeros(3))
