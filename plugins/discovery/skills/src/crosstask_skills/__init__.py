"""Transfer estimated from task descriptors."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

if TYPE_CHECKING:
    from crosstask_skills.skills import Skills

__all__ = ["Skills"]

__getattr__ = lazily(
    __name__,
    {"Skills": "skills"},
)
