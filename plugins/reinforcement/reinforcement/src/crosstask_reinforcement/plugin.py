"""The manifest."""

from crosstask.manifest import Extension, Plugin, Point

PLUGIN = Plugin(
    name="reinforcement",
    api=(2, 0),
    points=[
        Point(
            "agent",
            "crosstask_reinforcement.contract:Agent",
            kit="crosstask_reinforcement.kit:AgentKit",
            template="crosstask_reinforcement:template_agent",
            summary="Learns to act in several tasks at once",
        ),
        Point(
            "world",
            "crosstask_reinforcement.contract:World",
            kit="crosstask_reinforcement.kit:WorldKit",
            template="crosstask_reinforcement:template_world",
            summary="Environments that are tasks of one portfolio",
        ),
    ],
    extensions=[
        Extension(
            "world",
            "cartpoles",
            "crosstask_reinforcement.worlds:CartPoleWorld",
            summary="Six CartPoles of different physics, one of them with its force reversed",
            source="Barto, Sutton, Anderson (1983), Neuronlike adaptive elements; gymnasium's CartPole-v1",
            default=True,
        ),
        Extension(
            "world",
            "swing_ups",
            "crosstask_reinforcement.worlds:SwingUpWorld",
            summary="Acrobots and mountain cars that must gather momentum, some with actions the other way round",
            source="Sutton (1996), Sparse coarse coding; Moore (1990); gymnasium's Acrobot-v1, MountainCar-v0",
        ),
        Extension(
            "world",
            "gymnasium",
            "crosstask_reinforcement.worlds:GymnasiumWorld",
            summary="Environments by gymnasium's ids, with arguments and attributes",
            source="Towers et al. (2024), Gymnasium: a standard interface for reinforcement learning environments",
        ),
        Extension(
            "source",
            "environments",
            "crosstask_reinforcement.tasks:Environments",
            summary="The environments of a world as tasks",
        ),
        Extension(
            "stage",
            "reinforcement",
            "crosstask_reinforcement.stage:Reinforcement",
            summary="Tasks learned together by acting, and transfer between them measured",
        ),
        Extension(
            "recipe",
            "reinforcement",
            "crosstask_reinforcement:recipes/reinforcement.toml",
            summary="Three CartPoles, one the other way round, learned together; what one saves another",
        ),
    ],
)
