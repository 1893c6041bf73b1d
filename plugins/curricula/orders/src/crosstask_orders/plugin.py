"""The manifest."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="orders",
    api=(2, 0),
    formerly=["crosstask-curricula"],
    extensions=[
        Extension(
            "curriculum",
            "easy_to_hard",
            "crosstask_orders.easy_to_hard:EasyToHard",
            summary="Easier tasks first, up to the target's own difficulty",
            source="Bengio et al. (2009), Curriculum Learning",
        ),
        Extension(
            "curriculum",
            "transfer_potential",
            "crosstask_orders.transfer_potential:TransferPotential",
            summary="The tasks that help the target, the best one last",
            default=True,
        ),
        Extension(
            "curriculum",
            "diverse_sampling",
            "crosstask_orders.diverse_sampling:DiverseSampling",
            summary="Tasks that help the target and are unlike one another",
            source="Carbonell, Goldstein (1998), maximal marginal relevance",
        ),
        Extension(
            "curriculum",
            "uncertainty_driven",
            "crosstask_orders.uncertainty_driven:UncertaintyDriven",
            summary="Tasks that may help the target most, given how little is known of them",
            source="Auer (2002), upper confidence bounds",
        ),
        Extension(
            "curriculum",
            "adaptive_difficulty",
            "crosstask_orders.adaptive_difficulty:AdaptiveDifficulty",
            summary="Easy to hard, skipping ahead or stepping back by the measured gains",
            source="after Matiisen et al. (2020), Teacher-Student Curriculum Learning",
        ),
    ],
)
