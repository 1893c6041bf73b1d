"""Checks of sources."""

from __future__ import annotations

from typing import Any

from crosstask.tasks import Portfolio
from crosstask.testing.compare import plain
from crosstask.testing.kit import Call, Kit, expect


class SourceKit(Kit):
    """Loaded tasks are whole and agree with their descriptors. A `twin()` loads a portfolio with the same data."""

    point = "source"

    def inputs(self) -> dict[str, Any]:
        return {}

    def exercise(self, component: Any, call: Call, inputs: dict[str, Any]) -> Any:
        return _prints(call("load"))

    def loaded(self) -> Portfolio:
        """What a new component loads, in a run."""
        component = self.make()
        with self.run(component) as run:
            portfolio: Portfolio = run.call(component, "load")
        expect(isinstance(portfolio, Portfolio), f"{self.name}.load returned a {type(portfolio).__name__}")
        return portfolio

    def check_portfolio_is_consistent(self) -> None:
        """There is at least one task, and prerequisites exist and form no cycle."""
        self.loaded().check()

    def check_loads_anew(self) -> None:
        """Each call gives tasks of its own: changing one portfolio does not change the next."""
        component = self.make()
        with self.run(component) as run:
            first = run.call(component, "load")
            expected = plain(_prints(first))
            for task in first:
                task.record("accuracy", 0.5)
                data = task.data("train") if task.has_data("train") else None
                if data is not None and data.inputs.is_floating_point():
                    data.inputs.add_(1)
            second = run.call(component, "load")
            expect(first is not second, f"{self.name}.load returned the same portfolio twice")
            changed = plain(_prints(second)) != expected
        expect(not changed, f"{self.name}.load returned tasks that were changed since they were first loaded")

    def check_descriptors_are_complete(self) -> None:
        """A task with data says its input shape, its number of outputs, and how many training samples it has."""
        portfolio = self.loaded()
        for task in [*portfolio, *portfolio.unseen]:
            told = task.descriptor
            if task.has_data("train"):
                shape = told.input_shape or told.input_shapes
                expect(shape, f"{self.name}: task {task.task_id!r} does not say its input_shape")
                expect(told.output_dim, f"{self.name}: task {task.task_id!r} does not say its output_dim")
                count = len(task.data("train"))
                expect(
                    told.sample_count in (None, count),
                    f"{self.name}: task {task.task_id!r} says {told.sample_count} samples, it has {count}",
                )

    def check_can_be_judged(self) -> None:
        """A task with training data also has validation or test data."""
        for task in self.loaded():
            judged = task.has_data("validation") or task.has_data("test")
            expect(judged or not task.has_data("train"), f"{self.name}: task {task.task_id!r} has training data only")

    def check_agrees_with_twin(self) -> None:
        """It loads what the twin loads."""
        assert self.subject.twin is not None
        ours, theirs = _prints(self.loaded()), _prints(self.subject.twin())
        expect(ours == theirs, f"{self.name} and its twin load other tasks or other data")


def _prints(portfolio: Portfolio) -> dict[str, list[str]]:
    return {
        "tasks": [f"{task.task_id} {task.fingerprint()}" for task in portfolio],
        "unseen": [f"{task.task_id} {task.fingerprint()}" for task in portfolio.unseen],
    }


KIT = SourceKit
