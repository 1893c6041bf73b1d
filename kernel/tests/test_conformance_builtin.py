"""The kernel's own executors, source and store do what their contracts say."""

from crosstask.executors import ProcessExecutor, SerialExecutor
from crosstask.sources import PythonSource
from crosstask.store.sql import SqlStoreOpener
from crosstask.testing import conformance

test_serial = conformance(SerialExecutor)
test_process = conformance(ProcessExecutor, options={"workers": 1})
test_python = conformance(
    PythonSource, options={"function": "crosstask.testing:small_portfolio", "arguments": {"models": False}}
)
test_sql = conformance(SqlStoreOpener)
test_sql_url = conformance(SqlStoreOpener, url="sqlite:///{folder}/conformance.db")
