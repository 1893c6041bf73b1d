"""The manifest."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="nas",
    extensions=[
        Extension(
            "search",
            "random",
            "crosstask_nas.random_search:RandomSearch",
            summary="Random points, none twice",
        ),
        Extension(
            "search",
            "evolutionary",
            "crosstask_nas.evolutionary:Evolutionary",
            summary="Ageing evolution: mutates the best of a sample, the oldest die",
            source="Real et al. 2019, https://arxiv.org/abs/1802.01548",
        ),
        Extension(
            "search",
            "bayesian",
            "crosstask_nas.bayesian:Bayesian",
            summary="Gaussian process with a Hamming kernel on ranks, expected improvement over global candidates",
            source="Ru et al. 2020 (CoCaBO), https://arxiv.org/abs/1906.08878",
            default=True,
        ),
        Extension(
            "search",
            "darts",
            "crosstask_nas.darts:Darts",
            summary="Trains a supernet of all networks on the task and proposes what it came to prefer",
            source="Liu et al. 2019, https://arxiv.org/abs/1806.09055",
        ),
    ],
    api=(2, 0),
)
