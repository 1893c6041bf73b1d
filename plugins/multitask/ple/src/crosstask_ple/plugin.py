"""The manifest: names the components, imports nothing heavy."""

from crosstask.manifest import Extension, Plugin

_SOURCE = (
    "Tang et al., Progressive Layered Extraction (PLE): A Novel Multi-Task Learning (MTL) Model for Personalized "
    "Recommendations, RecSys (2020)"
)

PLUGIN = Plugin(
    name="ple",
    api=(2, 0),
    extensions=[
        Extension(
            "sharing",
            "ple",
            "crosstask_ple.ple:PLE",
            summary="Experts of all tasks and of each, weighed by gates, in several levels.",
            source=_SOURCE,
        ),
        Extension(
            "sharing",
            "cgc",
            "crosstask_ple.ple:CGC",
            summary="Experts of all tasks and of each, weighed by a gate for each task.",
            source=_SOURCE,
        ),
    ],
)
