"""The plugin templates work as they stand, and the kernel holds them as they are."""

import importlib
import runpy
import tomllib
from pathlib import Path

import pytest

from crosstask.manifest import POINTS
from crosstask.testing import run_checks

ROOT = Path(__file__).parents[1]
TEMPLATES = ROOT / "contrib" / "templates"


def test_kernel_holds_the_templates_as_they_are() -> None:
    script = runpy.run_path(str(ROOT / ".ci" / "templates"), run_name="templates")
    assert script["PACKED"].read_text("utf-8") == script["packed"](), "run .ci/templates and commit what it writes"


def test_there_is_one_for_each_extension_point() -> None:
    assert {path.name for path in TEMPLATES.iterdir()} == set(POINTS)


def camel(point: str) -> str:
    return "".join(word.capitalize() for word in point.split("_"))


@pytest.mark.parametrize("point", POINTS)
def test_template_does_what_the_contract_says(point: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(TEMPLATES / point / "src")
    package = f"crosstask_example_{point}"
    plugin = importlib.import_module(f"{package}.plugin").PLUGIN
    made = getattr(importlib.import_module(package), f"Example{camel(point)}")
    outcomes = run_checks(made, url="example-store://{folder}" if point == "store" else None)
    assert [(o.name, o.message) for o in outcomes if not o.ok] == []
    assert [e.point for e in plugin.extensions] == [point]


@pytest.mark.parametrize("point", POINTS)
def test_template_is_whole(point: str) -> None:
    folder = TEMPLATES / point
    project = tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))["project"]
    dashed = point.replace("_", "-")
    assert project["name"] == f"crosstask-example-{dashed}"
    entry = {f"example-{dashed}": f"crosstask_example_{point}.plugin:PLUGIN"}
    assert project["entry-points"] == {"crosstask.plugins": entry}
    for name in ("README.md", ".github/workflows/test.yml", f"tests/test_example_{point}.py"):
        assert (folder / name).is_file()
    assert (folder / "src" / f"crosstask_example_{point}" / "py.typed").is_file()
