"""Composes and wraps the scores of crosstask-example-family."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

if TYPE_CHECKING:
    from crosstask_example_family_extra.cautious import Cautious
    from crosstask_example_family_extra.worst import Worst

__all__ = ["Cautious", "Worst"]

__getattr__ = lazily(__name__, {"Cautious": "cautious", "Worst": "worst"})
