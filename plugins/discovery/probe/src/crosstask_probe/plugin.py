"""The manifest."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="probe",
    extensions=[
        Extension(
            "discovery",
            "probe",
            "crosstask_probe.probe:Probe",
            summary="Measures transfer by short trainings against from-scratch controls, with intervals",
            default=2,
        ),
    ],
    api=(2, 0),
)
