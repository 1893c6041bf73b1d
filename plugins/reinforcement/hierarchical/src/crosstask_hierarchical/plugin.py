"""The manifest."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="hierarchical",
    api=(2, 0),
    extensions=[
        Extension(
            "agent",
            "hierarchical",
            "crosstask_hierarchical.agent:Hierarchical",
            summary="A controller for each task, and one that picks which of them acts",
            source="Sutton, Precup and Singh (1999), Between MDPs and semi-MDPs: options",
        ),
    ],
)
