"""Checks of samplers."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from crosstask.errors import CrosstaskError
from crosstask.testing.compare import difference, plain
from crosstask.testing.kit import Call, Kit, expect, refused
from crosstask_multitask.sampler import History

TASKS = ["moons", "halves", "turned", "quarters"]
DRAWS = 400


class SamplerKit(Kit):
    """Every draw is some of the tasks, in their order. A `twin(tasks, history, rng)` draws the same."""

    point = "sampler"
    capabilities: ClassVar[frozenset[str]] = frozenset()

    def inputs(self) -> dict[str, Any]:
        return {"tasks": list(TASKS), "history": _history(8), "rng": torch.Generator().manual_seed(5)}

    def exercise(self, component: Any, call: Call, inputs: dict[str, Any]) -> Any:
        return [list(call("sample", **inputs)) for _ in range(8)]

    def draws(self, count: int, **changes: Any) -> list[list[str]]:
        """Draws of a new component in a run."""
        component, inputs = self.make(), self.inputs() | changes
        with self.run(component) as run:
            return [run.call(component, "sample", **inputs) for _ in range(count)]

    def check_draws_some_of_the_tasks(self) -> None:
        """A draw is a list of at least one task, all of them given, none twice."""
        for drawn in self.draws(50):
            expect(isinstance(drawn, list) and drawn, f"{self.name}.sample must return a list of tasks, got {drawn!r}")
            strange = set(drawn) - set(TASKS)
            expect(not strange, f"{self.name}.sample drew {strange}, not among the tasks")
            expect(len(set(drawn)) == len(drawn), f"{self.name}.sample drew a task twice: {drawn}")

    def check_keeps_the_order(self) -> None:
        """Drawn tasks come in the order in which they were given."""
        for drawn in self.draws(50):
            expect(
                drawn == sorted(drawn, key=TASKS.index), f"{self.name}.sample returned {drawn}, not in the order given"
            )

    def check_every_task_has_a_chance(self) -> None:
        """In a few hundred draws each task comes at least once."""
        seen = {task for drawn in self.draws(DRAWS) for task in drawn}
        never = set(TASKS) - seen
        expect(not never, f"{self.name}.sample did not draw {', '.join(sorted(never))} in {DRAWS} draws")

    def check_works_at_the_start(self) -> None:
        """It draws from tasks of which no loss is known yet, and from tasks of which only some are."""
        nothing = History({task: [] for task in TASKS}, scores={task: [] for task in TASKS})
        some = _history(3)
        some[TASKS[0]], some.scores[TASKS[0]] = [], []
        for history in (nothing, some):
            for drawn in self.draws(5, history=history):
                expect(drawn, f"{self.name}.sample drew nothing for history {history}")

    def check_one_task(self) -> None:
        """The only task is always drawn."""
        for drawn in self.draws(10, tasks=["moons"], history=_history(2)):
            expect(drawn == ["moons"], f"{self.name}.sample drew {drawn} from ['moons']")

    def check_no_tasks_refused(self) -> None:
        """Without tasks there is nothing to draw."""
        with refused(f"{self.name}.sample without tasks", CrosstaskError, ValueError):
            self.draws(1, tasks=[], history=History())

    def check_draws_from_the_generator_given(self) -> None:
        """The state of `rng`, and nothing else, decides: the same state gives the same draws."""
        one, two = (self.draws(20, rng=torch.Generator().manual_seed(11)) for _ in range(2))
        component = self.make()
        with self.run(component, seed=123) as run:
            inputs = self.inputs() | {"rng": torch.Generator().manual_seed(11)}
            three = [run.call(component, "sample", **inputs) for _ in range(20)]
        expect(one == two == three, f"{self.name}.sample draws otherwise from a generator in the same state")

    def check_agrees_with_twin(self) -> None:
        """It draws what the twin draws."""
        assert self.subject.twin is not None
        inputs = self.inputs()
        theirs = [self.subject.twin(**inputs) for _ in range(20)]
        found = difference(plain(self.draws(20)), plain(theirs), "draws")
        expect(found is None, f"{self.name} and its twin: {found}")


def _history(length: int) -> History:
    losses = {task: [1.0 / (1 + step * (1 + n)) + 0.1 * n for step in range(length)] for n, task in enumerate(TASKS)}
    scores = {task: [1.0 - loss / 1.5 for loss in losses[task]] for task in TASKS}
    return History(losses, scores=scores, ranges=dict.fromkeys(TASKS, (0.0, 1.0)))
