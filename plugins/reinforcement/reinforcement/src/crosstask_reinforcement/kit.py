"""Checks of agents and of worlds."""

from __future__ import annotations

import math
import pickle
from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor

from crosstask.errors import DataError
from crosstask.testing.compare import difference, plain
from crosstask.testing.kit import Call, CheckFailure, Kit, claims, expect, refused
from crosstask_reinforcement.contract import Agent, Environment, Rollout, Situation
from crosstask_reinforcement.copies import Places
from crosstask_reinforcement.testing import corridors
from crosstask_reinforcement.training import Runner, train

COPIES, STEPS = 3, 14


def _rollout(agent: Agent, names: tuple[str, ...] = ("right", "left", "wide")) -> Rollout:
    """What a prepared agent collects in the corridors: terminated and cut-off episodes are among it."""
    runner = Runner(agent, [corridors()[name] for name in names], COPIES, seed=5)
    return runner.collect(STEPS, learned=0.2)


class AgentKit(Kit):
    """Agents act and learn in small corridors, of which one has to be walked the other way, and one has more to see and
    to do.
    """

    point = "agent"
    capabilities = frozenset({"on_policy", "off_policy", "options", "task_blind"})

    def inputs(self) -> dict[str, Any]:
        observations = torch.linspace(-1, 1, 9)[:, None] * torch.tensor([1.0, 0.0, 0.0]) + torch.tensor([0.0, 1.0, 0.5])
        situation = Situation(
            observations=observations, tasks=torch.arange(9) % 3, starts=torch.ones(9, dtype=torch.bool)
        )
        return {"situation": situation, "generator": torch.Generator().manual_seed(1)}

    def exercise(self, component: Any, call: Call, inputs: dict[str, Any]) -> Any:
        agent = _prepared(component)
        generator = torch.Generator().manual_seed(2)
        first = call("act", situation=inputs["situation"], explore=True, generator=inputs["generator"])
        metrics = call("learn", rollout=_rollout(agent), generator=generator)
        greedy = call("act", situation=inputs["situation"], explore=False, generator=generator)
        inputs["generator"].manual_seed(1)  # as it was given
        return plain(
            {
                "actions": (first.actions, greedy.actions),
                "metrics": metrics,
                "weights": {name: value.clone() for name, value in agent.network.state_dict().items()},
            }
        )

    def agent(self) -> Agent:
        """A new one, prepared for the three corridors."""
        return _prepared(self.make())

    def learned(self, agent: Agent, rollout: Rollout) -> dict[str, Tensor]:
        """Its weights after learning from a rollout (several times, where it keeps a memory)."""
        generator = torch.Generator().manual_seed(3)
        with self.run(agent) as run:
            for _ in range(3):
                found = run.call(agent, "learn", rollout=rollout, generator=generator)
                expect(
                    all(isinstance(v, float) and math.isfinite(v) for v in found.values()),
                    f"{self.name}: metrics of learn must be finite numbers, got {found}",
                )
        return {name: value.clone() for name, value in agent.network.state_dict().items()}

    def check_learns_to_act(self) -> None:
        """In 8,000 steps it walks two corridors to the end that pays; a `task_blind` one at most one of them."""
        both = [corridors()[name] for name in ("right", "left")]
        agent = self.make()
        with self.run(agent), torch.random.fork_rng(devices=[]):
            made = train(agent, both, steps=8000, copies=8, evaluate_every=800, episodes=8, seed=0)
        blind = "task_blind" in self.subject.component.capabilities
        last = {name: curve.final for name, curve in made.curves.items()}
        expect(made.solved != blind, f"{self.name}: mean returns at the end, of at most 1, are {last}")

    def check_actions_fit_their_tasks(self) -> None:
        """Each place gets an action that its task has, exploring or not; what is kept has one row for each place."""
        agent, situation = self.agent(), self.inputs()["situation"]
        limits = torch.tensor([space.actions for space in agent.spaces])[situation.tasks]
        generator = torch.Generator().manual_seed(0)
        for explore in (True, False) * 8:
            made = agent.act(situation, explore, generator)
            fine = made.actions.shape == (9,) and not made.actions.is_floating_point()
            expect(fine, f"{self.name}: actions must be whole numbers [9], got {made.actions}")
            expect(
                bool(((made.actions >= 0) & (made.actions < limits)).all()),
                f"{self.name}: actions {made.actions.tolist()} where there are {limits.tolist()} to choose from",
            )
            for name, value in {**made.extras, **made.memory}.items():
                expect(
                    len(value) == 9 and not value.requires_grad,
                    f"{self.name}: {name!r} must have one detached row for each of 9 places, got {tuple(value.shape)}",
                )

    def check_a_place_is_acted_in_alone(self) -> None:
        """Which action a place gets does not depend on the others, nor on their order."""
        agent, situation = self.agent(), self.inputs()["situation"]
        self.learned(agent, _rollout(agent))
        generator = torch.Generator().manual_seed(0)
        whole = agent.act(situation, False, generator).actions
        for rows in (torch.arange(8, -1, -1), torch.tensor([4]), torch.tensor([0, 3, 6])):
            some = attrs.evolve(
                situation,
                observations=situation.observations[rows],
                tasks=situation.tasks[rows],
                starts=situation.starts[rows],
            )
            found = agent.act(some, False, generator).actions
            expect(
                torch.equal(found, whole[rows]),
                f"{self.name}: places {rows.tolist()} get {found.tolist()} alone, {whole[rows].tolist()} among all",
            )

    def check_greedy_is_not_random(self) -> None:
        """Without exploring the same is done whatever the generator, and nothing is drawn from it."""
        agent, situation = self.agent(), self.inputs()["situation"]
        found = []
        for seed in range(4):
            generator = torch.Generator().manual_seed(seed)
            before = generator.get_state()
            found.append(agent.act(situation, False, generator).actions)
            expect(torch.equal(generator.get_state(), before), f"{self.name} draws random numbers without exploring")
        expect(all(torch.equal(found[0], each) for each in found), f"{self.name} acts at random without exploring")

    def check_explores_by_the_generator(self) -> None:
        """While exploring, other random numbers lead to other actions."""
        agent, situation = self.agent(), self.inputs()["situation"]
        drawn = [agent.act(situation, True, torch.Generator().manual_seed(seed)).actions for seed in range(8)]
        expect(any(not torch.equal(drawn[0], each) for each in drawn), f"{self.name} never explores")

    def check_acting_changes_nothing(self) -> None:
        """Its state is the same before and after acting."""
        agent, situation = self.agent(), self.inputs()["situation"]
        before = plain(agent.state_dict())
        for explore in (True, False):
            agent.act(situation, explore, torch.Generator().manual_seed(0))
        found = difference(before, plain(agent.state_dict()), "state")
        expect(found is None, f"{self.name}: acting changes it: {found}")

    def check_learning_changes_the_network(self) -> None:
        """Its weights are others after learning than before."""
        agent = self.agent()
        before = {name: value.clone() for name, value in agent.network.state_dict().items()}
        after = self.learned(agent, _rollout(agent))
        expect(
            any(not torch.equal(before[name], value) for name, value in after.items()),
            f"{self.name}: learning leaves every weight as it was",
        )

    def check_steps_that_are_none(self) -> None:
        """What stands in places that are not `valid` changes nothing."""
        weights = []
        for junk in (False, True):
            agent = self.agent()
            made = _rollout(agent)
            valid = torch.ones_like(made.valid)
            begins = [(step, place) for step, place in made.ends[:-1].nonzero().tolist() if place % 2 == 0]
            for step, place in begins:  # as in gymnasium's NEXT_STEP mode
                valid[step + 1, place] = False
            rewards, following = made.rewards.clone(), made.following.clone()
            terminated, truncated = made.terminated & valid, made.truncated & valid
            if junk:
                rewards[~valid], following[~valid] = 100.0, 7.0
            changed = attrs.evolve(
                made, valid=valid, rewards=rewards, following=following, terminated=terminated, truncated=truncated
            )
            weights.append(self.learned(agent, changed))
        found = difference(plain(weights[0]), plain(weights[1]), "weights")
        expect(found is None, f"{self.name} learns from steps that are not valid: {found}")

    def check_what_follows_the_end(self) -> None:
        """What is seen after a task has terminated has no value: another observation there changes nothing."""
        weights = []
        for changed in (False, True):
            agent = self.agent()
            made = _rollout(agent)
            if changed:
                following = made.following.clone()
                following[made.terminated] = 1.5
                made = attrs.evolve(made, following=following)
            weights.append(self.learned(agent, made))
        found = difference(plain(weights[0]), plain(weights[1]), "weights")
        expect(found is None, f"{self.name} gives a value to what follows the end of a task: {found}")

    def check_absent_tasks(self) -> None:
        """It learns from a rollout in which a task is absent."""
        agent = self.agent()
        whole = _rollout(agent)
        rows = whole.tasks != 1
        some = attrs.evolve(
            whole,
            tasks=whole.tasks[rows],
            extras={name: value[:, rows] for name, value in whole.extras.items()},
            **{
                name: getattr(whole, name)[:, rows]
                for name in (
                    "observations", "actions", "rewards", "terminated", "truncated", "following", "valid", "starts",
                )
            },
        )  # fmt: skip
        self.learned(agent, some)

    def check_weights_are_taken_over(self) -> None:
        """`take_over` makes what tasks share that of another agent, which was prepared for another task."""
        source, target = self.make(), self.make()
        with self.run(source), self.run(target):
            source.prepare([corridors()["right"].space], seed=1)
            target.prepare([corridors()["left"].space], seed=2)
            weights = {name: value.clone() for name, value in source.network.state_dict().items()}
            taken = target.take_over(weights)
        own = target.network.state_dict()
        expect(taken and set(taken) <= set(target.shared_names()), f"{self.name}: takes over {taken}")
        expect(
            all(torch.equal(own[name], weights[name]) for name in taken), f"{self.name}: what it took over is another's"
        )
        with refused(f"{self.name}: weights of nothing that it has", DataError):
            target.take_over({"no such tensor": torch.zeros(1)})

    def check_refuses_to_act_unprepared(self) -> None:
        """Before `prepare`, and for no task or two of one name, it says what is missing."""
        agent, space = self.make(), corridors()["right"].space
        with refused(f"{self.name} without tasks", DataError):
            _ = agent.network
        for what, spaces in (("no task", []), ("a task twice", [space, space])):
            with refused(f"{self.name}: {what}", DataError):
                agent.prepare(spaces)

    @claims("task_blind")
    def check_is_not_told_the_task(self) -> None:
        """The same state gets the same action in tasks of the same sizes."""
        agent = self.make()
        with self.run(agent):
            agent.prepare([corridors()[name].space for name in ("right", "left")])
            states = torch.linspace(-1, 1, 9)[:, None] * torch.tensor([1.0, 0.0]) + torch.tensor([0.0, 1.0])
            found = [
                agent.act(
                    Situation(observations=states, tasks=torch.full((9,), n), starts=torch.ones(9, dtype=torch.bool)),
                    False,
                    torch.Generator(),
                ).actions
                for n in (0, 1)
            ]
        expect(torch.equal(*found), f"{self.name} claims to be blind, and acts otherwise in another task")

    @claims("options")
    def check_memory_is_followed(self) -> None:
        """What it was doing in a place comes back as memory, and matters: an episode's end alone forgets it."""
        agent, situation = self.agent(), self.inputs()["situation"]
        made = agent.act(situation, True, torch.Generator().manual_seed(0))
        expect(made.memory, f"{self.name} claims to follow options, and keeps no memory")
        going = attrs.evolve(situation, starts=torch.zeros(9, dtype=torch.bool), memory=made.memory)
        drawn = [agent.act(going, True, torch.Generator().manual_seed(seed)).memory for seed in (1, 2)]
        expect(
            all(set(each) == set(made.memory) for each in drawn),
            f"{self.name}: its memory has other parts a step later",
        )


