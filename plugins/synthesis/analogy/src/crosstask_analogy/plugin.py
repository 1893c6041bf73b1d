"""The manifest."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="analogy",
    api=(2, 0),
    extensions=[
        Extension(
            "synthesis",
            "analogy_transfer",
            "crosstask_analogy.analogy_transfer:AnalogyTransfer",
            summary="A is to B as C is to the new task: weights C + (B - A)",
            source="Ilharco et al. (2023), Editing Models with Task Arithmetic, section 5",
        ),
    ],
)
