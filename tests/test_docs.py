"""The documentation holds: what it shows is run, its generated pages are up to date, it is complete, it can be built.

Every page is followed from top to bottom in an empty folder. A fenced block with a title is a file of that folder;
python without a title runs in one namespace for the page; a recipe that no command of the page runs is run to its end;
of console blocks every command is run, and every line that is shown must be in what it prints. Runs are cut short: few
steps, one seed, no other processes. What cannot be run is in `NOT_RUN`, with the reason.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib
import importlib.util
import io
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from importlib.machinery import SourceFileLoader
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType
from typing import Any

import attrs
import pytest

import crosstask
from crosstask.cli import cli, main
from crosstask.components import hooks_of
from crosstask.job import check_components, run_recipe
from crosstask.manifest import KERNEL_POINTS
from crosstask.recipe import Resolved, load_recipe, recipe_from
from crosstask.registry import Registry
from crosstask.settings import load_settings

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/**/*.md")])
GENERATED = ("points", "reference", "families")
FENCE = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)

NOT_RUN = {
    "python3 -m venv": "with a download; .ci/run follows the README's commands in a fresh environment",
    "pip install -c": "the same",
    "pip install crosstask": "from an index; tests/test_packaging.py and test_third_party.py install members alone",
    "pip install -r": "from an index",
    "crosstask demo": "two minutes; .ci/run does it",
    "python -m build": "it makes an environment from an index",
    "twine upload": "it publishes",
}
"""Beginning of a command -> why it is not run here."""

SHORT = {
    "": ("seeds=1", "train.steps=5", "budget.steps=5", 'executor.use="serial"'),
    "continual": ("epochs=1",),
    "distillation": ("distiller.steps=3", "distiller.held_out=1"),
    "few_shot": ("steps=2", "test_episodes=4"),
    "multitask": ("budget.steps=5",),
    "search": ("evaluations=2",),
}
"""Kind of stage -> what its tables are cut short by; "": every recipe."""


@attrs.frozen
class Block:
    language: str
    title: str
    code: str

    @property
    def is_recipe(self) -> bool:
        return self.language == "toml" and bool({"source", "extends"} & set(tomllib.loads(self.code)))

    def is_run_by(self, console: str) -> bool:
        """Whether the commands of a page run this recipe: by its file, or a packed one by its name."""
        name = tomllib.loads(self.code).get("name")
        return bool(self.title) and (self.title in console or f"crosstask run {name}" in console)

    def commands(self) -> Iterator[tuple[str, list[str]]]:
        """Each command of a console block with the lines that are shown below it."""
        command, shown = "", []
        for line in [*self.code.replace("\\\n", " ").splitlines(), "$ "]:
            if not line.startswith("$ "):
                shown.append(line)
                continue
            if command:
                yield command, shown
            command, shown = line.removeprefix("$ ").partition(" #")[0].strip(), []


@functools.cache
def blocks(page: Path) -> list[Block]:
    return [Block(*found.groups(default="")) for found in FENCE.finditer(page.read_text("utf-8"))]


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


# --- Following a page


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder, first on sys.path, and no settings; what is imported from it is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    for variable in [name for name in os.environ if name.startswith("CROSSTASK_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home" / ".config"))
    yield tmp_path
    for name, module in list(sys.modules.items()):
        if name == "documented" or str(getattr(module, "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def install(folder: Path) -> None:
    """What `pip install -e` leaves: the sources on the path, and a dist-info."""
    project = tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))["project"]
    name, version = project["name"], project["version"]
    info = folder / "src" / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    needs = "".join(f"Requires-Dist: {each}\n" for each in project["dependencies"])
    (info / "METADATA").write_text(f"Metadata-Version: 2.4\nName: {name}\nVersion: {version}\n{needs}\n")
    entries = project["entry-points"]["crosstask.plugins"].items()
    (info / "entry_points.txt").write_text("[crosstask.plugins]\n" + "".join(f"{k} = {v}\n" for k, v in entries))
    sys.path.insert(0, str(folder.absolute() / "src"))


def short_recipe(
    reference: str | Path, registry: Registry, overrides: Sequence[str] = (), stage: str = "", approve: Any = None
) -> Resolved:
    """In the place of `load_recipe`: the recipe, cut short as far as it has the tables. The page's overrides win."""
    first = [*SHORT[""]]
    for name, table in load_recipe(reference, registry, overrides, stage, approve).recipe.stages.items():
        first += [f"{name}.{text}" for text in SHORT.get(table.use, ())]
    return load_recipe(reference, registry, [*first, *overrides], stage, approve)


