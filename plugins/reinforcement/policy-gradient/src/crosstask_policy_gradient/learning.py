"""What PPO and A2C share: their network, advantages by task, and a step whose trunk gradients may be balanced."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, cast

import attrs
import torch
from torch import Tensor, nn

from crosstask.errors import DataError, RunError
from crosstask.options import component, option
from crosstask.parts import Part, part
from crosstask.points.balancer import Balancer
from crosstask_policy_gradient.network import Layout, MultiTaskPolicyNetwork
from crosstask_reinforcement.contract import Agent, Decision, Rollout, Situation, TaskSpace
from crosstask_reinforcement.returns import gae


@attrs.frozen(eq=False)
class Batch:
    """N transitions, sorted by task: what a step of learning is made on. All but the observations are [N]."""

    observations: Tensor
    actions: Tensor
    log_probs: Tensor
    advantages: Tensor
    returns: Tensor
    values: Tensor
    tasks: Tensor

    def take(self, index: Tensor) -> Batch:
        """These rows."""
        return Batch(*(getattr(self, field.name)[index] for field in attrs.fields(Batch)))

    def cut(self, begin: int, end: int) -> Batch:
        """Rows from `begin` to `end`, without a copy."""
        return Batch(*(getattr(self, field.name)[begin:end] for field in attrs.fields(Batch)))


@component
class PolicyGradient(Agent):
    """Options and machinery of both; `terms` says what is minimised."""

    capabilities: ClassVar[frozenset[str]] = frozenset({"on_policy"})

    shared_dims: tuple[int, ...] = option((128, 64), ge=1, help="widths of the trunk")
    task_dims: tuple[int, ...] = option((32,), ge=1, help="widths of each head's hidden layers")
    dropout_rate: float = option(0.0, ge=0, lt=1, help="above 0 two log-probabilities of one action differ")
    task_blind: bool = option(False, help="do not tell the network which task it acts in: a control")
    learning_rate: float = option(1e-3, gt=0, help="step size of Adam, at first")
    anneal: bool = option(True, help="let the step size fall to zero at the end of the training")
    discount: float = option(0.99, ge=0, le=1, help="gamma: what a reward one step later is worth")
    trace: float = option(0.95, ge=0, le=1, help="lambda of generalised advantage estimation")
    entropy: float = option(0.0, ge=0, help="weight of the entropy, which is to be large")
    value_weight: float = option(0.5, ge=0, help="weight of the values' squared error")
    clip_norm: float | None = option(0.5, gt=0, help="longest gradient; longer ones are shortened")
    scale_returns: bool = option(
        True, help="divide each task's rewards by a running deviation of its returns: tasks of other units learn alike"
    )
    balancer: Part | None = part(
        "balancer", None, help="what makes one gradient of the trunk from those of the tasks; none: their mean"
    )

    _optimizer: torch.optim.Optimizer | None = attrs.field(default=None, init=False, repr=False)
    _fresh: dict[str, Any] | None = attrs.field(default=None, init=False, repr=False)
    _scale: Tensor | None = attrs.field(default=None, init=False, repr=False)

    def network_for(self, spaces: Sequence[TaskSpace]) -> nn.Module:
        return MultiTaskPolicyNetwork(
            max(space.state_dim for space in spaces),
            {space.task_id: space.actions for space in spaces},
            self.shared_dims,
            self.task_dims,
            self.dropout_rate,
            task_blind=self.task_blind,
        )

    @torch.no_grad()
    def act(self, situation: Situation, explore: bool, generator: torch.Generator) -> Decision:
        network = self._policy
        network.eval()
        actions, log_prob, _ = network.decide(situation.observations, situation.tasks, not explore, generator=generator)
        return Decision(actions, {"log_prob": log_prob} if explore else {})

    # --- Learning

    def start(self) -> None:
        for balancer in self._balancers():
            if self._fresh is None:
                self._fresh = copy.deepcopy(balancer.state_dict())
            balancer.load_state_dict(copy.deepcopy(self._fresh))
        self._optimizer = torch.optim.Adam(self.network.parameters(), lr=self.learning_rate, eps=1e-5, fused=True)
        self._scale = torch.zeros(len(self.spaces), 3, dtype=torch.float64)  # count, mean, sum of squared differences
        self._train_balancer()

    def own_state(self) -> dict[str, Any]:
        assert self._scale is not None
        return {"optimizer": copy.deepcopy(self._adam.state_dict()), "scale": self._scale.clone()}

    def load_own_state(self, state: dict[str, Any]) -> None:
        self._train_balancer()  # its parameters have been loaded since `start`
        self._adam.load_state_dict(copy.deepcopy(state["optimizer"]))
        self._scale = state["scale"].clone()

    def terms(self, log_prob: Tensor, entropy: Tensor, value: Tensor, batch: Batch) -> Tensor:
        """What each transition costs [N]."""
        raise NotImplementedError

    def batches(self, batch: Batch, generator: torch.Generator) -> Iterator[Batch]:
        """The batches of the steps on one rollout: all of it, once."""
        yield batch

    def learn(self, rollout: Rollout, generator: torch.Generator) -> dict[str, float]:
        network, adam = self._policy, self._adam
        batch = self._batch(rollout)
        rate = self.learning_rate * (1 - min(1.0, rollout.progress)) if self.anneal else self.learning_rate
        for group in adam.param_groups:
            group["lr"] = max(rate, 1e-3 * self.learning_rate)
        there = torch.bincount(batch.tasks, minlength=len(self.spaces)) > 0
        resting = [] if bool(there.all()) or self.task_blind else (~there).nonzero().flatten().tolist()
        kept = self._heads(resting)
        network.train()
        total, entropies, value_error, steps = 0.0, 0.0, 0.0, 0
        with torch.random.fork_rng(devices=[], enabled=bool(self.dropout_rate)):
            if self.dropout_rate:
                torch.manual_seed(int(torch.randint(2**62, (1,), generator=generator)))
            for part_ in self.batches(batch, generator):
                layout = Layout.of(part_.tasks, len(self.spaces))
                log_prob, entropy, value = network.judge(part_.observations, part_.actions, layout)
                losses = layout.means(self.terms(log_prob, entropy, value, part_))
                adam.zero_grad(set_to_none=True)
                loss = self._backward(losses, layout.tasks)
                if not torch.isfinite(loss):
                    raise RunError(f"{self.origin}: the loss is {float(loss)}: try a smaller learning_rate")
                if self.clip_norm is not None:
                    nn.utils.clip_grad_norm_(network.parameters(), self.clip_norm)
                adam.step()
                total, steps = total + float(loss), steps + 1
                with torch.no_grad():
                    entropies += float(entropy.mean())
                    value_error += float((value - part_.returns).square().mean())
        self._put_back(kept)
        return {"loss": total / steps, "entropy": entropies / steps, "value_error": value_error / steps}

    @torch.no_grad()
    def _batch(self, rollout: Rollout) -> Batch:
        """Transitions with their advantages, sorted by task; each task's advantages have mean 0 and deviation 1."""
        if not rollout.steps:
            raise DataError(f"{self.origin}: the rollout has no valid step")
        network, (length, places) = self._policy, rollout.actions.shape
        network.eval()
        tasks = rollout.tasks.repeat(length)
        states = rollout.observations.flatten(0, 1)
        layout = Layout.of(tasks, len(self.spaces))
        values = network.outputs(states, layout)[1].view(length, places)
        following = network.outputs(rollout.following.flatten(0, 1), layout)[1].view(length, places)
        rewards = self._scaled(rollout) if self.scale_returns else rollout.rewards
        advantages = gae(
            rewards,
            values,
            following,
            rollout.terminated,
            rollout.ends,
            discount=self.discount,
            trace=self.trace,
            valid=rollout.valid,
        )
        if "log_prob" not in rollout.extras:
            raise DataError(
                f"{self.origin}: the rollout lacks the log-probabilities (`Decision.extras`) of what was done"
            )
        where = rollout.valid.flatten()
        order = torch.argsort(tasks[where], stable=True)
        flat = [rollout.actions, rollout.extras["log_prob"], advantages, advantages + values, values]
        actions, log_probs, own, returns, old = (each.flatten()[where][order] for each in flat)
        sorted_tasks = tasks[where][order]
        layout = Layout.of(sorted_tasks, len(self.spaces))
        own = own - layout.means(own)[sorted_tasks]
        own = own / (layout.means(own.square())[sorted_tasks].sqrt() + 1e-8)
        return Batch(states[where][order], actions, log_probs, own, returns, old, sorted_tasks)

    def _scaled(self, rollout: Rollout) -> Tensor:
        """Rewards divided by the deviation of their task's discounted returns so far (Engstrom et al. 2020). These are
        those to come within the rollout, so that nothing has to be carried from one to the next.
        """
        assert self._scale is not None
        zeros = torch.zeros_like(rollout.rewards)
        coming = gae(
            rollout.rewards, zeros, zeros, rollout.ends, rollout.ends, discount=self.discount, trace=1.0,
            valid=rollout.valid,
        )  # fmt: skip
        for number in range(len(self.spaces)):
            own = coming[:, rollout.tasks == number][rollout.valid[:, rollout.tasks == number]].double()
            if len(own):
                count, mean, squares = self._scale[number].tolist()
                both, shift = count + len(own), float(own.mean()) - mean
                squares += float((own - own.mean()).square().sum()) + shift**2 * count * len(own) / both
                self._scale[number] = torch.tensor([both, mean + shift * len(own) / both, squares])
        spread = (self._scale[:, 2] / self._scale[:, 0].clamp(min=1)).sqrt()
        spread = torch.where(spread > 1e-6, spread, torch.ones_like(spread))
        return rollout.rewards / spread[rollout.tasks].to(rollout.rewards.dtype)

    def _backward(self, losses: Tensor, tasks: Tensor) -> Tensor:
        """Add to `.grad`, and return the mean loss. Only tasks that are in the batch have a loss."""
        balancers = self._balancers()
        there = torch.bincount(tasks, minlength=len(self.spaces)) > 0
        if not balancers:
            loss = losses.sum() / there.sum()
            loss.backward()
            return loss.detach()
        (balancer,) = balancers
        named = {self.spaces[n].task_id: losses[n] for n in there.nonzero().flatten().tolist()}
        if not all(bool(torch.isfinite(loss)) for loss in named.values()):
            return losses.detach().sum()
        network = self._policy
        shared = list(network.parameters()) if self.task_blind else list(network.shared.parameters())
        own = [] if self.task_blind else [*network.policy.parameters(), *network.value.parameters()]
        # of a mean, as without a balancer: weights of one then mean the same step
        balancer.backward({name: loss / len(named) for name, loss in named.items()}, shared=shared, task_specific=own)
        self._train_balancer()
        return torch.stack(list(named.values())).mean().detach()

    # --- Parts

    @property
    def _policy(self) -> MultiTaskPolicyNetwork:
        return cast(MultiTaskPolicyNetwork, self.network)

    @property
    def _adam(self) -> torch.optim.Optimizer:
        if self._optimizer is None:
            raise DataError(f"{self.origin} knows no tasks yet: call prepare(spaces, seed=…) first")
        return self._optimizer

    def _balancers(self) -> list[Balancer]:
        return [] if self.balancer is None else self.made_of("balancer")

    def _train_balancer(self) -> None:
        """The balancer's own parameters are the optimiser's, too; there may be new ones."""
        known = {id(p) for group in self._adam.param_groups for p in group["params"]}
        for balancer in self._balancers():
            if new := [p for p in balancer.parameters() if id(p) not in known]:
                self._adam.add_param_group({"params": new})

    def _heads(self, numbers: list[int]) -> list[tuple[Tensor, int, Tensor]]:
        """Copies of what is kept for these tasks alone, weights and Adam's running means: a task that is absent from a
        rollout must not move by what the optimiser remembers of it.
        """
        kept = []
        for parameter in (*self._policy.policy.parameters(), *self._policy.value.parameters()) if numbers else ():
            state = self._adam.state.get(parameter, {})
            for tensor in (parameter.data, *(v for v in state.values() if isinstance(v, Tensor) and v.ndim)):
                kept += [(tensor, number, tensor[number].clone()) for number in numbers]
        return kept

    def _put_back(self, kept: list[tuple[Tensor, int, Tensor]]) -> None:
        for tensor, number, value in kept:
            tensor[number] = value


def squared_error(values: Tensor, returns: Tensor) -> Tensor:
    """[N], half the squared differences. DataError for other shapes: [N, 1] beside [N] would broadcast to [N, N]."""
    if values.shape != returns.shape:
        raise DataError(f"values {tuple(values.shape)} and returns {tuple(returns.shape)} must have one shape")
    return 0.5 * (values - returns).square()
