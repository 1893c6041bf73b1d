"""Records below a level, counted."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

if TYPE_CHECKING:
    from crosstask_example_detector.example_detector import ExampleDetector

__all__ = ["ExampleDetector"]

__getattr__ = lazily(__name__, {"ExampleDetector": "example_detector"})
