import torch
from torch import nn

from crosstask import component, option
from crosstask_reinforcement import Agent, Decision, train
from crosstask_reinforcement.worlds import CartPoleWorld


class Scores(nn.Module):
    """A linear score of every action, for each task."""

    def __init__(self, spaces):
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(len(spaces), spaces[0].state_dim, spaces[0].actions))

    def forward(self, states, tasks):
        return torch.einsum("ns,nsa->na", states, self.weights[tasks])


@component
class Reinforce(Agent):
    """Actions are made likelier by what followed them (REINFORCE, Williams 1992), one step ahead."""

    capabilities = frozenset({"on_policy"})
    rate: float = option(0.1, gt=0, help="step size")

    def network_for(self, spaces):
        return Scores(spaces)

    @torch.no_grad()
    def act(self, situation, explore, generator):
        scores = self.network(situation.observations, situation.tasks)
        if not explore:
            return Decision(scores.argmax(1))
        return Decision(torch.multinomial(scores.softmax(1), 1, generator=generator)[:, 0])

    def learn(self, rollout, generator):
        steps = rollout.transitions()
        logits = self.network(steps.observations, steps.tasks).log_softmax(1)
        chosen = logits.gather(1, steps.actions[:, None])[:, 0]
        loss = -(chosen * (steps.rewards - steps.terminated.float())).mean()
        [slope] = torch.autograd.grad(loss, [self.network.weights])
        with torch.no_grad():
            self.network.weights -= self.rate * slope
        return {"loss": float(loss.detach())}


poles = CartPoleWorld(poles={"usual": {}, "reversed": {"force_mag": -10.0}}).environments()
found = train(Reinforce(), list(poles.values()), steps=640, evaluate_every=640, episodes=2, seed=0)
assert set(found.curves) == {"usual", "reversed"}
