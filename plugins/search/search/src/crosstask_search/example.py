import numpy as np

from crosstask import component, option
from crosstask.context import LocalContext
from crosstask_search import Parameter, Search, SearchSpace, run_search


@component
class Nearby(Search):
    """One parameter of the best point so far drawn anew; random points to begin with."""

    start: int = option(5, ge=1, help="random points to begin with")

    def propose(self, space, trials):
        rng = np.random.default_rng(self.context.seed_for("nearby", len(trials)))
        tried = {space.key(trial.point) for trial in trials}
        done = [trial for trial in trials if trial.value is not None]
        if len(done) < self.start:
            return space.fresh(rng, tried)
        best = max(done, key=lambda trial: trial.value).point
        changed = rng.choice(list(best))
        point = space.complete({name: best[name] for name in best if name != changed}, rng)
        return point if space.allows(point) else space.fresh(rng, tried)


space = SearchSpace(
    parameters={
        "layers": Parameter(choices=(1, 2, 3)),
        "width": Parameter(choices=(16, 32, 64), when={"layers": (2, 3)}),
        "rate": Parameter(low=1e-4, high=1.0, log=True),
    },
    forbidden=({"layers": 3, "width": 64},),
)
result = run_search(LocalContext(), Nearby(), space, lambda point: -abs(point["rate"] - 0.01) * point["layers"], 40)
assert result.best.point["layers"] == 1
assert abs(result.best.point["rate"] - 0.01) < 0.01
