"""The manifest."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="trackers",
    api=(2, 0),
    extensions=[
        Extension(
            "observer",
            "jsonl",
            "crosstask_trackers.jsonl:Jsonl",
            summary="Follows a run in a file, a line of JSON for each figure, table, picture and file",
        ),
    ],
)
