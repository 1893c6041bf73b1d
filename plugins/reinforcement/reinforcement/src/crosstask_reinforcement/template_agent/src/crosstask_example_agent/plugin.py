"""What this distribution offers. Nothing heavy is imported here: the registry reads it to list plugins."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="example-agent",
    extensions=[
        Extension(
            "agent",
            "example_agent",
            "crosstask_example_agent.example_agent:ExampleAgent",
            summary="Values of actions by one linear layer for each task, learned from single steps",
            source="",  # a paper, if the algorithm has one
        ),
    ],
    api=(2, 0),
)
