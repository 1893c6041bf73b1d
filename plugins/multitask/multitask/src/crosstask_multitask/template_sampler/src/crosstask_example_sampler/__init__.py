"""Draws tasks with a large loss more often."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

if TYPE_CHECKING:
    from crosstask_example_sampler.example_sampler import ExampleSampler

__all__ = ["ExampleSampler"]

__getattr__ = lazily(__name__, {"ExampleSampler": "example_sampler"})