def call(words: list[str]) -> str:
    """What `crosstask …` prints, in this process (a new one needs seconds to import torch). It must exit with 0."""
    told, before = io.StringIO(), dict(os.environ)
    path, argv = sys.path.copy(), sys.argv
    sys.argv = ["crosstask", *words]
    try:
        with (
            contextlib.redirect_stdout(told),
            contextlib.redirect_stderr(told),
            pytest.MonkeyPatch.context() as patch,
        ):
            if "recipe" not in words:  # which shows what the page says
                patch.setattr("crosstask.recipe.load_recipe", short_recipe)
            main()
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    finally:
        sys.argv, sys.path[:] = argv, path
        for variable in set(os.environ) - set(before):
            del os.environ[variable]
        os.environ.update(before)
    assert code == 0, f"crosstask {shlex.join(words)} exits with {code}:\n{told.getvalue()}"
    return told.getvalue()


def follow(command: str) -> str:
    """Run a command of a console block; what it prints."""
    words = shlex.split(command)
    if words[:2] == ["pip", "install"]:
        assert words[2] == "-e", f"what would be installed? {command}"
        install(Path(re.sub(r"\[.*\]$", "", words[3])))
        return ""
    if words[0] == "pytest":
        kept = ["-p", "no:cacheprovider", "-p", "no:xdist", "-v", "-W", "ignore::pytest.PytestCacheWarning"]
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *kept, "--import-mode=importlib", *words[1:]],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTEST_ADDOPTS": ""},
            capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout
    if words[:3] == ["python", "-m", "crosstask"]:
        words = words[2:]
    settings = [word.partition("=") for word in words if re.match(r"CROSSTASK_\w+=", word)]
    assert words[len(settings)] == "crosstask", f"neither run nor in NOT_RUN: {command}"
    with pytest.MonkeyPatch.context() as patch:
        for name, _, value in settings:
            patch.setenv(name, value)
        return call(words[len(settings) + 1 :])


def plain(command: str) -> str:
    return command.removeprefix(".venv/bin/")


def squeezed(text: str) -> str:
    return " ".join(text.split())


def run_console(block: Block) -> None:
    for command, shown in block.commands():
        for part in command.split(" && "):
            if not any(plain(part).startswith(beginning) for beginning in NOT_RUN):
                told = squeezed(follow(part))
                for line in shown:
                    for piece in line.split("…"):
                        assert squeezed(piece) in told, f"{part} does not print {piece!r}, but:\n{told}"


def run_here(block: Block, number: int) -> None:
    """Run a recipe to its end."""
    file = Path(block.title or f"recipe_{number}.toml")
    if not block.title:
        file.write_text(block.code, "utf-8")
    record = run_recipe(short_recipe(file, Registry.installed()).recipe, Path(f"run_{number}"))
    assert record.status == "finished"


def hold_settings(block: Block, folder: Path) -> None:
    """A TOML file that is no recipe: what it says to crosstask is understood."""
    found = tomllib.loads(block.code)
    if "tool" in found:
        (folder / "pyproject.toml").write_text(block.code, "utf-8")
        load_settings(folder=folder)
    else:
        assert "project" in found, f"neither a recipe nor settings nor a project:\n{block.code}"


