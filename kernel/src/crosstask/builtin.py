"""The kernel's own plugin: it comes through the same door as everybody else's."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="kernel",
    api=(2, 0),
    extensions=[
        Extension(
            "executor",
            "serial",
            "crosstask.executors:SerialExecutor",
            summary="Runs jobs here, one at a time.",
            default=True,
        ),
        Extension(
            "executor",
            "process",
            "crosstask.executors:ProcessExecutor",
            summary="Runs jobs in a pool of processes.",
        ),
        Extension(
            "source",
            "python",
            "crosstask.sources:PythonSource",
            summary="Tasks from a function of your own.",
        ),
        Extension(
            "store",
            "sql",
            "crosstask.store.sql:SqlStoreOpener",
            summary="SQLite or PostgreSQL, weights as safetensors.",
            default=True,
        ),
    ],
)
