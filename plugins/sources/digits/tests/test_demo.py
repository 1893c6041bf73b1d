"""The recipe and the command that come with the tasks. `.ci/run` runs the demo whole."""

import tomllib
from importlib.resources import files

from click.testing import CliRunner

from crosstask.registry import Registry
from crosstask_digits import Digits
from crosstask_digits.cli import command
from crosstask_digits.plugin import PLUGIN


def test_the_stages_stand_in_the_order_in_which_they_run() -> None:
    recipe = tomllib.loads(files("crosstask_digits").joinpath("demo.toml").read_text("utf-8"))
    stages = ("discovery", "curriculum", "synthesis", "multitask", "distillation")
    assert tuple(table for table in recipe if table in stages) == stages


def test_its_tasks_are_those_of_the_source() -> None:
    recipe = tomllib.loads(files("crosstask_digits").joinpath("demo.toml").read_text("utf-8"))
    portfolio = Digits().load()
    assert recipe["curriculum"]["target"] in portfolio
    assert recipe["synthesis"]["task"] in [task.task_id for task in portfolio.unseen]
    assert all(name in portfolio for name in recipe["distillation"]["tasks"])


def test_the_recipe_is_found_by_its_name() -> None:
    registry = Registry()
    registry.register(PLUGIN)
    assert registry.recipe_path("demo").name == "demo.toml"


def test_help_needs_nothing() -> None:
    result = CliRunner().invoke(command, ["--help"])
    assert result.exit_code == 0
    assert "--resume" in result.output
