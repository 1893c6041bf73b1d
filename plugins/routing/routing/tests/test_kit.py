"""The kit of routers catches what it says: each check has a wrong router, which fails no other."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from crosstask.errors import DataError
from crosstask.testing import reference_registry
from crosstask.testing.selftest import SelfTest
from crosstask_routing.contract import Array, Decision
from crosstask_routing.linear import LinearRouter
from crosstask_routing.testing import REFERENCE, ReferenceRouter


class Right(LinearRouter):
    """Upper bounds of linear estimates, quickly."""

    def choose(self, context: Array, tools: tuple[str, ...]) -> Decision:
        x, theta, inverse = self.arms.look(context, tools)
        estimates = theta @ x
        if not np.isfinite(estimates).all():
            raise DataError("not finite")
        best = int((estimates + np.sqrt((inverse @ x) @ x)).argmax())
        return Decision(tools[best], float(best != estimates.argmax()), estimates)


wrong = SelfTest(ReferenceRouter, registry=reference_registry(REFERENCE))


@wrong.caught_by("check_chooses_among_the_tools")
class OneEstimateTooMany(Right):
    def choose(self, context: Array, tools: tuple[str, ...]) -> Decision:
        found = super().choose(context, tools)
        return found if len(tools) == 3 else found._replace(estimates=np.append(found.estimates, 0.0))


@wrong.caught_by("check_choosing_learns_nothing")
class CountsChoicesAsUses(Right):
    def choose(self, context: Array, tools: tuple[str, ...]) -> Decision:
        found = super().choose(context, tools)
        if context[1] == 1 and self.arms.counts.sum() == 30:
            self.arms.theta *= 0.999
        return found


@wrong.caught_by("check_finds_the_best_tool")
class NeverStopsExploring(Right):
    def choose(self, context: Array, tools: tuple[str, ...]) -> Decision:
        return super().choose(context, tools)._replace(exploration=0.5)


@wrong.caught_by("check_finds_the_best_tool_for_each_context")
class ClaimsToLookAtContexts(Right):
    def choose(self, context: Array, tools: tuple[str, ...]) -> Decision:
        found = super().choose(context, tools)
        both = [super(ClaimsToLookAtContexts, self).choose(np.eye(1, len(context), k)[0], tools).estimates
                for k in range(len(context))]  # fmt: skip
        if self.arms.counts.sum() < 240:
            return found
        return found._replace(tool=tools[int(np.sum(both, axis=0).argmax())])


@wrong.caught_by("check_follows_a_change")
class ClaimsToForget(Right):
    capabilities = frozenset({"contextual", "estimates", "forgets"})


@wrong.caught_by("check_estimates_are_of_rewards")
class ExpectsHalf(Right):
    def choose(self, context: Array, tools: tuple[str, ...]) -> Decision:
        found = super().choose(context, tools)
        return found._replace(estimates=found.estimates / 2)


@wrong.caught_by("check_forgets_a_tool")
class ForgetsNothing(Right):
    def forget(self, tool: str) -> None:
        """Keeps it."""


@wrong.caught_by("check_tries_a_tool_that_comes_later")
class StaysWithTheFirst(Right):
    def choose(self, context: Array, tools: tuple[str, ...]) -> Decision:
        first = list(self.arms.names) or list(tools)
        known = tuple(tool for tool in tools if tool in first[:2])
        if len(first) == 2 and known and len(tools) == 3:  # the third came later
            found = super().choose(context, known)
            return found._replace(estimates=np.append(found.estimates, 0.0))
        return super().choose(context, tools)


@wrong.caught_by("check_goes_on_from_its_state")
class StateOfTensors(Right):
    def state_dict(self) -> dict[str, Any]:
        return {"arms": {**self.arms.state(), "theta": torch.from_numpy(self.arms.theta.copy())}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        arms = dict(state.get("arms") or {"theta": torch.zeros(0)})
        super().load_state_dict({**state, "arms": {**arms, "theta": arms["theta"].tolist()}})


@wrong.caught_by("check_wrong_state_refused")
class TakesNothingForAState(Right):
    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state == {"arms": None}:
            self.made = None
        else:
            super().load_state_dict(state)


@wrong.caught_by("check_contexts_may_grow")
class CutsContexts(Right):
    def update(self, context: Array, tool: str, reward: float) -> None:
        super().update(np.append(context, 0.0)[:3] if len(context) < self.arms.width else context, tool, reward)


@wrong.caught_by("check_bad_arguments_refused")
class LearnsFromAnything(Right):
    def update(self, context: Array, tool: str, reward: float) -> None:
        if np.isfinite(reward):
            super().update(context, tool, reward)


class Wider(Right):
    """Another width than its twin's."""


def greedy(contexts: Array, rewards: Array, tools: tuple[str, ...]) -> list[str]:
    made, found = ReferenceRouter(alpha=0.0), []
    for context, row in zip(contexts, rewards, strict=True):
        found.append(made.choose(context, tools).tool)
        made.update(context, found[-1], float(row[tools.index(found[-1])]))
    return found


wrong.caught_by("check_agrees_with_twin", twin=greedy)(Wider)

test_right, test_wrong, test_every_check_has_a_wrong_component = wrong.tests()
