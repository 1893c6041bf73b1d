"""The manifest."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="ray",
    api=(2, 0),
    extensions=[
        Extension(
            "executor",
            "ray",
            "crosstask_ray.executor:RayExecutor",
            summary="Runs jobs on the nodes of a Ray cluster",
            source="https://arxiv.org/abs/1712.05889",
        ),
    ],
)
