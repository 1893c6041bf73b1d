"""The manifest."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="predictive",
    extensions=[
        Extension(
            "loss",
            "predictive",
            "crosstask_predictive.predictive:Predictive",
            summary="Attention whose movement can be predicted, and whose slots differ",
            source="Locatello et al. 2020, Object-centric learning with slot attention, arXiv:2006.15055 (slots)",
        ),
    ],
    api=(2, 0),
)
