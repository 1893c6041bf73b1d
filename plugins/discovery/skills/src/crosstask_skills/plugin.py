"""The manifest."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="skills",
    extensions=[
        Extension(
            "discovery",
            "skills",
            "crosstask_skills.skills:Skills",
            summary="Estimates transfer from descriptors: skills, knowledge, classes, domain, dimensions",
            default=1,
        ),
    ],
    api=(2, 0),
)
