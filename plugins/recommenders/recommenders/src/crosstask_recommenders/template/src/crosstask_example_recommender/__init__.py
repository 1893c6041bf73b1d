"""The mean of a user, and nothing else."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

if TYPE_CHECKING:
    from crosstask_example_recommender.example_recommender import ExampleRecommender

__all__ = ["ExampleRecommender"]

__getattr__ = lazily(__name__, {"ExampleRecommender": "example_recommender"})
