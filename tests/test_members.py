"""Every member of the repository follows the template of plugins/README.md, and imports only what it may."""

import ast
import re
import runpy
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import networkx as nx
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
    offers = (package(folder) / "plugin.py").read_text("utf-8")
    if "Extension(" in offers.replace('Extension("command"', "").replace('Extension("recipe"', ""):
        tests = [file.read_text("utf-8") for file in folder.glob("tests/**/test_*.py")]
        assert any("conformance(" in text or "SelfTest(" in text for text in tests)


@pytest.mark.parametrize("folder", ADD_ONS, ids=identify)
def test_add_on_has_its_page_and_is_listed(folder: Path) -> None:
    """And its example is of at most thirty lines."""
    page = (ROOT / "docs" / "contrib" / f"{folder.name}.md").read_text("utf-8")
    assert f"[{folder.name}]({folder.name}.md)" in (ROOT / "docs" / "contrib" / "index.md").read_text("utf-8")
    assert f"contrib/{folder.name}.md" in (ROOT / "mkdocs.yml").read_text("utf-8")
    assert f"`{folder.name}`" in (ROOT / "contrib" / "README.md").read_text("utf-8")
    examples = re.findall(r"^```python.*?\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert examples
    assert min(len(example.splitlines()) for example in examples) <= 30


def base_of(folder: Path) -> str:
    """The import name of the base of a plugin's family: the package that is named like the family."""
    return f"crosstask_{folder.parent.name}"


def families() -> dict[str, set[str]]:
    """Which package may import which base besides its own family's, by the table of docs/architecture.md."""
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    rows = re.findall(r"^\| `(crosstask-[\w-]+)` \| `(crosstask-[\w-]+)` \| (.+) \|$", text, re.MULTILINE)
    found: dict[str, set[str]] = {}
    for importer, base, reason in rows:
        assert len(reason.split()) > 3, f"{importer} imports {base}: say why"
        found.setdefault(importer.replace("-", "_"), set()).add(base.replace("-", "_"))
    return found


BASES = {f"crosstask_{family.name}" for family in (ROOT / "plugins").iterdir() if (family / family.name).is_dir()}
BASES |= {package(folder).name for folder in ADD_ONS} & set().union(*families().values())
"""Those of the families, and the add-ons on which the table lets others stand."""


@each_member
def test_member_imports_bases_only_as_the_table_says(folder: Path) -> None:
    """The kernel imports no plugin, nothing imports an algorithm; a package imports its family's base, and another base
    where the table of docs/architecture.md says why.
    """
    mine = package(folder).name
    allowed = set() if folder == KERNEL else ({base_of(folder)} & BASES) | families().get(mine, set())
    foreign = [
        f"{file.relative_to(ROOT)}: {name}"
        for file, name in imported(folder)
        if name.startswith("crosstask_") and name not in {mine, *allowed} and "template" not in str(file)
    ]
    assert not foreign


def test_the_table_names_nothing_that_is_not_imported() -> None:
    found = {(package(folder).name, name) for folder in [*PLUGINS, *ADD_ONS] for _, name in imported(folder)}
    for importer, bases in families().items():
        for base in bases:
            assert base in BASES
            assert (importer, base) in found, f"{importer} does not import {base}: take it out of the table"


@each_plugin
def test_plugin_requires_what_it_imports_of_ours_and_nothing_else(folder: Path) -> None:
    """The kernel of its minor version, and the bases whose code or whose extension points it uses."""
    plugin = project(folder)
    major, minor, _ = map(int, plugin["version"].split("."))
    ours = {r for r in plugin["dependencies"] if r.startswith("crosstask")}
    used = {name for _, name in imported(folder)} & (BASES - {package(folder).name})
    of_this_minor = f">={major}.{minor},<{major}.{minor + 1}"
    assert ours == {f"{name.replace('_', '-')}{of_this_minor}" for name in {"crosstask-kernel", *used}}


def modules(folder: Path) -> dict[str, Path]:
    """Import name -> file, of a member without its templates."""
    found = {}
    for file in sorted(package(folder).rglob("*.py")):
        inside = file.relative_to(folder / "src").with_suffix("")
        if not any(part.startswith("template") for part in inside.parts):
            parts = inside.parts[:-1] if inside.name == "__init__" else inside.parts
            found[".".join(parts)] = file
    return found


@each_member
def test_no_circle_between_files(folder: Path) -> None:
    """Deferred imports and those for the type checker count. A package's lazy `__init__` does not: it names what it
    offers.

    One reasoned exception: a component makes the context in which it works without a run (see pyproject.toml).
    """
    files = modules(folder)
    graph = nx.DiGraph()
    for name, file in files.items():
        if file.name == "__init__.py" and "lazily(" in file.read_text("utf-8"):
            continue
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                for alias in node.names:
                    inside = f"{node.module}.{alias.name}"
                    target = inside if inside in files else node.module
                    if target in files and target != name:
                        graph.add_edge(name, target)
            elif isinstance(node, ast.Import):
                graph.add_edges_from((name, alias.name) for alias in node.names if alias.name in files)
    if folder == KERNEL:
        graph.remove_edge("crosstask.components", "crosstask.context")
    circles = [sorted(part) for part in nx.strongly_connected_components(graph) if len(part) > 1]
    assert not circles


def test_no_two_plugins_have_the_same_name() -> None:
    names = [folder.name for folder in [*PLUGINS, *ADD_ONS]]
    assert len(names) == len(set(names))


def test_the_index_says_who_offers_what() -> None:
    script = runpy.run_path(str(ROOT / ".ci" / "index"), run_name="index")
    assert script["INDEX"].read_text("utf-8") == script["index"](), "run .ci/index and commit what it writes"
