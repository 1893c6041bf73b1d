"""The manifest."""

from crosstask.manifest import Extension, Plugin, Point

PLUGIN = Plugin(
    name="monitoring",
    api=(2, 0),
    points=[
        Point(
            "detector",
            "crosstask_monitoring.contract:Detector",
            kit="crosstask_monitoring.kit:DetectorKit",
            template="crosstask_monitoring:template",
            summary="A sequential test that says when a model's score has dropped",
        )
    ],
    extensions=[
        Extension(
            "stage",
            "heal",
            "crosstask_monitoring.stage:Heal",
            summary="A task whose inputs change: the drop is found, healed, and replaced only by better",
            source="McNemar 1947, Psychometrika 12(2)",
        ),
        Extension(
            "command",
            "monitor",
            "crosstask_monitoring.cli:command",
            summary="Record scores of a task, show them, and say whether they have dropped.",
        ),
        Extension(
            "recipe",
            "heal",
            "crosstask_monitoring:recipes/heal.toml",
            summary="Digits that are inverted one day: found, healed, checked",
        ),
    ],
)
