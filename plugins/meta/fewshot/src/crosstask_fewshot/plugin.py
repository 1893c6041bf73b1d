"""What this distribution offers."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="fewshot",
    extensions=[
        Extension(
            "meta_learner",
            "prototypical",
            "crosstask_fewshot.prototypical:PrototypicalNetwork",
            summary="Classes by their nearest mean in the space of features",
            source="Snell, Swersky, Zemel 2017, arXiv:1703.05175",
            default=True,
        ),
        Extension(
            "meta_learner",
            "matching",
            "crosstask_fewshot.matching:MatchingNetwork",
            summary="Attention over the labelled samples, by cosine similarity",
            source="Vinyals et al. 2016, arXiv:1606.04080",
        ),
        Extension(
            "meta_learner",
            "relation",
            "crosstask_fewshot.relation:RelationNetwork",
            summary="A small network that learns to say how alike a query and a class are",
            source="Sung et al. 2018, arXiv:1711.06025",
        ),
    ],
    api=(2, 0),
)
