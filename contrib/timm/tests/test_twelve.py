"""A zoo of twelve models of transformers and timm, random and briefly trained: which of them fits a new data set?

The page of this add-on is followed here: its models and its example are those of these tests.
"""

import json
import re
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from scipy.stats import spearmanr

from crosstask import Budget, Task, TransferEngine
from crosstask.cli import cli
from crosstask.learning.transferring import transfer_scores
from crosstask_timm.testing import digits, twelve
from crosstask_zoo import Zoo

PAGE = Path(__file__).parents[3] / "docs" / "contrib" / "timm.md"
BLOCKS = re.findall(r"^```(\w+)(?: title=\"([^\"]+)\")?\n(.*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)


def above(names):
    """The share of pairs of a trained and a random model in which the trained one is ranked higher."""
    trained = [place for place, name in enumerate(names) if name.endswith("-trained")]
    random = [place for place, name in enumerate(names) if name.endswith("-random")]
    assert (len(trained), len(random)) == (6, 6)
    return np.mean([one < other for one in trained for other in random])


@pytest.fixture(scope="module")
def followed(tmp_path_factory):
    """(a folder in which the page was followed, the names that its blocks made)."""
    workplace, names = tmp_path_factory.mktemp("twelve"), {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(workplace)
        for language, title, code in BLOCKS:
            if language == "python":
                exec(compile(code, str(PAGE), "exec"), names)
            elif title:
                Path(title).write_text(code, "utf-8")
    return workplace, names


def test_the_page_ranks_the_trained_ones_above_the_random_ones(followed):
    """With the add-ons alone, in at most 25 lines."""
    _, names = followed
    example = next(code for language, _, code in BLOCKS if "zoo.advise(" in code)
    assert len(example.splitlines()) <= 25
    ranking, zoo = names["ranking"], names["zoo"]
    assert above(ranking.names) >= 35 / 36
    assert {row.library for row in ranking.rows} == {"timm", "transformers"}
    assert ranking.advice.source.endswith("-trained")
    assert zoo.cache.computed == 12 * 100  # every sample once through every model


def test_the_page_has_a_recipe_that_works(followed, monkeypatch):
    workplace, _ = followed
    monkeypatch.chdir(workplace)
    recipe = next(title for _, title, _ in BLOCKS if title.endswith(".toml"))
    shown = CliRunner().invoke(cli, ["advise", "parity", "--recipe", recipe, "--json"], catch_exceptions=False)
    assert shown.exit_code == 0
    rows = json.loads(shown.stdout)["rows"]
    order = [row["source"] for row in rows if row["source"] != "low"]
    assert len(order) == 4
    assert order.index("timm_resnet-trained") < order.index("timm_resnet-random")


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_ranking_agrees_with_what_fine_tuning_comes_to_and_costs_far_less(tmp_path, seed):
    twelve(tmp_path, seed)
    images, labels = digits()
    order = 900 + torch.randperm(897, generator=torch.Generator().manual_seed(seed))
    few, rest = order[:100], order[100:]
    new = Task(descriptor="new", train=(images[few], labels[few] % 5), test=(images[rest], labels[rest] % 5))
    with TransferEngine(
        seeds=2, budget=Budget(steps=60), discoverers=[], auto_discover=False, seed=seed, transfer="fine_tuning"
    ) as engine:
        engine.register_task(new)
        zoo, started = Zoo(tmp_path), time.process_time()
        zoo.rank(new, ["logme"])
        looked, started = time.process_time() - started, time.process_time()
        ranking = zoo.advise(engine, "new", ["logme"])
        cheap, started = time.process_time() - started, time.process_time()
        true = []
        for name in ranking.names:  # without the controls from scratch: what one would do who has no advice
            runs, _, _ = transfer_scores(engine.method(), zoo.load(name), new, engine.budget, [0, 1], "test", False)
            true.append(np.mean([score for score, _ in runs]))
        dear = time.process_time() - started
    rho, share = spearmanr(range(12, 0, -1), true)[0], above(ranking.names)
    print(f"seed {seed}: rho {rho:.2f}, above {share:.2f}, {looked:.1f} and {cheap:.1f} s against {dear:.1f} s")
    assert rho > 0.4
    assert share >= 34 / 36
    assert looked < dear / 10
    assert cheap < dear / 2
