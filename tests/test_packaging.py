"""The ways to install the repository, tried on a copy of it with the kernel and two plugins.

(.ci/run installs all of it, twice, by the commands of the README.) Each environment is fresh but sees the
third-party packages of the one that runs the tests: nothing is downloaded, torch is not copied each time.
"""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Callable
from email.parser import Parser
from pathlib import Path

import pytest

from tests.environments import borrow

ROOT = Path(__file__).parents[1]
ROOT_FILES = ["pyproject.toml", "hatch_build.py", "README.md", "LICENSE", "constraints.txt"]
NOT_SOURCES = shutil.ignore_patterns("__pycache__", ".*", "tests")


def run(*command: str | Path, cwd: Path = ROOT, **variables: str) -> str:
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "CROSSTASK_RELEASE")}
    done = subprocess.run(command, env=kept | variables, cwd=cwd, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def members(checkout: Path) -> dict[str, Path]:
    files = [*checkout.glob("kernel/pyproject.toml"), *checkout.glob("plugins/*/*/pyproject.toml")]
    return {tomllib.loads(file.read_text("utf-8"))["project"]["name"]: file.parent for file in files}


def build(source: Path, target: Path, kind: str, **variables: str) -> Path:
    """The sdist or the wheel that the root's build backend makes of a folder."""
    run(sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", target, cwd=source, **variables)
    return next(target.glob("*.tar.gz" if kind == "sdist" else "*.whl"))


def unpacked(sdist: Path, target: Path) -> Path:
    with tarfile.open(sdist) as archive:
        archive.extractall(target, filter="data")
    return next(path for path in target.iterdir() if path.is_dir())


def requirements(wheel: Path) -> set[str]:
    """What the wheel asks for, without what its own extras ask for; of the kernel with its report, to the letter."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = Parser().parsestr(archive.read(name).decode())
    lines = {line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line}
    with_extras = {line for line in lines if line.startswith("crosstask-kernel[metrics,report]")}
    assert {line.replace("[metrics,report]", "") for line in with_extras} < lines
    return lines - with_extras


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with a blank in its name, which a file:// URL must quote."""
    copy = tmp_path / "a checkout"
    copy.mkdir()
    for name in ROOT_FILES:
        shutil.copy(ROOT / name, copy / name)
    (copy / "plugins").mkdir()
    shutil.copy(ROOT / "plugins" / "index.json", copy / "plugins" / "index.json")
    plugins = sorted(file.parent for file in ROOT.glob("plugins/*/*/pyproject.toml"))
    for folder in (ROOT / "kernel", *plugins[:2]):
        shutil.copytree(folder, copy / folder.relative_to(ROOT), ignore=NOT_SOURCES)
    return copy


# What the hooks of hatch_build.py write


def test_checkout_refers_to_every_member_of_the_repository(tmp_path: Path) -> None:
    wheel = build(ROOT, tmp_path, "wheel")
    assert requirements(wheel) == {f"{name} @ {folder.as_uri()}" for name, folder in members(ROOT).items()}


def test_sdist_refers_to_the_members_inside_it(checkout: Path, tmp_path: Path) -> None:
    inside = unpacked(build(checkout, tmp_path / "dist", "sdist"), tmp_path / "unpacked")
    assert members(inside).keys() == members(checkout).keys()
    wheel = build(inside, tmp_path / "wheel", "wheel")
    assert requirements(wheel) == {f"{name} @ {folder.as_uri()}" for name, folder in members(inside).items()}


def test_release_pins_the_members_also_when_built_from_its_sdist(checkout: Path, tmp_path: Path) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    pins = {f"{name}=={version}" for name in members(checkout)}
    assert requirements(build(checkout, tmp_path / "wheel", "wheel", CROSSTASK_RELEASE="1")) == pins
    sdist = build(checkout, tmp_path / "dist", "sdist", CROSSTASK_RELEASE="1")
    inside = unpacked(sdist, tmp_path / "unpacked")
    assert requirements(build(inside, tmp_path / "from sdist", "wheel")) == pins


def test_wheel_carries_the_index(tmp_path: Path) -> None:
    with zipfile.ZipFile(build(ROOT, tmp_path, "wheel")) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("extra_metadata/index.json"))
        assert json.loads(archive.read(name))["offers"]["point/continual"]["install"] == "crosstask-continual"


# What pip makes of them


class Environment:
    def __init__(self, folder: Path) -> None:
        run(sys.executable, "-m", "venv", "--without-pip", folder / "venv")
        self.python = folder / "venv" / "bin" / "python"
        borrow(folder)

    def pip(self, *arguments: str | Path) -> None:
        run(sys.executable, "-m", "pip", "--python", self.python, *arguments)

    def install(self, *arguments: str | Path) -> None:
        self.pip("install", "--no-build-isolation", "-c", ROOT / "constraints.txt", *arguments)

    def ask(self, code: str) -> set[str]:
        return set(run(self.python, "-c", code).splitlines())

    def plugins(self) -> set[str]:
        return self.ask(
            "from importlib.metadata import entry_points\n"
            "for entry_point in entry_points(group='crosstask.plugins'): print(entry_point.dist.name)"
        )

    def origins(self, packages: list[str]) -> set[str]:
        """The folders from which packages would be imported."""
        return self.ask(
            "from importlib.util import find_spec\nfrom pathlib import Path\n"
            f"for name in {packages!r}: print(Path(find_spec(name).origin).parents[1])"
        )


@pytest.fixture
def fresh(tmp_path: Path) -> Environment:
    return Environment(tmp_path)


def as_folder(checkout: Path) -> str:
    return str(checkout)


def as_sdist(checkout: Path) -> str:
    sdist = build(checkout, checkout.parent / "dist", "sdist")
    shutil.rmtree(checkout)
    return str(sdist)


def as_git_url(checkout: Path) -> str:
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@example.org"]
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "copy"]):
        run(*git, *command, cwd=checkout)
    repository = checkout.rename(checkout.with_name("a repository"))
    return f"git+{repository.as_uri()}"


