"""Values of actions by one linear layer for each task, learned from single steps."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

if TYPE_CHECKING:
    from crosstask_example_agent.example_agent import ExampleAgent

__all__ = ["ExampleAgent"]

__getattr__ = lazily(__name__, {"ExampleAgent": "example_agent"})
