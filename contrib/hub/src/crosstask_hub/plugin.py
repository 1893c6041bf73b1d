"""The manifest: imports nothing heavy."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="hub",
    extensions=[
        Extension(
            "discovery",
            "hub",
            "crosstask_hub.hub:Hub",
            summary="A shortlist of sources for each target by an index; further discoverers look only at it",
            source="Malkov & Yashunin (2018), HNSW; Bachrach et al. (2014), inner products as cosines",
        ),
    ],
    api=(2, 0),
)
