"""What this distribution offers."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="maml",
    extensions=[
        Extension(
            "meta_learner",
            "maml",
            "crosstask_maml.maml:MAML",
            summary="Weights from which a few gradient steps lead to a good model",
            source="Finn, Abbeel, Levine 2017, arXiv:1703.03400",
        ),
        Extension(
            "meta_learner",
            "maml_first_order",
            "crosstask_maml.maml_first_order:MAMLFirstOrder",
            summary="MAML without second derivatives",
            source="Finn, Abbeel, Levine 2017, arXiv:1703.03400",
        ),
        Extension(
            "meta_learner",
            "anil",
            "crosstask_maml.anil:ANIL",
            summary="MAML whose inner steps adapt the head only",
            source="Raghu et al. 2020, arXiv:1909.09157",
        ),
        Extension(
            "meta_learner",
            "meta_sgd",
            "crosstask_maml.meta_sgd:MetaSGD",
            summary="MAML that learns the inner step size of every weight",
            source="Li, Zhou, Chen, Li 2017, arXiv:1707.09835",
        ),
    ],
    api=(2, 0),
)
