"""The manifest."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="hpo",
    extensions=[
        Extension(
            "search",
            "optuna",
            "crosstask_hpo.optuna_search:OptunaSearch",
            summary="Optuna's samplers: TPE, Gaussian process",
            source="Akiba et al. 2019, https://arxiv.org/abs/1907.10902",
        ),
    ],
    api=(2, 0),
)
