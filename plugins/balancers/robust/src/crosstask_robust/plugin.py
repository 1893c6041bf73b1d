"""What this distribution offers."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="robust",
    extensions=[
        Extension(
            "balancer",
            "krum",
            "crosstask_robust.krum:Krum",
            summary="The gradients with the nearest neighbours, and no others",
            source="Blanchard et al. 2017, Machine Learning with Adversaries, NeurIPS",
        ),
        Extension(
            "balancer",
            "trimmed_mean",
            "crosstask_robust.trimmed_mean:TrimmedMean",
            summary="Each parameter's mean without its largest and smallest gradients",
            source="Yin et al. 2018, arXiv:1803.01498",
        ),
    ],
    api=(2, 0),
)
