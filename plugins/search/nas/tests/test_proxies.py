"""Zero-cost proxies against their definitions."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from crosstask.errors import OptionError, RunError
from crosstask.testing.tasks import small_task
from crosstask_nas import PROXIES, create_nas_search_space, rank_by_proxy
from crosstask_nas.proxies import proxy_of

INPUTS, TARGETS = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 0, 1, 1, 0])


def two_layers(bias: bool = True) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 4, bias=bias), nn.ReLU(), nn.Linear(4, 2, bias=bias))


def score(name: str, model: nn.Module) -> float:
    return PROXIES[name](model, INPUTS, TARGETS, functional.cross_entropy)


def test_parameters_are_counted() -> None:
    assert score("parameters", two_layers()) == pytest.approx(math.log(3 * 4 + 4 + 4 * 2 + 2))


def test_grad_norm_is_the_norm_of_all_gradients() -> None:
    model = two_layers()
    functional.cross_entropy(model(INPUTS), TARGETS).backward()
    flat = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    assert score("grad_norm", model) == pytest.approx(float(flat.norm()), rel=1e-6)


def test_synflow_of_linear_layers_is_their_product() -> None:
    """Without biases each layer's saliency sums to R = 1ᵀ |W2| |W1| 1 (Tanaka et al. 2020: conservation)."""
    model = two_layers(bias=False)
    flow = torch.ones(2) @ model[2].weight.abs() @ model[0].weight.abs() @ torch.ones(3)  # type: ignore[operator, union-attr]
    before = [p.clone() for p in model.parameters()]
    assert score("synflow", model) == pytest.approx(math.log(2 * flow.item()), rel=1e-5)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_activations_count_units_that_agree() -> None:
    model = two_layers()
    on = (model[0](INPUTS) > 0).tolist()  # type: ignore[operator]
    alike = [[sum(a == b for a, b in zip(x, y, strict=True)) for y in on] for x in on]
    expected = torch.tensor(alike, dtype=torch.double) + 1e-6 * torch.eye(6, dtype=torch.double)
    assert score("activations", model) == pytest.approx(float(torch.logdet(expected)), rel=1e-6)
    with pytest.raises(OptionError, match="has no ReLU, GELU or Tanh"):
        score("activations", nn.Linear(3, 2))


@pytest.mark.parametrize("proxy", list(PROXIES))
def test_ranking_is_best_first_and_repeats_nothing(proxy: str) -> None:
    space = create_nas_search_space((2,), 2, 2, widths=(4, 16))
    task = small_task("moons")
    ranked = rank_by_proxy(space, task, proxy, pool=8, seed=1)
    scores = [value for _, value in ranked]
    assert scores == sorted(scores, reverse=True)
    assert all(math.isfinite(value) for value in scores)
    assert len({space.space.key(point) for point, _ in ranked}) == 8
    assert ranked == rank_by_proxy(space, task, proxy, pool=8, seed=1)


def test_unknown_proxy_is_refused() -> None:
    space = create_nas_search_space((2,), 2, 1)
    with pytest.raises(OptionError, match="no proxy 'sinflow'; did you mean 'synflow'"):
        proxy_of(space, {"layers": 1, "operation1": "relu", "width1": 16}, small_task("moons"), "sinflow")


def test_a_small_space_is_ranked_whole() -> None:
    space = create_nas_search_space((2,), 2, 1, operations=("relu",), widths=(4, 8, 16))
    ranked = rank_by_proxy(space, small_task("moons"), "parameters", pool=50)
    assert [point["width1"] for point, _ in ranked] == [16, 8, 4]


def test_a_proxy_that_fails_on_some_architectures_ranks_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    space, task = create_nas_search_space((2,), 2, 2, widths=(4, 16)), small_task("moons")
    whole = rank_by_proxy(space, task, "parameters", pool=12, seed=1)

    def spoilt(model: nn.Module, *rest: object) -> float:
        count = PROXIES["parameters"](model, *rest)  # type: ignore[arg-type]
        if count > 5:
            raise MemoryError("too large")
        return count if count > 4 else math.nan

    monkeypatch.setitem(PROXIES, "spoilt", spoilt)
    assert rank_by_proxy(space, task, "spoilt", pool=12, seed=1) == [(a, v) for a, v in whole if 4 < v <= 5]
    monkeypatch.setitem(PROXIES, "broken", lambda *given: math.nan)
    with pytest.raises(RunError, match="proxy 'broken' failed on all 3 architectures; the first: the objective is nan"):
        rank_by_proxy(space, task, "broken", pool=3)


def test_parameters_that_take_no_part_have_no_gradient() -> None:
    class Spare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.spare = nn.Linear(3, 2), nn.Linear(3, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.used(x)
            return out

    model = Spare()
    assert score("grad_norm", model) == pytest.approx(score("grad_norm", model.used), rel=1e-6)


def test_a_constrained_space_with_fewer_points_than_the_pool_is_ranked_whole() -> None:
    """Also where it cannot be counted: with conditions over too many combinations."""
    space = create_nas_search_space((2,), 2, 2, widths=(4, 8), operations=("relu",))
    assert len(rank_by_proxy(space, small_task("moons"), "parameters", pool=100)) == space.space.count()
