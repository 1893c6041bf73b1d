"""The mean weights of trained models, as a prior."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

if TYPE_CHECKING:
    from crosstask_example_distillation.example_distillation import ExampleDistillation

__all__ = ["ExampleDistillation"]

__getattr__ = lazily(__name__, {"ExampleDistillation": "example_distillation"})
