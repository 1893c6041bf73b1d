"""The manifest."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="example-calibrator",
    api=(2, 0),
    extensions=[
        Extension(
            "calibrator",
            "example_calibrator",
            "crosstask_example_calibrator.example_calibrator:ExampleCalibrator",
            summary="Halves every logit that is too sure",
            api=(1, 0),
        )
    ],
)
