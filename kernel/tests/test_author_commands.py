"""`crosstask plugins new` and `crosstask plugins check`, in process."""

from __future__ import annotations

import ast
import json
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import crosstask.cli
from crosstask import Extension, Plugin, PluginError, Point, Registry, UnknownComponentError
from crosstask.registry import PluginRecord, Status
from crosstask_fakes.registry import with_fakes

POINTS = [
    "adapter", "balancer", "curriculum", "discovery", "distillation", "executor", "meta_learner", "observer", "source",
    "store", "strategist", "synthesis", "transfer", "wrapper",
]  # fmt: skip


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> Registry:
    """What is installed: the fakes, a right component, a wrong one, and a plugin that cannot be loaded."""
    made = with_fakes()
    for name, target in (
        ("right", "crosstask.testing.references:ReferenceDiscoverer"),
        ("wrong", "test_author_commands_wrong:Anonymous"),
    ):
        extension = Extension("discovery", name, target, summary="Finds")
        made.register(Plugin(name, [extension], api=(2, 0)), distribution=f"crosstask-{name}")
    record = PluginRecord("broken", "crosstask-broken", "1.0")
    record.fail(Status.BROKEN, "ImportError: no module named torrch")
    made.records.append(record)
    monkeypatch.setattr(Registry, "installed", classmethod(lambda cls, settings=None: made))
    return made


@pytest.fixture
def wrong_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "test_author_commands_wrong.py").write_text(
        "import attrs\n\n"
        "from crosstask.options import component, option\n"
        "from crosstask.testing.references import ReferenceDiscoverer\n\n"
        "@component\nclass Anonymous(ReferenceDiscoverer):\n    '''Says nothing.'''\n\n"
        "    hide: bool = option(True, help='whether')\n\n"
        "    def discover(self, portfolio, graph):\n"
        "        found = super().discover(portfolio, graph)\n"
        "        return [attrs.evolve(e, found_by='') for e in found] if self.hide else found\n",
        "utf-8",
    )
    monkeypatch.syspath_prepend(tmp_path)


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(crosstask.cli.cli, ["plugins", *arguments], catch_exceptions=False)


# new


@pytest.mark.parametrize("point", [*POINTS, "chooser"])
def test_new_writes_a_whole_project(point: str, tmp_path: Path) -> None:
    dashed = f"very-own-{point.replace('_', '-')}"
    result = invoke("new", point, dashed, "--into", str(tmp_path / "in a folder"))
    assert result.exit_code == 0, result.output
    folder = tmp_path / "in a folder" / f"crosstask-{dashed}"
    assert str(folder) in result.output
    package, name = f"crosstask_very_own_{point}", f"very_own_{point}"
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert files - {".github/workflows/test.yml"} == {
        "README.md",
        "pyproject.toml",
        f"src/{package}/__init__.py",
        f"src/{package}/plugin.py",
        f"src/{package}/py.typed",
        f"src/{package}/{name}.py",
        f"tests/test_{name}.py",
    }
    for path in files:
        text = (folder / path).read_text("utf-8")
        assert "xample" not in text.replace("for example", ""), path
        if path.endswith(".py"):
            ast.parse(text)
    project = tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["name"] == f"crosstask-{dashed}"
    assert project["entry-points"]["crosstask.plugins"] == {dashed: f"{package}.plugin:PLUGIN"}
    major, minor, *_ = crosstask.__version__.split(".")
    assert f"crosstask-kernel>={major}.{minor},<{major}.{int(minor) + 1}" in project["dependencies"]
    camel = "".join(word.capitalize() for word in point.split("_"))
    assert f"class VeryOwn{camel}(" in (folder / "src" / package / f"{name}.py").read_text("utf-8")


