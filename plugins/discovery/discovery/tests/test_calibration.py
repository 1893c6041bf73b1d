"""From raw values to coefficients: z-scores of a target, and what measured pairs make of them."""

from __future__ import annotations

import numpy as np
import pytest

from crosstask.descriptors import TaskDescriptor
from crosstask.graph import Evidence, TransferEdge, TransferGraph
from crosstask_discovery.calibration import PRIOR_LEVEL, calibrated, with_known, within_targets

VALUES = {(s, t): float(i * (-3 if t == "b" else 100)) for i, s in enumerate("cdefg") for t in "ab"}


def graph_with(measured: dict[tuple[str, str], float]) -> TransferGraph:
    graph = TransferGraph(TaskDescriptor(task_id=t) for t in "abcdefgh")
    for (source, target), value in measured.items():
        edge = {"source": source, "target": target, "transfer_coefficient": value}
        graph.add(TransferEdge(evidence=Evidence.MEASURED, found_by="probe", **edge))
    return graph


def test_scores_are_of_the_target() -> None:
    scores = within_targets(VALUES)
    for target in "ab":
        column = [scores[s, target] for s in "cdefg"]
        assert np.mean(column) == pytest.approx(0)
        assert np.std(column) == pytest.approx(1)
    assert within_targets({("a", "b"): 5.0}) == {("a", "b"): 0.0}
    assert set(within_targets({("a", "b"): 0.1 + 0.2, ("c", "b"): 0.3}).values()) == {0.0}


def test_without_measurements_the_scale_says_how_much() -> None:
    found = calibrated(VALUES, graph_with({}), 0.15)
    scores = within_targets(VALUES)
    for pair, told in found.items():
        assert told.coefficient == pytest.approx(np.tanh(0.15 * scores[pair]))
        assert told.uncertainty > PRIOR_LEVEL


def test_measured_pairs_calibrate_the_others() -> None:
    scores = within_targets(VALUES)
    truth = {pair: 0.3 + 0.05 * score - (0.2 if pair[1] == "b" else 0) for pair, score in scores.items()}
    known = {pair: value for pair, value in truth.items() if pair[0] in "cdf"}
    found = calibrated(VALUES, graph_with(known), 0.15)
    before = calibrated(VALUES, graph_with({}), 0.15)
    for pair in [p for p in VALUES if p not in known]:
        assert abs(found[pair].coefficient - truth[pair]) < 0.5 * abs(before[pair].coefficient - truth[pair]) + 0.02
        assert abs(found[pair].coefficient - truth[pair]) < 2 * found[pair].uncertainty < before[pair].uncertainty * 2
    against = calibrated(VALUES, graph_with({p: -0.5 * s for p, s in scores.items()}), 0.15)
    assert against["g", "a"].coefficient < 0, "what is measured turns the slope, if it must"


def test_the_graphs_other_sources_are_scored_too() -> None:
    graph = graph_with({})
    for source, value in (("c", 2.0), ("d", 4.0)):
        edge = {"source": source, "target": "a", "transfer_coefficient": 0.0, "estimates": {"x": value, "y": 9.0}}
        graph.add(TransferEdge(evidence=Evidence.ESTIMATED, found_by="x", **edge))
    found = with_known({("e", "a"): 3.0, ("d", "a"): 5.0, ("c", "b"): 1.0}, graph, "x")
    assert found == {("e", "a"): 3.0, ("d", "a"): 5.0, ("c", "a"): 2.0, ("c", "b"): 1.0}
