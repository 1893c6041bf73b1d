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
        Extension("recipe", "demo", "crosstask_digits:demo.toml", summary="Everything once, on digits, in two minutes"),
        Extension(
            "recipe",
            "continual",
            "crosstask_digits:continual.toml",
            summary="Ten digits in five lessons, with a small memory",
        ),
        Extension(
            "recipe",
            "distillation",
            "crosstask_digits:distillation.toml",
            summary="One encoder from eight digit tasks, scored on tasks left out",
        ),
        Extension(
            "recipe",
            "few-shot",
            "crosstask_digits:few_shot.toml",
            summary="Digits in a new view, from one example of each",
        ),
        Extension("recipe", "search", "crosstask_digits:search.toml", summary="A network and a step size for parity"),
    ],
)
