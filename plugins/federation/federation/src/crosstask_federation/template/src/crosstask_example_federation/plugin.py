"""What this distribution offers. Nothing heavy is imported here: the registry reads it to list plugins."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="example-federation",
    extensions=[
        Extension(
            "federation",
            "example_federation",
            "crosstask_example_federation.example_federation:ExampleFederation",
            summary="Sites send which way each weight went, and vote",
            source="",  # a paper, if the algorithm has one
        ),
    ],
    api=(2, 0),
)
