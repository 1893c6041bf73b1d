"""The manifest."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="finetuning",
    api=(2, 0),
    extensions=[
        Extension(
            "transfer",
            "lp_ft",
            "crosstask_finetuning.lp_ft:LPFT",
            summary="Fits the new head first, then fine-tunes everything",
            source="Kumar et al. (2022), Fine-Tuning Can Distort Pretrained Features",
            default=True,
        ),
        Extension(
            "transfer",
            "fine_tuning",
            "crosstask_finetuning.fine_tuning:FineTuning",
            summary="Trains every weight, starting from the source's",
        ),
        Extension(
            "transfer",
            "feature_extraction",
            "crosstask_finetuning.feature_extraction:FeatureExtraction",
            summary="Trains the head only, on the features of the frozen trunk",
        ),
        Extension(
            "transfer",
            "gradual_unfreezing",
            "crosstask_finetuning.gradual_unfreezing:GradualUnfreezing",
            summary="Trains the head, then more and more of the trunk, from the top down",
            source="Howard, Ruder (2018), Universal Language Model Fine-tuning",
        ),
        Extension(
            "transfer",
            "l2_sp",
            "crosstask_finetuning.l2_sp:L2SP",
            summary="Fine-tuning with a decay towards the source's weights",
            source="Li et al. (2018), Explicit Inductive Bias for Transfer Learning",
        ),
        Extension(
            "transfer",
            "distillation",
            "crosstask_finetuning.distillation:Distillation",
            summary="Fine-tuning that keeps to the source's soft labels, or to its features",
            source="Hinton et al. (2015), Distilling the Knowledge in a Neural Network",
        ),
    ],
)
