"""A package with a recipe and a wrapper, built elsewhere, installed from its wheel into a fresh environment, run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

FILES = {
    "pyproject.toml": """
        [build-system]
        requires = ["flit_core>=3.11"]
        build-backend = "flit_core.buildapi"
        [project]
        name = "crosstask-halves"
        version = "2.5.0"
        description = "Half weights"
        dependencies = ["crosstask-kernel"]
        [project.entry-points."crosstask.plugins"]
        halves = "crosstask_halves.plugin:PLUGIN"
        """,
    "src/crosstask_halves/__init__.py": '"""Half weights."""\n',
    "src/crosstask_halves/plugin.py": """
        from crosstask.manifest import Extension, Plugin
        PLUGIN = Plugin(name="halves", api=(1, 0), extensions=[
            Extension("wrapper", "halves", "crosstask_halves.halves:Halves", summary="Weights divided"),
            Extension("recipe", "halved-parity", "crosstask_halves:recipes/halved.toml", summary="Two digit tasks"),
        ])
        """,
    "src/crosstask_halves/halves.py": """
        from crosstask import Wrapper, component, hookimpl, option
        @component
        class Halves(Wrapper):
            by: float = option(2.0, gt=0, help="the divisor")
            @hookimpl(wrapper=True)
            def balance(self):
                weights = yield
                return weights / self.by
        """,
    "src/crosstask_halves/recipes/base.toml": """
        source = { use = "digits", tasks = ["parity", "prime"] }
        wrappers = [{ use = "halves", by = 4.0 }]
        [model]
        hidden = [8]
        [train]
        steps = 2
        [requires]
        halves = ">=2.5,<3"
        """,
    "src/crosstask_halves/recipes/halved.toml": """
        extends = "base.toml"
        name = "halved"
        [multitask]
        tasks = ["parity", "prime"]
        balancer = { use = "sequence", parts = ["equal", "equal"] }
        budget = { steps = 3 }
        """,
}


@pytest.mark.slow
@pytest.mark.packaging
def test_recipe_and_wrapper_of_a_wheel(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    for name, text in FILES.items():
        file = elsewhere / name
        file.parent.mkdir(parents=True, exist_ok=True)
        lines = text.splitlines()
        file.write_text("\n".join(line[8:] if line.startswith(" " * 8) else line for line in lines) + "\n", "utf-8")

    def run(*command: str | Path, cwd: Path = tmp_path) -> str:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("CROSSTASK_")}
        done = subprocess.run(command, cwd=cwd, env=kept, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", tmp_path, elsewhere)
    for path in sorted(elsewhere.rglob("*"), reverse=True):  # nothing installed may lean on the sources
        path.unlink() if path.is_file() else path.rmdir()
    run(sys.executable, "-m", "venv", tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    site = next(tmp_path.glob("venv/lib/python*/site-packages"))
    # A link to what is installed here: torch is not copied. It comes after the environment's own packages
    (site / "borrowed.pth").write_text(f"{sysconfig.get_path('purelib')}\n", "utf-8")
    (wheel,) = tmp_path.glob("*.whl")
    run(python, "-m", "pip", "install", "-q", "--no-deps", wheel)

    crosstask = [str(python), "-c", "from crosstask.cli import main; main()"]
    assert "wrapper: halves; recipe: halved-parity" in run(*crosstask, "plugins")
    shown = json.loads(run(*crosstask, "recipe", "show", "halved-parity", "--json", "--set", "seed=4"))
    assert shown["multitask.budget.steps"]["from"].endswith("site-packages/crosstask_halves/recipes/halved.toml")
    assert shown["wrappers"]["from"].endswith("recipes/base.toml")
    assert shown["seed"] == {"value": 4, "from": "command line"}
    run(*crosstask, "run", "halved-parity", "--out", "out", "--set", "seed=4")
    record = json.loads((tmp_path / "out" / "run.json").read_text("utf-8"))
    assert record["seed"] == 4
    weights = record["multitask"]["weights"]
    assert {value for values in weights.values() for value in values} == {0.25}
    assert record["versions"]["crosstask-halves"] == "2.5.0"
