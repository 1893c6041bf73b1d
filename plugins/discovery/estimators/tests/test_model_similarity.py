"""Models are compared by what they answer and by their weights, with data and without; none stops the others."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from crosstask.descriptors import TaskDescriptor
from crosstask.graph import Evidence, TransferEdge, TransferGraph
from crosstask.learning.modules import seeded
from crosstask.tasks import Portfolio, Task
from crosstask.testing import conformance
from crosstask_discovery.testing import digit_task, digits, graph_of, images
from crosstask_estimators import ModelSimilarity
from crosstask_estimators.cka import cka
from crosstask_estimators.model_similarity import feature_kernels, unit_kernel, weight_kernels

test_conformance = conformance(ModelSimilarity)


def mlp(seed: int, sizes: tuple[int, ...] = (64, 32, 24, 10), flatten: bool = False) -> nn.Sequential:
    with seeded(seed):
        layers: list[nn.Module] = [nn.Flatten()] if flatten else []
        for i, o in itertools.pairwise(sizes):
            layers += [nn.Linear(i, o), nn.ReLU()]
        return nn.Sequential(*layers[:-1])


def only(**models: nn.Module | None) -> Portfolio:
    """Tasks of which there is a model and no data."""
    return Portfolio([Task(descriptor=TaskDescriptor(task_id=name), model=model) for name, model in models.items()])


def found(portfolio: Portfolio, **options: object) -> tuple[ModelSimilarity, dict[tuple[str, str], TransferEdge]]:
    made = ModelSimilarity(**options)
    edges = made.discover(portfolio, TransferGraph(task.descriptor for task in portfolio))
    return made, {(e.source, e.target): e for e in edges}


def test_a_kernel_s_product_is_the_unbiased_cka() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(20, 5)), rng.normal(size=(20, 30))
    other[:, :5] += 2 * one
    assert float(unit_kernel(one) @ unit_kernel(other)) == pytest.approx(cka(one, other), rel=1e-9)
    assert not unit_kernel(np.ones((6, 3))).any()


def test_features_are_those_of_the_layers_without_the_head() -> None:
    model = mlp(0)
    inputs = torch.randn(30, 64, generator=torch.Generator().manual_seed(0))
    kernels = feature_kernels(model, inputs)
    assert list(kernels) == ["0", "2"]
    with torch.no_grad():
        assert kernels["2"] == pytest.approx(unit_kernel(model[:3](inputs).double().numpy()))
    weights = weight_kernels(model)
    assert list(weights) == ["0", "2"]
    assert weights["0"] == pytest.approx(unit_kernel(model[0].weight.detach().double().numpy().T))


def test_without_any_data_models_give_edges_and_shared_representations() -> None:
    """A copy, one that was changed a little, and one drawn apart: the first is the same, the last is like no other."""
    first, tuned = mlp(0), mlp(0)
    with torch.no_grad(), seeded(5):
        for parameter in tuned.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    made, edges = found(only(a=first, same=copy.deepcopy(first), tuned=tuned, apart=mlp(1)))
    assert len(edges) == 12
    assert made.skipped == []
    share = {pair: edge.estimates["model_similarity"] for pair, edge in edges.items()}
    assert share["a", "same"] == pytest.approx(1.0)
    assert edges["a", "same"].transfer_coefficient == pytest.approx(0.8)
    assert list(edges["a", "same"].shared_representations.items()) == [
        ("0", pytest.approx(1.0)), ("2", pytest.approx(1.0)),
    ]  # fmt: skip
    assert share["a", "same"] > share["a", "tuned"] > 0.4
    assert share["a", "apart"] < 0.15
    for edge in edges.values():
        alike = list(edge.shared_representations.values())
        assert alike == sorted(alike, reverse=True)
        assert 0 <= edge.transfer_coefficient <= 0.8
        assert not edge.measured
        assert edge.evidence is Evidence.ESTIMATED


def test_it_follows_what_was_learned_on_digits() -> None:
    """Models that have learned the digits share more with one another than with one that has learned noise; and the
    same holds of a model of another architecture.
    """
    portfolio = digits("ten", "low", "noise")
    portfolio.add(digit_task("wide", images()[1], learned=False))
    model = mlp(3, (64, 48, 10), flatten=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    data = portfolio["wide"].data("train")
    for _ in range(80):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(data.inputs), data.targets).backward()
        optimizer.step()
    portfolio["wide"].model = model
    bare = Portfolio([Task(descriptor=task.descriptor, model=task.model) for task in portfolio])
    for tasks in (portfolio, bare):
        _, edges = found(tasks)
        assert len(edges) == 12
        assert all(edge.shared_representations for edge in edges.values())
        assert any(" -> " in name for name in edges["ten", "wide"].shared_representations)
    _, edges = found(portfolio)
    share = {pair: edge.estimates["model_similarity"] for pair, edge in edges.items()}
    assert share["ten", "low"] > share["noise", "low"]
    assert share["ten", "wide"] > share["noise", "wide"]


def test_models_for_other_inputs_are_compared_by_their_weights() -> None:
    """Both layers of 32 inputs; the first ones of 64 and 16 inputs cannot be compared."""
    one, other = mlp(0), mlp(1, (16, 32, 24, 5))
    with torch.no_grad():
        other[2].weight.copy_(one[2].weight + 0.01)
    made, edges = found(only(a=one, b=other))
    assert made.skipped == []
    (name, alike), *more = edges["a", "b"].shared_representations.items()
    assert (name, more) == ("2", [])
    left, right = (m[2].weight.detach().double().numpy().T for m in (one, other))
    assert alike == pytest.approx(cka(left, right))
    assert edges["a", "b"].uncertainty == pytest.approx(0.45)


class Fails(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        raise RuntimeError("not today")


def test_a_model_that_does_not_fit_is_left_out_with_its_reason() -> None:
    portfolio = only(a=mlp(0), b=mlp(0), broken=Fails(), none=None, empty=nn.ReLU())
    made, edges = found(portfolio)
    assert set(edges) == {("a", "b"), ("b", "a")}
    reasons = {(s, t): why for s, t, why in made.skipped}
    assert len(reasons) == 18
    assert "does not take inputs (3,): RuntimeError: not today" in reasons["a", "broken"]
    assert reasons["none", "a"] == "task 'none' has no trained model"
    assert "have no layers of one input size" in reasons["a", "empty"]
    assert found(only(a=None, b=None))[1] == {}


def test_a_model_with_nan_does_not_spoil_the_others() -> None:
    bad = mlp(2)
    with torch.no_grad():
        bad[0].weight[0, 0] = torch.nan
    _, edges = found(only(a=mlp(0), b=mlp(0), bad=bad))
    assert edges["a", "b"].estimates["model_similarity"] == pytest.approx(1.0)
    assert all(np.isfinite(e.transfer_coefficient) for e in edges.values())


def test_models_are_not_touched_and_numbers_not_drawn() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 2)).train()
    before = copy.deepcopy(model.state_dict())
    draws = torch.get_rng_state()
    _, edges = found(only(a=model, b=copy.deepcopy(model)))
    assert edges["a", "b"].estimates["model_similarity"] == pytest.approx(1.0)
    assert all(module.training for module in model.modules())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), draws)
    assert (
        found(only(a=model, b=mlp(0, (8, 8, 2))))[1]["a", "b"] == found(only(a=model, b=mlp(0, (8, 8, 2))))[1]["a", "b"]
    )


def test_what_is_shared_stands_on_every_edge_of_the_pair() -> None:
    """Also on one that was measured before or after: `graph.edge` is the measured one."""
    portfolio = only(a=mlp(0), b=mlp(0))
    _, edges = found(portfolio)
    for order in (0, 1):
        graph = graph_of(portfolio)
        tried = TransferEdge(source="a", target="b", transfer_coefficient=0.1, evidence=Evidence.MEASURED)
        for edge in (tried, edges["a", "b"])[:: 1 - 2 * order]:
            graph.add(edge)
        strongest = graph.edge("a", "b")
        assert strongest is not None
        assert strongest.measured
        assert strongest.shared_representations == edges["a", "b"].shared_representations
