"""The manifest: names the component, imports nothing heavy."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="progressive-columns",
    api=(2, 0),
    extensions=[
        Extension(
            "sharing",
            "progressive",
            "crosstask_progressive_columns.columns:Progressive",
            summary="A column for each task, which takes something of those before it and changes nothing in them.",
            source="Rusu et al., Progressive neural networks, arXiv:1606.04671 (2016)",
        ),
    ],
)
