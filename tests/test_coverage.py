"""The registry, options, manifest, settings and parts of the kernel: every line is covered by their own tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

KERNEL = Path(__file__).parents[1] / "kernel"
MODULES = ("registry", "options", "manifest", "settings", "parts")
TESTS = ("registry", "options", "manifest", "settings", "components", "broken_things", "index")


@pytest.mark.slow  # it runs six test files again, under coverage
@pytest.mark.packaging  # so that .ci/run does it
def test_every_line_is_covered(tmp_path: Path) -> None:
    report = tmp_path / "coverage.json"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:randomly",
         *(f"kernel/tests/test_{name}.py" for name in TESTS),
         "--cov=crosstask", f"--cov-report=json:{report}"],
        cwd=KERNEL.parent, capture_output=True, text=True,
        env={**os.environ, "COVERAGE_FILE": str(tmp_path / "data"), "PYTEST_ADDOPTS": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    files = {Path(name).as_posix(): found for name, found in json.loads(report.read_text("utf-8"))["files"].items()}
    missing = {
        module: found["missing_lines"]
        for module in MODULES
        for name, found in files.items()
        if name.endswith(f"crosstask/{module}.py") and found["missing_lines"]
    }
    measured = [m for m in MODULES if any(name.endswith(f"crosstask/{m}.py") for name in files)]
    assert (missing, measured) == ({}, list(MODULES))
