"""Multi-task reinforcement learning: agents, worlds of environments, a batched runner, transfer that is measured."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

if TYPE_CHECKING:
    from crosstask_reinforcement.contract import (
        Agent,
        Copies,
        Decision,
        Environment,
        Rollout,
        Situation,
        Stepped,
        TaskSpace,
        World,
    )

_MODULES = {
    "contract": (
        "Agent",
        "Copies",
        "Decision",
        "Environment",
        "Rollout",
        "Situation",
        "Stepped",
        "TaskSpace",
        "World",
    ),
}

__all__ = [
    "Agent",
    "Copies",
    "Decision",
    "Environment",
    "Rollout",
    "Situation",
    "Stepped",
    "TaskSpace",
    "World",
]

__getattr__ = lazily(__name__, {name: module for module, names in _MODULES.items() for name in names})
