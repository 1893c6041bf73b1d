"""Mean of the models that know the new task's classes."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

if TYPE_CHECKING:
    from crosstask_example_synthesis.example_synthesis import ExampleSynthesis

__all__ = ["ExampleSynthesis"]

__getattr__ = lazily(__name__, {"ExampleSynthesis": "example_synthesis"})
