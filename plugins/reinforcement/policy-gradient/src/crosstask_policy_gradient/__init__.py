"""Actor and critic heads of several tasks over one trunk, trained by PPO or A2C with balanced gradients."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

if TYPE_CHECKING:
    from crosstask_policy_gradient.a2c import A2C
    from crosstask_policy_gradient.network import MultiTaskPolicyNetwork
    from crosstask_policy_gradient.ppo import PPO

__all__ = ["A2C", "PPO", "MultiTaskPolicyNetwork"]

__getattr__ = lazily(__name__, {"A2C": "a2c", "MultiTaskPolicyNetwork": "network", "PPO": "ppo"})
