"""Means of weights, beside plain loops in double precision."""

from __future__ import annotations

import itertools

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from crosstask.errors import DataError
from crosstask.learning.averaging import alike, greedy_mean, mean_weights

IMAGES, LABELS = (torch.as_tensor(each)[:400] for each in load_digits(return_X_y=True))
IMAGES = (IMAGES / 16).float()


def family(count: int = 5) -> list[nn.Module]:
    """Networks around one that has learned a little, at growing distance."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        first = nn.Sequential(nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 10))
        optimizer = torch.optim.Adam(first.parameters(), 1e-2)
        for _ in range(30):
            optimizer.zero_grad()
            nn.functional.cross_entropy(first(IMAGES), LABELS).backward()
            optimizer.step()
        made = []
        for number in range(count):
            other = nn.Sequential(nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 10))
            state = first.state_dict()
            noise = {n: (0.2 + 0.1 * number) * torch.randn_like(v) for n, v in state.items() if "weight" in n}
            other.load_state_dict({n: v + noise.get(n, 0) for n, v in state.items()})
            made.append(other.eval())
    return made


def score(model: nn.Module) -> float:
    with torch.no_grad():
        return float((model(IMAGES).argmax(1) == LABELS).double().mean())


def mean(models: list[nn.Module]) -> dict[str, Tensor]:
    states = [model.state_dict() for model in models]
    return {n: torch.tensor(sum(s[n].double().numpy() for s in states) / len(states)) for n in states[0]}


def test_the_mean_is_that_of_the_weights_and_statistics() -> None:
    models = family(3)
    models[1][1].num_batches_tracked += 5  # type: ignore[index, operator]
    before = [{n: v.clone() for n, v in model.state_dict().items()} for model in models]
    made = mean_weights(models)
    wanted = mean(models)
    for name, value in made.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value.double(), wanted[name], rtol=1e-6, atol=1e-7)
        else:
            assert value == before[0][name], "whole numbers are those of the first"
    for model, state in zip(models, before, strict=True):
        assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert mean_weights(models[:1]) is models[0]


def test_the_greedy_mean_is_what_the_recipe_says() -> None:
    """Recipe 1, written out: sorted by score; each that does not lower that of the mean stays."""
    models = family()
    for order in itertools.islice(itertools.permutations(range(5)), 0, None, 17):
        given = [models[n] for n in order]
        made, taken = greedy_mean(given, score)
        probe = family(1)[0]
        ranked = sorted(given, key=score, reverse=True)
        kept, level = [ranked[0]], score(ranked[0])
        for model in ranked[1:]:
            probe.load_state_dict(mean([*kept, model]))
            if score(probe) >= level:
                kept, level = [*kept, model], score(probe)
        assert [id(given[n]) for n in taken] == [id(model) for model in kept]
        assert score(made) == level
        assert 1 < len(kept) < 5, "some help, some hurt"


def test_what_has_another_architecture_is_passed_over() -> None:
    first, second = family(2)
    other = nn.Sequential(nn.Linear(64, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 10)).eval()
    named = nn.ModuleDict({"head": nn.Linear(64, 10)})
    assert alike(first, second)
    assert not alike(first, other)
    assert not alike(first, named)
    scores = {id(first): 0.9, id(other): 0.5, id(second): 0.4}
    made, taken = greedy_mean([other, first, second], lambda model: scores.get(id(model), 1.0))
    assert taken == [1, 2]
    torch.testing.assert_close(made[0].weight.double(), mean([first, second])["0.weight"])  # type: ignore[index, union-attr, operator]
    alone, only = greedy_mean([first, second], lambda model: scores.get(id(model), 0.0))
    assert alone is first
    assert only == [0]


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_means_of_half_precision_are_taken_in_double(kind: torch.dtype) -> None:
    layers = [nn.Linear(2, 1, bias=False).to(kind) for _ in range(3)]
    for layer, value in zip(layers, (60000.0, 60000.0, 0.0), strict=True):
        nn.init.constant_(layer.weight, value)
    exact = sum(layer.weight[0, 0].item() for layer in layers) / 3  # their sum is no number of half precision
    assert torch.equal(mean_weights(layers).weight, torch.full((1, 2), exact, dtype=torch.float64).to(kind))  # type: ignore[arg-type]


def test_complex_weights_have_a_mean_too() -> None:
    models = []
    for seed in range(3):
        torch.manual_seed(seed)
        made = nn.Linear(4, 3)
        made.phase = nn.Parameter(torch.randn(5, dtype=torch.complex64))
        models.append(made)
    expected = sum(made.phase.detach().numpy().astype("complex128") for made in models) / 3
    torch.testing.assert_close(mean_weights(models).phase.detach(), torch.tensor(expected).to(torch.complex64))


@pytest.mark.parametrize("kind", ["parameter", "buffer", "mask"])
def test_whole_numbers_that_steer_have_no_mean(kind: str) -> None:
    def made(order: list[int]) -> nn.Module:
        layer = nn.Linear(2, 3)
        if kind == "parameter":
            layer.order = nn.Parameter(torch.tensor(order), requires_grad=False)
        else:
            layer.register_buffer("order", torch.tensor(order) > 0 if kind == "mask" else torch.tensor(order))
        return layer

    first, same, other = made([0, 1]), made([0, 1]), made([1, 0])
    assert alike(first, same)
    assert not alike(first, other)
    assert torch.equal(mean_weights([first, same]).order, first.order)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="have no mean: 'order' holds whole numbers, which must be the same in all"):
        mean_weights([first, same, other])
    _, taken = greedy_mean([first, other, same], lambda model: 1.0)
    assert taken == [0, 2], "the other is passed over"
