"""The manifest."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="merging",
    api=(2, 0),
    extensions=[
        Extension(
            "synthesis",
            "uniform_soup",
            "crosstask_merging.uniform_soup:UniformSoup",
            summary="The mean of the models",
            source="Wortsman et al. (2022), Model Soups",
        ),
        Extension(
            "synthesis",
            "greedy_soup",
            "crosstask_merging.greedy_soup:GreedySoup",
            summary="The mean of those models that do not lower the score on held-out data",
            source="Wortsman et al. (2022), Model Soups",
        ),
        Extension(
            "synthesis",
            "task_arithmetic",
            "crosstask_merging.task_arithmetic:TaskArithmetic",
            summary="A base model plus a multiple of the sum of the task vectors",
            source="Ilharco et al. (2023), Editing Models with Task Arithmetic",
        ),
        Extension(
            "synthesis",
            "ties",
            "crosstask_merging.ties:TIES",
            summary="Task vectors trimmed, a sign elected per weight, the mean of those that agree with it",
            source="Yadav et al. (2023), TIES-Merging",
        ),
        Extension(
            "synthesis",
            "dare",
            "crosstask_merging.dare:DARE",
            summary="Task vectors with most entries dropped at random and the rest scaled up",
            source="Yu et al. (2024), Language Models are Super Mario",
        ),
        Extension(
            "synthesis",
            "slerp",
            "crosstask_merging.slerp:Slerp",
            summary="Spherical interpolation, tensor by tensor",
            source="Shoemake (1985), Animating Rotation with Quaternion Curves",
        ),
        Extension(
            "synthesis",
            "fisher_merge",
            "crosstask_merging.fisher_merge:FisherMerge",
            summary="The mean weighted by each weight's Fisher information",
            source="Matena, Raffel (2022), Merging Models with Fisher-Weighted Averaging",
        ),
        Extension(
            "synthesis",
            "regmean",
            "crosstask_merging.regmean:RegMean",
            summary="Each linear layer's least-squares fit to what the models answer on their own inputs",
            source="Jin et al. (2023), Dataless Knowledge Fusion by Merging Weights of Language Models",
        ),
        Extension(
            "synthesis",
            "evolutionary",
            "crosstask_merging.evolutionary:Evolutionary",
            summary="Coefficients of the task vectors searched with CMA-ES on held-out data",
            source="Akiba et al. (2024), Evolutionary Optimization of Model Merging Recipes",
        ),
    ],
)
