"""The manifest."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="multi-source",
    api=(2, 0),
    extensions=[
        Extension(
            "transfer",
            "concat",
            "crosstask_multi_source.methods:Concat",
            summary="Trunks of several sources side by side under one head",
        ),
        Extension(
            "transfer",
            "joint",
            "crosstask_multi_source.methods:Joint",
            summary="From one trunk that was trained on several sources at once",
            source="Caruana (1997), Multitask Learning, Machine Learning 28",
        ),
        Extension(
            "transfer",
            "concat_joint",
            "crosstask_multi_source.methods:ConcatJoint",
            summary="The best source's trunk beside one that was trained jointly on the others",
        ),
        Extension(
            "transfer",
            "soup",
            "crosstask_multi_source.methods:Soup",
            summary="Mean of the weights of single transfers, those that help on validation data",
            source="Wortsman et al. (2022), Model soups, ICML",
        ),
        Extension(
            "transfer",
            "ensemble",
            "crosstask_multi_source.methods:Ensemble",
            summary="Mean of the logits of single transfers, on request distilled into one model",
            source="Hinton et al. (2015), Distilling the Knowledge in a Neural Network",
        ),
        Extension(
            "transfer",
            "best_of",
            "crosstask_multi_source.best_of:BestOf",
            summary="Whichever of these is best on validation data, or the best single source",
        ),
        Extension(
            "stage",
            "multi_source",
            "crosstask_multi_source.stage:MultiSourceStage",
            summary="Targets learned from several sources, beside the best single one",
        ),
        Extension(
            "recipe",
            "multi-source",
            "crosstask_multi_source:multi_source.toml",
            summary="Digit tasks learned from several others, against the best single source",
        ),
    ],
)
