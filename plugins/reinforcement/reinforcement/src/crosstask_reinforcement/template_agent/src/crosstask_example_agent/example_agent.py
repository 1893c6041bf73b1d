"""Q-learning with a small trunk that all tasks share, from the newest steps alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from crosstask.options import component, option
from crosstask_reinforcement import Agent, Decision, Rollout, Situation, TaskSpace


class Values(nn.Module):
    """A trunk, and for each task a linear layer of values: weights [T, H, A]."""

    def __init__(self, spaces: Sequence[TaskSpace], hidden: int) -> None:
        super().__init__()
        self.shared = nn.Linear(max(space.state_dim for space in spaces), hidden)
        most = max(space.actions for space in spaces)
        self.heads = nn.Parameter(torch.zeros(len(spaces), hidden, most))
        missing = torch.arange(most) >= torch.tensor([space.actions for space in spaces])[:, None]
        self.register_buffer("missing", missing)

    def forward(self, states: Tensor, tasks: Tensor) -> Tensor:
        """Values [N, A]; far below all others where a task has no such action."""
        values = torch.einsum("nh,nha->na", torch.tanh(self.shared(states)), self.heads[tasks])
        return values.masked_fill(self.get_buffer("missing")[tasks], -1e6)


@component
class ExampleAgent(Agent):
    """One step of gradient descent on the squared errors of one-step targets, for each rollout."""

    capabilities = frozenset({"on_policy"})

    hidden: int = option(16, ge=1, help="width of the trunk")
    learning_rate: float = option(0.3, gt=0, help="step size")
    discount: float = option(0.9, ge=0, le=1, help="of a reward one step later")
    explore: float = option(0.3, ge=0, le=1, help="share of actions that are drawn at random while learning")

    def rollout_steps(self) -> int:
        return 2

    def network_for(self, spaces: Sequence[TaskSpace]) -> nn.Module:
        return Values(spaces, self.hidden)

    @torch.no_grad()
    def act(self, situation: Situation, explore: bool, generator: torch.Generator) -> Decision:
        best = self.network(situation.observations, situation.tasks).argmax(1)
        if not explore:
            return Decision(best)
        counts = torch.tensor([space.actions for space in self.spaces])[situation.tasks]
        drawn = (torch.rand(len(best), generator=generator) * counts).long()
        return Decision(torch.where(torch.rand(len(best), generator=generator) < self.explore, drawn, best))

    def learn(self, rollout: Rollout, generator: torch.Generator) -> dict[str, float]:
        steps = rollout.transitions()
        with torch.no_grad():
            ahead = self.network(steps.following, steps.tasks).amax(1)
            targets = steps.rewards + self.discount * ahead * ~steps.terminated
        values = self.network(steps.observations, steps.tasks).gather(1, steps.actions[:, None])[:, 0]
        loss = (values - targets).square().mean()
        parameters = list(self.network.parameters())
        slopes = torch.autograd.grad(loss, parameters)
        with torch.no_grad():
            for parameter, slope in zip(parameters, slopes, strict=True):
                parameter -= self.learning_rate * slope
        return {"loss": float(loss.detach())}
