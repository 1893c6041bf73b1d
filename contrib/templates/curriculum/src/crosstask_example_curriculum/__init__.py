"""Most helpful task last, right before the target."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

if TYPE_CHECKING:
    from crosstask_example_curriculum.example_curriculum import ExampleCurriculum

__all__ = ["ExampleCurriculum"]

__getattr__ = lazily(__name__, {"ExampleCurriculum": "example_curriculum"})
