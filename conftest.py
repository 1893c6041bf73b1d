"""For every test of the repository."""

import os
import sys
from collections.abc import Generator

import pytest

# Before torch is imported: one thread for each process. The tensors of tests are small, pytest-xdist fills
# the cores, and sums come out the same everywhere. A benchmark that wants more sets the variables itself.
for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")


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
