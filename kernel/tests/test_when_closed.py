"""What a run tells a component beside its hooks: where its files are, and that it is over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from crosstask import TransferEngine
from crosstask.cli.run import command
from crosstask.context import LocalContext
from crosstask.job import run_recipe
from crosstask.options import component, option, state
from crosstask.points.observer import Observer
from crosstask.recipe import recipe_from
from crosstask.registry import Registry
from crosstask_fakes.components import FakeObserver
from crosstask_fakes.registry import with_fakes


@component
class Waits(Observer):
    """Asks to be told of the end, and notes what it is told."""

    name_of_it: str = option("first", help="what it notes itself as")
    heard: list = state(factory=list)

    def ask(self) -> None:
        self.context.when_closed(lambda error: self.heard.append((self.name_of_it, error)))

    def run_started(self, record: Any) -> None:
        self.heard.append(self.context.folder)
        self.ask()

    def run_finished(self, record: Any, error: BaseException | None) -> None:
        self.heard.append((record.status, (self.context.folder / "graph.json").is_file()))  # type: ignore[operator]


def recipe() -> Any:
    return recipe_from({"name": "closing", "source": "fake", "prepare": {"task": "task0"}}, with_fakes())


def test_a_run_of_a_recipe_has_a_folder_and_is_over_after_its_last_hook(tmp_path: Path) -> None:
    observer = Waits()
    run_recipe(recipe(), tmp_path, registry=with_fakes(), observers=[observer])
    assert observer.heard == [tmp_path, ("finished", True), ("first", None)]


def test_an_engine_tells_once_and_says_why_the_last_that_asked_first() -> None:
    first, second = Waits(), Waits(name_of_it="second")
    engine = TransferEngine(registry=Registry(), observers=[first, second])
    assert engine.run.folder is None
    heard = first.heard = second.heard
    first.ask()
    second.ask()
    with pytest.raises(ZeroDivisionError), engine:
        raise ZeroDivisionError
    engine.close()
    assert [name for name, _ in heard] == ["second", "first"]
    assert all(isinstance(error, ZeroDivisionError) for _, error in heard)


def test_without_a_run_nothing_is_closed() -> None:
    LocalContext().when_closed(lambda error: pytest.fail("called"))


def test_run_takes_observers_by_name(tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Registry, "installed", lambda: registry)
    made: list[FakeObserver] = []
    create = Registry.create

    def noted(self: Registry, point: str, *given: Any, **others: Any) -> Any:
        component = create(self, point, *given, **others)
        if isinstance(component, FakeObserver):
            made.append(component)
        return component

    monkeypatch.setattr(Registry, "create", noted)
    (tmp_path / "small.toml").write_text('source = "fake"\n[prepare]\ntask = "task0"\n', "utf-8")
    asked = [str(tmp_path / "small.toml"), "--json", "--out", str(tmp_path / "out")]
    assert CliRunner().invoke(command, [*asked, "--observer", "fake"]).exit_code == 0
    assert made[0].heard[-1] == ("run_finished", "finished")

    told = CliRunner().invoke(command, [*asked, "--observer", "fkae"])
    assert "no observer named 'fkae'" in str(told.exception)
