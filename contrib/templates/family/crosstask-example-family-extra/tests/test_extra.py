"""Every check of the contracts, and what is special about composing and wrapping."""

import math
from pathlib import Path

import pytest
import torch

from crosstask.job import run_recipe
from crosstask.recipe import load_recipe
from crosstask.registry import Registry
from crosstask.run import Run
from crosstask.testing import conformance, reference_registry
from crosstask_example_family import Balanced, Likely
from crosstask_example_family.testing import REFERENCE
from crosstask_example_family_extra import Cautious, Worst

test_worst = conformance(Worst)
test_cautious = conformance(Cautious, registry=reference_registry(REFERENCE))

OUTPUTS = torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.0, 0.5], [0.0, 0.5]])
TARGETS = torch.tensor([0, 0, 1, 0])


def test_the_lowest_of_the_parts() -> None:
    balanced, likely = Balanced(), Likely(temperature=4.0)
    scores = [each.measure(OUTPUTS, TARGETS) for each in (balanced, likely)]
    assert Worst(parts=(balanced, likely)).measure(OUTPUTS, TARGETS) == min(scores)
    assert scores[0] != scores[1]


@pytest.mark.parametrize(("doubt", "expected"), [(0.0, 0.8), (1.0, 0.8 - (0.8 * 0.2 / 10) ** 0.5), (9.0, 0.0)])
def test_a_score_is_lowered(doubt: float, expected: float) -> None:
    answers = torch.eye(2)[[0] * 10]
    with Run(Registry.installed()) as run:
        run.add(Cautious(doubt=doubt))
        likely = run.component("example_family", "likely", {"temperature": 1 / math.log(4)})  # odds of 4 to 1
        found = run.call(likely, "measure", outputs=answers, targets=torch.zeros(10, dtype=torch.long))
    assert found == pytest.approx(expected)


def test_the_recipe_uses_both(tmp_path: Path) -> None:
    registry = Registry.installed()
    small = ["train.steps=20", "source.arguments.samples=40"]
    strict = run_recipe(load_recipe("example-family-extra", registry, small).recipe, tmp_path / "a", registry=registry)
    plain = run_recipe(load_recipe("example-family", registry, small).recipe, tmp_path / "b", registry=registry)
    found, known = (record.results["example_family"]["scores"] for record in (strict, plain))
    assert all(found[task_id] < known[task_id] for task_id in ("above", "inside", "ring"))
    assert "worst" in strict.results["example_family"]["measure"]
