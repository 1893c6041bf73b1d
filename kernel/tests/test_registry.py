"""The registry: what the table of broken things does not show."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from crosstask import registry as registry_module
from crosstask.errors import PluginError, UnknownComponentError
from crosstask.manifest import Extension, Plugin
from crosstask.registry import Registry, Status
from crosstask.settings import Settings


def offering(name: str, *targets: tuple[str, str, str]) -> Plugin:
    return Plugin(name, [Extension(*target) for target in targets])


SERIAL = ("executor", "here", "crosstask.executors:SerialExecutor")


def test_starts_empty() -> None:
    assert Registry().plugins() == []
    assert Registry().names("balancer") == []


def test_installed_reads_entry_points_of_this_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fake_installed.py").write_text(
        "from crosstask.manifest import Extension, Plugin\n"
        "PLUGIN = Plugin('fake-installed', [Extension('executor', 'fake', 'crosstask.executors:SerialExecutor')])\n"
    )
    for folder, version in (("first", "1.0"), ("second", "2.0")):
        info = tmp_path / folder / f"fake_installed-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.4\nName: fake-installed\nVersion: {version}\n\nName: no\n")
        (info / "entry_points.txt").write_text(
            "[console_scripts]\nx = y:z\n\n[crosstask.plugins]\n# a comment\nfake-installed = fake_installed:PLUGIN\n"
        )
    other = tmp_path / "first" / "other-1.dist-info"
    other.mkdir()
    (other / "entry_points.txt").write_text("[console_scripts]\nx = y:z\n")
    for folder in (tmp_path, tmp_path / "second", tmp_path / "first"):
        monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("CROSSTASK_ALLOW", "fake-installed")
    found = [r for r in Registry.installed().plugins() if r.status is not Status.DENIED]
    assert [(r.name, r.origin, r.entry_point) for r in found] == [
        ("fake-installed", "fake-installed 1.0", "fake_installed:PLUGIN")  # 2.0 is shadowed: it comes later on sys.path
    ]
    settings = Settings(deny=("*",))
    assert {r.status for r in Registry.installed(settings).plugins()} == {Status.DENIED}
    assert "fake_installed" in sys.modules


def test_component_by_name_knows_where_it_comes_from() -> None:
    registry = Registry()
    registry.register(offering("x", SERIAL), distribution="x-dist", version="3")
    assert registry.names("executor") == ["here"]
    assert registry.create("executor", "here").origin == "executor 'here' (x-dist 3)"


def test_something_that_is_no_plugin_can_be_registered_and_is_listed_as_broken() -> None:
    record = Registry().register("rgb")  # type: ignore[arg-type]
    assert (record.status, record.reason) == (Status.BROKEN, "names a str, not a crosstask.Plugin")


def test_the_first_failure_is_kept() -> None:
    record = Registry(Settings(deny=("x",))).register(offering("x"))
    record.fail(Status.BROKEN, "later")
    assert (record.status, record.reason) == (Status.DENIED, "denied by 'x' (settings)")


def test_a_third_offer_does_not_slip_through_a_settled_conflict() -> None:
    registry = Registry()
    for distribution in "ab":
        registry.register(offering("same", SERIAL), distribution=distribution)
    assert {r.status for r in registry.plugins()} == {Status.CONFLICTING}
    registry.register(offering("same", SERIAL), distribution="c")
    with pytest.raises(PluginError, match=r"is offered by a and b and c; choose with prefer: 'same' = 'a'"):
        registry.find("executor", "here")


def test_a_conflict_of_one_component_leaves_the_others_usable() -> None:
    registry = Registry()
    process = ("executor", "other", "crosstask.executors:ProcessExecutor")
    registry.register(offering("one", SERIAL, process), distribution="a")
    registry.register(offering("two", SERIAL), distribution="b")
    assert {r.status for r in registry.plugins()} == {Status.OK}
    assert registry.names("executor") == ["other"]
    assert registry.create("executor", "other")
    chosen = registry.preferring({"executor/here": "b"})
    assert chosen.find("executor", "here")[0].distribution == "b"
    assert [r.conflicts for r in chosen.plugins()] == [
        {"executor/here": "executor 'here' is offered by a and b; b is preferred"},
        {},
    ]
    assert registry.preferring({}) is registry
    assert registry.names("executor") == ["other"]  # the first is left as it was


def test_recipes_are_files_inside_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "shipping"
    (package / "recipes").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "recipes" / "a.toml").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    registry = Registry()
    registry.register(offering("x", ("recipe", "a", "shipping:recipes/a.toml")))
    assert registry.recipe_path("a") == package / "recipes" / "a.toml"
    with pytest.raises(UnknownComponentError, match="no recipe named 'b'"):
        registry.recipe_path("b")


def test_ctrl_c_is_not_swallowed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def interrupted(name: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(registry_module.importlib, "import_module", interrupted)
    registry = Registry()
    registry.register(offering("x", SERIAL))
    with pytest.raises(KeyboardInterrupt):
        registry.create("executor", "here")
    record = registry_module.PluginRecord("y", "y-dist", "1", "y:PLUGIN")
    with pytest.raises(KeyboardInterrupt):
        registry._load(record, lambda: registry_module._load_entry("y:PLUGIN"))


def test_where_one_component_comes_from_says_nothing_of_another_of_its_class() -> None:
    from crosstask.executors import SerialExecutor

    registry = Registry()
    registry.register(offering("x", SERIAL), distribution="x-dist", version="3")
    registry.create("executor", "here")
    assert SerialExecutor().origin == "executor SerialExecutor"


def test_prefer_of_a_recipe_decides_for_its_run(registry: Registry, tmp_path: Path) -> None:
    from crosstask.job import run_recipe
    from crosstask.recipe import recipe_from

    registry.register(offering("rival", ("source", "fake", "nowhere:Nothing")), distribution="rival-dist")
    plain = {"source": "fake", "transfer": "fake", "train": {"steps": 1}, "model": {"hidden": [4]}}
    with pytest.raises(
        PluginError, match=r"source 'fake' is offered by crosstask-fakes 1.0 and rival-dist; choose with"
    ):
        run_recipe(recipe_from(plain), tmp_path / "a", registry=registry)
    chosen = recipe_from(plain | {"prefer": {"source/fake": "crosstask-fakes"}})
    assert run_recipe(chosen, tmp_path / "b", registry=registry).status == "finished"
    assert "fake" not in registry.names("source")  # for that run only
