"""Checks of routers."""

from __future__ import annotations

import copy
import json
from typing import Any, ClassVar

import numpy as np

from crosstask.errors import CrosstaskError, DataError, PluginError
from crosstask.testing.compare import difference, plain
from crosstask.testing.kit import Call, Kit, claims, expect, refused
from crosstask_routing.contract import Array
from crosstask_routing.testing import PRICED, TOOLS, Bandit

ONE, TWO = np.array([1.0, 0.0]), np.array([0.0, 1.0])


class RouterKit(Kit):
    """It chooses among the tools that it is asked about, learns which pay, and goes on from its state.

    The checks play a small bandit: two contexts, three tools, rewards 0 or 1. A `twin(contexts, rewards, tools)` gives
    the tools that are chosen, context by context, where a tool's reward is then learned from: rewards are a table
    [N, K], and tools their names.
    """

    point = "router"
    capabilities: ClassVar[frozenset[str]] = frozenset({"contextual", "forgets", "estimates"})

    def inputs(self) -> dict[str, Any]:
        return {"bandit": Bandit(PRICED, steps=40)}

    def exercise(self, component: Any, call: Call, inputs: dict[str, Any]) -> Any:
        bandit: Bandit = inputs["bandit"]
        chosen, explored = [], []
        for context, rewards in zip(bandit.contexts, bandit.rewards, strict=True):
            decision = call("choose", context=context, tools=TOOLS)
            call("update", context=context, tool=decision.tool, reward=float(rewards[TOOLS.index(decision.tool)]))
            chosen.append(decision.tool)
            explored.append(decision.exploration)
        call("forget", tool=TOOLS[0])
        last = call("choose", context=ONE, tools=TOOLS)
        return [chosen, np.array(explored), last.tool, np.asarray(last.estimates)]

    def played(self, router: Any, bandit: Bandit, tools: tuple[str, ...] = TOOLS) -> tuple[list[int], Array]:
        """(the tools taken, by place, how probable it was that each explored); the router learns from each."""
        taken, explored = [], []
        for context, rewards in zip(bandit.contexts, bandit.rewards, strict=True):
            decision = router.choose(context, tools)
            taken.append(tools.index(decision.tool))
            explored.append(float(decision.exploration))
            router.update(context, decision.tool, float(rewards[taken[-1]]))
        return taken, np.array(explored)

    def check_chooses_among_the_tools(self) -> None:
        """It chooses one of the tools asked about, says how probable it was to explore, and expects something finite of
        each, in their order; asked about another order or fewer, of these.
        """
        router = self.make()
        self.played(router, Bandit(PRICED, steps=30))
        whole = router.choose(ONE, TOOLS)
        for tools in (TOOLS, TOOLS[::-1], TOOLS[1:], (TOOLS[2],)):
            found = router.choose(ONE, tools)
            expect(found.tool in tools, f"{self.name}: asked about {tools} it chose {found.tool!r}")
            expect(0 <= found.exploration <= 1, f"{self.name}: explores with probability {found.exploration}")
            estimates = np.asarray(found.estimates, dtype=np.float64)
            expect(estimates.shape == (len(tools),), f"{self.name}: {estimates.shape} estimates of {len(tools)} tools")
            expect(np.isfinite(estimates).all(), f"{self.name}: estimates are {estimates}")
            same = np.array([whole.estimates[TOOLS.index(tool)] for tool in tools])
            expect(np.allclose(estimates, same), f"{self.name}: asked about {tools} it expects {estimates}, not {same}")

    def check_choosing_learns_nothing(self) -> None:
        """However often it is asked, it expects the same."""
        router = self.make()
        self.played(router, Bandit(PRICED, steps=30))
        before = np.array(router.choose(TWO, TOOLS).estimates)
        for context in (ONE, TWO, ONE):
            router.choose(context, TOOLS)
        far = float(np.abs(np.asarray(router.choose(TWO, TOOLS).estimates) - before).max())
        expect(far < 1e-12, f"{self.name}: choosing moves what it expects by {far:.2g}")

    def check_finds_the_best_tool(self) -> None:
        """Where one tool is best in every context it is mostly used in the end, and little is explored."""
        taken, explored = self.played(self.make(), Bandit([[0.1, 0.9, 0.2], [0.1, 0.9, 0.2]], steps=300))
        share = float(np.mean([tool == 1 for tool in taken[-100:]]))
        expect(share > 0.6, f"{self.name}: after 200 uses the best tool is taken in {share:.0%} of them")
        late = float(explored[-100:].mean())
        expect(late < 0.4, f"{self.name}: after 200 uses it still explores with probability {late:.2f}")

    @claims("contextual")
    def check_finds_the_best_tool_for_each_context(self) -> None:
        """Where the best tool depends on the context, it does so, too."""
        bandit = Bandit(PRICED, steps=400)
        taken, _ = self.played(self.make(), bandit)
        share = float(np.mean(np.array(taken[-150:]) == bandit.best[-150:]))
        expect(share > 0.6, f"{self.name}: after 250 uses a context's best tool is taken in {share:.0%} of them")

    @claims("forgets")
    def check_follows_a_change(self) -> None:
        """Where the best tool and the worst change places, it follows."""
        router = self.make()
        self.played(router, Bandit([[0.9, 0.2, 0.1], [0.9, 0.2, 0.1]], steps=3000))
        taken, _ = self.played(router, Bandit([[0.1, 0.2, 0.9], [0.1, 0.2, 0.9]], steps=800, seed=1))
        share = float(np.mean([tool == 2 for tool in taken[-100:]]))
        expect(share > 0.6, f"{self.name}: 700 uses after a change the new best tool is taken in {share:.0%}")

    @claims("estimates")
    def check_estimates_are_of_rewards(self) -> None:
        """What it expects of a tool that was used 200 times is about the mean of its rewards; of one never used it is
        what a new router expects.
        """
        router, fresh = self.make(), self.make()
        for number in range(200):
            router.update(ONE, TOOLS[0], float(number % 10 < 7))
        expected = float(router.choose(ONE, TOOLS).estimates[0])
        expect(abs(expected - 0.7) < 0.1, f"{self.name}: rewards are .7 in the mean, it expects {expected:.2f}")
        never, new = router.choose(ONE, TOOLS).estimates[1], fresh.choose(ONE, TOOLS).estimates[1]
        expect(np.isclose(never, new), f"{self.name}: of a tool never used it expects {never}, a new router {new}")

    def check_forgets_a_tool(self) -> None:
        """Of a tool that is gone nothing is left: one of its name is new, and of the others all is as it was."""
        router, fresh = self.make(), self.make()
        self.played(router, Bandit(PRICED, steps=60))
        for _ in range(5):
            router.update(ONE, TOOLS[1], 1.0)
        before = np.array(router.choose(ONE, TOOLS).estimates)
        router.forget(TOOLS[1])
        router.forget("never there")
        after = np.asarray(router.choose(ONE, TOOLS).estimates)
        new = float(fresh.choose(ONE, TOOLS).estimates[1])
        expect(np.isclose(after[1], new), f"{self.name}: of a tool that is gone it still expects {after[1]:.3g}")
        kept = bool(np.allclose(after[[0, 2]], before[[0, 2]]))
        expect(kept, f"{self.name}: forgetting a tool moves what it expects of others")

    def check_tries_a_tool_that_comes_later(self) -> None:
        """A tool that was not there at first is tried, and used where it is the best."""
        router = self.make()
        self.played(router, Bandit([[0.3, 0.2, 0.0], [0.3, 0.2, 0.0]], steps=60), TOOLS[:2])
        taken, _ = self.played(router, Bandit([[0.3, 0.2, 0.95], [0.3, 0.2, 0.95]], steps=240, seed=1))
        share = float(np.mean([tool == 2 for tool in taken[-80:]]))
        expect(share > 0.6, f"{self.name}: a better tool that came later is taken in {share:.0%}")

    def check_goes_on_from_its_state(self) -> None:
        """Its state is plain JSON, and a new router that loads it goes on in the same way, to the last digit."""
        first, second = self.make(), self.make()
        self.played(first, Bandit(PRICED, steps=50))
        state = first.state_dict()
        try:
            written = json.dumps(state, allow_nan=False)
        except (TypeError, ValueError) as error:
            expect(False, f"{self.name}: its state cannot be written as JSON: {error}")
        second.load_state_dict(json.loads(written))
        one = self.played(first, Bandit(PRICED, steps=50, seed=1))
        two = self.played(second, Bandit(PRICED, steps=50, seed=1))
        told = difference(plain([*one, first.state_dict()]), plain([*two, second.state_dict()]), "what follows")
        expect(told is None, f"{self.name} loaded from a state goes on otherwise: {told}")

    def check_wrong_state_refused(self) -> None:
        """What is not the state of such a router is refused with a PluginError, and it stays as it was."""
        router = self.make()
        self.played(router, Bandit(PRICED, steps=20))
        before = router.state_dict()
        for wrong in ({}, {**before, "another": 1}, dict.fromkeys(before)):
            with refused(f"{self.name} with another state", PluginError, CrosstaskError):
                router.load_state_dict(copy.deepcopy(wrong))
            told = difference(plain(before), plain(router.state_dict()), "state")
            expect(told is None, f"{self.name}: a state that is refused changes it: {told}")

    def check_contexts_may_grow(self) -> None:
        """A longer context counts as if its new numbers had been 0 before; a shorter one is refused."""
        grown, padded = self.make(), self.make()
        for step in range(20):
            context, tool, reward = (ONE, TWO)[step % 2], TOOLS[step % 3], float(step % 4 == 0)
            grown.update(context, tool, reward)
            padded.update(np.append(context, 0.0), tool, reward)
        longer = np.array([0.5, 0.0, 1.0])
        one, two = (np.asarray(each.choose(longer, TOOLS).estimates) for each in (grown, padded))
        expect(np.allclose(one, two), f"{self.name}: after growing it expects {one}, with zeros from the start {two}")
        for router in (grown, padded):
            router.update(longer, TOOLS[0], 1.0)
        one, two = (np.asarray(each.choose(longer, TOOLS).estimates) for each in (grown, padded))
        expect(np.allclose(one, two), f"{self.name}: after growing it learns otherwise: {one}, not {two}")
        with refused(f"{self.name} with a context that is shorter than before", DataError):
            grown.choose(ONE, TOOLS)
        with refused(f"{self.name}.update with a context that is shorter than before", DataError):
            grown.update(ONE, TOOLS[0], 1.0)

    def check_bad_arguments_refused(self) -> None:
        """Contexts and rewards that are not finite, and tools that are none or named twice, are refused with a
        DataError, and nothing is learned from them.
        """
        router = self.make()
        self.played(router, Bandit(PRICED, steps=20))
        before = plain(router.state_dict())
        for context in (np.array([np.nan, 1.0]), np.array([1.0, np.inf])):
            with refused(f"{self.name}.choose with a context {context}", DataError):
                router.choose(context, TOOLS)
            for tool in (TOOLS[0], "new"):
                with refused(f"{self.name}.update with a context {context}", DataError):
                    router.update(context, tool, 1.0)
        for reward in (np.nan, np.inf, -np.inf):
            with refused(f"{self.name}.update with reward {reward}", DataError):
                router.update(ONE, TOOLS[0], reward)
        for tools in ((), (TOOLS[0], TOOLS[0])):
            with refused(f"{self.name}.choose among {tools}", DataError):
                router.choose(ONE, tools)
        told = difference(before, plain(router.state_dict()), "state")
        expect(told is None, f"{self.name}: arguments that are refused change it: {told}")

    def check_agrees_with_twin(self) -> None:
        """It takes the tools that the twin takes."""
        assert self.subject.twin is not None
        bandit = Bandit(PRICED, steps=80)
        ours = [TOOLS[place] for place in self.played(self.make(), bandit)[0]]
        theirs = list(self.subject.twin(bandit.contexts, bandit.rewards, TOOLS))
        first = next((step for step, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b), None)
        expect(first is None, f"{self.name} and its twin choose otherwise from step {first} on")
