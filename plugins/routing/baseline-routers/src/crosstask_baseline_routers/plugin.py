"""The manifest."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="baseline-routers",
    api=(2, 0),
    extensions=[
        Extension(
            "router",
            "best_static",
            "crosstask_baseline_routers.best_static:BestStatic",
            summary="One tool for every context: the best so far",
            source="Auer, Cesa-Bianchi, Fischer 2002, Machine Learning 47, figure 1",
        ),
        Extension(
            "router",
            "epsilon_greedy",
            "crosstask_baseline_routers.epsilon_greedy:EpsilonGreedy",
            summary="Linear estimates, with random exploration that shrinks",
            source="Auer, Cesa-Bianchi, Fischer 2002, Machine Learning 47, figure 3",
        ),
    ],
)
