"""The documentation holds: its code runs, its generated pages are up to date, it is complete, it can be built.

A fenced block with a title is a file; a page that has `pyproject.toml` among them is a plugin, and is installed for the
rest of the page as pip would do it. Other python blocks of a page run in order, in one namespace. Console blocks are
commands of the user's: only that the commands exist is checked.
"""

from __future__ import annotations

import ast
import importlib
import itertools
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

import attrs
import pytest

import crosstask
from crosstask.manifest import POINTS
from crosstask.recipe import recipe_from

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/**/*.md")])
HAND_WRITTEN = [page for page in PAGES if page.parent.name != "points"]
FENCE = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)

FRAMEWORK = ("manifest", "registry", "options", "parts", "settings", "components", "context", "run", "errors")


@attrs.frozen
class Block:
    language: str
    title: str
    code: str


def blocks(page: Path) -> list[Block]:
    return [Block(*found.groups(default="")) for found in FENCE.finditer(page.read_text("utf-8"))]


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder, first on sys.path; what is imported from it is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    yield tmp_path
    for name, module in list(sys.modules.items()):
        if name == "documented" or str(getattr(module, "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def write_files(page: Path, folder: Path) -> None:
    for block in blocks(page):
        if block.title:
            file = folder / block.title
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(block.code, "utf-8")
    if (folder / "pyproject.toml").is_file():
        install(folder)


def install(folder: Path) -> None:
    """What `pip install -e` leaves: the sources on the path, and a dist-info."""
    project = tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))["project"]
    name, version = project["name"], project["version"]
    info = folder / "src" / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.4\nName: {name}\nVersion: {version}\n\n")
    entries = project["entry-points"]["crosstask.plugins"].items()
    (info / "entry_points.txt").write_text("[crosstask.plugins]\n" + "".join(f"{k} = {v}\n" for k, v in entries))
    sys.path.insert(0, str(folder / "src"))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_code_runs(page: Path, workplace: Path) -> None:
    write_files(page, workplace)
    module = ModuleType("documented")
    sys.modules["documented"] = module
    for number, block in enumerate(b for b in blocks(page) if b.language == "python" and not b.title):
        code = compile(block.code, f"{name_of(page)}[{number}]", "exec")
        exec(code, module.__dict__)


@pytest.mark.parametrize(
    "page", [p for p in PAGES if any(b.title.startswith("tests/") for b in blocks(p))], ids=name_of
)
def test_tests_of_a_documented_plugin_pass(page: Path, workplace: Path) -> None:
    write_files(page, workplace)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"]
    path = ":".join(sys.path[:1] + [p for p in sys.path[1:] if p])
    done = subprocess.run(
        command, cwd=workplace, env={"PYTHONPATH": path, "PATH": "/usr/bin", "HOME": str(workplace)},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


@pytest.mark.parametrize("page", HAND_WRITTEN, ids=name_of)
def test_toml_is_right(page: Path) -> None:
    for block in blocks(page):
        if block.language == "toml":
            found = tomllib.loads(block.code)
            if "source" in found:
                recipe_from(found)


def test_commands_exist() -> None:
    from crosstask.cli import cli

    told = set()
    for page in PAGES:
        for block in blocks(page):
            if block.language == "console":
                told |= set(re.findall(r"crosstask ((?:plugins|recipe) [a-z]+|[a-z]+)", block.code))
    assert told
    for command in told:
        words = command.split()
        found = cli.get_command(None, words[0])  # type: ignore[arg-type]
        assert found is not None, command
        if len(words) > 1:
            assert found.get_command(None, words[1]) is not None, command  # type: ignore[attr-defined]


def reference() -> ModuleType:
    loader = SourceFileLoader("reference", str(ROOT / ".ci" / "reference"))
    spec = spec_from_loader("reference", loader)
    assert spec is not None
    module = module_from_spec(spec)
    loader.exec_module(module)
    return module


def test_pages_of_extension_points_are_what_the_contracts_say() -> None:
    for path, text in reference().pages().items():
        assert path.read_text("utf-8") == text, f"{path.name} has drifted: run .ci/reference"
    assert {p.stem for p in ROOT.glob("docs/points/*.md")} == {*POINTS, "index"}
    assert {p.stem for p in ROOT.glob("docs/examples/*.py")} == set(POINTS)


def test_every_page_is_in_the_navigation() -> None:
    text = (ROOT / "mkdocs.yml").read_text("utf-8")
    listed = set(re.findall(r"[\w/-]+\.md", text))
    assert listed == {str(p.relative_to(ROOT / "docs")) for p in ROOT.glob("docs/**/*.md")}


def test_public_names_are_documented() -> None:
    """Classes and functions by a docstring; constants and type aliases by a string after them."""
    for name in set(crosstask.__all__) - {"__version__"}:
        value = getattr(crosstask, name)
        if isinstance(value, type) or callable(value):
            assert value.__doc__, name
            continue
        module = importlib.import_module(f"crosstask.{crosstask._PUBLIC[name]}")
        body = ast.parse(Path(str(module.__file__)).read_text("utf-8")).body
        told = [
            isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            for before, after in itertools.pairwise(body)
            if isinstance(before, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in before.targets)
        ]
        assert told == [True], name


def test_the_framework_part_of_the_kernel_is_small() -> None:
    """See docs/decisions/kernel-size.md."""
    source = ROOT / "kernel" / "src" / "crosstask"
    files = [source / f"{name}.py" for name in FRAMEWORK] + list((source / "points").glob("*.py"))
    assert sum(len(file.read_text("utf-8").splitlines()) for file in files) <= 2500


def test_site_builds(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site" / "points" / "balancer" / "index.html").is_file()
