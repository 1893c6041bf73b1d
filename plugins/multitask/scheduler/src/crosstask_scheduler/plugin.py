"""The manifest: names the components, imports nothing heavy."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="scheduler",
    api=(2, 0),
    extensions=[
        Extension("sampler", "uniform", "crosstask_scheduler.uniform:Uniform", summary="Every task equally often."),
        Extension("sampler", "round_robin", "crosstask_scheduler.round_robin:RoundRobin", summary="Tasks in turn."),
        Extension(
            "sampler",
            "loss_based",
            "crosstask_scheduler.loss_based:LossBased",
            summary="Tasks with a high loss more often.",
        ),
        Extension(
            "sampler",
            "performance",
            "crosstask_scheduler.performance:Performance",
            summary="Tasks with a low validation score more often.",
        ),
        Extension(
            "sampler",
            "performance_based",
            "crosstask_scheduler.performance_based:PerformanceBased",
            summary="Tasks that make little progress more often.",
        ),
    ],
)
