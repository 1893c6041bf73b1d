"""Checks of strategists."""

from __future__ import annotations

from typing import Any

import attrs

from crosstask.records import Budget, Interval, StrategyAdvice, TransferResult
from crosstask.tasks import Portfolio, Task
from crosstask.testing.compare import difference, plain
from crosstask.testing.kit import Call, Kit, expect
from crosstask.testing.tasks import small_portfolio

USUAL = {"transfer": "plain", "balancer": "mean", "synthesis": "merged"}
BETTER = {"plain": 0.6, "clever": 0.8, "poor": 0.5}
"""What each transfer method scored in the planted history; of the other kinds there is none."""


class StrategistKit(Kit):
    """It recommends what was better before, the usual where nothing is known, and never by a task's name.

    A `twin(history, usual)` gives the names that are recommended, for planted `TransferResult`s.
    """

    point = "strategist"

    def inputs(self) -> dict[str, Any]:
        portfolio = (self.subject.portfolio or _tasks)()
        return {"task": next(iter(portfolio)), "portfolio": portfolio, "usual": dict(USUAL)}

    def exercise(self, component: Any, call: Call, inputs: dict[str, Any]) -> Any:
        return call("suggest", **inputs)

    def history(self) -> list[TransferResult]:
        """Every method between the other tasks, five times: with several numbers of samples, and a little noise."""
        tasks = list(self.inputs()["portfolio"])[1:]
        found = []
        for number, target in enumerate(tasks):
            for samples in (20, 40, 60, 80, 100):
                for place, (name, score) in enumerate(BETTER.items()):
                    found.append(
                        _result(tasks[number - 1], target, name, score + 0.004 * ((samples + place) % 3), samples)
                    )
        return found

    def advised(self, history: list[Any], **changes: Any) -> dict[str, StrategyAdvice]:
        """What it recommends after a history, by kind."""
        component = self.make()
        with self.run(component) as run:
            for number, result in enumerate(history):
                run.remember("transfers", f"planted {number}", result)
            before = plain(dict(run.past("transfers")))
            found = run.call(component, "suggest", **{**self.inputs(), **changes})
            told = difference(before, plain(dict(run.past("transfers"))), "the history")
            expect(told is None, f"{self.name} changes what is remembered: {told}")
        return {advice.kind: advice for advice in found}

    def check_one_for_each_kind(self) -> None:
        """There is one advice for each kind asked about, in order; it names what is usual, and says why in words."""
        for history in ([], self.history()):
            found = self.advised(history)
            expect(list(found) == list(USUAL), f"{self.name}: advice of {list(found)}, asked about {list(USUAL)}")
            for kind, advice in found.items():
                expect(
                    advice.usual == USUAL[kind],
                    f"{self.name}: {kind}: the usual is {USUAL[kind]!r}, not {advice.usual!r}",
                )
                expect(advice.text.strip(), f"{self.name}: {kind}: the advice says nothing")
                expect(advice.strategy, f"{self.name}: {kind}: no strategy is named")

    def check_usual_without_history(self) -> None:
        """Where nothing was found before it recommends the usual, without evidence or figures."""
        for kind, advice in self.advised([]).items():
            expect(advice.strategy == USUAL[kind], f"{self.name}: {kind}: {advice.strategy!r} without any history")
            silent = advice.evidence == 0 and advice.expected is None and advice.gain is None and advice.cost is None
            expect(silent, f"{self.name}: {kind}: figures without any history: {advice}")

    def check_recommends_what_was_better(self) -> None:
        """A method that was clearly better in twenty settings is recommended, with what it scored and gained."""
        advice = self.advised(self.history())["transfer"]
        expect(advice.strategy == "clever", f"{self.name}: recommends {advice.strategy!r}; 'clever' was better by .2")
        expect(advice.evidence > 0, f"{self.name}: recommends it from no evidence")
        for name, wanted in (("expected", 0.8), ("gain", 0.2)):
            value = getattr(advice, name)
            expect(isinstance(value, Interval), f"{self.name}: {name} is {value!r}, not an Interval")
            expect(value.low <= value.mean <= value.high, f"{self.name}: {name} is no interval: {value}")
            expect(abs(value.mean - wanted) < 0.1, f"{self.name}: {name} is {value.mean:.3f}, it was about {wanted}")

    def check_not_by_name(self) -> None:
        """A task of another name gets the same advice."""
        inputs = self.inputs()
        task: Task = inputs["task"]
        other = Task(
            descriptor=attrs.evolve(task.descriptor, task_id="of another name", task_name="another"),
            train=task.data("train"), test=task.data("test"),
        )  # fmt: skip
        portfolio = Portfolio([other, *list(inputs["portfolio"])[1:]])
        one, two = (
            {k: (a.strategy, a.expected, a.gain, a.evidence) for k, a in found.items()}
            for found in (self.advised(self.history()), self.advised(self.history(), task=other, portfolio=portfolio))
        )
        told = difference(plain(one), plain(two), "advice")
        expect(told is None, f"{self.name}: a task of another name is advised otherwise: {told}")

    def check_leaves_out_what_it_cannot_read(self) -> None:
        """Entries of another shape, and tasks that nobody knows, change nothing."""
        known = list(self.inputs()["portfolio"])[1].task_id
        strange: list[Any] = [
            {}, {"what": "fold", "target": known, "score": 1.0}, {"target": known, "score": "high"}, [1, 2],
            {"source": "a", "target": "nobody", "strategy": "poor", "score": {"mean": 1.0}, "metric": "accuracy"},
        ]  # fmt: skip
        told = difference(plain(self.advised(self.history())), plain(self.advised(self.history() + strange)), "advice")
        expect(told is None, f"{self.name}: entries that are of no use change its advice: {told}")

    def check_agrees_with_twin(self) -> None:
        """It recommends what the twin recommends."""
        assert self.subject.twin is not None
        history = self.history()
        ours = [advice.strategy for advice in self.advised(history).values()]
        theirs = list(self.subject.twin(history, dict(USUAL)))
        expect(ours == theirs, f"{self.name} recommends {ours}, its twin {theirs}")


def _tasks() -> Portfolio:
    return Portfolio(list(small_portfolio(models=False)))


def _result(source: Task, target: Task, strategy: str, score: float, samples: int) -> TransferResult:
    def level(value: float) -> Interval:
        return Interval(mean=value, low=value - 0.02, high=value + 0.02)

    return TransferResult(
        source=source.task_id, target=target.task_id, strategy=f"transfer {strategy!r} (crosstask-planted 1.0)",
        metric="accuracy", split="test", score=level(score), scratch_score=level(0.55),
        coefficient=level((score - 0.55) / 0.45), performance_gain=level(score - 0.55), seeds=3,
        budget=Budget(steps=50, samples=samples),
    )  # fmt: skip


KIT = StrategistKit
