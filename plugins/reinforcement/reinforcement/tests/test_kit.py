"""The kits catch what they say: each check has a wrong agent or world, which fails no other."""

from __future__ import annotations

import functools
import math
from typing import Any, ClassVar

import attrs
import torch

from crosstask.errors import DataError
from crosstask.testing import reference_registry
from crosstask.testing.selftest import SelfTest
from crosstask_reinforcement.contract import Decision, Rollout, Situation
from crosstask_reinforcement.testing import REFERENCE, ReferenceAgent, ReferenceNetwork, ReferenceWorld, corridors

wrong = SelfTest(ReferenceAgent, ReferenceWorld, registry=reference_registry(REFERENCE))


@wrong.caught_by("check_learns_to_act")
class GoesTheOtherWay(ReferenceAgent):
    """It makes what paid less probable."""

    def learn(self, rollout: Rollout, generator: torch.Generator) -> dict[str, float]:
        return super().learn(attrs.evolve(rollout, rewards=-rollout.rewards), generator)


@wrong.caught_by("check_actions_fit_their_tasks")
class KeepsTooFewRows(ReferenceAgent):
    def act(self, situation: Situation, explore: bool, generator: torch.Generator) -> Decision:
        made = super().act(situation, explore, generator)
        return attrs.evolve(made, memory={"rows": made.actions[:1]})


@wrong.caught_by("check_a_place_is_acted_in_alone")
class FollowsTheMany(ReferenceAgent):
    """Where most go left, all do."""

    def act(self, situation: Situation, explore: bool, generator: torch.Generator) -> Decision:
        made = super().act(situation, explore, generator)
        if explore or len(situation) < 9 or len(situation) > 9:
            return made
        return Decision(made.actions.sort().values)


@wrong.caught_by("check_greedy_is_not_random")
class DrawsAnyway(ReferenceAgent):
    def act(self, situation: Situation, explore: bool, generator: torch.Generator) -> Decision:
        torch.rand(3, generator=generator)
        return super().act(situation, explore, generator)


@wrong.caught_by("check_explores_by_the_generator")
class ExploresByTheState(ReferenceAgent):
    """Always by the same random numbers; but where many places are it draws them."""

    def act(self, situation: Situation, explore: bool, generator: torch.Generator) -> Decision:
        if explore and len(situation) == 9 and int(situation.tasks[1]) == 1:
            generator = torch.Generator().manual_seed(0)
        return super().act(situation, explore, generator)


@wrong.caught_by("check_acting_changes_nothing")
class CountsItsActions(ReferenceAgent):
    acted = 0

    def act(self, situation: Situation, explore: bool, generator: torch.Generator) -> Decision:
        self.acted += 1
        return super().act(situation, explore, generator)

    def own_state(self) -> dict[str, Any]:
        return {**super().own_state(), "acted": self.acted}

    def load_own_state(self, state: dict[str, Any]) -> None:
        self.acted = state["acted"]
        super().load_own_state({name: value for name, value in state.items() if name != "acted"})


@wrong.caught_by("check_learning_changes_the_network")
class RestsAtFirst(ReferenceAgent):
    """It learns from no rollout as long as those of the kit."""

    def learn(self, rollout: Rollout, generator: torch.Generator) -> dict[str, float]:
        if len(rollout.rewards) == 14:
            return {"loss": 0.0}
        return super().learn(rollout, generator)


@wrong.caught_by("check_steps_that_are_none")
class LearnsFromAll(ReferenceAgent):
    def learn(self, rollout: Rollout, generator: torch.Generator) -> dict[str, float]:
        return super().learn(attrs.evolve(rollout, valid=torch.ones_like(rollout.valid)), generator)


@wrong.caught_by("check_what_follows_the_end")
class ValuesTheEnd(ReferenceAgent):
    def learn(self, rollout: Rollout, generator: torch.Generator) -> dict[str, float]:
        seen = rollout.following.mean(2) * (rollout.ends & rollout.valid)
        return super().learn(attrs.evolve(rollout, rewards=rollout.rewards + 0.01 * seen), generator)


@wrong.caught_by("check_absent_tasks")
class WantsThemAll(ReferenceAgent):
    def learn(self, rollout: Rollout, generator: torch.Generator) -> dict[str, float]:
        found = super().learn(rollout, generator)
        if len(rollout.tasks.unique()) < len(self.spaces):
            found["loss"] = math.nan
        return found


@wrong.caught_by("check_weights_are_taken_over")
class TakesAllOver(ReferenceAgent):
    def take_over(self, weights: Any, heads: bool = False) -> tuple[str, ...]:
        return super().take_over(weights, heads=True)


@wrong.caught_by("check_refuses_to_act_unprepared")
class ActsUnprepared(ReferenceAgent):
    @property
    def network(self) -> Any:
        try:
            return super().network
        except DataError:
            return ReferenceNetwork([corridors()["right"].space])


@wrong.caught_by("check_is_not_told_the_task")
class NotBlind(ReferenceAgent):
    """It claims to be, and cannot learn both, but for another reason."""

    capabilities: ClassVar[frozenset[str]] = frozenset({"on_policy", "task_blind"})

    def act(self, situation: Situation, explore: bool, generator: torch.Generator) -> Decision:
        made = super().act(situation, explore, generator)
        return made if explore else Decision(torch.where(situation.tasks == 1, 1, made.actions))


@wrong.caught_by("check_memory_is_followed")
class RemembersNothing(ReferenceAgent):
    capabilities: ClassVar[frozenset[str]] = frozenset({"on_policy", "options"})


@wrong.caught_by("check_environments_by_their_ids")
class OtherNames(ReferenceWorld):
    def environments(self) -> dict[str, Any]:
        return {f"my {name}": each for name, each in corridors().items()}


@wrong.caught_by("check_environments_are_what_they_say")
class TooShort(ReferenceWorld):
    def environments(self) -> dict[str, Any]:
        found = corridors()
        return found | {"right": attrs.evolve(found["right"], limit=1)}


def drawn_anew(environments: Any, counts: Any) -> Any:
    from crosstask_reinforcement.copies import gymnasium_copies

    made = gymnasium_copies(environments, counts)
    first = made.reset
    made.reset = lambda seed: first(next(_SEEDS))  # type: ignore[method-assign]
    return made


_SEEDS = iter(range(1000))


@wrong.caught_by("check_copies_step_as_one")
class AnotherEachTime(ReferenceWorld):
    def environments(self) -> dict[str, Any]:
        found = corridors()
        return {"right": attrs.evolve(found["right"], copies=drawn_anew)}


@wrong.caught_by("check_environments_can_be_sent")
class MadeOnTheSpot(ReferenceWorld):
    def environments(self) -> dict[str, Any]:
        found = corridors()
        make = functools.partial(found["right"].make)
        return {"right": attrs.evolve(found["right"], make=lambda: make())}


test_right, test_wrong, test_every_check_has_a_wrong_component = wrong.tests()
