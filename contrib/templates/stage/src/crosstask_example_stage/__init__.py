"""Which task to start from."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

if TYPE_CHECKING:
    from crosstask_example_stage.example_stage import ExampleStage, ExampleStageResult

__all__ = ["ExampleStage", "ExampleStageResult"]

__getattr__ = lazily(__name__, {"ExampleStage": "example_stage", "ExampleStageResult": "example_stage"})
