"""The manifest."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="cautious-calibration",
    api=(2, 0),
    extensions=[
        Extension(
            "calibrator",
            "best_of",
            "crosstask_cautious_calibration.best_of:BestOf",
            summary="Of several calibrators the one that does best on held-out logits",
        ),
        Extension(
            "wrapper",
            "never_worse",
            "crosstask_cautious_calibration.never_worse:NeverWorse",
            summary="Takes a calibrator's map back where it raises the loss",
        ),
        Extension(
            "recipe",
            "cautious-calibration",
            "crosstask_cautious_calibration:recipe.toml",
            summary="The recipe calibration with both",
        ),
    ],
)
