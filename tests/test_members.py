"""Every member of the repository follows the template of plugins/README.md."""

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
KERNEL = ROOT / "kernel"
PLUGINS = sorted(file.parent for file in ROOT.glob("plugins/*/*/pyproject.toml"))
ADD_ONS = sorted(file.parent for file in ROOT.glob("contrib/*/pyproject.toml"))


def project(folder: Path) -> dict[str, Any]:
    return tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))["project"]


def package(folder: Path) -> Path:
    name = "crosstask" if folder == KERNEL else f"crosstask_{folder.name.replace('-', '_')}"
    return folder / "src" / name


def imported(folder: Path) -> Iterator[tuple[Path, str]]:
    """The top-level names that the sources of a member import, wherever in a file."""
    for file in package(folder).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            match node:
                case ast.Import(names=names):
                    yield from ((file, alias.name.partition(".")[0]) for alias in names)
                case ast.ImportFrom(module=str(module), level=0):
                    yield file, module.partition(".")[0]


def identify(folder: Path) -> str:
    return str(folder.relative_to(ROOT))


each_member = pytest.mark.parametrize("folder", [KERNEL, *PLUGINS, *ADD_ONS], ids=identify)
each_plugin = pytest.mark.parametrize("folder", [*PLUGINS, *ADD_ONS], ids=identify)


@each_member
def test_member_has_the_one_version_and_the_common_fields(folder: Path) -> None:
    root, member = project(ROOT), project(folder)
    assert member["version"] == root["version"]
    assert member["requires-python"] == root["requires-python"]
    assert member["license"] == root["license"]
    assert member["readme"] == "README.md"
    assert member["description"]
    build = tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))["build-system"]
    assert build == {"requires": ["flit_core>=3.11"], "build-backend": "flit_core.buildapi"}


@each_member
def test_member_has_its_files(folder: Path) -> None:
    assert (folder / "README.md").stat().st_size > 0
    assert list(folder.glob("tests/**/test_*.py")), "no tests"
    assert [path for path in (folder / "src").iterdir() if path.is_dir()] == [package(folder)]
    assert (package(folder) / "__init__.py").is_file()
    assert (package(folder) / "py.typed").is_file()


@each_plugin
def test_plugin_is_named_after_its_folder(folder: Path) -> None:
    plugin = project(folder)
    assert plugin["name"] == f"crosstask-{folder.name}"
    assert plugin["entry-points"] == {
        "crosstask.plugins": {folder.name: f"{package(folder).name}.plugin:PLUGIN"},
    }
    assert (package(folder) / "plugin.py").is_file()


@each_plugin
def test_plugin_runs_the_conformance_kit(folder: Path) -> None:
    assert any("conformance(" in file.read_text("utf-8") for file in folder.glob("tests/**/test_*.py"))


@each_plugin
def test_plugin_depends_on_the_kernel_of_its_minor_version_and_on_no_other_member(folder: Path) -> None:
    plugin = project(folder)
    major, minor, _ = map(int, plugin["version"].split("."))
    ours = [requirement for requirement in plugin["dependencies"] if requirement.startswith("crosstask")]
    assert ours == [f"crosstask-kernel>={major}.{minor},<{major}.{minor + 1}"]


@each_member
def test_member_imports_no_plugin(folder: Path) -> None:
    foreign = [
        f"{file.relative_to(ROOT)}: {name}"
        for file, name in imported(folder)
        if name.startswith("crosstask_") and name != package(folder).name
    ]
    assert not foreign


def test_no_two_plugins_have_the_same_name() -> None:
    names = [folder.name for folder in [*PLUGINS, *ADD_ONS]]
    assert len(names) == len(set(names))
