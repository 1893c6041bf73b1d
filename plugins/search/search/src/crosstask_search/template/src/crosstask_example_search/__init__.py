"""Changes the best point so far, one parameter at a time."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

if TYPE_CHECKING:
    from crosstask_example_search.example_search import ExampleSearch

__all__ = ["ExampleSearch"]

__getattr__ = lazily(__name__, {"ExampleSearch": "example_search"})
