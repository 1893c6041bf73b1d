"""The conformance kit: every check of a contract, for the component that you wrote.

    from crosstask.testing import conformance
    from crosstask_mine import Mine

    test_conformance = conformance(Mine, options={"rate": 0.5})

That is a whole test module. `run_checks` does the same without pytest, and so does `crosstask plugins check NAME`.
The pytest plugin (installed with the kernel) adds the marker `conformance` and the fixture `small_portfolio`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

_PUBLIC = {
    "Check": "kit",
    "CheckFailure": "kit",
    "Kit": "kit",
    "Outcome": "kit",
    "checks_of": "kit",
    "conformance": "kit",
    "full_disk": "disk",
    "reference_registry": "references",
    "run_checks": "kit",
    "SelfTest": "selftest",
    "blobs": "tasks",
    "installed": "commands",
    "invoke": "commands",
    "small_graph": "tasks",
    "small_portfolio": "tasks",
    "small_task": "tasks",
    "trained": "tasks",
}

__all__ = list(_PUBLIC)


__getattr__ = lazily(__name__, _PUBLIC)


if TYPE_CHECKING:
    from crosstask.testing.commands import installed, invoke
    from crosstask.testing.disk import full_disk
    from crosstask.testing.kit import Check, CheckFailure, Kit, Outcome, checks_of, conformance, run_checks
    from crosstask.testing.references import reference_registry
    from crosstask.testing.selftest import SelfTest
    from crosstask.testing.tasks import blobs, small_graph, small_portfolio, small_task, trained
