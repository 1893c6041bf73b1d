"""The manifest."""

from crosstask.manifest import Extension, Plugin, Point

PLUGIN = Plugin(
    name="calibration",
    api=(2, 0),
    points=[
        Point(
            "calibrator",
            "crosstask_calibration.contract:Calibrator",
            kit="crosstask_calibration.kit:CalibratorKit",
            template="crosstask_calibration:template",
            summary="Makes a model's confidence agree with how often it is right",
            version=(1, 0),
        )
    ],
    extensions=[
        Extension(
            "calibrator",
            "temperature",
            "crosstask_calibration.temperature:Temperature",
            summary="One temperature for all logits",
            source="Guo et al. (2017), On Calibration of Modern Neural Networks, section 4.2",
            default=True,
            api=(1, 0),
        ),
        Extension(
            "calibrator",
            "vector",
            "crosstask_calibration.vector:Vector",
            summary="A scale and a bias for each class",
            source="Guo et al. (2017), On Calibration of Modern Neural Networks, section 4.2",
            api=(1, 0),
        ),
        Extension(
            "stage",
            "calibration",
            "crosstask_calibration.stage:Calibration",
            summary="Calibrates the tasks' own models, expected calibration error before and after",
        ),
        Extension(
            "command",
            "reliability",
            "crosstask_calibration.cli:command",
            summary="Print the calibration errors of a run.",
        ),
        Extension(
            "recipe",
            "calibration",
            "crosstask_calibration:recipes/calibration.toml",
            summary="Three tasks of handwritten digits, calibrated",
        ),
    ],
)
