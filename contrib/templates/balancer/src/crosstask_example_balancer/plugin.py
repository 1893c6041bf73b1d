"""What this distribution offers. Nothing heavy is imported here: the registry reads it to list plugins."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="example-balancer",
    extensions=[
        Extension(
            "balancer",
            "example_balancer",
            "crosstask_example_balancer.example_balancer:ExampleBalancer",
            summary="Weighs task gradients by a power of their lengths",
            source="",  # a paper, if the algorithm has one
        ),
    ],
    api=(2, 0),
)
