"""The manifest."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="distillers",
    api=(2, 0),
    formerly=["crosstask-distillation"],
    extensions=[
        Extension(
            "distillation",
            "representation",
            "crosstask_distillers.representation:Representation",
            summary="One encoder that reproduces every task model's features and does not tell the domains apart",
            source="Park et al. (2019), Relational Knowledge Distillation; Ganin et al. (2016), DANN",
            default=True,
        ),
        Extension(
            "distillation",
            "strategy",
            "crosstask_distillers.strategy:Strategy",
            summary="The learning rate and schedule that served the known tasks",
        ),
        Extension(
            "distillation",
            "prior",
            "crosstask_distillers.prior:WeightPrior",
            summary="Mean and precision of the tasks' weights, after their hidden units were aligned",
            source="Ainsworth et al. (2023), Git Re-Basin",
        ),
    ],
)