@pytest.mark.filterwarnings("ignore:nothing was learned")  # in so few steps
@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")  # MLflow 3.17 on SQLAlchemy 2.1
@pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec")  # Lightning 2.6 on torch 2.13
@pytest.mark.filterwarnings("ignore:The .*dataloader.* does not have many workers")  # Lightning's advice
@pytest.mark.filterwarnings("ignore:The number of training batches .* is smaller than the logging interval")
@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_page_can_be_followed(page: Path, workplace: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    if page.parent == ROOT / "docs" / "contrib" and page.stem != "index":
        try:
            distribution(f"crosstask-{page.stem}")
        except PackageNotFoundError:
            pytest.skip(f"the page of an add-on that is not installed here: pip install contrib/{page.stem}")
    own = blocks(page)
    for block in own:
        if block.title:
            file = workplace / block.title
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(block.code, "utf-8")
    console = "".join(block.code for block in own if block.language == "console")
    if (workplace / "pyproject.toml").is_file() and "pip install -e ." not in console:
        install(workplace)
    module = ModuleType("documented")
    sys.modules["documented"] = module
    for number, block in enumerate(own):
        if block.language == "python" and not block.title:
            exec(compile(block.code, f"{name_of(page)}[{number}]", "exec"), module.__dict__)
        elif block.language == "console":
            run_console(block)
        elif block.is_recipe:
            if not block.is_run_by(console):
                run_here(block, number)
        elif block.language == "toml":
            hold_settings(block, tmp_path_factory.mktemp("settings"))


def test_every_block_is_followed() -> None:
    """A language that is not run is plain text, and says so."""
    assert {block.language for page in PAGES for block in blocks(page)} <= {"python", "toml", "console", "text"}


def test_every_exception_is_needed() -> None:
    commands = [c for page in PAGES for b in blocks(page) if b.language == "console" for c, _ in b.commands()]
    parts = [part for command in commands for part in command.split(" && ")]
    assert [start for start in NOT_RUN if not any(plain(part).startswith(start) for part in parts)] == []


# --- READMEs of members show pieces, not whole programs: they are held to what can be said of a piece

READMES = sorted([ROOT / "plugins" / "README.md", *ROOT.glob("plugins/*/*/README.md")])
NEEDED = {"curriculum": {"target": "parity"}, "distillation": {}, "search": {"task": "parity"}}
"""Stages that pieces of recipes refer to -> what such a table must have."""


@pytest.mark.parametrize("readme", READMES, ids=name_of)
def test_pieces_in_readmes_are_right(readme: Path) -> None:
    """Tables of recipes name components, options and references that exist; python imports what exists."""
    registry = Registry.installed()
    for block in blocks(readme):
        if block.language == "python":
            for node in ast.walk(ast.parse(block.code)):
                if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("crosstask"):
                    module = importlib.import_module(node.module)
                    assert not [alias.name for alias in node.names if not hasattr(module, alias.name)], node.module
        if block.language != "toml" or not set(found := tomllib.loads(block.code)).isdisjoint(("project", "defaults")):
            continue
        for referred in re.findall(r'from = "(\w+)"', block.code):
            found.setdefault(referred, NEEDED[referred])
        check_components(recipe_from({"source": "digits", **found}, registry, name_of(readme)), registry)


# --- What is told is what there is


def reference() -> ModuleType:
    loader = SourceFileLoader("reference", str(ROOT / ".ci" / "reference"))
    spec = spec_from_loader("reference", loader)
    assert spec is not None
    module = module_from_spec(spec)
    sys.modules["reference"] = module
    loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return reference()


@pytest.fixture(scope="module")
def generated(script: ModuleType) -> dict[Path, str]:
    """Exits with the names that have no docstring."""
    made: dict[Path, str] = script.pages()
    return made


def test_generated_pages_are_what_the_code_says(generated: dict[Path, str]) -> None:
    found = {path for path in ROOT.glob("docs/**/*.md") if path.parent.name in GENERATED}
    assert found == set(generated), "run .ci/reference"
    drifted = [name_of(path) for path, text in generated.items() if path.read_text("utf-8") != text]
    assert not drifted, "run .ci/reference"


def test_every_extension_point_has_its_page_and_example(script: ModuleType) -> None:
    every = {point.name for point in KERNEL_POINTS} | {point.name for _, _, point in script.contributed()}
    assert {path.stem for path in ROOT.glob("docs/points/*.md")} == {*every, "index"}
    assert {path.stem for path in ROOT.glob("docs/examples/*.py")} == {point.name for point in KERNEL_POINTS}
    assert all(path.is_file() for path in script.examples().values())


def test_every_public_name_is_on_a_page(script: ModuleType, generated: dict[Path, str]) -> None:
    packages = ["crosstask", "crosstask.testing", "crosstask.learning", "crosstask.learning.gradients"]
    packages += [package for family in script.families() for package in family.imports()]
    for package in packages:
        for name in getattr(importlib.import_module(package), "__all__", ()):
            if name == "__version__" or isinstance(getattr(importlib.import_module(package), name), ModuleType):
                continue
            page = script.places().get(script.defined(package, name))
            assert page is not None, f"{package}.{name} is on no page: see SUBJECTS in .ci/reference"
            text = generated[ROOT / "docs" / page]
            assert re.search(rf"^#+ .*{{: #{name} }}$", text, re.MULTILINE) or name == "Component", f"{name}: {page}"


def imports_of_authors() -> Iterator[tuple[Path, str, str]]:
    """(file, module, name) of what the packages of the repository import from the kernel, and from others' bases."""
    patterns = ("plugins/*/*/src/**/*.py", "contrib/**/*.py", "tests/third_party/**/*.py", "docs/examples/*.py")
    bases = {f"crosstask_{path.name}" for path in (ROOT / "plugins").iterdir() if (path / path.name).is_dir()}
    for file in sorted(path for pattern in patterns for path in ROOT.glob(pattern)):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                package = node.module.partition(".")[0]
                if package == "crosstask" or (package in bases and package not in file.parts):
                    yield from ((file, node.module, alias.name) for alias in node.names)


def test_what_authors_import_is_on_a_page(script: ModuleType) -> None:
    missing = {
        f"{module}.{name} ({name_of(file)})"
        for file, module, name in imports_of_authors()
        if script.defined(module, name) not in script.places()
        and not isinstance(getattr(importlib.import_module(module), name), ModuleType)
    }
    assert not missing, "add its module to SUBJECTS in .ci/reference"


FOREIGN = {
    "Any", "BaseException", "Callable", "Generator", "Iterable", "Iterator", "Mapping", "Module", "Mode", "NDArray",
    "None", "Optimizer", "Parameter", "Path", "Sequence", "Tensor", "AbstractContextManager", "Future", "GradScaler",
    "Collection",
}  # fmt: skip
"""What hooks receive and return that is not ours."""


def test_what_hooks_receive_and_return_is_on_a_page(script: ModuleType) -> None:
    for point in [*KERNEL_POINTS, *(point for _, _, point in script.contributed())]:
        module, _, name = point.contract.partition(":")
        for hook, function in hooks_of(getattr(importlib.import_module(module), name)).items():
            told = " ".join(map(str, function.__annotations__.values()))
            for word in set(re.findall(r"\b[A-Z]\w+", told)) - FOREIGN:
                assert script.defined(module, word) in script.places(), f"{point.name}.{hook}: {word}"


def rows(page: str, head: str) -> dict[str, list[str]]:
    """The rows of the table of a page that has this head, by the first word in their first cell."""
    table = (ROOT / "docs" / page).read_text("utf-8").partition(f"\n{head}\n")[2].partition("\n\n")[0]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[1:]]
    return {re.findall(r"[\w-]+", row[0])[0]: row[1:] for row in cells}