def _prepared(component: Agent) -> Agent:
    if not component.spaces:
        component.prepare([each.space for each in corridors().values()], seed=0)
    return component


class WorldKit(Kit):
    """Environments that can be made, stepped, sent to another process, and are what they say."""

    point = "world"

    def inputs(self) -> dict[str, Any]:
        return {}

    def exercise(self, component: Any, call: Call, inputs: dict[str, Any]) -> Any:
        found = call("environments")
        return {
            name: (each.descriptor.to_json(), each.limit, each.solved, dict(each.parameters))
            for name, each in found.items()
        }

    def found(self) -> dict[str, Environment]:
        """What a new component gives, in a run."""
        component = self.make()
        with self.run(component) as run:
            made: dict[str, Environment] = run.call(component, "environments")
        return made

    def check_environments_by_their_ids(self) -> None:
        """There is at least one, and each stands under its descriptor's id."""
        found = self.found()
        expect(found, f"{self.name} has no environment")
        for name, each in found.items():
            expect(isinstance(each, Environment), f"{self.name}: {name!r} is a {type(each).__name__}")
            expect(each.task_id == name, f"{self.name}: the descriptor of {name!r} says {each.task_id!r}")

    def check_environments_are_what_they_say(self) -> None:
        """Observations have the length, and actions the number, of the descriptor; an episode ends by the limit."""
        for name, each in self.found().items():
            made = each.make()
            observed, _ = made.reset(seed=0)
            expect(
                np.shape(observed) == each.descriptor.input_shape,
                f"{self.name}: {name!r} shows {np.shape(observed)}, its descriptor says {each.descriptor.input_shape}",
            )
            actions = getattr(made.action_space, "n", None)
            expect(
                actions == each.descriptor.output_dim,
                f"{self.name}: {name!r} has {actions} actions, its descriptor says {each.descriptor.output_dim}",
            )
            made.action_space.seed(0)
            first = int(getattr(made.action_space, "start", 0))
            ended, steps = False, 0
            while not ended and steps < each.limit:
                _, _, terminated, truncated, _ = made.step(first)
                ended, steps = terminated or truncated, steps + 1
            expect(ended, f"{self.name}: {name!r} does not end within its limit of {each.limit} steps")
            made.close()

    def check_copies_step_as_one(self) -> None:
        """Where copies are stepped together, each step is that of the single environment: what is seen in an episode
        of `copies` has its length, and rewards and ends are of its kind; the same seed gives the same.
        """
        for name, each in self.found().items():
            shown = []
            for _ in range(2):
                places = Places([each], [2])
                first = places.reset(0)
                steps = [places.step(np.array([step % 2, (step + 1) % 2])) for step in range(20)]
                shown.append([first, *(s.observations for s in steps), *(s.rewards for s in steps)])
                for step in steps:
                    expect(
                        step.following.shape == (2, each.space.state_dim) and step.terminated.dtype == bool,
                        f"{self.name}: a step of two copies of {name!r} shows {step.following.shape}",
                    )
            found = difference(plain(shown[0]), plain(shown[1]), "steps")
            expect(found is None, f"{self.name}: {name!r} goes on otherwise with the same seed and actions: {found}")

    def check_environments_can_be_sent(self) -> None:
        """Each can be sent to another process."""
        for name, each in self.found().items():
            try:
                sent = pickle.loads(pickle.dumps(each))  # noqa: S301 -- made here
                sent.make().close()
            except Exception as error:
                told = f"{type(error).__name__}: {error}"
                raise CheckFailure(f"{self.name}: {name!r} cannot be sent to another process: {told}") from error
