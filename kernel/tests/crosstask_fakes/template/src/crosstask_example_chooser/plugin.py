"""What this distribution offers."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="example-chooser",
    extensions=[
        Extension(
            "chooser",
            "example_chooser",
            "crosstask_example_chooser.example_chooser:ExampleChooser",
            summary="Chooses every other task",
        ),
    ],
    api=(2, 0),
)
