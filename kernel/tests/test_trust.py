"""Recipes from elsewhere: what they name is not imported unasked, what they say does nothing to the terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import crosstask.cli
from crosstask import Extension, Plugin, Registry
from crosstask.cli.common import emit_table, file_name
from crosstask.cli.trust import foreign_code
from crosstask.errors import RecipeError
from crosstask.progress import Progress
from crosstask.recipe import load_recipe
from crosstask.registry import PluginRecord

MODULE = """
from os import system
from crosstask.testing import blobs

open({touched!r}, "a").close()

def tasks(count=2):
    return [blobs(f"task {{n}}", seed=n) for n in range(count)]

def network(shape, outputs, width=8):
    import torch
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LazyLinear(width), torch.nn.Linear(width, outputs))
"""
RECIPE = """
source = { use = "python", function = "strange_module:tasks" }
transfer = "fake"
train = { steps = 1 }
model = { hidden = [4] }
"""


@pytest.fixture
def strange(tmp_path: Path, installed: Registry, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module that leaves a trace when it is imported; a recipe that names it."""
    touched = tmp_path / "touched"
    (tmp_path / "strange_module.py").write_text(MODULE.format(touched=str(touched)))
    (tmp_path / "r.toml").write_text(RECIPE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    yield touched
    sys.modules.pop("strange_module", None)


def run(*arguments: str, **given: Any) -> Any:
    return CliRunner().invoke(crosstask.cli.cli, ["run", *arguments, "--out", "o", "--json"], **given)


def test_code_that_a_file_names_is_imported_with_trust_only(strange: Path) -> None:
    refused = run("r.toml")
    assert isinstance(refused.exception, RecipeError)
    assert str(refused.exception) == (
        "the recipe names code that no installed plugin brings, and running it imports that code: source.function = "
        f"'strange_module:tasks' ({Path('r.toml').resolve()}). If you trust it: --trust"
    )
    assert not strange.exists()
    assert not Path("o").exists()
    assert run("r.toml", "--trust", catch_exceptions=False).exit_code == 0
    assert strange.exists()


def test_a_run_of_somebody_elses_is_resumed_with_trust_only(strange: Path) -> None:
    assert run("r.toml", "--trust", catch_exceptions=False).exit_code == 0
    del sys.modules["strange_module"]
    strange.unlink()
    refused = run("--resume")
    assert "source.function = 'strange_module:tasks' (run.json)" in str(refused.exception)
    assert not strange.exists()
    assert run("--resume", "--trust", catch_exceptions=False).exit_code == 0


def test_stages_alone_ask_too(strange: Path) -> None:
    Path("r.toml").write_text(RECIPE.replace("[4] }", "[4] }\n[prepare]\ntask = 'task 0'"))
    refused = CliRunner().invoke(crosstask.cli.cli, ["stage", "prepare", "--recipe", "r.toml", "--out", "o"])
    assert "If you trust it: --trust" in str(refused.exception)
    assert not strange.exists()


@pytest.mark.parametrize(("answer", "imported"), [("y\n", True), ("n\n", False), ("\n", False)])
def test_in_a_terminal_the_user_is_asked(
    answer: str, imported: bool, strange: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal:
        """`sys` as the module sees it, with streams that are a terminal."""

        modules, stdlib_module_names = sys.modules, sys.stdlib_module_names

        class stdin:
            isatty = staticmethod(lambda: True)

        stderr = stdin

    monkeypatch.setattr("crosstask.cli.trust.sys", Terminal)
    done = run("r.toml", input=answer)
    assert "Do you trust it? [y/N]" in done.stderr
    assert strange.exists() == imported
    if not imported:
        assert str(done.exception) == "not run: the code that the recipe names is not trusted"


def test_what_was_typed_is_trusted(strange: Path) -> None:
    Path("r.toml").write_text(RECIPE.replace("strange_module:tasks", "nowhere:tasks"))
    assert run("r.toml", "--set", "source.function=strange_module:tasks", catch_exceptions=False).exit_code == 0


def test_a_parent_in_a_file_is_a_file_and_what_a_plugin_ships_is_its_code(strange: Path, installed: Registry) -> None:
    Path("child.toml").write_text('extends = "r.toml"\nseed = 3\n')
    assert "strange_module:tasks" in str(run("child.toml").exception)
    shipping = Path("strange_package")
    shipping.mkdir()
    (shipping / "__init__.py").touch()
    (shipping / "theirs.toml").write_text(RECIPE)
    installed.register(
        Plugin("ships", [Extension("recipe", "theirs", "strange_package:theirs.toml")], api=(2, 0)), distribution="s"
    )
    try:
        assert run("theirs", catch_exceptions=False).exit_code == 0
        assert run("strange_package/theirs.toml", catch_exceptions=False).exit_code == 0, "the same file"
        Path("child.toml").write_text('extends = "theirs"\nmodel = { kind = "strange_module:network" }\n')
        assert "model.kind = 'strange_module:network'" in str(run("child.toml").exception)
    finally:
        del sys.modules["strange_package"]


# Which strings are code -----------------------------------------------------------------------------------------------


@pytest.fixture
def knowing(installed: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    """A registry with a plugin found in the package `brought`, which uses others."""
    package = tmp_path / "brought"
    package.mkdir()
    (package / "__init__.py").write_text("import os\nfrom os import system\ndef tasks(): ...\nclass Net: ...\nX = 3\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    record = PluginRecord("brought", "brought", "1", "brought.plugin:PLUGIN")
    installed._add(record, lambda: Plugin("brought", api=(2, 0)))
    yield installed
    sys.modules.pop("brought", None)


@pytest.mark.parametrize(
    "text",
    [
        "os:system",
        "os.path:join",
        "torch:load",
        "strange:x",  # once it is there
        "strange: some words",  # importing comes before looking for the attribute
        "strange.deep:x",
        "brought:system",  # found in a plugin, not made by it
        "brought:os.system",
        "crosstask.registry:load",  # the kernel imports what it is told
        "subprocess:run",
    ],
)
def test_foreign_code(text: str, knowing: Registry, tmp_path: Path) -> None:
    (tmp_path / "strange.py").write_text("")
    values = {"source": {"use": "x", "arguments": {"deep": [{"inside": text}]}}}
    (found,) = foreign_code(values, {"source.arguments.deep": "r.toml"}, knowing)
    assert (found.key, found.target, found.origin) == ("source.arguments.deep.inside", text, "r.toml")
    assert foreign_code(values, {"source.arguments.deep": "command line"}, knowing) == []
    assert "strange" not in sys.modules


@pytest.mark.parametrize(
    "text",
    ["brought:tasks", "brought:Net", "brought:nothing", "brought.nothing:x", "mlp", "https://x.org/a:b", "a: b",
     "12:30", "sqlite:///x.db", "http://x", "random: one of them", "not_installed_anywhere:x", ""],
)  # fmt: skip
def test_no_foreign_code(text: str, knowing: Registry) -> None:
    assert foreign_code({"source": {"function": text}}, {}, knowing) == []
    assert foreign_code({"description": "os:system", "name": "os:system"}, {}, knowing) == []


# Text is text ---------------------------------------------------------------------------------------------------------

HOSTILE = "a[/b] [red]\x1b[2J\x1b]0;title\x07\u202e:smile: {0}"
SHOWN = r"a[/b] [red]\x1b[2J\x1b]0;title\x07\u202e:smile: {0}"


def test_a_bar_draws_ids_of_tasks_as_they_are(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("FORCE_COLOR", "1")
    bars = Progress()
    bars.stage_started(HOSTILE, 3)
    bars.stage_progress(HOSTILE, HOSTILE)
    bars.stop()
    told = capsys.readouterr().err
    assert SHOWN in told
    assert "\x1b]0" not in told
    assert "\x1b[2J" not in told


def test_a_table_has_text_in_its_cells(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.table import Table

    monkeypatch.setenv("COLUMNS", "200")
    table = Table("What", HOSTILE, title=HOSTILE)
    table.add_row(HOSTILE, HOSTILE + "\nsecond")
    emit_table(table)
    told = capsys.readouterr().out
    assert told.count(SHOWN) == 4
    assert r"\nsecond" in told
    assert "\x1b]" not in told


def test_texts_of_plugins_do_nothing_to_the_terminal(installed: Registry) -> None:
    installed.register(
        Plugin("hostile", [Extension("chooser", "wild", "nowhere:X", summary=HOSTILE + "\nfake row", source=HOSTILE),
                           Extension("command", "wild", "nowhere:x", summary=HOSTILE)], api=(2, 0)),
        distribution="hostile\x1b[2J\nfine", version="1\x1b[2J",
    )  # fmt: skip
    for command in (["plugins"], ["plugins", "points"], ["plugins", "info", "chooser/wild"],
                    ["plugins", "why", "hostile"], ["plugins", "doctor"], ["--help"], ["recipe", "list"]):  # fmt: skip
        told = CliRunner().invoke(crosstask.cli.cli, command, catch_exceptions=False).output
        assert "\x1b" not in told, command
        assert "\u202e" not in told, command
    listed = CliRunner().invoke(crosstask.cli.cli, ["plugins"], catch_exceptions=False).stdout
    assert not [line for line in listed.splitlines() if line.startswith("fine")], "no row of its own making"
    as_json = CliRunner().invoke(crosstask.cli.cli, ["plugins", "--json"], catch_exceptions=False).stdout
    assert "\x1b" not in as_json
    assert "hostile\x1b[2J\nfine" in {row["distribution"] for row in json.loads(as_json)}


def test_errors_and_recipes_are_text(
    strange: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("r.toml").write_text('name = "a\\u001b[2J"\nsource = "fake"\ndescription = "\\u009b2J"\n')
    told = CliRunner().invoke(crosstask.cli.cli, ["recipe", "show", "r.toml"], catch_exceptions=False).output
    assert not {"\x1b", "\x9b"} & set(told)
    for arguments in (["run", "no\x1b[2J.toml"], ["no\x1b[2J"], ["run", "r.toml", "--set", "\x1b[2J=1"]):
        monkeypatch.setattr("sys.argv", ["crosstask", *arguments])
        with pytest.raises(SystemExit):
            crosstask.cli.main()
        assert "\x1b" not in capsys.readouterr().err


def test_the_log_is_text(capsys: pytest.CaptureFixture[str]) -> None:
    import structlog

    from crosstask.logs import log_everything, logger

    logger().warning("task\x1b[2J", task="a\x1b]0;title\x07")  # one without blanks structlog writes as it is
    log_everything()
    structlog.get_logger().info("task\x1b[2J", task="a\x1b]0;title\x07")
    told = capsys.readouterr().err
    assert told.count(r"task\x1b[2J") == told.count(r"a\x1b]0;title\x07") == 2


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("task 0", "task 0"),
        ("ümlaut_任务-1.5", "ümlaut_任务-1.5"),
        ("../../etc/passwd", "%2E.%2F..%2Fetc%2Fpasswd"),
        ("/etc/passwd", "%2Fetc%2Fpasswd"),
        ("..", "%2E%2E"),
        (".hidden", "%2Ehidden"),
        ("C:\\x", "C%3A%5Cx"),
        ("a\x1b[2J\n\0", "a%1B%5B2J%0A%00"),
        ("a/b", "a%2Fb"),
        ("a%2Fb", "a%252Fb"),  # another id, another file
    ],
)
def test_an_id_as_a_file_name(text: str, name: str, tmp_path: Path) -> None:
    assert file_name(text) == name
    (tmp_path / file_name(text)).write_text("")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_long_ids_stay_apart() -> None:
    assert len({file_name("a" * 300 + end) for end in "xy"}) == 2
    assert len(file_name("任" * 300).encode()) < 255 - len(".safetensors")
    assert file_name("")


# Devices --------------------------------------------------------------------------------------------------------------


def test_a_device_that_is_not_there_is_an_error_at_once(strange: Path) -> None:
    for arguments in (("r.toml", "--device", "gpu"), ("r.toml", "--trust", "--set", "device=gpu")):
        refused = run(*arguments)
        assert str(refused.exception).startswith("there is no device 'gpu'; did you mean 'cuda'?")
    assert run("r.toml", "--trust", "--set", "device=auto", catch_exceptions=False).exit_code == 0
    assert run("r.toml", "--trust", "--set", "device=gpu", "--device", "cpu", catch_exceptions=False).exit_code == 0


def test_a_recipe_names_its_device(installed: Registry, tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text('source = "fake"\ndevice = "auto"\n')
    assert load_recipe(tmp_path / "r.toml", installed).recipe.device == "auto"
