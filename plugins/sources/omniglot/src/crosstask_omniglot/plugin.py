"""The manifest."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="omniglot",
    extensions=[
        Extension(
            "source",
            "omniglot",
            "crosstask_omniglot.omniglot:Omniglot",
            summary="Fifty alphabets of handwritten characters, each a task, with negative controls",
            source="Lake, Salakhutdinov, Tenenbaum (2015), Human-level concept learning",
        ),
    ],
    api=(2, 0),
)
