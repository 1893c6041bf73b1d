"""Checks of curriculum planners."""

from __future__ import annotations

from typing import Any

from crosstask.errors import CrosstaskError, DataError
from crosstask.records import Curriculum, CurriculumStep, Interval
from crosstask.testing.compare import plain
from crosstask.testing.kit import Call, Kit, expect, refused
from crosstask.testing.tasks import small_graph, small_portfolio

GAINS = (0.1, -0.2, 0.0, -0.3, -0.1)
"""Gains of the steps that planners are told of, in turn: some help, some hurt."""


class CurriculumKit(Kit):
    """Paths end at the target and keep to prerequisites and `max_tasks`.

    A `twin(portfolio, graph, target, candidates)` returns the ranked candidates.
    """

    point = "curriculum"

    def inputs(self) -> dict[str, Any]:
        portfolio = (self.subject.portfolio or small_portfolio)()
        return {"portfolio": portfolio, "graph": small_graph(portfolio)}

    def exercise(self, component: Any, call: Call, inputs: dict[str, Any]) -> Any:
        portfolio = inputs["portfolio"]
        most = len(portfolio)
        paths = [call("plan", **inputs, target=target, max_tasks=most) for target in portfolio.ids]
        return [plain(paths), [_walk(call, path) for path in paths]]

    def paths(self) -> list[tuple[int, Curriculum]]:
        """Curricula for every target of the portfolio and every number of tasks that is enough, in a run."""
        portfolio, graph = self.inputs().values()
        component, found = self.make(), []
        with self.run(component) as run:
            for target in portfolio.ids:
                for most in range(len(_required(portfolio, target)) + 1, len(portfolio) + 1):
                    path = run.call(component, "plan", portfolio=portfolio, graph=graph, target=target, max_tasks=most)
                    expect(isinstance(path, Curriculum), f"{self.name}.plan returned a {type(path).__name__}")
                    found.append((most, path))
        return found

    def check_target_comes_last(self) -> None:
        """The last task of a curriculum is the target."""
        for _, path in self.paths():
            last = path.task_sequence[-1:]
            expect(last == (path.target,), f"{self.name}: the curriculum for {path.target!r} ends with {last}")

    def check_tasks_are_the_portfolios(self) -> None:
        """Each task is one of the portfolio's, not unseen, and comes once."""
        known = set(self.inputs()["portfolio"].ids)
        for _, path in self.paths():
            sequence = path.task_sequence
            expect(
                set(sequence) <= known, f"{self.name}: {set(sequence) - known} in a curriculum are not in the portfolio"
            )
            expect(len(set(sequence)) == len(sequence), f"{self.name}: a task comes twice in {sequence}")

    def check_prerequisites_come_first(self) -> None:
        """A task's prerequisites are in the curriculum, before it."""
        portfolio = self.inputs()["portfolio"]
        for _, path in self.paths():
            for place, task_id in enumerate(path.task_sequence):
                needed = portfolio[task_id].descriptor.prerequisites if task_id in portfolio else ()
                late = set(needed) - set(path.task_sequence[:place])
                expect(
                    not late, f"{self.name}: {task_id!r} comes before what it needs, {late}, in {path.task_sequence}"
                )

    def check_max_tasks_kept(self) -> None:
        """A curriculum has at most `max_tasks` tasks."""
        for most, path in self.paths():
            count = len(path.task_sequence)
            expect(count <= most, f"{self.name}: {count} tasks for {path.target!r}, max_tasks is {most}")

    def check_rank_orders_candidates(self) -> None:
        """`rank` returns some of its candidates, each once."""
        portfolio, graph = self.inputs().values()
        target, *candidates = reversed(portfolio.ids)
        component = self.make()
        with self.run(component):
            ranked = component.rank(portfolio, graph, target, list(candidates))
        expect(isinstance(ranked, list), f"{self.name}.rank must return a list, got {type(ranked).__name__}")
        strange = set(ranked) - set(candidates)
        expect(not strange, f"{self.name}.rank returned {strange}, not among its candidates")
        expect(len(set(ranked)) == len(ranked), f"{self.name}.rank returned a task twice: {ranked}")

    def check_next_task_ends_at_the_target(self) -> None:
        """`next_task` gives tasks of the curriculum, none twice, the target last, and then None."""
        for _, path in self.paths():
            component = self.make()
            with self.run(component) as run:
                walked = _walk(lambda hook, run=run, c=component, **a: run.call(c, hook, **a), path)
            strange = set(walked) - set(path.task_sequence)
            expect(not strange, f"{self.name}.next_task gave {strange}, not in {path.task_sequence}")
            expect(len(set(walked)) == len(walked), f"{self.name}.next_task gave a task twice: {walked}")
            expect(walked[-1:] == [path.target], f"{self.name}.next_task gave {walked} and then None before the target")

    def check_next_task_keeps_prerequisites(self) -> None:
        """`next_task` gives a task only after those of its prerequisites that are in the curriculum."""
        for _, path in self.paths():
            component = self.make()
            with self.run(component) as run:
                walked = _walk(lambda hook, run=run, c=component, **a: run.call(c, hook, **a), path)
            for place, task_id in enumerate(walked):
                late = set(path.prerequisites.get(task_id, ())) - set(walked[:place])
                expect(not late, f"{self.name}.next_task gave {task_id!r} before what it needs, {late}")

    def check_unknown_target_refused(self) -> None:
        """A target that the portfolio lacks, or holds back as unseen, is refused with a DataError that names it."""
        inputs = self.inputs()
        component = self.make()
        with self.run(component) as run:
            for target in ("no such task", *(t.task_id for t in inputs["portfolio"].unseen[:1])):
                with refused(f"{self.name}.plan for {target!r}", DataError, naming=target):
                    run.call(component, "plan", **inputs, target=target, max_tasks=3)

    def check_too_few_tasks_refused(self) -> None:
        """A `max_tasks` too small for the target's prerequisites is refused."""
        inputs = self.inputs()
        target = max(inputs["portfolio"].ids, key=lambda t: len(_required(inputs["portfolio"], t)))
        component = self.make()
        with self.run(component) as run, refused(f"{self.name}.plan with max_tasks=0", CrosstaskError):
            run.call(component, "plan", **inputs, target=target, max_tasks=0)

    def check_agrees_with_twin(self) -> None:
        """`rank` gives the twin's order, for every target."""
        assert self.subject.twin is not None
        portfolio, graph = self.inputs().values()
        for target in portfolio.ids:
            candidates = [t for t in portfolio.ids if t != target]
            component = self.make()
            with self.run(component):
                ours = component.rank(portfolio, graph, target, list(candidates))
            theirs = self.subject.twin(portfolio, graph, target, list(candidates))
            expect(ours == theirs, f"{self.name} for {target!r}: {ours}, its twin: {theirs}")


def _required(portfolio: Any, target: str) -> set[str]:
    found: set[str] = set()
    stack = list(portfolio[target].descriptor.prerequisites)
    while stack:
        needed = stack.pop()
        if needed not in found:
            found.add(needed)
            stack += portfolio[needed].descriptor.prerequisites
    return found


def _walk(call: Any, path: Curriculum) -> list[str]:
    """The tasks that `next_task` gives one after the other; at most twice as many as there are."""
    history: list[CurriculumStep] = []
    while len(history) < 2 * len(path.task_sequence):
        task_id = call("next_task", curriculum=path, history=list(history))
        if task_id is None:
            break
        gain = GAINS[len(history) % len(GAINS)]
        interval = Interval(mean=gain, low=gain - 0.05, high=gain + 0.05)
        score = Interval(mean=0.5 + gain, low=0.4, high=0.9)
        history.append(
            CurriculumStep(step=len(history), task_id=task_id, score=score, scratch_score=score, gain=interval)
        )
    return [step.task_id for step in history]


KIT = CurriculumKit
