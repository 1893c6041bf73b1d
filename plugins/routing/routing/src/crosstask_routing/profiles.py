"""Tools and tasks, as a user describes them."""

from __future__ import annotations

import enum
import math

from crosstask.errors import DataError
from crosstask.options import option, record


class ToolType(enum.Enum):
    """What a tool does."""

    SEARCH = "search"
    ANALYSIS = "analysis"
    GENERATION = "generation"
    TRANSFORMATION = "transformation"
    VALIDATION = "validation"
    EXECUTION = "execution"


class TaskComplexity(enum.Enum):
    """How hard a task is."""

    SIMPLE = "simple"
    MODERATE = "moderate"
    COMPLEX = "complex"
    EXPERT = "expert"

    @property
    def level(self) -> float:
        """From 0 (simple) to 1 (expert), in equal steps."""
        return list(TaskComplexity).index(self) / (len(TaskComplexity) - 1)


@record
class _Tool:
    tool_id: str = option(help="its name")
    tool_type: ToolType = option(help="what it does")
    cost_per_use: float = option(1.0, ge=0, help="what a use costs, in the units of the budgets")
    reliability: float = option(0.9, ge=0, le=1, help="how often it succeeds, as far as is known; 0: out of use")
    latency: float = option(0.0, ge=0, help="seconds that a use takes, as far as is known")


class ToolProfile(_Tool):
    """A tool and what is known of it before it is used. One of reliability 0 is out of use: it is never planned."""

    def __init__(
        self,
        tool_id: str,
        tool_type: ToolType,
        cost_per_use: float = 1.0,
        reliability: float = 0.9,
        latency: float = 0.0,
    ) -> None:
        super().__init__(
            tool_id=tool_id, tool_type=tool_type, cost_per_use=cost_per_use, reliability=reliability, latency=latency
        )
        _check_id("tool_id", self.tool_id)
        for name in ("cost_per_use", "latency"):
            if not math.isfinite(getattr(self, name)):
                raise DataError(f"tool {self.tool_id!r}: {name} must be finite, got {getattr(self, name)}")


@record
class _TaskToDo:
    task_id: str = option(help="its name")
    task_type: str = option(help="its kind: tasks of one kind are like each other")
    complexity: TaskComplexity = option(help="how hard it is")
    features: tuple[float, ...] = option((), help="what else is known of it, as numbers of about 1 in size")
    begin: ToolType | None = option(None, help="in a tool graph: what the first tool of a sequence does")
    end: ToolType | None = option(None, help="in a tool graph: what the last tool of a sequence does")


class TaskProfile(_TaskToDo):
    """A task that is to be done by tools. `features` are as many for every task of a learner."""

    def __init__(
        self,
        task_id: str,
        task_type: str,
        complexity: TaskComplexity,
        features: tuple[float, ...] = (),
        begin: ToolType | None = None,
        end: ToolType | None = None,
    ) -> None:
        super().__init__(
            task_id=task_id, task_type=task_type, complexity=complexity, features=features, begin=begin, end=end
        )
        _check_id("task_id", self.task_id)
        if not all(math.isfinite(value) for value in self.features):
            raise DataError(f"task {self.task_id!r}: features must be finite, got {list(self.features)}")


def _check_id(name: str, value: str) -> None:
    if not value.strip():
        raise DataError(f"{name} is empty")
