"""Runs jobs in threads."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

if TYPE_CHECKING:
    from crosstask_example_executor.example_executor import ExampleExecutor

__all__ = ["ExampleExecutor"]

__getattr__ = lazily(__name__, {"ExampleExecutor": "example_executor"})
