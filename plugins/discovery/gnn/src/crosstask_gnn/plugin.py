"""The manifest."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="gnn",
    extensions=[
        Extension(
            "discovery",
            "gnn",
            "crosstask_gnn.task_relationship_graph:TaskRelationshipGraph",
            summary="Predicts every pair that was not measured: message passing over estimates and measurements",
            source="Schlichtkrull et al. (2018), Modeling relational data with graph convolutional networks",
            default=3,
        ),
    ],
    api=(2, 0),
)
