"""Fresh virtual environments for tests that install things: nothing is downloaded, torch is not copied each time."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).parents[1]


def borrow(folder: Path) -> None:
    """Let the environment in `folder`/venv see the third-party packages of this one, and nothing of crosstask.

    Links, because the members installed here must not be seen; outside the environment, so that pip never follows one
    in order to remove something.
    """
    borrowed = folder / "borrowed"
    borrowed.mkdir()
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if path.suffix != ".pth" and not path.name.startswith(("crosstask", "_crosstask", "pip", "setuptools")):
            (borrowed / path.name).symlink_to(path)
    site = next(folder.glob("venv/lib/python*/site-packages"))
    (site / "borrowed.pth").write_text(f"{borrowed}\n", "utf-8")


class Environment:
    """A fresh virtual environment in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
        self.bin = folder / "venv" / "bin"
        borrow(folder)

    def run(self, *command: object, code: int = 0) -> str:
        """Standard output of a program of the environment, started in its folder."""
        program, *rest = map(str, command)
        kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTEST_ADDOPTS")}
        done = subprocess.run(
            [self.bin / program, *rest], cwd=self.folder, env=kept, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == code, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout if code == 0 else done.stdout + done.stderr

    def install(self, *what: object) -> None:
        self.run("python", "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index", *what)

    def install_member(self, name: str) -> None:
        """A member of the repository, `kernel` or `continual/ewc`, from a copy that is then removed."""
        source = ROOT / "kernel" if name == "kernel" else ROOT / "plugins" / name
        copy = self.folder / "member"
        shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__", ".*"))
        self.install(copy)
        shutil.rmtree(copy)

    def wheel(self, sources: Path, into: Path) -> Path:
        """Build a wheel from a copy of the sources, which is then removed: nothing installed may lean on it."""
        copy = into / "elsewhere"
        shutil.copytree(sources, copy, ignore=shutil.ignore_patterns("__pycache__"))
        before = set(into.glob("*.whl"))
        flags = ("--no-deps", "--no-build-isolation", "--no-index")
        self.run("python", "-m", "pip", "wheel", "-q", *flags, "-w", into, copy)
        shutil.rmtree(copy)
        (made,) = set(into.glob("*.whl")) - before
        return made
