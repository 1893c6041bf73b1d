import torch

from crosstask import Budget, ModelSpec, component, option
from crosstask.context import LocalContext
from crosstask_federation import Federation, Plan, Rounds, State, begun, trained_at
from crosstask_federation.testing import digits_at


@component
class Median(Federation):
    """Of each weight the median over the sites: what one odd site sends does not move it far."""

    capabilities = frozenset()  # the server needs what each site sends
    shares = ("weights", "buffers")

    strength: float = option(0.0, ge=0, help="how firmly a site is held to where it began")

    def begin(self, network):
        return begun(network)

    def local(self, site, sent):
        return trained_at(site, sent, mu=self.strength)

    def merge(self, state, gathered):
        names = gathered.each[0]
        return State({n: torch.stack([each[n] for each in gathered.each]).median(0).values for n in names})


sites = {task.task_id: task for task in digits_at(sites=3, by="iid")}
network = ModelSpec(hidden=(32,)).build(next(iter(sites.values())).descriptor, seed=0)
plan = Plan(Median(), Budget(steps=10, learning_rate=0.05, optimizer="sgd"), rounds=8, evaluate_every=8)
course = Rounds(LocalContext(seed=0), plan, sites, dict.fromkeys(sites, network), seed=0, key="median").run()
assert all(scores[-1] > 0.75 > scores[0] for scores in course.scores.values())
