"""Q-learning in several tasks with one network, and single-task teachers distilled into it."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

_PUBLIC = {
    "DistilledQ": "agent",
    "Experience": "memory",
    "MultiTaskDistilledQNetwork": "network",
    "ReplayMemory": "memory",
    "distillation_loss": "network",
    "experience": "memory",
    "td_targets": "memory",
}

__all__ = list(_PUBLIC)

__getattr__ = lazily(__name__, _PUBLIC)

if TYPE_CHECKING:
    from crosstask_distilled_q.agent import DistilledQ
    from crosstask_distilled_q.memory import Experience, ReplayMemory, experience, td_targets
    from crosstask_distilled_q.network import MultiTaskDistilledQNetwork, distillation_loss
