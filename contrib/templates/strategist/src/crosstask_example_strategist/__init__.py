"""The transfer method of the best mean score for about as many samples."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

if TYPE_CHECKING:
    from crosstask_example_strategist.example_strategist import ExampleStrategist

__all__ = ["ExampleStrategist"]

__getattr__ = lazily(__name__, {"ExampleStrategist": "example_strategist"})