def packages(checkout: Path) -> list[str]:
    return [path.name for folder in members(checkout).values() for path in folder.glob("src/*")]


@pytest.mark.slow
@pytest.mark.packaging
@pytest.mark.parametrize("source", [as_folder, as_sdist, as_git_url])
def test_plain_installation(checkout: Path, fresh: Environment, source: Callable[[Path], str]) -> None:
    expected = members(checkout).keys()
    fresh.install(source(checkout))
    for folder in fresh.python.parents[2].glob("a *"):
        shutil.rmtree(folder)  # nothing installed may lean on it
    assert fresh.plugins() >= expected - {"crosstask-kernel"}
    run(fresh.python.with_name("crosstask"), "--help")


@pytest.mark.slow
@pytest.mark.packaging
def test_editable_installation_imports_the_checkout(checkout: Path, fresh: Environment) -> None:
    fresh.install("-e", checkout)
    assert fresh.plugins() >= members(checkout).keys() - {"crosstask-kernel"}
    assert fresh.origins(packages(checkout)) == {str(folder / "src") for folder in members(checkout).values()}
    assert fresh.ask("import sys; print(len(sys.path) - len(set(sys.path)))") == {"0"}
    run(fresh.python.with_name("crosstask"), "--help")
    fresh.pip("uninstall", "-y", "crosstask")
    assert {Path(origin).name for origin in fresh.origins(packages(checkout))} == {"site-packages"}


@pytest.mark.slow
@pytest.mark.packaging
def test_one_plugin_alone_beside_the_kernel(checkout: Path, fresh: Environment) -> None:
    name, folder = members(checkout).popitem()  # the kernel comes first
    fresh.install(checkout / "kernel")
    fresh.install(folder)
    assert fresh.plugins() - {"crosstask-kernel"} == {name}


@pytest.mark.slow
@pytest.mark.packaging
def test_a_family_of_the_users_choice(fresh: Environment, tmp_path: Path) -> None:
    """`pip install ./kernel ./plugins/continual/continual ./plugins/continual/ewc` alone gives a continual run."""
    fresh.install(ROOT / "kernel", ROOT / "plugins" / "continual" / "continual", ROOT / "plugins" / "continual" / "ewc")
    assert fresh.plugins() == {"crosstask-kernel", "crosstask-continual", "crosstask-ewc"}
    (tmp_path / "mine.py").write_text(TASKS, "utf-8")
    (tmp_path / "mine.toml").write_text(RECIPE, "utf-8")
    run(fresh.python, "-m", "crosstask", "run", "mine.toml", "--trust", "--out", "out", cwd=tmp_path)
    record = json.loads((tmp_path / "out" / "run.json").read_text("utf-8"))
    assert record["status"] == "finished"
    assert record["results"]["continual"]["scores"]["accuracy"]["mean"] > 0.7
    assert (tmp_path / "out" / "report.html").is_file()


TASKS = """
from sklearn.datasets import load_digits
import torch
from crosstask import Portfolio, Task, TaskDescriptor


def ten():
    pixels, digits = load_digits(return_X_y=True)
    x, y = torch.tensor(pixels[:900], dtype=torch.float32) / 16, torch.tensor(digits[:900])
    descriptor = TaskDescriptor(task_id="ten", input_shape=(64,), output_dim=10)
    return Portfolio([Task(descriptor=descriptor, train=(x[:500], y[:500]), validation=(x[500:700], y[500:700]),
                           test=(x[700:], y[700:]))])
"""
RECIPE = """
source = { use = "python", function = "mine:ten" }
seeds = 1
model = { hidden = [32] }

[continual]
tasks = ["ten"]
parts = 2
epochs = 12
batch_size = 16
learning_rate = 3e-3
strategies = ["ewc"]
"""
