"""The manifest."""

from crosstask.manifest import Extension, Plugin, Point

PLUGIN = Plugin(
    "alignment",
    api=(2, 0),
    points=[
        Point(
            "alignment",
            "crosstask_alignment.contract:Alignment",
            kit="crosstask_alignment.kit:AlignmentKit",
            template="crosstask_alignment:template",
            summary="A loss that is small where features of several domains cannot be told apart",
        )
    ],
    extensions=[
        Extension(
            "stage",
            "alignment",
            "crosstask_alignment.stage:Align",
            summary="A model adapted to tasks without their labels, beside source only and with labels",
        ),
        Extension(
            "recipe",
            "alignment",
            "crosstask_alignment:recipes/alignment.toml",
            summary="From digits to blurred and turned ones, without their labels",
        ),
    ],
)
