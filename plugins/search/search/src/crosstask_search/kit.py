"""Checks of searches."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from crosstask.context import LocalContext
from crosstask.errors import CrosstaskError, OptionError
from crosstask.learning.transferring import without_model
from crosstask.tasks import Task
from crosstask.testing.compare import difference, plain
from crosstask.testing.kit import Call, Kit, claims, expect, refused
from crosstask.testing.tasks import small_task
from crosstask_search.contract import blind_of
from crosstask_search.models import ModelSpace
from crosstask_search.parameter import Parameter
from crosstask_search.records import Trial
from crosstask_search.space import Point, SearchSpace

MIXED = {
    "kind": Parameter(choices=("plain", "deep")),
    "layers": Parameter(low=1, high=4, integer=True, when={"kind": ("deep",)}),
    "rate": Parameter(low=1e-4, high=1.0, log=True),
    "bias": Parameter(choices=(True, False)),
}
MODELS = ModelSpace(max_layers=2, widths=(4, 8))


class SearchKit(Kit):
    """Proposals are valid points, whatever the trials came to. A `twin(space, trials)` proposes the same.

    The space has choices, a range, whole numbers, a parameter that only some points have, and a constraint. A search
    that claims `networks` gets small networks for one of the kit's tasks instead.
    """

    point = "search"
    capabilities: ClassVar[frozenset[str]] = frozenset({"no_repeats", "networks"})

    @property
    def networks(self) -> bool:
        return "networks" in self.subject.component.capabilities

    def inputs(self) -> dict[str, Any]:
        task = _task() if self.networks else None
        models = MODELS if self.networks else None
        return {"space": self.space(), "task": task, "models": models}

    def space(self) -> SearchSpace:
        if self.networks:
            return MODELS.space(_task().descriptor)
        return SearchSpace(parameters=MIXED, forbidden=({"kind": "deep", "bias": False},))

    def small(self) -> SearchSpace:
        """A space of six points."""
        if self.networks:
            return self.space()
        parameters = {"a": Parameter(choices=("x", "y", "z")), "b": Parameter(low=1, high=3, integer=True)}
        return SearchSpace(parameters=parameters, valid=_not_three)

    def exercise(self, component: Any, call: Call, inputs: dict[str, Any]) -> Any:
        call("search_begins", **inputs)
        return [trial.point for trial in _searched(call, inputs["space"], 5)]

    def begun(self, space: SearchSpace, use: Callable[[Any, Call], Any], trials: Sequence[Trial] = ()) -> Any:
        """What `use(component, call)` gives in a run, after a search of `space` began and these trials ended."""
        component, inputs = self.make(), self.inputs() | {"space": space}
        with self.run(component) as run:

            def call(hook: str, **arguments: Any) -> Any:
                return run.call(component, hook, **arguments)

            call("search_begins", **inputs)
            for trial in trials:
                if trial.status != "running":
                    call("observe", trial=trial)
            return use(component, call)

    def check_proposes_valid_points(self) -> None:
        """Each proposal is a valid point of the space: the active parameters, with values they can take."""
        space = self.space()

        def use(_: Any, call: Call) -> list[Trial]:
            return _searched(call, space, 6 if self.networks else 30, known=(lambda p: self._valid(space, p)))

        self.begun(space, use)

    def check_single_point(self) -> None:
        """Of a space with one point it proposes that one."""
        one = ModelSpace(max_layers=1, widths=(8,)).space(_task().descriptor) if self.networks else None
        space = one or SearchSpace(parameters={"a": Parameter(choices=("x",)), "b": Parameter(low=0.5, high=0.5)})
        point = self.begun(space, lambda _, call: call("propose", space=space, trials=[]))
        self._valid(space, point)

    def check_copes_with_failures(self) -> None:
        """It goes on where every trial has failed, where every other one has, and where the first ones have, however
        many.
        """
        space = self.space()
        failing = [range(11), range(0, 11, 2), *(range(first) for first in ((1, 5) if self.networks else range(1, 10)))]
        for failed in failing:
            trials: list[Trial] = []

            def use(_: Any, call: Call, trials: list[Trial] = trials, failed: Any = failed) -> None:
                for number in range(8 if self.networks else 11):
                    point = self._valid(space, call("propose", space=space, trials=list(trials)))
                    value = {"status": "done", "value": _objective(point)}
                    told = {"status": "failed", "error": "no"} if number in failed else value
                    trials.append(Trial(number=number, point=point, **told))
                    call("observe", trial=trials[-1])

            self.begun(space, use)

    def check_copes_with_running_trials(self) -> None:
        """It proposes while none of the trials so far has ended."""
        space = self.space()

        def use(_: Any, call: Call) -> None:
            trials: list[Trial] = []
            for number in range(5):
                point = self._valid(space, call("propose", space=space, trials=list(trials)))
                trials.append(Trial(number=number, point=point))

        self.begun(space, use)

    def check_copes_with_equal_values(self) -> None:
        """It goes on where all trials came to the same value, however large."""
        space = self.space()
        for value in (0.0, 1e12, -1e12):

            def use(_: Any, call: Call, value: float = value) -> None:
                for trial in _searched(call, space, 7, value=lambda point: value):
                    self._valid(space, trial.point)

            self.begun(space, use)

    def check_goes_on_where_it_was_stopped(self) -> None:
        """A new component that is told the ended trials proposes what the first would have proposed next."""
        space = self.space()
        trials: list[Trial] = self.begun(space, lambda _, call: _searched(call, space, 6))
        for stop in (2, 5):

            def resumed(_: Any, call: Call, stop: int = stop) -> Any:
                return call("propose", space=space, trials=trials[:stop])

            found = difference(plain(trials[stop].point), plain(self.begun(space, resumed, trials[:stop])), "proposal")
            expect(found is None, f"{self.name} goes on otherwise after it was stopped: {found}")

    def check_blind_proposals(self) -> None:
        """As many proposals as `blind` says are the same while those before them run, and whatever they came to."""
        ways: list[Callable[[Point], dict[str, Any]]] = [
            lambda point: {},
            lambda point: {"status": "done", "value": _objective(point)},
            lambda point: {"status": "done", "value": -1e6 * _objective(point)},
            lambda point: {"status": "failed", "error": "no"},
        ]
        for space in (self.space(), self.small()):
            first, *others = [self._blind_proposals(space, told) for told in ways]
            for other in others:
                found = difference(first, other, "proposals")
                expect(found is None, f"{self.name} says that it proposes blindly, and does not: {found}")

    def _blind_proposals(self, space: SearchSpace, told: Callable[[Point], dict[str, Any]]) -> Any:
        """Those that it says are blind, where `told` says what became of a trial."""

        def use(component: Any, call: Call) -> Any:
            trials: list[Trial] = []
            for number in range(int(min(blind_of(component), 5 if self.networks else 12, space.count() or 12))):
                point = call("propose", space=space, trials=list(trials))
                trials.append(Trial(number=number, point=point, **told(point)))
                if trials[-1].status != "running":
                    call("observe", trial=trials[-1])
            return plain([trial.point for trial in trials])

        return self.begun(space, use)

    def check_begins_anew(self) -> None:
        """`search_begins` forgets an earlier search: afterwards it proposes as a new component does."""
        space = self.space()
        inputs = self.inputs()

        def again(_: Any, call: Call) -> list[Trial]:
            _searched(call, space, 4, value=lambda p: -_objective(p))
            call("search_begins", **inputs)
            return _searched(call, space, 4)

        fresh = self.begun(space, lambda _, call: _searched(call, space, 4))
        found = difference(plain([t.point for t in fresh]), plain([t.point for t in self.begun(space, again)]), "it")
        expect(found is None, f"{self.name} remembers a search that is over: {found}")

    @claims("no_repeats")
    def check_tries_every_point(self) -> None:
        """In a space of six points the first six proposals differ, also when trials run in parallel or failed."""
        space = self.small()

        def use(_: Any, call: Call) -> list[Trial]:
            trials: list[Trial] = []
            for number in range(6):
                trials.append(Trial(number=number, point=call("propose", space=space, trials=list(trials))))
                if number >= 2:  # two are always under way
                    ended = trials[number - 2]
                    told = {"status": "failed", "error": "no"} if number % 2 else {"status": "done", "value": 0.1}
                    trials[ended.number] = Trial(number=ended.number, point=ended.point, **told)
                    call("observe", trial=trials[ended.number])
            return trials

        keys = [space.key(trial.point) for trial in self.begun(space, use)]
        expect(len(set(keys)) == 6, f"{self.name} proposed a point again while others were untried: {keys}")

    def check_no_valid_point_refused(self) -> None:
        """A space whose constraints allow no point is refused with an OptionError."""
        space = SearchSpace(parameters=self.small().parameters, valid=_never)

        with refused(f"{self.name}.propose in a space without a valid point", OptionError):
            self.begun(space, lambda _, call: call("propose", space=space, trials=[]))

    @claims("networks")
    def check_needs_a_task(self) -> None:
        """Without a task to train on it is refused, with what is missing."""
        component, space = self.make(), self.space()
        component.bind(LocalContext())
        with refused(f"{self.name} without a task", CrosstaskError, naming="task"):
            component.search_begins(space, None, None)
            component.propose(space, [])

    def check_agrees_with_twin(self) -> None:
        """It proposes what the twin proposes."""
        assert self.subject.twin is not None
        space, twin = self.space(), self.subject.twin

        def use(_: Any, call: Call) -> None:
            trials: list[Trial] = []
            for number in range(6):
                point = call("propose", space=space, trials=list(trials))
                found = difference(plain(point), plain(twin(space, list(trials))), "proposal")
                expect(found is None, f"{self.name} and its twin: {found}")
                trials.append(Trial(number=number, point=point, status="done", value=_objective(point)))
                call("observe", trial=trials[-1])

        self.begun(space, use)

    def _valid(self, space: SearchSpace, point: Any) -> Point:
        expect(isinstance(point, dict), f"{self.name}.propose must return a dict, got {point!r}")
        expect(space.contains(point), f"{self.name} proposed {point!r}, which is no valid point of the space")
        made: Point = point
        return made


def _task() -> Task:
    return without_model(small_task("moons"), ("train", "validation"))


def _not_three(point: Point) -> bool:
    return bool(point["b"] != 3)


def _never(point: Point) -> bool:
    return False


def _objective(point: Point) -> float:
    """Some number that depends on every value of a point."""
    places = [math.sin(17 * i + sum(map(ord, repr(point[name])))) for i, name in enumerate(sorted(point))]
    return sum(places) / len(places)


def _searched(
    call: Call,
    space: SearchSpace,
    count: int,
    known: Callable[[Any], Any] | None = None,
    value: Callable[[Point], float] = _objective,
) -> list[Trial]:
    """Ask and tell, one trial after the other; `known(point)` looks at each proposal first."""
    trials: list[Trial] = []
    for number in range(count):
        point = call("propose", space=space, trials=list(trials))
        if known is not None:
            known(point)
        trials.append(Trial(number=number, point=point, status="done", value=value(point), seconds=0.1))
        call("observe", trial=trials[-1])
    return trials
