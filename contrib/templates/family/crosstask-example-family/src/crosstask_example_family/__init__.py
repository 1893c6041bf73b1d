"""Scores of answers: how good a model's outputs are, from 0 to 1."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

if TYPE_CHECKING:
    from crosstask_example_family.balanced import Balanced
    from crosstask_example_family.contract import ExampleFamily
    from crosstask_example_family.likely import Likely
    from crosstask_example_family.stage import ExampleFamilyResult, ExampleFamilyStage

_PUBLIC = {
    "Balanced": "balanced",
    "ExampleFamily": "contract",
    "ExampleFamilyResult": "stage",
    "ExampleFamilyStage": "stage",
    "Likely": "likely",
}

__all__ = list(_PUBLIC)

__getattr__ = lazily(__name__, _PUBLIC)
