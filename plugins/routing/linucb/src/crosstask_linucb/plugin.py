"""The manifest."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="linucb",
    api=(2, 0),
    extensions=[
        Extension(
            "router",
            "linucb",
            "crosstask_linucb.linucb:LinUCB",
            summary="The tool with the largest upper bound of a linear expectation",
            source="Li, Chu, Langford, Schapire 2010, WWW, arXiv:1003.0146, algorithm 1",
            default=True,
        ),
        Extension(
            "router",
            "discounted_linucb",
            "crosstask_linucb.discounted:DiscountedLinUCB",
            summary="The same with forgetting: it follows tools that change",
            source="Russac, Vernade, Cappé 2019, NeurIPS, arXiv:1909.09146, algorithm 1",
        ),
    ],
)
