"""The manifest."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="elbo",
    extensions=[
        Extension(
            "loss",
            "elbo",
            "crosstask_elbo.elbo:Elbo",
            summary="The negative evidence lower bound of a video model with a mixture prior",
            source="Kingma, Welling 2014, arXiv:1312.6114; Blei, Jordan 2006, Bayesian Analysis 1(1) (the mixture)",
        ),
    ],
    api=(2, 0),
)
