"""The manifest."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="moving-digits",
    extensions=[
        Extension(
            "source",
            "moving_digits",
            "crosstask_moving_digits.videos:MovingDigits",
            summary="Sequences of real handwritten digits that fly and bounce",
            source="Alpaydin, Kaynak (1998), UCI repository; Srivastava et al. 2015, arXiv:1502.04681 (moving digits)",
        ),
        Extension(
            "recipe",
            "objectives",
            "crosstask_moving_digits:recipes/objectives.toml",
            summary="A video model of moving digits on three objectives at once",
        ),
        Extension(
            "command",
            "demo-mtl-flow",
            "crosstask_moving_digits.cli:flow",
            summary="Observations, outputs, losses, a balanced step: a video model on real digits, in seconds.",
        ),
        Extension(
            "command",
            "demo-aggregation",
            "crosstask_moving_digits.cli:aggregation",
            summary="What each objective makes of a model's outputs, and what is said when something is missing.",
        ),
    ],
    api=(2, 0),
)