def test_new_of_a_plugins_point_uses_its_own_template(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from crosstask.testing import run_checks

    invoke("new", "chooser", "other", "--into", str(tmp_path))
    folder = tmp_path / "crosstask-other"
    assert "crosstask-fakes>=1.0,<1.1" in (folder / "pyproject.toml").read_text("utf-8")
    monkeypatch.syspath_prepend(folder / "src")
    import crosstask_other.other as written

    assert [outcome.message for outcome in run_checks(written.Other) if not outcome.ok] == []


def test_new_takes_the_name_of_the_distribution_too(tmp_path: Path) -> None:
    told = json.loads(invoke("new", "discovery", "crosstask-mine", "--into", str(tmp_path), "--json").stdout)
    assert told["wrote"] == [str(tmp_path / "crosstask-mine")]
    assert told["next"].startswith("pip install -e ")
    assert (tmp_path / "crosstask-mine" / "src" / "crosstask_mine" / "mine.py").is_file()


@pytest.mark.parametrize(
    ("point", "name", "message"),
    [
        (
            "balancr",
            "mine",
            "unknown extension point 'balancr'; did you mean 'balancer'? Valid: adapter, agent, balancer, c",
        ),
        ("choser", "mine", "unknown extension point 'choser'; did you mean 'chooser'?"),
        ("discovery", "MyOwn", "such as 'my-discovery', got 'MyOwn'; try 'my-own'"),
        ("discovery", "my_own", "got 'my_own'; try 'my-own'"),
        ("discovery", "-", "lower-case words joined by dashes"),
        ("discovery", "ä", "lower-case words joined by dashes"),
        ("discovery", "2fast", "lower-case words joined by dashes"),
        ("discovery", "../up", "got '../up'; try 'up'"),
        ("discovery", "class", "'class' is a word of the language Python; try 'my-class'"),
        ("discovery", "discoverer", "its class would be Discoverer, a name that it needs"),
        ("chooser", "chooser", "its class would be Chooser, a name that it needs"),
        ("discovery", "right", "a plugin named 'right' is installed already (crosstask-right); names must differ"),
        ("empty", "mine", "extension point 'empty' has no template"),
        ("lost", "mine", "extension point 'lost': its template crosstask_fakes:nowhere is not there"),
        ("agent", "mine", "extension point 'agent' of crosstask-points cannot be used: incompatible"),
    ],
)
def test_new_refuses(point: str, name: str, message: str, tmp_path: Path, installed: Registry) -> None:
    contract = "crosstask_fakes.contracts:Chooser"
    points = [Point("empty", contract), Point("lost", contract, template="crosstask_fakes:nowhere")]
    installed.register(Plugin("points", points=points, api=(2, 0)))
    later = Plugin("later", points=[Point("agent", contract)], api=(2, 9))
    installed.register(later, distribution="crosstask-points")
    with pytest.raises(PluginError) as caught:
        invoke("new", point, "--into", str(tmp_path), "--", name)
    assert message in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_new_says_what_brings_a_point_that_is_known_elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("crosstask.registry.packages", lambda: {"point/router": "crosstask-routing"})
    with pytest.raises(
        UnknownComponentError, match="extension point 'router'; pip install crosstask-routing brings it"
    ):
        invoke("new", "router", "mine", "--into", str(tmp_path))


def test_new_refuses_a_folder_that_exists_and_one_that_cannot_be_written(tmp_path: Path) -> None:
    invoke("new", "discovery", "mine", "--into", str(tmp_path))
    with pytest.raises(PluginError, match=r"crosstask-mine exists already; choose another name, or another folder"):
        invoke("new", "discovery", "mine", "--into", str(tmp_path))
    (tmp_path / "file").write_text("")
    with pytest.raises(PluginError, match="cannot write"):
        invoke("new", "discovery", "mine", "--into", str(tmp_path / "file" / "below"))


# check


def test_check_of_a_right_component() -> None:
    result = invoke("check", "right")
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert lines[0] == "discovery 'right' (crosstask-right)"
    assert any(line.split()[:2] == ["check_says_who_found_it", "ok"] for line in lines)
    assert " 0 failed" in lines[-1]


def test_check_of_a_wrong_component(wrong_module: None) -> None:
    result = invoke("check", "discovery/wrong")
    assert result.exit_code == 1
    assert "FAILED" in result.output
    assert " 1 failed" in result.output
    assert invoke("check", "wrong", "--set", "hide=false").exit_code == 0
    assert invoke("check", "wrong", "--expect", "check_says_who_found_it=it is like that").exit_code == 0
    assert invoke("check", "right", "--expect", "check_says_who_found_it=it is like that").exit_code == 1


def test_check_as_json(wrong_module: None) -> None:
    rows = json.loads(invoke("check", "wrong", "--json").output)
    assert [row["component"] for row in rows] == ["discovery/wrong"]
    failed = [check["name"] for check in rows[0]["checks"] if check["status"] == "failed"]
    assert failed == ["check_says_who_found_it"]


def test_check_of_a_component_of_a_plugins_point_uses_the_kit_of_that_point() -> None:
    (first,) = json.loads(invoke("check", "chooser/first", "--json").output)
    names = {check["name"]: check["status"] for check in first["checks"]}
    assert names["check_at_most"] == names["check_keeps_order"] == "passed"
    (last,) = json.loads(invoke("check", "last", "--json").output)
    assert "check_keeps_order" not in {check["name"] for check in last["checks"]}, "it does not claim that"


def test_check_of_a_command_and_a_recipe(installed: Registry) -> None:
    assert invoke("check", "greet").exit_code == 0
    assert invoke("check", "recipe/fakes").exit_code == 0
    wrong = Extension("command", "wave", "crosstask_fakes.cli:no_command")
    installed.register(Plugin("waves", [wrong], api=(2, 0)))
    with pytest.raises(PluginError, match="is a str, not a click command"):
        invoke("check", "wave")


def test_check_says_why_it_cannot(installed: Registry) -> None:
    with pytest.raises(
        PluginError, match=r"plugin 'broken' of crosstask-broken 1.0 cannot be checked: ImportError: no"
    ):
        invoke("check", "broken")
    with pytest.raises(UnknownComponentError, match="did you mean 'right'"):
        invoke("check", "rigth")
    installed.register(Plugin("odd", [Extension("router", "x", "a:B")], api=(2, 0)))
    with pytest.raises(PluginError, match="extension point 'router'"):
        invoke("check", "x")
    result = CliRunner().invoke(crosstask.cli.cli, ["plugins", "check", "right", "--set", "hide"])
    assert result.exit_code == 2
    assert "--set must look like key=value, got 'hide'" in result.output
