"""`crosstask plugins new` and `crosstask plugins check`, in process."""

from __future__ import annotations

import ast
import json
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import crosstask.cli
from crosstask import Extension, Plugin, PluginError, Registry, UnknownComponentError
from crosstask.manifest import POINTS
from crosstask.registry import PluginRecord, Status


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> Registry:
    """What is installed: a right component, a wrong one, and a plugin that cannot be loaded."""
    made = Registry()
    right = "crosstask.testing.references:ReferenceSampler"
    made.register(
        Plugin("right", [Extension("sampler", "right", right, summary="Draws")]), distribution="crosstask-right"
    )
    wrong = "test_author_commands_wrong:NeverOne"
    made.register(
        Plugin("wrong", [Extension("sampler", "wrong", wrong, summary="Draws")]), distribution="crosstask-wrong"
    )
    record = PluginRecord("broken", "crosstask-broken", "1.0")
    record.fail(Status.BROKEN, "ImportError: no module named torrch")
    made.records.append(record)
    monkeypatch.setattr(Registry, "installed", classmethod(lambda cls, settings=None: made))
    return made


@pytest.fixture
def wrong_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "test_author_commands_wrong.py").write_text(
        "from crosstask.options import component, option\n"
        "from crosstask.testing.references import ReferenceSampler\n\n"
        "@component\nclass NeverOne(ReferenceSampler):\n    '''Scorns one task.'''\n\n"
        "    scorn: bool = option(True, help='whether')\n\n"
        "    def sample(self, tasks, history, rng):\n"
        "        return [] if self.scorn and len(tasks) == 1 else super().sample(tasks, history, rng)\n",
        "utf-8",
    )
    monkeypatch.syspath_prepend(tmp_path)


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(crosstask.cli.cli, ["plugins", *arguments], catch_exceptions=False)


# new


@pytest.mark.parametrize("point", POINTS)
def test_new_writes_a_whole_project(point: str, tmp_path: Path) -> None:
    dashed = f"very-own-{point.replace('_', '-')}"
    result = invoke("new", point, dashed, "--into", str(tmp_path / "in a folder"))
    assert result.exit_code == 0, result.output
    folder = tmp_path / "in a folder" / f"crosstask-{dashed}"
    assert str(folder) in result.output
    package, name = f"crosstask_very_own_{point}", f"very_own_{point}"
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert files == {
        ".github/workflows/test.yml",
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


def test_new_takes_the_name_of_the_distribution_too(tmp_path: Path) -> None:
    invoke("new", "sampler", "crosstask-mine", "--into", str(tmp_path))
    assert (tmp_path / "crosstask-mine" / "src" / "crosstask_mine" / "mine.py").is_file()


@pytest.mark.parametrize(
    ("point", "name", "message"),
    [
        ("balancr", "mine", "unknown extension point 'balancr'; did you mean 'balancer'?"),
        ("recipe", "mine", "unknown extension point 'recipe'"),
        ("sampler", "MyOwn", "such as 'my-sampler', got 'MyOwn'; try 'my-own'"),
        ("sampler", "my_own", "got 'my_own'; try 'my-own'"),
        ("sampler", "-", "lower-case words joined by dashes"),
        ("sampler", "ä", "lower-case words joined by dashes"),
        ("sampler", "2fast", "lower-case words joined by dashes"),
        ("sampler", "../up", "got '../up'; try 'up'"),
        ("sampler", "class", "'class' is a word of the language Python; try 'my-class'"),
        ("sampler", "sampler", "its class would be Sampler, a name that it needs"),
        ("sampler", "right", "a plugin named 'right' is installed already (crosstask-right); names must differ"),
    ],
)
def test_new_refuses(point: str, name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(PluginError) as caught:
        invoke("new", point, "--into", str(tmp_path), "--", name)
    assert message in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_new_refuses_a_folder_that_exists_and_one_that_cannot_be_written(tmp_path: Path) -> None:
    invoke("new", "sampler", "mine", "--into", str(tmp_path))
    with pytest.raises(PluginError, match=r"crosstask-mine exists already; choose another name, or another folder"):
        invoke("new", "sampler", "mine", "--into", str(tmp_path))
    (tmp_path / "file").write_text("")
    with pytest.raises(PluginError, match="cannot write"):
        invoke("new", "sampler", "mine", "--into", str(tmp_path / "file" / "below"))


# check


def test_check_of_a_right_component() -> None:
    result = invoke("check", "right")
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert lines[0] == "sampler 'right' (crosstask-right)"
    assert any(line.split()[:2] == ["check_one_task", "ok"] for line in lines)
    assert " 0 failed" in lines[-1]


def test_check_of_a_wrong_component(wrong_module: None) -> None:
    result = invoke("check", "sampler/wrong")
    assert result.exit_code == 1
    assert "FAILED" in result.output
    assert "NeverOne.sample drew [] from ['moons']" in result.output
    assert " 1 failed" in result.output
    assert invoke("check", "wrong", "--set", "scorn=false").exit_code == 0
    assert invoke("check", "wrong", "--expect", "check_one_task=it is like that").exit_code == 0
    assert invoke("check", "right", "--expect", "check_one_task=it is like that").exit_code == 1


def test_check_as_json(wrong_module: None) -> None:
    rows = json.loads(invoke("check", "wrong", "--json").output)
    assert [row["component"] for row in rows] == ["sampler/wrong"]
    failed = [check["name"] for check in rows[0]["checks"] if check["status"] == "failed"]
    assert failed == ["check_one_task"]


def test_check_says_why_it_cannot() -> None:
    with pytest.raises(
        PluginError, match=r"plugin 'broken' of crosstask-broken 1.0 cannot be checked: ImportError: no"
    ):
        invoke("check", "broken")
    with pytest.raises(UnknownComponentError, match="did you mean 'right'"):
        invoke("check", "rigth")
    result = CliRunner().invoke(crosstask.cli.cli, ["plugins", "check", "right", "--set", "scorn"])
    assert result.exit_code == 2
    assert "--set must look like key=value, got 'scorn'" in result.output
