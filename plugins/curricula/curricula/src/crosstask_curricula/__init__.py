"""Curricula: the curriculum stage and its report."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

_PUBLIC = {"Curriculum": "stage", "CurriculumComparison": "records"}

__all__ = list(_PUBLIC)

__getattr__ = lazily(__name__, _PUBLIC)

if TYPE_CHECKING:
    from crosstask_curricula.records import CurriculumComparison
    from crosstask_curricula.stage import Curriculum
