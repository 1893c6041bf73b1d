"""The manifest."""

from crosstask.manifest import Extension, Plugin

_SUMMARIES = {
    "logme": ("LogME", "Evidence of a Bayesian linear model on the source's features", "You et al. (2021), LogME"),
    "leep": ("LEEP", "Log-likelihood of the labels through the source's own classes", "Nguyen et al. (2020), LEEP"),
    "nce": ("NCE", "How well the source's predicted class determines the label", "Tran et al. (2019), NCE"),
    "hscore": (
        "HScore",
        "Spread between classes relative to that of all features, covariance shrunk",
        "Bao et al. (2019), H-score; Ibrahim et al. (2022), shrinkage",
    ),
    "transrate": (
        "TransRate",
        "Coding rate of the features less that within classes",
        "Huang et al. (2022), TransRate",
    ),
    "gbc": ("GBC", "Overlap of the classes as Gaussians in feature space", "Pándy et al. (2022), GBC"),
    "cka": ("CKA", "Kernel alignment of the features with the labels", "Kornblith et al. (2019), CKA"),
    "knn": ("KNN", "Share of nearest neighbours with the same label", "Renggli et al. (2022), which model to transfer"),
    "ridge": ("Ridge", "Leave-one-out fit of a ridge regression on the features", "Allen (1974), PRESS"),
    "fisher": ("Fisher", "Likeness of the weights that matter for both tasks", "Achille et al. (2019), Task2Vec"),
    "mean_z": ("MeanZ", "Mean z-score of several estimators inside each target", ""),
}

PLUGIN = Plugin(
    name="estimators",
    extensions=[
        Extension("discovery", name, f"crosstask_estimators.{name}:{cls}", summary=summary, source=source)
        for name, (cls, summary, source) in _SUMMARIES.items()
    ]
    + [
        Extension(
            "discovery",
            "model_similarity",
            "crosstask_estimators.model_similarity:ModelSimilarity",
            summary="How alike the layers of two models are: features on common inputs, or weights; needs no data",
            source="Kornblith et al. (2019), CKA",
            default=2,  # after the descriptors, before what measures
        ),
    ],
    api=(2, 0),
)
