"""The plugin templates work as they stand: those of the kernel's points, which the kernel holds as they are, those that
bases bring with their points, and those of a recipe and of a whole family.
"""

from __future__ import annotations

import ast
import importlib
import os
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from crosstask.cli.plugins.new import scaffold
from crosstask.errors import PluginError
from crosstask.manifest import API_VERSION, KERNEL_POINTS, RECIPE, Plugin
from crosstask.registry import Registry, data_path
from crosstask.testing import reference_registry, run_checks

ROOT = Path(__file__).parents[1]
TEMPLATES = ROOT / "contrib" / "templates"
OWN = {point.name: TEMPLATES / point.name for point in KERNEL_POINTS}
CONTRIBUTED = {each.point.name: data_path(each.point.template) for each in Registry.installed().points() if each.plugin}
POINTS = OWN | CONTRIBUTED
BASE, EXTRA = (TEMPLATES / "family" / f"crosstask-example-family{suffix}" for suffix in ("", "-extra"))
PACKAGES = [TEMPLATES / "recipe", BASE, EXTRA]
NEEDED: dict[str, Any] = {
    "stage": {"options": {"target": "moons", "most": 2}, "registry": reference_registry()},
    "store": {"url": "example-store://{folder}"},
}
"""What the checks of a template must be told."""


def project(folder: Path) -> dict[str, Any]:
    """The table `project` of a template."""
    return tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))["project"]


def package(folder: Path) -> Path:
    """The package of a template."""
    return folder / "src" / project(folder)["name"].replace("-", "_")


def manifest(folder: Path) -> Plugin:
    """Its manifest; the package must be importable."""
    found = importlib.import_module(f"{package(folder).name}.plugin").PLUGIN
    assert isinstance(found, Plugin)
    return found


def test_kernel_holds_the_templates_as_they_are() -> None:
    script = runpy.run_path(str(ROOT / ".ci" / "templates"), run_name="templates")
    assert script["PACKED"].read_text("utf-8") == script["packed"](), "run .ci/templates and commit what it writes"


def test_there_is_one_for_each_extension_point() -> None:
    assert {path.name for path in TEMPLATES.iterdir()} == {*OWN, "recipe", "family"}
    assert {"continual", "sampler", "search", "sharing"} <= set(CONTRIBUTED)
    assert not [point for point, folder in CONTRIBUTED.items() if not (folder / "pyproject.toml").is_file()]