def test_the_guide_lists_the_stages_as_they_are() -> None:
    registry = Registry.installed()
    told = rows("user-guide.md", "| stage | what is done | made of | provides | package |")
    assert set(told) == set(registry.names("stage"))
    for name, (_, parts, provides, package) in told.items():
        cls: Any = registry.component_class("stage", name)
        made_of = [field.metadata["part"] for field in attrs.fields(cls) if "part" in field.metadata]
        assert sorted(re.findall(r"`(\w+)`", parts)) == sorted(made_of), name
        assert re.findall(r"`(\w+)`", provides) == list(cls.provides), name
        assert package == f"`{registry.find('stage', name)[0].distribution}`"


def test_the_guide_says_which_package_is_for_what() -> None:
    told = rows("user-guide.md", "| family | packages | what for |")
    listed = {name: set(re.findall(r"`([\w-]+)`", packages)) for name, (packages, _) in told.items()}
    here = {path.parent for path in ROOT.glob("plugins/*/*/pyproject.toml")}
    assert listed == {
        family: {path.name for path in here if path.parent.name == family} for family in {p.parent.name for p in here}
    }


def test_the_guide_lists_every_command_and_setting() -> None:
    registry = Registry.installed()
    commands = set(rows("user-guide.md", "| command | what it does | package |"))
    with cli.make_context("crosstask", ["plugins"]) as context:
        assert commands == set(cli.list_commands(context))
    assert commands > set(registry.names("command"))
    text = (ROOT / "docs" / "user-guide.md").read_text("utf-8")
    group: Any = cli.get_command(context, "plugins")
    for name in group.list_commands(context):
        assert f"`plugins {name}" in text or name == "list", name
    for field in ("allow", "deny", "prefer", "plugins_dir"):
        assert f"`CROSSTASK_{field.upper()}`" in text
    assert "`CROSSTASK_TRACE`" in text


def test_every_page_is_in_the_navigation() -> None:
    text = (ROOT / "mkdocs.yml").read_text("utf-8")
    listed = set(re.findall(r"[\w/-]+\.md", text))
    there = {str(p.relative_to(ROOT / "docs")) for p in ROOT.glob("docs/**/*.md")}
    assert listed == {page for page in there if not page.startswith("changes/")}  # fragments of the changelog: no pages


def test_public_names_are_documented() -> None:
    """Also those of plugins: whatever `__all__` lists says what it is."""
    for package in ["crosstask", *(f.parent.name for f in ROOT.glob("plugins/*/*/src/*/__init__.py"))]:
        module = importlib.import_module(package)
        for name in set(module.__all__) - {"__version__"}:
            value = getattr(module, name)
            if isinstance(value, type | ModuleType) or callable(value):
                assert value.__doc__, f"{package}.{name}"
            same = importlib.util.find_spec(f"{package}.{name}")
            assert same is None or isinstance(value, ModuleType), f"{package}.{name} is hidden by a module of that name"


def test_site_builds(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site" / "points" / "balancer" / "index.html").is_file()
    assert (tmp_path / "site" / "reference" / "families" / "continual" / "index.html").is_file()


def test_names_of_the_kernel_are_importable_from_where_the_pages_say(generated: dict[Path, str]) -> None:
    lines = re.findall(r"^`(from crosstask.* import .*)`$", "\n".join(generated.values()), re.MULTILINE)
    assert len(lines) > 200
    for line in lines:
        exec(line, {})
    assert crosstask.__version__
