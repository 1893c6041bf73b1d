"""What is published: built from what git has, looked at, and installed from a folder without an index."""

import json
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from collections.abc import Callable
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

import pytest
from packaging.version import Version

from tests.environments import Environment

ROOT = Path(__file__).parents[1]
METADATA = "Metadata-Version: 2.4\nName: crosstask-thing\nVersion: 1.0\nLicense-Expression: MIT\n"
WHEEL = {
    "crosstask_thing/__init__.py": "",
    "crosstask_thing/py.typed": "",
    "crosstask_thing/template/tests/test_thing.py": "",  # belongs there: a template is a whole package
    "crosstask_thing-1.0.dist-info/METADATA": METADATA,
}


def script(name: str) -> ModuleType:
    loader = SourceFileLoader(f"ci_{name}", str(ROOT / ".ci" / name))
    spec = spec_from_loader(loader.name, loader)
    assert spec is not None
    module = module_from_spec(spec)
    loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def release() -> ModuleType:
    return script("release")


def packed(folder: Path, files: dict[str, str]) -> Path:
    wheel = folder / "crosstask_thing-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return wheel


FAULTS: dict[str, tuple[Callable[[dict[str, str]], object], str]] = {
    "path": (lambda f: f.update({"crosstask_thing/__init__.py": "HERE = '/work/x/main'"}), "holds the path /work/x"),
    "cache": (lambda f: f.update({"crosstask_thing/__pycache__/a.pyc": ""}), "does not belong there"),
    "tests": (lambda f: f.update({"crosstask_thing/tests/test_a.py": ""}), "tests are not installed"),
    "types": (lambda f: f.pop("crosstask_thing/py.typed"), "py.typed is missing"),
    "nothing": (lambda f: [f.pop(k) for k in [*f] if k.startswith("crosstask_thing/")], "it has no package"),
    "metadata": (lambda f: f.pop("crosstask_thing-1.0.dist-info/METADATA"), "0 files of metadata"),
    "version": (lambda f: change(f, "Version: 1.0", "Version: 1.1"), "its version is 1.1, not 1.0"),
    "licence": (lambda f: change(f, "License-Expression: MIT\n", ""), "states no licence"),
    "folder": (lambda f: change(f, "License", "Requires-Dist: a @ file:///b\nLicense"), "asks for a folder: a @"),
}


def change(files: dict[str, str], old: str, new: str) -> None:
    files["crosstask_thing-1.0.dist-info/METADATA"] = METADATA.replace(old, new)


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_found(fault: str, release: ModuleType, tmp_path: Path) -> None:
    files = dict(WHEEL)
    assert release.faults_of(packed(tmp_path, files), "1.0", {"/work/x"}) == []
    spoil, told = FAULTS[fault]
    spoil(files)
    (found,) = release.faults_of(packed(tmp_path, files), "1.0", {"/work/x"})
    assert told in found


def test_faults_of_an_sdist(release: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "PKG-INFO").write_text(METADATA, "utf-8")
    (tmp_path / "notes.orig").write_text("from /work/x", "utf-8")
    with tarfile.open(tmp_path / "crosstask_thing-1.0.tar.gz", "w:gz") as archive:
        for name in ("PKG-INFO", "notes.orig"):
            archive.add(tmp_path / name, f"crosstask_thing-1.0/{name}")
    found = release.faults_of(tmp_path / "crosstask_thing-1.0.tar.gz", "1.0", {"/work/x"})
    assert found == ["notes.orig holds the path /work/x", "notes.orig does not belong there"]


def test_every_requirement_names_its_least_version() -> None:
    """And every least version is one that constraints.txt, which tests run with, is not below."""
    lowest = script("lowest")
    pins = dict(
        line.lower().split("==") for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines() if "==" in line
    )
    pins = {name.replace("_", "-").replace(".", "-"): version for name, version in pins.items()}
    for name, version in lowest.direct().items():
        assert name not in pins or Version(pins[name]) >= version, name
    assert "torch==" in lowest.constraints()


