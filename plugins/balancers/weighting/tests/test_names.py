"""State by name: only some of the tasks in a step, new ones, and the same in another order."""

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import nn

from crosstask import DataError, OptionError, RunError
from crosstask.learning.gradients import MatrixGradients
from crosstask.points.balancer import Balancer
from crosstask_weighting import DWA, FAMO, IMTLL, STCH, Fixed, Uncertainty


def weigh(balancer: Balancer, losses: Mapping[str, float]) -> dict[str, float]:
    gradients = MatrixGradients(torch.ones(len(losses), 2, dtype=torch.float64), tuple(losses))
    answer = balancer.balance(torch.tensor(list(losses.values()), dtype=torch.float64), gradients)
    assert isinstance(answer, torch.Tensor)
    return dict(zip(losses, answer.tolist(), strict=True))


@pytest.mark.parametrize("optimiser", [torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD])
def test_a_scale_is_trained_by_its_own_task_only(optimiser: Any) -> None:
    """Each as it would be if its task were alone, whatever else is in a step: an optimiser with momentum and decay
    leaves alone what is absent.
    """
    draws = [("a", "b"), ("b", "c"), ("c", "a"), ("a", "b"), ("b", "c"), ("c", "b")]
    losses = {"a": 0.2, "b": 3.0, "c": 40.0}
    together = Uncertainty()
    trained = optimiser(together.parameters(), lr=0.1, weight_decay=0.1)
    for drawn in draws:
        trained.zero_grad()
        weigh(together, {name: losses[name] for name in drawn})
        trained.step()
    for name, loss in losses.items():
        scale = nn.Parameter(torch.zeros(1, dtype=torch.float64))
        alone = optimiser([scale], lr=0.1, weight_decay=0.1)
        for _ in range(sum(name in drawn for drawn in draws)):
            alone.zero_grad()
            ((-scale).exp() * loss + scale).sum().backward()
            alone.step()
        torch.testing.assert_close(together.state_dict()["scales"][name], scale.detach())


def test_scales_of_more_tasks_than_were_prepared_are_given_to_the_optimiser_later() -> None:
    balancer = IMTLL()
    held = balancer.parameters()
    weigh(balancer, {f"t{number}": 1.0 for number in range(len(held))})
    assert balancer.parameters() == held
    weigh(balancer, {"one more": 1.0})
    assert balancer.parameters()[:-1] == held
    assert balancer.parameters()[-1].numel() == 1
    again = IMTLL()
    again.load_state_dict(balancer.state_dict())
    assert list(again.scales) == list(balancer.scales)
    assert len(again.parameters()) == len(held) + 1


def test_a_state_that_was_taken_stays_when_the_optimiser_goes_on() -> None:
    balancer = Uncertainty()
    optimiser = torch.optim.SGD(balancer.parameters(), lr=1.0)
    weigh(balancer, {"a": 5.0})
    state = balancer.state_dict()
    optimiser.step()
    assert float(state["scales"]["a"]) == 0.0
    assert float(balancer.state_dict()["scales"]["a"]) == pytest.approx(4.0)  # -(1 - 5)


def test_dwa_follows_each_task_over_its_own_steps() -> None:
    balancer = DWA(temperature=2.0, interval=2)
    for step in ({"a": 4.0, "b": 1.0}, {"a": 4.0, "c": 9.0}, {"b": 1.0, "a": 2.0}, {"a": 2.0, "c": 9.0}):
        assert set(weigh(balancer, step).values()) == {1.0}
    # a fell from 4 to 2; b has one mean, c none that can be compared: their ratios count as 1.
    found = weigh(balancer, {"c": 9.0, "a": 2.0})
    expected = torch.softmax(torch.tensor([1.0, 0.5], dtype=torch.float64) / 2, 0) * 2
    assert list(found.values()) == pytest.approx(expected.tolist())


def test_famo_moves_only_those_that_were_there_before() -> None:
    balancer = FAMO(weight_decay=0.0)
    weigh(balancer, {"a": 1.0, "b": 1.0})
    weigh(balancer, {"c": 1.0, "a": 0.5})  # of these only a is known: alone its share is 1, and its gradient 0
    assert balancer.logits == {"a": 0.0, "b": 0.0, "c": 0.0}
    weigh(balancer, {"b": 1.0, "a": 0.25})  # a fell, b did not: Adam's first step is the learning rate
    assert balancer.logits["b"] > 0 > balancer.logits["a"]
    assert balancer.logits["b"] == pytest.approx(0.025, rel=1e-5)
    assert balancer.logits["c"] == 0.0


def test_stch_warms_each_task_up() -> None:
    balancer = STCH(mu=0.5, warmup=2)
    weigh(balancer, {"a": 1.0, "b": 2.0})
    weigh(balancer, {"a": 3.0, "b": 2.0})
    found = weigh(balancer, {"a": 4.0, "b": 1.0, "new": 8.0})
    pull = torch.softmax(torch.tensor([math.log(4 / 2), math.log(1 / 2)], dtype=torch.float64) / 0.5, 0)
    assert found == pytest.approx({"a": 2 * float(pull[0]) / 4, "b": 2 * float(pull[1]), "new": 1 / 8})


def test_numbers_by_name_are_those_of_the_tasks() -> None:
    assert weigh(Fixed(weights={"a": 1.0, "b": 2.0, "c": 3.0}), {"c": 1.0, "a": 1.0}) == {"c": 3.0, "a": 1.0}
    with pytest.raises(RunError, match="weights has no number for task 'parityy'; did you mean 'parity'"):
        weigh(Fixed(weights={"parity": 1.0}), {"parityy": 1.0})
    with pytest.raises(RunError, match="weights has 3 numbers for 2 tasks; where steps have other tasks, name them"):
        weigh(Fixed(weights=(1.0, 2.0, 3.0)), {"a": 1.0, "b": 1.0})
    with pytest.raises(OptionError, match="weights must be >= 0"):
        Fixed(weights={"a": -1.0})


def test_names_reach_the_balancer_from_the_mapping() -> None:
    shared = nn.Parameter(torch.tensor([1.0, 2.0]))
    balancer = Uncertainty()
    balancer.backward({"x": shared[0] ** 2, "y": shared[1] ** 2}, [shared])
    assert list(balancer.scales) == ["x", "y"]
    assert balancer.last is not None
    assert balancer.last.names == ("x", "y")
    with pytest.raises(DataError, match="two tasks have the same name"):
        balancer.backward({1: shared[0] ** 2, "1": shared[1] ** 2}, [shared])  # type: ignore[dict-item]
    with pytest.raises(RunError, match=r"remembers 2 tasks, was given 1; .* name them"):
        balancer.backward([shared[0] ** 2], [shared])
