"""The manifest."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="strategist",
    api=(2, 0),
    extensions=[
        Extension(
            "strategist",
            "by_history",
            "crosstask_strategist.strategist:LearnedStrategist",
            summary="The strategy that earlier runs speak for on tasks like this one",
            source="Rice 1976, The Algorithm Selection Problem; Bishop 2006, section 3.3",
            default=True,
        ),
    ],
)
