"""What this distribution offers."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="pcgrad",
    extensions=[
        Extension(
            "balancer",
            "pcgrad",
            "crosstask_pcgrad.pcgrad:PCGrad",
            summary="Projects conflicting parts out of each task's gradient",
            source="Yu et al. 2020, Gradient Surgery for Multi-Task Learning, arXiv:2001.06782",
        ),
    ],
    api=(2, 0),
)
