"""`crosstask --help` and `crosstask plugins` stay light and go on whatever is wrong with a plugin."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "numpy", "networkx", "structlog", "sqlalchemy", "rich", "sklearn", "plotly")
CODE = """\
import sys
from crosstask.cli import main
try:
    main()
finally:
    print("HEAVY", [name for name in {heavy} if name in sys.modules], file=sys.stderr)
"""


def crosstask(*arguments: str, path: Path | None = None) -> tuple[int, str, str]:
    """(exit status, standard output, standard error) of the command, with `path` before the installed packages."""
    environment = dict(os.environ)
    if path is not None:
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(path), environment.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(heavy=HEAVY), *arguments], env=environment, capture_output=True, text=True
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    "arguments",
    [("--help",), ("--version",), ("plugins",), ("plugins", "--json"), ("plugins", "--help"), ("recipe", "list")],
)
def test_nothing_heavy_is_imported(arguments: tuple[str, ...]) -> None:
    """With every plugin of the repository installed: an `__init__.py` that imports torch is found here."""
    status, _, errors = crosstask(*arguments)
    assert (status, errors) == (0, "HEAVY []\n")


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """Three plugins on a path of their own: one that works, one that breaks, one that leaves the process."""
    codes = {
        "fine": "from crosstask.manifest import Extension, Plugin\n"
        "PLUGIN = Plugin('fine', [Extension('executor', 'fine', 'crosstask.executors:SerialExecutor', source='S'),"
        " Extension('source', 'lost', 'lost_module:Lost'), Extension('nowhere', 'left', 'lost_module:Left')],"
        " api=(2, 0))",
        "worn": "import not_installed_anywhere",
        "exits": "raise SystemExit(7)",
    }
    for name, code in codes.items():
        (tmp_path / f"{name}_manifest.py").write_text(code)
        info = tmp_path / f"{name}_dist-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.4\nName: {name}-dist\nVersion: 1.0\nLicense: BSD\n\n")
        (info / "entry_points.txt").write_text(f"[crosstask.plugins]\n{name} = {name}_manifest:PLUGIN\n")
    return tmp_path


def test_broken_plugins_are_a_line_each(broken: Path) -> None:
    status, told, _ = crosstask("plugins", path=broken)
    lines = {line.split()[0]: " ".join(line.split()) for line in told.splitlines()}
    assert status == 0
    assert lines["fine"] == "fine fine-dist 1.0 executor: fine; source: lost; nowhere: left (UNUSABLE)"
    assert lines["exits"] == "exits exits-dist 1.0 BROKEN: exits_manifest:PLUGIN: SystemExit: 7"
    assert lines["worn"] == (
        "worn worn-dist 1.0 BROKEN: worn_manifest:PLUGIN: ModuleNotFoundError: No module named 'not_installed_anywhere'"
    )
    status, told, _ = crosstask("plugins", "list", "--json", path=broken)
    found = {item["name"]: item["status"] for item in json.loads(told)}
    assert (status, found["fine"], found["worn"]) == (0, "ok", "broken")


def test_info(broken: Path) -> None:
    _, told, _ = crosstask("plugins", "info", "fine", path=broken)
    assert "executor fine  (fine-dist 1.0, licence BSD, ok)" in told
    assert "source: S" in told
    assert "importing lost_module failed" in told
    assert "no installed plugin defines extension point 'nowhere'" in told
    _, told, _ = crosstask("plugins", "info", "process", "--json", path=broken)
    (item,) = json.loads(told)
    assert [option["name"] for option in item["options"]] == ["workers", "timeout", "memory", "retries"]
    status, _, errors = crosstask("plugins", "info", "procss", path=broken)
    assert (status, errors.partition("; did you mean")[0]) == (2, "error: no plugin or component named 'procss'")


def test_why(broken: Path) -> None:
    _, told, _ = crosstask("plugins", "why", "worn", path=broken)
    assert told.splitlines()[0] == "plugin 'worn' of worn-dist 1.0: NOT usable"
    assert "No module named 'not_installed_anywhere'" in told
    _, told, _ = crosstask("plugins", "why", "executor/fine", "--json", path=broken)
    (item,) = json.loads(told)
    assert item["usable"]
    assert "crosstask.executors:SerialExecutor can be imported" in item["because"]


def test_why_names_the_setting_that_decided(broken: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CROSSTASK_DENY", "fin*")
    _, told, _ = crosstask("plugins", "why", "fine", path=broken)
    assert "the deny list (CROSSTASK_DENY) names it: 'fin*'" in told
    monkeypatch.setenv("CROSSTASK_ALLOW", "crosstask-kernel")
    _, told, _ = crosstask("plugins", "why", "worn", path=broken)
    assert "the allow list (CROSSTASK_ALLOW) does not name it" in told


def test_doctor(broken: Path) -> None:
    status, told, _ = crosstask("plugins", "doctor", path=broken)
    assert status == 0
    assert "exits: BROKEN  (exits-dist 1.0 in " in told
    assert "what to do: pip install what provides 'not_installed_anywhere'" in told
    assert "Traceback (most recent call last)" in told
    assert "fine: PROBLEM" in told  # its manifest is right, one of its components is not
    assert "pip install what provides 'lost_module'" in told
    status, told, _ = crosstask("plugins", "doctor", "--strict", "--json", path=broken)
    assert status == 1
    found = {item["name"]: len(item["problems"]) for item in json.loads(told)["plugins"]}
    assert (found["fine"], found["worn"], found["exits"], found["kernel"]) == (2, 1, 1, 0)


def test_doctor_takes_a_denied_plugin_as_wished(broken: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CROSSTASK_DENY", "worn,exits,fine")
    _, told, _ = crosstask("plugins", "doctor", "--json", path=broken)
    found = json.loads(told)
    assert found["settings"] == {"deny": {"value": ["worn", "exits", "fine"], "from": "CROSSTASK_DENY"}}
    assert {item["status"] for item in found["plugins"] if item["name"] in ("worn", "exits")} == {"denied"}
    assert not any(item["problems"] for item in found["plugins"] if item["name"] in ("worn", "exits", "fine"))


def test_recipe_show_and_list(tmp_path: Path) -> None:
    package = tmp_path / "shipping"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "base.toml").write_text(
        'seed = 5\n[source]\nuse = "x"\n[multitask]\nbalancer = { use = "rgb", mu = 0.2 }\n'
    )
    (package / "plugin.py").write_text(
        "from crosstask.manifest import Extension, Plugin\n"
        "PLUGIN = Plugin('shipping', [Extension('recipe', 'base-recipe', 'shipping:base.toml', summary='The base')],"
        " api=(2, 0))"
    )
    info = tmp_path / "shipping-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: shipping\nVersion: 1.0\n\n")
    (info / "entry_points.txt").write_text("[crosstask.plugins]\nshipping = shipping.plugin:PLUGIN\n")
    (tmp_path / "mine.toml").write_text(
        'extends = "base-recipe"\nname = "mine"\n[multitask]\nbalancer = { mu = 0.4 }\n'
    )
    _, told, _ = crosstask("recipe", "list", path=tmp_path)
    assert "base-recipe" in told
    assert "The base  (shipping 1.0)" in told
    mine = str(tmp_path / "mine.toml")
    status, told, errors = crosstask("recipe", "show", mine, "--set", "seed=7", path=tmp_path)
    assert status == 0, errors
    found = dict(line.split("  # ") for line in told.splitlines())
    shown = {key.strip(): value for key, value in found.items()}
    assert shown["seed = 7"] == "command line"
    assert shown['name = "mine"'] == mine
    assert shown["multitask.balancer.mu = 0.4"] == mine
    assert shown['multitask.balancer.use = "rgb"'] == str(package / "base.toml")
    assert shown["seeds = 3"] == "default"
    _, told, _ = crosstask("recipe", "show", "base-recipe", "--json", path=tmp_path)
    assert json.loads(told)["seed"] == {"value": 5, "from": str(package / "base.toml")}
