"""What this distribution offers."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="rgb",
    extensions=[
        Extension(
            "balancer",
            "rgb",
            "crosstask_rgb.rgb:RGB",
            summary="Rotates task gradients toward their consensus",
            source="Rotation-Based Gradient Balancing, openreview.net/forum?id=l0QAezg8HX",
        ),
    ],
    api=(2, 0),
)
