"""The manifest."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    "meta",
    extensions=[
        Extension(
            "stage",
            "few_shot",
            "crosstask_meta.stage:FewShot",
            summary="A meta-learner trained on episodes, and judged on classes or tasks it never saw",
        ),
        Extension(
            "recipe",
            "few-shot",
            "crosstask_meta:recipes/few-shot.toml",
            summary="Digits in a new view, from one example of each",
        ),
    ],
    api=(2, 0),
)
