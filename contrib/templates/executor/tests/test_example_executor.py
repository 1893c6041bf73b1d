"""Every check of the contract, and what is special about this executor."""

import threading

from crosstask.components import Job
from crosstask.testing import conformance
from crosstask_example_executor import ExampleExecutor

test_conformance = conformance(ExampleExecutor)


def test_jobs_run_in_other_threads() -> None:
    executor = ExampleExecutor(workers=1)
    try:
        assert executor.submit(Job(threading.get_ident)).result(10) != threading.get_ident()
    finally:
        executor.shutdown()
