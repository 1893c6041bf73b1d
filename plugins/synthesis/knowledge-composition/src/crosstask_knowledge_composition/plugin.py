"""The manifest."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="knowledge-composition",
    api=(2, 0),
    extensions=[
        Extension(
            "synthesis",
            "knowledge_composition",
            "crosstask_knowledge_composition.knowledge_composition:KnowledgeComposition",
            summary="One trunk, with the heads of several tasks stitched onto it; blocks and adapters too",
            source="Lenc, Vedaldi (2015), Understanding image representations by measuring their equivariance",
        ),
    ],
)
