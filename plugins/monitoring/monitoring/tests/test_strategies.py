"""A transfer strategy as a fragment of a recipe: written by one run, read by another."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from crosstask.engine import TransferEngine
from crosstask.errors import CrosstaskError, DataError, OptionError
from crosstask.job import run_recipe
from crosstask.recipe import load_recipe
from crosstask.records import Budget
from crosstask.testing import reference_registry, small_task, trained
from crosstask_monitoring import MetaEngine, StrategyReceiver, read_strategy, strategy_fragment
from crosstask_monitoring.strategies import written
from crosstask_monitoring.testing import REFERENCE

REGISTRY = reference_registry(REFERENCE)
BUDGET = Budget(steps=9, batch_size=16, learning_rate=1e-2, clip=0.5)


def engine() -> TransferEngine:
    made = TransferEngine(budget=BUDGET, seeds=2, discoverers=(), auto_discover=False, registry=REGISTRY)
    for name in ("moons", "quarters"):
        made.register_task(trained(small_task(name)))
    return made


def test_another_run_reads_it(tmp_path: Path) -> None:
    with engine() as made:
        fragment = strategy_fragment(made, "moons", "quarters")
    (tmp_path / "best.toml").write_text(fragment)
    (tmp_path / "mine.toml").write_text(
        'extends = "best.toml"\nname = "mine"\nseed = 3\n\n'
        '[source]\nuse = "python"\nfunction = "crosstask.testing.tasks:small_portfolio"\n\n'
        '[model]\nhidden = [16, 16]\n\n[heal]\ntask = "moons"\nstream = ["moons", "mirrored"]\nbatch = 8\nrecords = 2\n'
    )
    resolved = load_recipe(tmp_path / "mine.toml", REGISTRY)
    assert resolved.recipe.transfer.use == "reference"
    assert resolved.recipe.budget == BUDGET
    assert resolved.recipe.seeds == 2
    assert resolved.origins["transfer.use"].endswith("best.toml")
    done = run_recipe(resolved.recipe, tmp_path / "out", registry=REGISTRY)
    assert done.status == "finished"


def test_a_fragment_may_extend_a_recipe_itself(tmp_path: Path) -> None:
    (tmp_path / "base.toml").write_text(
        '[source]\nuse = "python"\nfunction = "crosstask.testing.tasks:small_portfolio"\n\n[budget]\nsteps = 77\n'
    )
    with engine() as made:
        (tmp_path / "best.toml").write_text(strategy_fragment(made, "moons", "quarters", extends="base.toml"))
    assert load_recipe(tmp_path / "best.toml", REGISTRY).recipe.budget.steps == 9


def test_the_name_that_the_engine_gives_and_the_fragment_are_both_applied() -> None:
    with engine() as made:
        meta = MetaEngine(made)
        assert isinstance(meta, StrategyReceiver)
        plain = made.transfer_knowledge("moons", "quarters")
        strategy = made.get_best_transfer_strategy(source="moons", target="quarters")
        assert meta.apply_transfer_strategy(strategy).name == "reference"
        assert meta.transfer_knowledge("moons", "quarters").score == plain.score
        fragment = strategy_fragment(made, "moons", "quarters").replace("steps = 9", "steps = 3")
        assert meta.apply_transfer_strategy(fragment).name == "reference"
        assert made.budget.steps == 3
        assert made.budget.clip == 0.5
        assert meta.transfer_knowledge("moons", "quarters").budget.steps == 3
        assert meta.strategy["transfer"] == {"use": "reference"}


def test_a_users_own_object_takes_it() -> None:
    class Mine:
        taken: Any = None

        def apply_transfer_strategy(self, strategy: str) -> None:
            self.taken = read_strategy(strategy)

    mine = Mine()
    assert isinstance(mine, StrategyReceiver)
    mine.apply_transfer_strategy("lp_ft")
    assert mine.taken == {"transfer": {"use": "lp_ft"}}
    assert read_strategy({"transfer": "lp_ft", "seeds": 2}) == {"transfer": "lp_ft", "seeds": 2}


@pytest.mark.parametrize(
    ("strategy", "told"),
    [
        ("[transfer\nuse", "is a name, or a fragment of a recipe in TOML"),
        ("seeds = " + "1" * 5000, "is a name, or a fragment of a recipe in TOML"),
        ("seeds = " + "[" * 10_000, "is a name, or a fragment of a recipe in TOML"),
        ("[budget]\nsteps = 3", r"\[transfer\] is missing"),
        ("[transfr]\nuse = 'lp_ft'", "unknown table or key 'transfr'; did you mean 'transfer'"),
        ("[source]\nuse = 'digits'", "unknown table or key 'source'"),
        (3, "must be a string"),
        ({"transfer": 3}, "must be a name, or a table with use"),
        ("referense", "did you mean 'reference'"),
        ({"transfer": "reference", "budget": {"stepz": 3}}, "did you mean 'steps'"),
    ],
)
def test_what_is_no_strategy_is_refused(strategy: Any, told: str) -> None:
    with engine() as made, pytest.raises(CrosstaskError, match=told):
        MetaEngine(made).apply_transfer_strategy(strategy)


def test_of_an_engine_that_cannot_be_asked() -> None:
    with pytest.raises(DataError, match="has no get_best_transfer_strategy"):
        strategy_fragment(object(), "a", "b")  # type: ignore[arg-type]
    with pytest.raises((OptionError, TypeError, DataError), match="MetaEngine: engine"):
        MetaEngine(object())  # type: ignore[arg-type]


def test_what_is_written_is_read_back_as_it_was() -> None:
    values = {
        "name": 'a "quoted" \x7f \u00e9 \n line', "seeds": 3, "nothing": None,
        "transfer": {"use": "x", "list": [1, 2.5, True], "table": {"deep": {"on": False}, "none": {}}, "odd key": 1e-5,
                     "clip": float("inf"), "least": float("-inf")},
    }  # fmt: skip
    wanted = {key: value for key, value in values.items() if key != "nothing"}
    assert tomllib.loads(written(values)) == wanted
