"""Ridge regression on learned features."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

if TYPE_CHECKING:
    from crosstask_example_meta_learner.example_meta_learner import ExampleMetaLearner

__all__ = ["ExampleMetaLearner"]

__getattr__ = lazily(__name__, {"ExampleMetaLearner": "example_meta_learner"})
