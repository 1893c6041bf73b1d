"""Checks of observers."""

from __future__ import annotations

from typing import Any

from crosstask.components import hooks_of
from crosstask.records import RunRecord
from crosstask.testing.kit import Call, CheckFailure, Kit, contract_of, expect
from crosstask.testing.tasks import small_graph, small_portfolio

FAILURE = "raised for the observers to hear"


class ObserverKit(Kit):
    """It listens to whatever happens, in whatever part of a run, changes nothing and stops nothing."""

    point = "observer"

    def inputs(self) -> dict[str, Any]:
        portfolio = (self.subject.portfolio or small_portfolio)()
        edges = list(small_graph(portfolio).all_edges())
        record = RunRecord(run_id="0123456789ab", name="conformance", started="2026-01-01T00:00:00+00:00")
        metrics = {"losses": {"moons": 0.7, "halves": 0.2}, "weights": {}, "conflicts": {"mean_cosine": -0.1}}
        return {"task": next(iter(portfolio)), "edges": edges, "record": record, "metrics": metrics}

    def exercise(self, component: Any, call: Call, inputs: dict[str, Any]) -> Any:
        for hook, arguments in _life(inputs):
            call(hook, **arguments)

    # An observer answers nothing, and what it notes of wall-clock time may differ.
    check_same_seed_same_answer = None  # type: ignore[assignment]
    check_works_outside_a_run = None  # type: ignore[assignment]

    def check_listens(self) -> None:
        """It hears at least one hook of the contract."""
        contract = contract_of(self.subject.component)
        own = [n for n in hooks_of(contract) if getattr(self.subject.component, n) is not getattr(contract, n)]
        expect(own, f"{self.name} overrides no hook; they are {', '.join(hooks_of(contract))}")

    def check_told_by_a_run(self) -> None:
        """Told by `run.tell`, as runs do, of a whole life it raises nothing and answers None."""
        component, inputs = self.make(), self.inputs()
        with self.run(component) as run:
            for hook, arguments in _life(inputs):
                try:
                    run.tell(hook, **arguments)
                except Exception as error:
                    raise CheckFailure(f"{self.name}.{hook} raised {type(error).__name__}: {error}") from error
                answer = getattr(self.make(), hook)(**arguments) if hook == "run_started" else None
                expect(answer is None, f"{self.name}.{hook} answered {answer!r}; an observer answers nothing")

    def check_any_part_of_a_run(self) -> None:
        """Each hook may be the first that it hears: an engine used from Python has no start, a total may be unknown."""
        for hook, arguments in _life(self.inputs()):
            component = self.make()
            with self.run(component) as run:
                try:
                    run.tell(hook, **arguments)
                except Exception as error:
                    told = f"{type(error).__name__}: {error}"
                    raise CheckFailure(f"{self.name}.{hook}, heard before anything else, raised {told}") from error

    def check_failure_is_only_heard(self) -> None:
        """`run_finished` with an error, of a run interrupted within a stage, raises nothing."""
        component, inputs = self.make(), self.inputs()
        with self.run(component) as run:
            run.tell("run_started", record=inputs["record"])
            run.tell("stage_started", stage="train", total=5)
            for error in (RuntimeError(FAILURE), KeyboardInterrupt()):
                try:
                    run.tell("run_finished", record=inputs["record"], error=error)
                except BaseException as raised:
                    raise CheckFailure(f"{self.name}.run_finished raised {raised!r} for {error!r}") from raised


def _life(inputs: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The hooks that a run calls, from start to end."""
    return [
        ("run_started", {"record": inputs["record"]}),
        ("task_registered", {"task": inputs["task"]}),
        ("stage_started", {"stage": "discover", "total": 2}),
        ("stage_progress", {"stage": "discover", "detail": "moons -> halves"}),
        ("edges_discovered", {"edges": inputs["edges"], "discoverer": "discovery 'x' (crosstask-x 0.1.0)"}),
        ("stage_finished", {"stage": "discover", "result": None}),
        ("stage_started", {"stage": "training", "total": None}),
        ("training_step", {"stage": "training", "step": 1, "metrics": inputs["metrics"]}),
        ("training_step", {"stage": "training", "step": 2, "metrics": {}}),
        ("stage_finished", {"stage": "training", "result": inputs["record"]}),
        ("run_finished", {"record": inputs["record"], "error": None}),
    ]


KIT = ObserverKit
