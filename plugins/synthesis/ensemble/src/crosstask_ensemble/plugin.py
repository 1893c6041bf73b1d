"""The manifest."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="ensemble",
    api=(2, 0),
    extensions=[
        Extension(
            "synthesis",
            "weighted_ensemble",
            "crosstask_ensemble.weighted_ensemble:WeightedEnsemble",
            summary="Related models weighted by predicted transfer, matched by class names",
            default=True,
        ),
    ],
)
