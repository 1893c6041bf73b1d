"""The manifest."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="distilled-q",
    api=(2, 0),
    extensions=[
        Extension(
            "agent",
            "distilled_q",
            "crosstask_distilled_q.agent:DistilledQ",
            summary="Q-learning in several tasks with one network, teachers distilled into it",
            source="Rusu et al. (2016), Policy Distillation",
        ),
    ],
)
