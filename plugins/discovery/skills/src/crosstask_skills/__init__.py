"""Transfer estimated from task descriptors."""

from crosstask_skills.skills import Skills

__all__ = ["Skills"]
