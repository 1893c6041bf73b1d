"""The estimator that the README shows is whole: it does what the contract says, and estimates."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.neighbors import NearestCentroid

from crosstask import Portfolio
from crosstask.context import LocalContext
from crosstask.testing import conformance, small_portfolio
from crosstask_discovery.testing import digits, graph_of, labelled

SHOWN = Path(__file__).parents[1] / "README.md"


def shown() -> dict[str, Any]:
    """The names that the README's only block of Python makes."""
    [code] = re.findall(r"```python\n(.*?)```", SHOWN.read_text("utf-8"), re.DOTALL)
    assert len([line for line in code.splitlines() if line.strip()]) < 30
    names: dict[str, Any] = {"__name__": __name__}
    exec(compile(code, str(SHOWN), "exec", dont_inherit=True), names)
    return names


def three_tasks() -> Portfolio:
    whole = small_portfolio()
    return Portfolio([whole["moons"], whole["halves"], whole["quarters"]], unseen=whole.unseen)


NCM, ncm, PLUGIN = (shown()[name] for name in ("NCM", "ncm", "PLUGIN"))
test_conformance = conformance(NCM, portfolio=three_tasks)


def test_the_function_agrees_with_scikit_learn() -> None:
    features, labels = labelled(80, 5, 4, noise=2.0)
    peer = NearestCentroid().fit(features, labels)
    assert ncm(features, labels) == pytest.approx((peer.predict(features) == labels).mean())


def test_it_knows_the_better_source() -> None:
    portfolio = digits()
    made = NCM()
    made.bind(LocalContext())
    edges = made.discover(portfolio, graph_of(portfolio))
    raw = {(e.source, e.target): e.estimates["ncm"] for e in edges}
    assert len(raw) == 20
    assert raw["ten", "low"] > max(raw["noise", "low"], raw["turned", "low"])
    assert {e.found_by for e in edges} == {"ncm"}
    assert np.mean([e.transfer_coefficient for e in edges if e.target == "low"]) == pytest.approx(0, abs=0.01)


def test_the_manifest_is_well_formed() -> None:
    assert PLUGIN.problems == ()
    assert [e.key for e in PLUGIN.extensions] == ["discovery/ncm"]
