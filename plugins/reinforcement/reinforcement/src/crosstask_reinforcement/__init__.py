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
        Transitions,
        World,
    )
    from crosstask_reinforcement.copies import Places, VectorCopies
    from crosstask_reinforcement.physics import Physics
    from crosstask_reinforcement.returns import discounted_returns, gae
    from crosstask_reinforcement.tasks import ControlTask
    from crosstask_reinforcement.training import Runner, Trained, evaluate, train
    from crosstask_reinforcement.transfer import measured_transfer

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
        "Transitions",
        "World",
    ),
    "copies": ("Places", "VectorCopies"),
    "physics": ("Physics",),
    "returns": ("discounted_returns", "gae"),
    "tasks": ("ControlTask",),
    "training": ("Runner", "Trained", "evaluate", "train"),
    "transfer": ("measured_transfer",),
}

__all__ = [
    "Agent",
    "ControlTask",
    "Copies",
    "Decision",
    "Environment",
    "Physics",
    "Places",
    "Rollout",
    "Runner",
    "Situation",
    "Stepped",
    "TaskSpace",
    "Trained",
    "Transitions",
    "VectorCopies",
    "World",
    "discounted_returns",
    "evaluate",
    "gae",
    "measured_transfer",
    "train",
]

__getattr__ = lazily(__name__, {name: module for module, names in _MODULES.items() for name in names})