def test_a_bump_writes_versions_and_the_changelog(tmp_path: Path) -> None:
    """Fragments become the section of the release, which gets its date; the next one is begun."""
    projects = ("pyproject.toml", "kernel/pyproject.toml", "plugins/continual/ewc/pyproject.toml")
    version = "kernel/src/crosstask/version.py"
    for name in (*projects, version, ".ci/bump", "CHANGELOG.md", "docs/changes/template.jinja"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "docs" / "changes" / "7.moved.md").write_text("Old `thing` is new `thing`.\n", "utf-8")
    (tmp_path / "docs" / "changes" / "8.added.md").write_text("A thing.\n", "utf-8")
    before = (ROOT / "CHANGELOG.md").read_text("utf-8").partition(" (not released)")[2].partition("### ")[2]
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@example.org"]
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "copy"]):
        subprocess.run([*git, *command], cwd=tmp_path, check=True)
    subprocess.run([sys.executable, ".ci/bump", "3.1.0"], cwd=tmp_path, check=True, capture_output=True)
    for name in projects:
        assert release_version(tmp_path / name) == "3.1.0"
    assert '"3.1.0"' in (tmp_path / version).read_text("utf-8")
    assert "crosstask-kernel>=3.1,<3.2" in (tmp_path / "plugins/continual/ewc/pyproject.toml").read_text("utf-8")
    text = (tmp_path / "CHANGELOG.md").read_text("utf-8")
    following, dated = text.partition("\n## 3.1.0 (2")[::2]
    assert following.count("(not released)") == 1
    assert following.rstrip().endswith("-->")
    assert "### How to move\n\n- Old `thing` is new `thing`.\n\n### New\n\n- A thing.\n\n" in dated
    assert before in dated
    assert [path.name for path in (tmp_path / "docs" / "changes").iterdir()] == ["template.jinja"]


def release_version(file: Path) -> str:
    return str(tomllib.loads(file.read_text("utf-8"))["project"]["version"])


def test_fragments_can_be_put_into_the_changelog() -> None:
    for file in (ROOT / "docs" / "changes").iterdir():
        if file.name in ("README.md", "template.jinja"):
            continue
        assert re.fullmatch(r"\d+\.(moved|added|fixed)(\.\d+)?\.md", file.name), (
            f"{file.name}: see docs/changes/README.md"
        )
        assert not file.read_text("utf-8").startswith(("-", "*")), file.name


@pytest.mark.slow
@pytest.mark.packaging
def test_a_folder_of_wheels_is_enough(release: ModuleType, tmp_path: Path) -> None:
    """`pip install --no-index --find-links FOLDER crosstask`: every member comes from its wheel, and works."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    names = {name.replace("-", "_") for name in release.build_all(wheels)}
    assert {file.name.partition("-")[0] for file in wheels.glob("*.whl")} == names
    assert {"crosstask", "crosstask_kernel", "crosstask_ewc"} < names
    assert release.check(wheels) == 0

    fresh = Environment(tmp_path)
    fresh.run("python", "-m", "pip", "uninstall", "-q", "-y", "setuptools")  # older than torch wants: the borrowed one
    for path in Path(sysconfig.get_path("purelib")).glob("setuptools*"):
        (tmp_path / "borrowed" / path.name).symlink_to(path)
    fresh.run("python", "-m", "pip", "install", "-q", "--no-index", "--find-links", wheels, "crosstask")
    for file in wheels.iterdir():
        file.unlink()  # nothing that is installed may lean on it
    listed = json.loads(fresh.run("crosstask", "plugins", "list", "--json"))
    assert {row["distribution"] for row in listed} >= {"crosstask-kernel", "crosstask-ewc", "crosstask-gnn"}
    assert not [row for row in listed if row["status"] != "ok" or not row["distribution"].startswith("crosstask-")]
    told = fresh.run("crosstask", "run", "continual", "--out", "out", *(f"--set={text}" for text in SHORT))
    assert "report" in told
    assert json.loads((tmp_path / "out" / "run.json").read_text("utf-8"))["status"] == "finished"


SHORT = ("seeds=1", "continual.epochs=1", "train.steps=5")