@pytest.mark.parametrize("point", POINTS)
def test_template_does_what_the_contract_says(point: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = POINTS[point]
    monkeypatch.chdir(tmp_path)  # what writes files has defaults for where
    monkeypatch.syspath_prepend(folder / "src")
    plugin = manifest(folder)
    assert plugin.extensions[0].point == point
    assert {extension.point for extension in plugin.extensions[1:]} <= {RECIPE}
    camel = "".join(word.capitalize() for word in point.split("_"))
    made = getattr(importlib.import_module(package(folder).name), f"Example{camel}")
    outcomes = run_checks(made, **NEEDED.get(point, {}))
    assert [(o.name, o.message) for o in outcomes if not o.ok] == []


@pytest.mark.parametrize("point", POINTS)
def test_template_has_the_names_of_its_point(point: str) -> None:
    folder, dashed = POINTS[point], point.replace("_", "-")
    assert project(folder)["name"] == f"crosstask-example-{dashed}"
    assert (package(folder) / f"example_{point}.py").is_file()
    assert (folder / "tests" / f"test_example_{point}.py").is_file()


@pytest.mark.parametrize("folder", [*POINTS.values(), *PACKAGES], ids=lambda folder: project(folder)["name"])
def test_template_is_whole(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(folder / "src")
    told, plugin, name = project(folder), manifest(folder), package(folder).name
    dashed = told["name"].removeprefix("crosstask-")
    assert told["entry-points"] == {"crosstask.plugins": {dashed: f"{name}.plugin:PLUGIN"}}
    assert (plugin.name, plugin.api, plugin.problems) == (dashed, API_VERSION, ())
    for path in ("README.md", ".github/workflows/test.yml", f"src/{name}/py.typed"):
        assert (folder / path).is_file()
    assert list((folder / "tests").glob("test_*.py"))
    assert f"# {told['name']}\n" in (folder / "README.md").read_text("utf-8")
    for extension in plugin.extensions:
        assert extension.summary
        if extension.point == RECIPE:
            assert data_path(extension.target).is_file()


@pytest.mark.parametrize("folder", [*POINTS.values(), *PACKAGES], ids=lambda folder: project(folder)["name"])
def test_template_asks_for_the_bases_that_it_imports(folder: Path) -> None:
    imported = set()
    for file in package(folder).rglob("*.py"):
        if "template" not in file.relative_to(folder).parts:
            tree = ast.parse(file.read_text("utf-8"))
            imported |= {node.module.partition(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    ours = {name.replace("_", "-") for name in imported if name.startswith("crosstask_")} - {project(folder)["name"]}
    asked = {text.partition(">")[0] for text in project(folder)["dependencies"]}
    assert ours | {"crosstask-kernel"} <= asked


def test_the_template_in_the_family_is_one_of_its_point(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it does is checked by the family's own tests."""
    monkeypatch.syspath_prepend(BASE / "src")
    (point,) = manifest(BASE).points
    folder = data_path(point.template)
    assert point.name == "example_family"
    assert project(folder)["name"] == "crosstask-example-example-family"
    assert "crosstask-example-family>=0.1,<0.2" in project(folder)["dependencies"]
    for path in ("README.md", ".github/workflows/test.yml", "src/crosstask_example_example_family/py.typed"):
        assert (folder / path).is_file()


@pytest.mark.slow
@pytest.mark.parametrize("folders", [PACKAGES[:1], PACKAGES[1:]], ids=["recipe", "family"])
def test_own_tests_pass(folders: list[Path], tmp_path: Path) -> None:
    """As if installed: their metadata lie on the path, so that the registry finds them."""
    paths = [str(tmp_path), *(str(folder / "src") for folder in folders)]
    for folder in folders:
        told = project(folder)
        metadata = tmp_path / f"{package(folder).name}-{told['version']}.dist-info"
        metadata.mkdir()
        fields = f"Metadata-Version: 2.3\nName: {told['name']}\nVersion: {told['version']}\n"
        (metadata / "METADATA").write_text(fields, "utf-8")
        entries = "".join(f"{key} = {value}\n" for key, value in told["entry-points"]["crosstask.plugins"].items())
        (metadata / "entry_points.txt").write_text(f"[crosstask.plugins]\n{entries}", "utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider", "--import-mode=importlib", *folders],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONDONTWRITEBYTECODE": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout


# what `crosstask plugins new` makes of them


@pytest.mark.parametrize("kind", [*CONTRIBUTED, "stage", "recipe", "family"])
def test_every_name_is_replaced(kind: str, tmp_path: Path) -> None:
    folders = scaffold(kind, "very-own", tmp_path)
    second = [tmp_path / "crosstask-very-own-extra"] if kind == "family" else []
    assert folders == [tmp_path / "crosstask-very-own", *second]
    for path in [path for folder in folders for path in folder.rglob("*") if path.is_file()]:
        text = left = path.read_text("utf-8")
        # The template in a family is named after its point.
        for known in ("for example", "example-very-own", "example_very_own", "ExampleVeryOwn"):
            left = left.replace(known, "")
        assert "xample" not in left, path
        if path.suffix == ".py":
            ast.parse(text)
        elif path.suffix == ".toml":
            tomllib.loads(text)


def test_a_family_begins_with_its_own_names(tmp_path: Path) -> None:
    base, extra = scaffold("family", "very-own", tmp_path)
    package = base / "src" / "crosstask_very_own"
    assert "class VeryOwn(Component)" in (package / "contract.py").read_text("utf-8")
    assert '@wraps("very_own.measure")' in (extra / "src/crosstask_very_own_extra/cautious.py").read_text("utf-8")
    inside = package / "template" / "src" / "crosstask_example_very_own" / "example_very_own.py"
    assert "class ExampleVeryOwn(VeryOwn)" in inside.read_text("utf-8")
    assert "crosstask-very-own>=0.1,<0.2" in project(extra)["dependencies"]


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("stage", "model", "a stage cannot be named 'model': the kernel keeps that name"),
        ("family", "report", "a command cannot be named 'report': the kernel keeps that name"),
        ("family", "multi", "a plugin named 'multi-extra' is installed already (crosstask-multi-extra"),
        ("family", "sharing", "extension point 'sharing' is there already (crosstask-multitask"),
        ("family", "balanced", "its class would be Balanced, a name that it needs"),
        ("executor", "serial", "executor 'serial' is there already (crosstask-kernel"),
        ("stage", "tasks", "a plugin cannot be named 'tasks': it needs a module of that name"),
        ("recipe", "demo", "recipe 'demo' is there already (crosstask-digits"),
    ],
)
def test_a_name_that_is_taken_is_refused(
    kind: str, name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry.installed()
    registry.register(Plugin("multi-extra", api=API_VERSION), distribution="crosstask-multi-extra")
    monkeypatch.setattr(Registry, "installed", classmethod(lambda cls, settings=None: registry))
    with pytest.raises(PluginError) as caught:
        scaffold(kind, name, tmp_path)
    assert message in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_project_that_is_there_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "crosstask-mine-extra").mkdir()
    with pytest.raises(PluginError, match="crosstask-mine-extra exists already"):
        scaffold("family", "mine", tmp_path)
    assert not (tmp_path / "crosstask-mine").exists()
