"""What this distribution offers."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="gradnorm",
    extensions=[
        Extension(
            "balancer",
            "gradnorm",
            "crosstask_gradnorm.gradnorm:GradNorm",
            summary="Learns loss weights that let all tasks train at a similar rate",
            source="Chen et al. 2018, GradNorm, arXiv:1711.02257",
        ),
    ],
    api=(2, 0),
)
