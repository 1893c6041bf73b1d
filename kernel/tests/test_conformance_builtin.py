"""The kernel's own executors and store do what their contracts say."""

from crosstask.executors import ProcessExecutor, SerialExecutor
from crosstask.store.sql import SqlStoreOpener
from crosstask.testing import conformance

test_serial = conformance(SerialExecutor)
test_process = conformance(ProcessExecutor, options={"workers": 1})
test_sql = conformance(SqlStoreOpener)
test_sql_url = conformance(SqlStoreOpener, url="sqlite:///{folder}/conformance.db")
