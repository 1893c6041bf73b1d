"""What this distribution offers."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="reptile",
    extensions=[
        Extension(
            "meta_learner",
            "reptile",
            "crosstask_reptile.reptile:Reptile",
            summary="Moves the weights toward those that training on each task leads to",
            source="Nichol, Achiam, Schulman 2018, arXiv:1803.02999",
        ),
    ],
    api=(2, 0),
)
