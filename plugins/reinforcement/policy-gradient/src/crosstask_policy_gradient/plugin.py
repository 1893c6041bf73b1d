"""The manifest."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="policy-gradient",
    api=(2, 0),
    extensions=[
        Extension(
            "agent",
            "ppo",
            "crosstask_policy_gradient.ppo:PPO",
            summary="Proximal policy optimisation of all tasks at once, gradients of the trunk balanced",
            source="Schulman et al. (2017), Proximal policy optimization algorithms",
            default=True,
        ),
        Extension(
            "agent",
            "a2c",
            "crosstask_policy_gradient.a2c:A2C",
            summary="Advantage actor-critic of all tasks at once, gradients of the trunk balanced",
            source="Mnih et al. (2016), Asynchronous methods for deep reinforcement learning",
        ),
    ],
)
