"""`hierarchical`: controllers of tasks, and one that learns from the state alone which of them should act."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from crosstask import component, option
from crosstask.errors import DataError, RunError, nearest
from crosstask_hierarchical.network import HierarchicalMultiTaskRL, Policy, draw, entropy
from crosstask_hierarchical.returns import semi_markov_advantages
from crosstask_reinforcement.contract import Agent, Decision, Rollout, Situation, TaskSpace
from crosstask_reinforcement.returns import gae


@component
class Hierarchical(Agent):
    """A controller for each task, and a meta-controller that picks one every `option_length` steps.

        agent = Hierarchical().prepare(spaces)  # first the controllers learn, then which of them to pick
        agent = Hierarchical(sub_share=0).give({"pole": policy, …}).prepare(spaces)  # policies that stand already

    For `sub_share` of the training each controller acts in its own task and learns there by proximal policy
    optimisation (Schulman et al. 2017). Then the meta-controller chooses by the state, and is trained in the same way
    on semi-Markov returns: the discounted rewards while its choice lasted, and the value of the state after it. Its
    choice is drawn, and what was drawn is what acts. With `told` = false nothing but the observations says which task
    it is: what tells the tasks apart must be seen in them.
    """

    capabilities = frozenset({"on_policy", "options"})
    shared_modules: ClassVar[tuple[str, ...]] = ("meta", "meta_value")

    meta_dims: tuple[int, ...] = option((128, 64), ge=1, help="widths of the meta-controller's layers")
    task_dims: tuple[int, ...] = option((64, 32), ge=1, help="widths of each controller's layers")
    told: bool = option(True, help="add the number of the task to the observations; without, it must be inferred")
    option_length: int = option(4, ge=1, help="steps for which a choice lasts, unless the episode ends")
    sub_share: float = option(0.5, ge=0, lt=1, help="part of the training in which the controllers learn alone")
    freeze: bool = option(True, help="the controllers learn nothing more after that")
    gamma: float = option(0.99, ge=0, le=1, help="discount of a step")
    trace: float = option(0.95, ge=0, le=1, help="lambda of the advantages, at both levels")
    learning_rate: float = option(1e-3, gt=0, help="of Adam, at first")
    anneal: bool = option(False, help="let it fall to zero while a level learns: for trainings that are long enough")
    steps: int = option(32, ge=1, help="steps of each place between learning")
    epochs: int = option(4, ge=1, help="passes over what was collected")
    minibatches: int = option(4, ge=1, help="updates in a pass")
    clip: float = option(0.2, gt=0, help="how far a probability may go from what it was, as a share of it")
    entropy_weight: float = option(0.01, ge=0, help="of the entropy of choices and actions")
    value_weight: float = option(0.5, ge=0, help="of the error of the values")
    max_grad_norm: float = option(0.5, gt=0, help="gradients are cut to this norm")

    def __attrs_post_init__(self) -> None:
        self._policies: dict[str, Policy] = {}
        self._given: dict[int, Policy] = {}
        self._named: tuple[str, ...] = ()

    def network_for(self, spaces: Sequence[TaskSpace]) -> nn.Module:
        longest = max(space.state_dim for space in spaces)
        net = HierarchicalMultiTaskRL(
            longest + (len(spaces) if self.told else 0),
            task_action_dims={space.task_id: space.actions for space in spaces},
            meta_dims=self.meta_dims,
            task_dims=self.task_dims,
            dropout_rate=0.0,
        )
        for last in (net.meta_policy, *(each.policy for each in net.each_controller())):
            nn.init.normal_(last.weight, std=0.01)  # at first all choices are about as likely
            nn.init.zeros_(last.bias)
        return net

    def start(self) -> None:
        net = self._net
        acting = [[*each.trunk.parameters(), *each.policy.parameters()] for each in net.each_controller()]
        expecting = [[*each.value.parameters()] for each in net.each_controller()]
        self._parameters: dict[str, list[list[nn.Parameter]]] = {  # each list is cut to its own norm
            "meta": [[*net.meta.parameters(), *net.meta_policy.parameters()], [*net.meta_value.parameters()]],
            "task": [[net.goals], *acting, *expecting],
        }
        self._optimizers = {
            level: torch.optim.Adam([p for part in parts for p in part], lr=self.learning_rate, eps=1e-5)
            for level, parts in self._parameters.items()
        }
        self._subs_learn = self.sub_share > 0
        self._place(self._policies)

    def rollout_steps(self) -> int:
        return self.steps

    @property
    def _net(self) -> HierarchicalMultiTaskRL:
        net = self.network
        assert isinstance(net, HierarchicalMultiTaskRL)
        return net

    def give(self, policies: Mapping[str, Policy]) -> Hierarchical:
        """Let these act in place of controllers, by task id: a module or a function that gives logits [B, A] for
        observations [B, S] of the task's length. They are never trained, and stay when the agent is prepared anew. They
        are not part of its state: after `load_state_dict` they must have been given, too. DataError for an unknown
        task, or no policy.
        """
        if not policies:
            raise DataError(f"{self.origin}: give needs at least one policy")
        for name, policy in policies.items():
            if not callable(policy):
                raise DataError(f"{self.origin}: the policy of {name!r} must be called with states, got {policy!r}")
        if self.spaces:
            self._place(policies)
        self._policies = dict(policies)
        return self

    def _place(self, policies: Mapping[str, Policy]) -> None:
        known = [space.task_id for space in self.spaces]
        for name in policies:
            if name not in known:
                raise DataError(f"{self.origin}: policies: no task {name!r}{nearest(name, known)}")
        self._given = {known.index(name): self._checked(name, policy) for name, policy in policies.items()}
        self._named = tuple(policies)

    def _checked(self, name: str, policy: Policy) -> Policy:
        space = next(space for space in self.spaces if space.task_id == name)

        def checked(batch: Tensor) -> Tensor:
            with torch.no_grad():
                logits = policy(batch[:, : space.state_dim])
            if not isinstance(logits, Tensor) or logits.shape != (len(batch), space.actions):
                shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
                right = f"[{len(batch)}, {space.actions}]"
                raise DataError(f"{self.origin}: the policy of {name!r} must give {right}, got {shape}")
            return logits.to(batch)

        return checked

    # --- Acting

    def act(self, situation: Situation, explore: bool, generator: torch.Generator) -> Decision:
        net, tasks = self._net, situation.tasks
        self._ask_again()
        states = self._seen(situation.observations, tasks)
        begins = situation.starts.clone()
        if "meta" in situation.memory:
            begins |= situation.memory["left"] <= 0
        else:
            begins[:] = True
        with torch.no_grad():
            chosen, value_meta = net.choose(states)
            new = tasks if self._subs_learn else draw(chosen, not explore, generator)
            meta = torch.where(begins, new, situation.memory.get("meta", new))
            acted, value_task = net.act(states, meta, self._allowed(tasks), self._given)
            actions = draw(acted, not explore, generator)
        left = torch.where(begins, self.option_length, situation.memory.get("left", tasks)) - 1
        return Decision(
            actions,
            extras={
                "meta": meta,
                "begins": begins,
                "log_prob_meta": chosen.log_prob(meta),
                "log_prob_task": acted.log_prob(actions),
                "value_meta": value_meta,
                "value_task": value_task,
            },
            memory={"meta": meta, "left": left},
        )

    def _seen(self, observations: Tensor, tasks: Tensor) -> Tensor:
        """Observations [..., S] as the network takes them; `tasks` [...]."""
        seen = observations.to(self._net.goals)
        if not self.told:
            return seen
        return torch.cat((seen, functional.one_hot(tasks, len(self.spaces)).to(seen)), dim=-1)

    def _allowed(self, tasks: Tensor) -> Tensor:
        """How many actions there are in each place."""
        return torch.tensor([space.actions for space in self.spaces], device=tasks.device)[tasks]

    def _ask_again(self) -> None:
        known = [space.task_id for space in self.spaces]
        if missing := [name for name in self._named if known.index(name) not in self._given]:
            raise DataError(f"{self.origin} had a policy for {missing[0]!r}: call give again after load_state_dict")

    # --- Learning

    def learn(self, rollout: Rollout, generator: torch.Generator) -> dict[str, float]:
        net, extras = self._net, rollout.extras
        tasks = rollout.tasks.expand_as(rollout.actions)
        states, after = (self._seen(each, tasks) for each in (rollout.observations, rollout.following))
        allowed, meta = self._allowed(tasks), extras["meta"]
        metrics: dict[str, float] = {}
        if self._subs_learn or not self.freeze:
            with torch.no_grad():
                _, later = net.act(after.flatten(0, 1), meta.flatten(), allowed.flatten(), self._given)
            changes = rollout.ends.clone()
            changes[:-1] |= extras["begins"][1:] & (meta[1:] != meta[:-1])
            advantages = gae(
                rollout.rewards,
                extras["value_task"],
                later.view_as(rollout.rewards),
                rollout.terminated,
                changes,
                discount=self.gamma,
                trace=self.trace,
                valid=rollout.valid,
            )
            own = rollout.valid & ~torch.isin(meta, torch.tensor(list(self._given), device=meta.device))
            batch = {
                "states": states[own],
                "meta": meta[own],
                "actions": rollout.actions[own],
                "allowed": allowed[own],
                "log_prob": extras["log_prob_task"][own],
                "advantages": advantages[own],
                "returns": (advantages + extras["value_task"])[own],
            }
            metrics |= self._improve("task", batch, rollout.progress, generator)
        if not self._subs_learn:
            with torch.no_grad():
                _, later = net.choose(after.flatten(0, 1))
            advantages = semi_markov_advantages(
                rollout.rewards * rollout.valid,
                extras["value_meta"],
                later.view_as(rollout.rewards),
                extras["begins"],
                rollout.terminated,
                rollout.ends | ~rollout.valid,
                discount=self.gamma,
                trace=self.trace,
            )
            made = rollout.valid & extras["begins"]
            batch = {
                "states": states[made],
                "meta": meta[made],
                "log_prob": extras["log_prob_meta"][made],
                "advantages": advantages[made],
                "returns": (advantages + extras["value_meta"])[made],
            }
            metrics |= self._improve("meta", batch, rollout.progress, generator)
        self._subs_learn = rollout.progress < self.sub_share
        return metrics

    def _improve(
        self, level: str, batch: Mapping[str, Tensor], progress: float, generator: torch.Generator
    ) -> dict[str, float]:
        """Proximal policy optimisation of one level, on rows of what it did."""
        count, left = len(batch["advantages"]), self._left(level, progress)
        found: list[tuple[float, float]] = []
        for _ in range(self.epochs if count else 0):
            order = torch.randperm(count, generator=generator)
            for rows in order.chunk(self.minibatches):
                own = {name: tensor[rows] for name, tensor in batch.items()}
                if level == "meta":
                    policy, values = self._net.choose(own["states"])
                    log_prob = policy.log_prob(own["meta"])
                else:
                    policy, values = self._net.act(own["states"], own["meta"], own["allowed"])
                    log_prob = policy.log_prob(own["actions"])
                found.append(self._step(level, own, log_prob, entropy(policy).mean(), values, left))
        if not found:
            return {}
        losses, entropies = zip(*found, strict=True)
        return {f"{level}_loss": sum(losses) / len(found), f"{level}_entropy": sum(entropies) / len(found)}

    def _left(self, level: str, progress: float) -> float:
        """The part of the learning rate that is left at this part of the training."""
        if not self.anneal:
            return 1.0
        begin, end = (0.0, self.sub_share if self.freeze else 1.0) if level == "task" else (self.sub_share, 1.0)
        return min(1.0, max(0.01, (end - progress) / (end - begin)))

    def _step(
        self, level: str, own: Mapping[str, Tensor], log_prob: Tensor, spread: Tensor, values: Tensor, left: float
    ) -> tuple[float, float]:
        advantages = own["advantages"]
        if len(advantages) > 1:
            advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        ratio = (log_prob - own["log_prob"]).exp()
        gain = torch.minimum(ratio * advantages, ratio.clamp(1 - self.clip, 1 + self.clip) * advantages).mean()
        error = functional.mse_loss(values, own["returns"])
        loss = -gain - self.entropy_weight * spread + self.value_weight * error
        if not bool(loss.isfinite()):
            raise RunError(f"{self.origin}: the loss is {float(loss.detach())}; try a smaller learning_rate")
        optimizer = self._optimizers[level]
        for group in optimizer.param_groups:
            group["lr"] = self.learning_rate * left
        optimizer.zero_grad()
        loss.backward()
        for part in self._parameters[level]:
            nn.utils.clip_grad_norm_(part, self.max_grad_norm)
        optimizer.step()
        return float(loss.detach()), float(spread.detach())

    # --- What survives

    def own_state(self) -> dict[str, Any]:
        return {
            "optimizers": {level: copy.deepcopy(each.state_dict()) for level, each in self._optimizers.items()},
            "subs_learn": self._subs_learn,
            "given": list(self._named),
        }

    def load_own_state(self, state: dict[str, Any]) -> None:
        for level, kept in state["optimizers"].items():
            self._optimizers[level].load_state_dict(copy.deepcopy(kept))
        self._subs_learn, self._named = state["subs_learn"], tuple(state["given"])
