"""The manifest."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="shifted",
    api=(2, 0),
    extensions=[
        Extension(
            "stage",
            "shift",
            "crosstask_shifted.stage:Shift",
            summary="Transfers judged on shifted test data, beside training from scratch",
            source="Hendrycks, Dietterich (2019), arXiv:1903.12261; Madry et al. (2018), arXiv:1706.06083",
        ),
        Extension(
            "transfer",
            "adversarial",
            "crosstask_shifted.adversarial:AdversarialTransfer",
            summary="Fine-tuning on the worst case in a ball around each input",
            source="Madry et al. (2018), arXiv:1706.06083",
        ),
        Extension(
            "recipe",
            "shift",
            "crosstask_shifted:recipes/shift.toml",
            summary="Transfers between digit tasks on noisy, turned and attacked digits",
        ),
    ],
)
