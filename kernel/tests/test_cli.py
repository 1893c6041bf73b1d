"""The kernel's commands, run as a user runs them (in process), on fake plugins."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import crosstask.cli
from crosstask import Extension, Plugin, Point, Registry, Settings, UnknownComponentError
from crosstask.cli.common import shown
from crosstask.registry import PluginRecord, Status
from crosstask_fakes.components import FakeObserver

RECIPE = """
name = "small"
seeds = 2
[source]
use = "fake"
[model]
hidden = [8]
[train]
steps = 40
learning_rate = 0.02
[transfer]
use = "fake"
[prepare]
task = "task1"
[wild]
[measure]
model = { from = "prepare", take = "model" }
[look]
[again]
use = "prepare"
scale = 2.0
"""


@pytest.fixture
def recipe(tmp_path: Path, installed: Registry, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "small.toml"
    path.write_text(RECIPE)
    return str(path)


def invoke(*arguments: str) -> str:
    result = CliRunner().invoke(crosstask.cli.cli, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def as_json(*arguments: str) -> Any:
    return json.loads(invoke(*arguments, "--json"))


def main_says(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    monkeypatch.setattr("sys.argv", ["crosstask", *arguments])
    with pytest.raises(SystemExit) as stop:
        crosstask.cli.main()
    return int(stop.value.code or 0), capsys.readouterr().err


# run, report ----------------------------------------------------------------------------------------------------------


def test_run_then_report_then_resume(recipe: str, tmp_path: Path) -> None:
    told = invoke("run", recipe, "--out", "o")
    assert "prepared" in told
    assert "mean coefficient" in told
    assert "report.html" in told
    first = json.loads((tmp_path / "o" / "run.json").read_text())
    assert list(first["results"]) == ["prepare", "wild", "look", "measure", "again"]
    (tmp_path / "o" / "report.html").unlink()
    assert "report" in invoke("report", "o")
    assert (tmp_path / "o" / "report.html").exists()
    assert as_json("report", "o") == {"report": "o/report.html", "run": first["run_id"], "status": "finished"}
    again = as_json("run", "--resume", "--out", "o")
    assert again["run_id"] == first["run_id"]
    assert again["summary"] == first["summary"]


def test_values_can_be_set(recipe: str) -> None:
    found = as_json("run", recipe, "--out", "o", "--set", "prepare.task=task2", "--set", "seed=5")
    assert (found["results"]["prepare"]["task"], found["seed"]) == ("task2", 5)
    assert found["recipe"]["prepare"]["task"] == "task2"


def test_trace_prints_every_call_of_a_hook(recipe: str) -> None:
    result = CliRunner().invoke(crosstask.cli.cli, ["run", recipe, "--out", "o", "--json", "--trace"])
    assert result.exit_code == 0, result.output
    lines = result.stderr.splitlines()
    hooks = [line.split("  ")[0] for line in lines]
    assert hooks.count("work") == 5
    assert {"load", "choose", "discover", "submit"} <= set(hooks)
    (choose, *_) = [line for line in lines if line.startswith("choose")]
    assert choose.startswith("choose  chooser 'first' (crosstask-fakes 1.0)  ")
    assert choose.endswith(" ms  list")
    json.loads(result.stdout)  # what is printed for programs is left alone


def test_freeze_and_frozen(recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    invoke("run", recipe, "--out", "o")
    text = invoke("plugins", "freeze", "o")
    assert text.splitlines()[1:] == ["crosstask-fakes==1.0", "crosstask-kernel==0.1.0"]
    assert as_json("plugins", "freeze", "o") == {"crosstask-fakes": "1.0", "crosstask-kernel": "0.1.0"}
    assert "wrote plugins.txt" in invoke("plugins", "freeze", "o", "--output", "plugins.txt")
    assert (tmp_path / "plugins.txt").read_text() == text
    invoke("run", recipe, "--out", "again", "--frozen", "plugins.txt")
    (tmp_path / "plugins.txt").write_text(text.replace("==1.0", "==1.1"))
    code, told = main_says(monkeypatch, capsys, "run", recipe, "--out", "third", "--frozen", "plugins.txt")
    assert (code, told) == (2, "error: not the plugins of plugins.txt: crosstask-fakes is 1.0, it names 1.1\n")
    assert main_says(monkeypatch, capsys, "run", recipe, "--frozen", "nowhere.txt")[0] == 2


# stage ----------------------------------------------------------------------------------------------------------------


def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Fills with the stages that work, whatever engine they work in."""
    seen: list[str] = []
    monkeypatch.setattr(FakeObserver, "stage_started", lambda self, stage, total: seen.append(stage))
    return seen


