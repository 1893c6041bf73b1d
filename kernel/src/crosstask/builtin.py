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
        ),
        Extension(
            "executor",
            "process",
            "crosstask.executors:ProcessExecutor",
            summary="Runs jobs in a pool of processes.",
        ),
        Extension(
            "store",
            "sql",
            "crosstask.store.sql:SqlStoreOpener",
            summary="SQLite or PostgreSQL, weights as safetensors.",
        ),
    ],
)
