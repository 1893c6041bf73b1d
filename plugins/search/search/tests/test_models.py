"""Spaces of networks: what their points describe, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from crosstask.errors import OptionError
from crosstask.options import structure, unstructure
from crosstask.records import Budget
from crosstask.testing import small_task
from crosstask_search.models import ModelSpace
from crosstask_search.parameter import Parameter


def test_model_spaces_make_specs_and_budgets() -> None:
    models = ModelSpace(max_layers=2, widths=(4, 8), tune={"learning_rate": Parameter(low=1e-3, high=0.1, log=True)})
    space = models.space(small_task("moons").descriptor)
    assert space.names == ("layers", "width1", "width2", "learning_rate")
    point = {"layers": 2, "width1": 8, "width2": 4, "learning_rate": 0.01}
    assert models.model(point).hidden == (8, 4)
    assert models.budget(point, Budget(steps=7)) == Budget(steps=7, learning_rate=0.01)
    assert structure(json.loads(json.dumps(unstructure(models))), ModelSpace, "space") == models


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"kind": "mpl"}, "kind must be 'mlp', 'conv' or 'package.module:function', got 'mpl'"),
        ({"kind": "a:b"}, "parameters say what a function of your own"),
        ({"parameters": {"x": [1]}}, "parameters say what a function of your own"),
        ({"widths": []}, "at least one width"),
        ({"tune": {"steps": [1, 2]}}, "tune cannot be 'steps'"),
        ({"tune": {"learning_rat": [1, 2]}}, "did you mean 'learning_rate'"),
    ],
)
def test_wrong_model_spaces_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        structure(given, ModelSpace, "space")


def test_convolutions_need_images_large_enough() -> None:
    models = ModelSpace(kind="conv", max_layers=9)
    with pytest.raises(OptionError, match="'conv' needs inputs of shape"):
        models.space(small_task("moons").descriptor)
    image = small_task("moons").descriptor
    assert models.space(structure({**image.to_json(), "input_shape": [1, 8, 8]}, type(image))).parameters[
        "layers"
    ].choices == (1, 2, 3)
