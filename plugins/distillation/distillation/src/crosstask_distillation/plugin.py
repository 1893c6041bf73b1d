"""The manifest."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="distillation",
    api=(2, 0),
    extensions=[
        Extension(
            "stage",
            "distillation",
            "crosstask_distillation.stage:Distillation",
            summary="What several tasks have in common, and what it is worth to a task left out",
        ),
        Extension(
            "recipe",
            "distillation",
            "crosstask_distillation:recipes/distillation.toml",
            summary="One encoder from eight digit tasks, scored on tasks left out",
        ),
    ],
)
