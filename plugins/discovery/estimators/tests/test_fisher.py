"""The Fisher embedding: its likeness by hand, its Fisher by autograd, its head by scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cosine
from sklearn.linear_model import Ridge as Peer

from crosstask.errors import DataError
from crosstask_discovery.testing import digits, graph_of, labelled
from crosstask_estimators import Fisher
from crosstask_estimators.fisher import embedding, fisher_similarity, fitted_head


@given(st.lists(st.tuples(st.floats(0.01, 10), st.floats(0.01, 10)), min_size=1, max_size=9), st.floats(1e-9, 1e9))
@settings(max_examples=40, deadline=None)
def test_the_distance_of_the_paper(pairs: list[tuple[float, float]], scale: float) -> None:
    one, other = np.array(pairs).T
    expected = 1 - cosine(one / (one + other), other / (one + other))
    assert fisher_similarity(one, other) == pytest.approx(expected, abs=1e-9)
    assert fisher_similarity(one * scale, other * scale) == pytest.approx(expected, abs=1e-9)
    assert fisher_similarity(other, one) == pytest.approx(fisher_similarity(one, other), abs=1e-12)
    assert fisher_similarity(one, one) == pytest.approx(1.0)


def test_dead_entries_and_mistakes() -> None:
    assert fisher_similarity([1.0, 0.0, 2.0], [1.0, 0.0, 2.0]) == pytest.approx(1.0)
    assert fisher_similarity([1.0, 0.0], [0.0, 1.0]) == 0.0
    assert fisher_similarity([0.0, 0.0], [0.0, 0.0]) == 0.0
    with pytest.raises(DataError, match="two embeddings of one length"):
        fisher_similarity([1.0], [1.0, 2.0])


def test_the_head_is_a_ridge_regression() -> None:
    features, labels = labelled(40, 60)
    rows = torch.tensor(features)
    head = fitted_head(rows, torch.tensor(labels))
    moved = features - features.mean(axis=0)
    peer = Peer(alpha=0.1 * (moved**2).sum() / 40).fit(features, np.eye(3)[labels])
    ours, theirs = head(rows).detach().numpy(), peer.predict(features)
    for k in range(3):
        assert np.corrcoef(ours[:, k], theirs[:, k])[0, 1] == pytest.approx(1.0)


def test_the_mean_over_what_leads_to_a_unit() -> None:
    found = embedding({"weight": torch.tensor([[1.0, 3.0], [2.0, 2.0]]), "bias": torch.tensor([4.0, 0.0])})
    assert found.tolist() == [2 / 8, 2 / 8, 4 / 8, 0]


def test_tasks_that_need_the_same_weights() -> None:
    portfolio = digits()
    made = Fisher()
    edges = made.discover(portfolio, graph_of(portfolio))
    raw = {(e.source, e.target): e.estimates["fisher"] for e in edges}
    assert len(raw) == 20
    assert all(0 <= value <= 1 for value in raw.values())
    assert raw["ten", "low"] > raw["ten", "turned"]
    own = made.see(portfolio["ten"], portfolio["ten"])
    embedded = made._embedded(own)
    assert fisher_similarity(embedded, made._embedded(own)) == pytest.approx(1.0)
    assert portfolio["ten"].model.head.out_features == 10, "the model itself is as it was"
    assert all(p.grad is None for p in portfolio["ten"].model.parameters())


def test_the_source_is_embedded_on_as_many_samples_as_the_target_unless_told_otherwise() -> None:
    portfolio, counts = digits("ten", "low"), []

    class Counting(Fisher):
        """Says on how many samples it embeds."""

        def _embedded(self, seen):  # type: ignore[no-untyped-def]
            counts.append(len(seen.inputs))
            return super()._embedded(seen)

    for options in ({"samples": 30}, {"samples": 30, "source_samples": 80}):
        Counting(**options).discover(portfolio.restricted([("ten", "low")]), graph_of(portfolio))
    assert counts == [30, 30, 30, 80]
