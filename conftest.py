"""For every test of the repository."""

import os
import sys
from collections.abc import Generator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest

# Before torch is imported: one thread for each process. The tensors of tests are small, pytest-xdist fills
# the cores, and sums come out the same everywhere. A benchmark that wants more sets the variables itself.
for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")


CONTRIB = Path(__file__).parent / "contrib"


def is_left_out(add_on: str) -> bool:
    """Whether an add-on of contrib/ is not installed here: each has a library of its own, not needed by the core."""
    try:
        distribution(f"crosstask-{add_on}")
    except PackageNotFoundError:
        return True
    return False


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """The tests of add-ons that are not installed, which .ci/run installs; and the templates, of which
    tests/test_templates.py makes packages.
    """
    if collection_path.parent != CONTRIB or not collection_path.is_dir():
        return None
    return collection_path.name == "templates" or is_left_out(collection_path.name) or None


def pytest_report_header() -> str | None:
    left_out = [file.parent.name for file in sorted(CONTRIB.glob("*/pyproject.toml")) if is_left_out(file.parent.name)]
    return f"add-ons that are not installed, so not tested: {', '.join(left_out)}" if left_out else None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With CROSSTASK_REQUIRE_ALL=1, as in .ci/run, a test that lacks its browser or database has failed."""
    report = yield
    needs = [name for name in ("browser", "postgres") if item.get_closest_marker(name)]
    if needs and report.skipped and os.environ.get("CROSSTASK_REQUIRE_ALL") == "1":
        report.outcome = "failed"
        report.longrepr = f"CROSSTASK_REQUIRE_ALL=1 allows no skip of {needs}: {report.longrepr}"
    return report


@pytest.fixture(autouse=True)
def _log_as_it_was() -> Generator[None]:
    """structlog's own `capture_logs` leaves it configured, and crosstask then writes as an application would want."""
    yield
    if (structlog := sys.modules.get("structlog")) is not None and structlog.is_configured():
        structlog.reset_defaults()
