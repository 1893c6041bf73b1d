"""Routing: which of several tools for which task, learned from what came of it."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

if TYPE_CHECKING:
    from crosstask_routing.benchmark import (
        SimulatedTools,
        create_tool_optimization_benchmark,
        example_tasks,
        example_tools,
    )
    from crosstask_routing.contract import Decision, Router
    from crosstask_routing.learner import ToolMetaLearner
    from crosstask_routing.linear import Arms, LinearRouter
    from crosstask_routing.profiles import TaskComplexity, TaskProfile, ToolProfile, ToolType
    from crosstask_routing.records import (
        ExecutionPlan,
        LearningResult,
        PlannedTool,
        PolicyFigures,
        RoutingResult,
        ToolBenchmark,
        ToolEfficiency,
        ToolOutcome,
    )

_MODULES = {
    "benchmark": ("SimulatedTools", "create_tool_optimization_benchmark", "example_tasks", "example_tools"),
    "contract": ("Decision", "Router"),
    "learner": ("ToolMetaLearner",),
    "linear": ("Arms", "LinearRouter"),
    "profiles": ("TaskComplexity", "TaskProfile", "ToolProfile", "ToolType"),
    "records": (
        "ExecutionPlan",
        "LearningResult",
        "PlannedTool",
        "PolicyFigures",
        "RoutingResult",
        "ToolBenchmark",
        "ToolEfficiency",
        "ToolOutcome",
    ),
}

__all__ = [
    "Arms",
    "Decision",
    "ExecutionPlan",
    "LearningResult",
    "LinearRouter",
    "PlannedTool",
    "PolicyFigures",
    "Router",
    "RoutingResult",
    "SimulatedTools",
    "TaskComplexity",
    "TaskProfile",
    "ToolBenchmark",
    "ToolEfficiency",
    "ToolMetaLearner",
    "ToolOutcome",
    "ToolProfile",
    "ToolType",
    "create_tool_optimization_benchmark",
    "example_tasks",
    "example_tools",
]

__getattr__ = lazily(__name__, {name: module for module, names in _MODULES.items() for name in names})