def test_one_stage_of_a_recipe(recipe: str) -> None:
    told = invoke("stage", "prepare", "--recipe", recipe, "--out", "o")
    assert "prepared" in told
    assert "task1" in told
    found = as_json("stage", "prepare", "--recipe", recipe, "--out", "o")
    assert found["task"] == "task1"
    assert as_json("stage", "prepare", "--recipe", recipe, "--set", "prepare.task=task0")["task"] == "task0"
    assert as_json("stage", "again", "--recipe", recipe)["options"]["scale"] == 2.0


def test_a_stage_brings_what_it_refers_to_and_with_before_all_that_comes_before_it(
    recipe: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def worked(*arguments: str) -> list[str]:
        out = f"o{len(arguments)}{arguments[0]}"
        result = CliRunner().invoke(
            crosstask.cli.cli, ["stage", *arguments, "--recipe", recipe, "--out", out, "--json", "--trace"]
        )
        assert result.exit_code == 0, result.output
        return [line.split("'")[1] for line in result.stderr.splitlines() if line.startswith("work ")]

    assert worked("measure") == ["prepare", "measure"]
    assert worked("measure", "--before") == ["prepare", "wild", "look", "measure"]
    assert worked("look", "--before") == ["prepare", "wild", "look"]
    assert worked("wild") == ["wild"]


def test_a_stage_that_the_recipe_does_not_have_runs_with_its_defaults(tmp_path: Path, recipe: str) -> None:
    (tmp_path / "bare.toml").write_text('source = "fake"\n')
    assert as_json("stage", "wild", "--recipe", "bare.toml")["size"] == 2
    assert as_json("stage", "wild", "--recipe", "bare.toml", "--set", "wild.size=5")["size"] == 5


def test_without_a_recipe_the_one_that_a_manifest_marks_is_used(recipe: str) -> None:
    assert as_json("stage", "prepare")["task"] == "task0"


def test_what_is_no_stage(recipe: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name, said in (
        ("perpare", "no stage named 'perpare'; did you mean 'prepare'"),
        ("source", "'source' is a table of every recipe, not a stage; did you mean"),
    ):
        code, told = main_says(monkeypatch, capsys, "stage", name, "--recipe", recipe)
        assert code == 2
        assert said in told


# recipe ---------------------------------------------------------------------------------------------------------------


def test_recipes_are_listed_and_shown(recipe: str, installed: Registry) -> None:
    assert invoke("recipe", "list") == "fakes  All of it  (crosstask-fakes 1.0, the default)\n"
    assert as_json("recipe", "list") == [
        {"name": "fakes", "plugin": "crosstask-fakes 1.0", "summary": "All of it", "default": True}
    ]
    text = invoke("recipe", "show", recipe, "--set", "again.scale=3.0")
    lines = {line.partition(" = ")[0]: line.partition(" = ")[2] for line in text.splitlines()}
    assert [part.strip() for part in lines["prepare.task"].split("  # ")] == ['"task1"', recipe]
    assert lines["again.scale"].endswith("# command line")
    assert lines["wild.size"].startswith("2 ")
    assert lines["measure.balancer"].startswith("(none)")
    shown = as_json("recipe", "show", "fakes")
    assert shown["measure.model.from"]["value"] == "prepare"
    assert shown["prepare.scale"] == {"value": 1.0, "from": "default"}


def test_without_recipes_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Registry, "installed", classmethod(lambda cls, settings=None: Registry()))
    assert invoke("recipe", "list") == "no plugin ships a recipe\n"
    assert invoke("plugins", "list") == "no plugins are installed\n"


# plugins --------------------------------------------------------------------------------------------------------------


def test_plugins_are_listed_with_what_they_offer(installed: Registry) -> None:
    installed.register(
        Plugin("odd", [Extension("chooser", "first", "a:B"), Extension("router", "x", "a:B")],
               points=[Point("stage", "a:B")], api=(2, 0)),
        distribution="odd-dist",
    )  # fmt: skip
    installed.register(Plugin("next", [], api=(3, 0)), distribution="next-dist")
    lines = {line.split()[0]: line for line in invoke("plugins").splitlines()}
    assert "chooser: first (CONFLICTING), last" in lines["fakes"]
    assert "command: greet" in lines["fakes"]
    assert "points: chooser" in lines["fakes"]
    assert lines["odd"].endswith("chooser: first (CONFLICTING); router: x (UNUSABLE); points: stage (CONFLICTING)")
    assert lines["next"].endswith("INCOMPATIBLE: made for plugin API 3.0; this kernel has 2.0")
    rows = {row["name"]: row for row in as_json("plugins", "list")}
    assert set(rows) == {"kernel", "fakes", "odd", "next"}
    assert rows["fakes"]["points"] == ["chooser"]
    assert set(rows["odd"]["unusable"]) == {"chooser/first", "router/x", "point/stage"}
    assert invoke("plugins", "list") == invoke("plugins")


def test_points_are_listed_the_kernels_and_those_of_plugins(installed: Registry) -> None:
    rival = Plugin("rival", points=[Point("wrapper", "a:B")], api=(2, 0))
    installed.register(rival, distribution="rival-dist", version="3")
    rows = as_json("plugins", "points")
    by_name = {(row["point"], row["origin"]): row for row in rows}
    assert by_name["chooser", "crosstask-fakes 1.0"] == {
        "point": "chooser", "origin": "crosstask-fakes 1.0", "version": "1.2",
        "contract": "crosstask_fakes.contracts:Chooser", "kit": "crosstask_fakes.kit:ChooserKit",
        "template": "crosstask_fakes:template", "summary": "Chooses among tasks", "components": ["first", "last"],
        "reason": "",
    }  # fmt: skip
    assert by_name["stage", "kernel"]["components"] == ["look", "measure", "prepare", "wild"]
    assert by_name["wrapper", "rival-dist 3"]["components"] == []
    lines = invoke("plugins", "points").splitlines()
    assert len(lines) == len(rows) == 17
    assert any(
        line.split() == ["chooser", "crosstask-fakes", "1.0", "Chooses", "among", "tasks", "(2)"] for line in lines
    )
    assert any("UNUSABLE: the kernel defines an extension point 'wrapper'" in line for line in lines)


def test_info_tells_what_a_component_is(installed: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    text = invoke("plugins", "info", "prepare")
    for said in (
        "stage prepare  (crosstask-fakes 1.0, licence unknown, ok)",
        "provides for later stages: centre, means, model, names, told",
        "options (the table [prepare] of a recipe):",
        "scale: float = 1.0 (> 0)  factor of the weights",
        "(a component of chooser)  chooses the names",
        "Makes a model of a task",
    ):
        assert said in text
    assert "runs after: look" in invoke("plugins", "info", "stage/measure")
    assert "the default of chooser" in invoke("plugins", "info", "chooser/first")
    assert "capabilities: keeps_order" in invoke("plugins", "info", "chooser/first")
    (greet,) = as_json("plugins", "info", "greet")
    assert (greet["point"], greet["summary"]) == ("command", "Say hello.")
    (model,) = [o for o in as_json("plugins", "info", "measure")[0]["options"] if o["name"] == "model"]
    assert model["bounds"] == 'or { from = "stage", take = "name" }'
    installed.register(Plugin("odd", [Extension("router", "x", "a:B")], api=(2, 0)), distribution="odd-dist")
    assert "no installed plugin defines extension point 'router'" in invoke("plugins", "info", "x")
    assert len(as_json("plugins", "info", "fakes")) == 17
    assert as_json("plugins", "info", "chooser/default") == as_json("plugins", "info", "chooser/first")
    with pytest.raises(UnknownComponentError, match="'chooser' is an extension point; name one of its components: "):
        invoke("plugins", "info", "chooser")
    with pytest.raises(UnknownComponentError, match="'chooser/frist'; did you mean 'chooser/first'"):
        invoke("plugins", "info", "chooser/frist")
    known = {"observer/wandb": "crosstask-wandb", "source/models": "crosstask-zoo"}
    monkeypatch.setattr("crosstask.registry.packages", lambda: known)
    for name in ("observer/wandb", "wandb", "crosstask-wandb"):
        with pytest.raises(UnknownComponentError, match=f"^'{name}' is not installed; pip install crosstask-wandb"):
            invoke("plugins", "info", name)
    with pytest.raises(UnknownComponentError, match="'zoo' is not installed; pip install crosstask-zoo brings it"):
        invoke("plugins", "why", "zoo")


def test_why_tells_what_decided_it(installed: Registry) -> None:
    installed.settings = Settings(
        allow=("crosstask-*", "odd-dist"), prefer={"chooser/first": "crosstask-fakes"}, origins={"allow": "here"}
    )
    installed.register(
        Plugin("odd", [Extension("chooser", "first", "a:B"), Extension("balancer", "lost", "nowhere:Lost"),
                       Extension("command", "run", "a:B")], api=(2, 0)),
        distribution="odd-dist", version="2",
    )  # fmt: skip
    first, rival = as_json("plugins", "why", "chooser/first")
    assert (first["usable"], rival["usable"]) == (True, False)
    assert "prefer (settings): chooser/first = crosstask-fakes" in first["because"]
    assert "the allow list (here) names it" in first["because"]
    assert first["because"][-1] == "crosstask_fakes.choosers:First can be imported"
    assert rival["because"][-1].endswith("crosstask-fakes is preferred")
    assert "NOT usable" in invoke("plugins", "why", "lost")
    assert "importing nowhere failed: ModuleNotFoundError" in invoke("plugins", "why", "lost")
    assert "the kernel has a command 'run'; choose another name" in invoke("plugins", "why", "command/run")
    assert "command 'greet' of crosstask-fakes 1.0: usable" in invoke("plugins", "why", "greet")
    assert invoke("plugins", "why", "recipe/fakes").endswith(".toml is there\n")


@pytest.fixture
def ill(installed: Registry) -> Registry:
    """Plugins each with something wrong."""
    installed.register(
        Plugin(
            "odd",
            [
                Extension("router", "x", "a:B"),
                Extension("balancer", "lost", "nowhere:Lost"),
                Extension("recipe", "lost", "crosstask_fakes:recipes/lost.toml"),
                Extension("command", "wave", "crosstask_fakes.cli:no_command"),
            ],
            points=[
                Point("agent", "crosstask_fakes.contracts:NoComponent"),
                Point("ranker", "crosstask_fakes.contracts:Ranker", kit="crosstask_fakes.kit:Lost"),
                Point("loss", "crosstask_fakes.contracts:Chooser", template="crosstask_fakes:nowhere"),
                Point("stage", "a:B"),
            ],
            api=(2, 0),
        ),
        distribution="odd-dist",
        version="2",
    )
    broken = PluginRecord("broken", "broken-dist", "1.0", "broken.plugin:PLUGIN")
    broken.fail(Status.BROKEN, "ModuleNotFoundError: …", "…\nModuleNotFoundError: No module named 'torrch'\n")
    installed.records.append(broken)
    denied = PluginRecord("unwanted", "unwanted-dist", "1.0")
    denied.fail(Status.DENIED, "denied by 'unwanted' (settings)")
    installed.records.append(denied)
    return installed


def test_doctor_finds_everything_that_is_wrong_and_says_what_to_do(ill: Registry) -> None:
    found = {plugin["name"]: plugin for plugin in as_json("plugins", "doctor")["plugins"]}
    assert found["fakes"]["problems"] == found["kernel"]["problems"] == []
    assert found["unwanted"]["problems"] == []
    assert found["unwanted"]["notes"] == ["denied by 'unwanted' (settings)"]
    (problem,) = found["broken"]["problems"]
    assert problem["advice"].startswith("pip install what provides 'torrch'")
    told = {problem["what"].partition(": ")[0]: problem for problem in found["odd"]["problems"]}
    assert set(told) == {
        "router 'x'",
        "balancer 'lost' (odd-dist 2)",
        "recipe 'lost' (odd-dist 2)",
        "command 'wave' (odd-dist 2)",
        "extension point 'agent'",
        "kit of extension point 'ranker'",
        "extension point 'loss'",
        "point 'stage'",
    }
    assert (
        told["balancer 'lost' (odd-dist 2)"]["advice"] == "pip install what provides 'nowhere', or reinstall odd-dist"
    )
    text = invoke("plugins", "doctor")
    assert "odd: PROBLEM  (odd-dist 2" in text
    assert "5 plugins, 2 with problems" in text
    result = CliRunner().invoke(crosstask.cli.cli, ["plugins", "doctor", "--strict"])
    assert result.exit_code == 1


def test_doctor_warns_of_patterns_that_match_nothing(installed: Registry) -> None:
    installed.settings = Settings(
        allow=("crosstask-*", "fakes"), deny=("crosstask_fakes", "fake", "typo-*"), origins={"deny/typo-*": "here"}
    )
    assert as_json("plugins", "doctor")["warnings"] == [
        "allow (settings): 'fakes' matches no installed distribution of a plugin",
        "deny (settings): 'fake' matches no installed plugin or distribution",
        "deny (here): 'typo-*' matches no installed plugin or distribution",
    ]
    assert "warning: deny (here): 'typo-*' matches no" in invoke("plugins", "doctor", "--strict")


def test_doctor_goes_on_where_a_component_would_end_it(
    installed: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "deadly_code.py").write_text("import os\nos._exit(0)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    offers = [Extension("executor", "dead", "deadly_code:X"), Extension("executor", "lost", "nowhere_at_all:X")]
    record = PluginRecord("deadly", "deadly-dist", "1", "deadly.plugin:PLUGIN")
    installed._add(record, lambda: Plugin("deadly", offers, points=[Point("dier", "deadly_code:C")], api=(2, 0)))
    rows = {row["name"]: row for row in as_json("plugins", "doctor")["plugins"]}
    ended = "deadly_code: importing it ended the process (exit status 0)"
    assert [problem["what"] for problem in rows["deadly"]["problems"]] == [
        f"executor 'dead' (deadly-dist 1): {ended}",
        "executor 'lost' (deadly-dist 1): importing nowhere_at_all failed: ModuleNotFoundError: No module named "
        "'nowhere_at_all'",
        f"extension point 'dier' (deadly-dist 1): {ended}",
    ]
    assert rows["fakes"]["problems"] == []


def test_doctor_says_which_package_a_missing_family_is_in(installed: Registry) -> None:
    record = PluginRecord("x", "x-dist", "1", needs=("crosstask-routing>=0.1",))
    installed._add(record, lambda: Plugin("x", [Extension("router", "x", "a:B")], api=(2, 0)))
    text = invoke("plugins", "doctor")
    assert "router 'x': no installed plugin defines extension point 'router'; pip install crosstask-routing" in text
    assert "what to do: pip install crosstask-routing" in text


def test_doctor_never_prints_secrets(installed: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    installed.settings = Settings(
        deny=("x",),
        tables={
            "mlflow": {"token": "s3cr3t", "uri": "https://me:s3cr3t@host", "login": {"password": "s3cr3t"}, "n": 3}
        },
    )
    monkeypatch.setenv("CROSSTASK_MLFLOW_API_KEY", "s3cr3t")
    for text in (invoke("plugins", "doctor"), invoke("plugins", "doctor", "--json")):
        assert "s3cr3t" not in text
        assert "set, not shown" in text
        assert "mlflow" in text
    settings = as_json("plugins", "doctor")["settings"]
    assert settings["deny"] == {"value": ["x"], "from": "default"}
    assert settings["[mlflow]"]["value"]["n"] == 3


# Commands of plugins --------------------------------------------------------------------------------------------------


def test_a_command_of_a_plugin_stands_beside_the_kernels(installed: Registry) -> None:
    assert invoke("greet") == "hello world\n"
    assert invoke("greet", "you") == "hello you\n"
    told = invoke("--help")
    assert "Commands of plugins:" in told
    assert told.index("run ") < told.index("Commands of plugins") < told.index("Say hello.")
    assert "Say hello to NAME." in invoke("greet", "--help")


def test_help_reads_manifests_only(installed: Registry) -> None:
    installed.register(
        Plugin("x", [Extension("command", "wave", "nowhere_at_all:command", summary="Wave.")], api=(2, 0)),
        distribution="x-dist",
    )
    assert "Wave." in invoke("--help")


def test_a_command_that_cannot_be_used(
    installed: Registry, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = [Extension("command", name, target) for name, target in (
        ("wave", "nowhere_at_all:command"), ("shout", "crosstask_fakes.cli:no_command"),
    )]  # fmt: skip
    installed.register(Plugin("x", wrong, api=(2, 0)), distribution="x-dist")
    code, told = main_says(monkeypatch, capsys, "wave")
    assert code == 2
    assert told.startswith("error: command 'wave' (x-dist): importing nowhere_at_all failed: ModuleNotFoundError")
    assert "is a str, not a click command" in main_says(monkeypatch, capsys, "shout")[1]
    code, told = main_says(monkeypatch, capsys, "gret")
    assert code == 2
    known = "compare, greet, plugins, recipe, report, run, shout, stage"
    assert f"no command 'gret'; did you mean 'greet'? Valid: {known}" in told


@pytest.mark.parametrize("name", ["compare", "plugins", "recipe", "report", "run", "stage"])
def test_a_command_of_a_plugin_never_replaces_one_of_the_kernel(installed: Registry, name: str) -> None:
    rival = Extension("command", name, "crosstask_fakes.cli:command", summary="Mine instead.")
    record = installed.register(Plugin("rival", [rival], api=(2, 0)), distribution="rival")
    assert "Say hello" not in invoke(name, "--help")
    assert "Mine instead." not in invoke("--help")
    assert record.unusable == {f"command/{name}": f"the kernel has a command {name!r}; choose another name"}


def test_a_command_that_a_known_package_has_is_named_with_it(
    installed: Registry, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from crosstask import registry as registry_module

    monkeypatch.setattr(registry_module, "packages", lambda: {"command/discover": "crosstask-discovery"})
    told = main_says(monkeypatch, capsys, "discover")[1]
    assert "no command named 'discover' is installed; pip install crosstask-discovery brings it" in told


# The whole program ----------------------------------------------------------------------------------------------------


def test_errors_are_one_line_and_exit_2(
    recipe: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, told = main_says(monkeypatch, capsys, "stage", "prepare", "--recipe", recipe, "--set", "prepare.task=tsk0")
    assert code == 2
    assert told == "error: prepare: task: fakes has no 'tsk0'\n"
    assert main_says(monkeypatch, capsys, "run", "nowhere.toml")[1].startswith("error: no recipe file")
    assert "did you mean 'plugins'" in main_says(monkeypatch, capsys, "plugin")[1]
    assert "a RECIPE is needed" in main_says(monkeypatch, capsys, "run")[1]
    assert "File name too long" in main_says(monkeypatch, capsys, "run", f"{'a' * 300}.toml")[1]
    beside = str(Path(recipe).with_name("recpie.toml"))
    Path(recipe).rename(Path(recipe).with_name("recipe.toml"))
    assert f"no recipe file {beside}; did you mean 'recipe.toml'?" in main_says(monkeypatch, capsys, "run", beside)[1]
    assert "error: no run in" in main_says(monkeypatch, capsys, "report", "nowhere")[1]
    for option in (["--open"], ["--port", "0"], ["--host", "localhost"], ["--store", "s.db"]):
        said = main_says(monkeypatch, capsys, "report", "nowhere", *option)[1]
        assert f"{option[0]} goes with --serve" in said
    assert "no command 'lsit'; did you mean 'list'" in main_says(monkeypatch, capsys, "plugins", "lsit")[1]


def test_ctrl_c_says_how_to_go_on(
    recipe: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("crosstask.job.run_recipe", interrupted)
    code, told = main_says(monkeypatch, capsys, "run", recipe)
    assert code == 130
    assert "--resume" in told


ONE_OFF = """
from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    "one-off",
    [
        Extension("command", "shout", "one_off_code:command", summary="Shout."),
        Extension("source", "mine", "one_off_code:Mine", summary="Blobs."),
        Extension("stage", "wild", "crosstask_fakes.stages:FakeWild", summary="Draws."),
    ],
    api=(2, 0),
)
"""
CODE = """
import click

from crosstask import Portfolio, Source, component
from crosstask.testing import blobs


@click.command()
def command():
    click.echo("HELLO")


@component
class Mine(Source):
    '''Blobs.'''

    def load(self):
        return Portfolio([blobs(name) for name in "ab"])
"""


def program(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`python -m crosstask` with no plugins but the kernel's and one-off ones."""
    paths = os.pathsep.join([str(Path(__file__).parent), *(path for path in sys.path if path)])
    known = {key: value for key, value in os.environ.items() if not key.startswith("CROSSTASK_")}
    return subprocess.run(
        [sys.executable, "-m", "crosstask", *arguments],
        env={**known, "PYTHONPATH": paths, "CROSSTASK_ALLOW": "crosstask-kernel,dir:*", **environment},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def test_the_module_is_the_program_and_reads_folders_of_plugins(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "one_off.py").write_text(ONE_OFF)
    (folder / "one_off_code.py").write_text(CODE)
    (tmp_path / "r.toml").write_text('source = "mine"\n[wild]\nsize = 3\n[executor]\nuse = "process"\nworkers = 1\n')
    listed = program("--plugins-dir", str(folder), "plugins", "list", "--json")
    assert listed.returncode == 0, listed.stderr
    rows = {row["name"]: row for row in json.loads(listed.stdout)}
    assert (rows["one_off"]["distribution"], rows["one_off"]["status"]) == ("dir:one_off", "ok")
    assert {row["status"] for name, row in rows.items() if name not in ("kernel", "one_off")} <= {"denied"}
    assert program("--plugins-dir", str(folder), "shout").stdout == "HELLO\n"
    ran = program("--plugins-dir", str(folder), "run", str(tmp_path / "r.toml"), "--out", str(tmp_path / "o"), "--json")
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["results"]["wild"]["size"] == 3
    assert json.loads(ran.stdout)["used"]["dir:one_off"] == ""
    denied = program("--plugins-dir", str(folder), "shout", CROSSTASK_DENY="dir:one*")
    assert denied.returncode == 2
    assert "no command 'shout'" in denied.stderr
    set_in_environment = program("shout", CROSSTASK_PLUGINS_DIR=str(folder))
    assert set_in_environment.stdout == "HELLO\n"
    assert "does not exist" in program("--plugins-dir", str(tmp_path / "nowhere"), "plugins").stderr


def test_a_figure_that_only_looks_like_an_interval_is_shown() -> None:
    assert shown({"mean": 0.5, "low": 0.25, "high": 1}) == "0.500 [0.250, 1.000]"
    assert shown({"mean": 0.5}) == "mean: 0.500"
    assert shown({"mean": None, "low": 0.0, "high": 1.0}) == "mean: –, low: 0.000, high: 1.000"
