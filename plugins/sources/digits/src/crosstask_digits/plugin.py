"""The manifest."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="digits",
    extensions=[
        Extension(
            "source",
            "digits",
            "crosstask_digits.digits:Digits",
            summary="Twelve tasks on 1797 real images of handwritten digits, and one held back as unseen",
            source="Alpaydin, Kaynak (1998), Optical Recognition of Handwritten Digits, UCI repository",
        ),
        Extension(
            "recipe",
            "demo",
            "crosstask_digits:demo.toml",
            summary="Everything once, on digits, in two minutes",
            default=True,
        ),
        Extension(
            "command",
            "demo",
            "crosstask_digits.cli:command",
            summary="Run the demo: discovery to joint training on real digits, with a report.",
        ),
    ],
    api=(2, 0),
)
