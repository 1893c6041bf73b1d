"""The manifest."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="lwf",
    extensions=[
        Extension(
            "continual",
            "lwf",
            "crosstask_lwf.lwf:LwF",
            summary="Keeps the earlier model's answers on the new inputs",
            source="Li and Hoiem (2016), Learning without Forgetting",
        ),
    ],
    api=(2, 0),
)
