"""What this distribution offers."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="weighting",
    extensions=[
        Extension("balancer", "equal", "crosstask_weighting.equal:Equal", summary="The plain sum of the losses"),
    ],
    api=(1, 0),
)
