"""Trainings in fleets and alone: who goes where, what a failure leaves, what the store keeps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor, nn

from crosstask.components import Job, Remembered
from crosstask.context import LocalContext
from crosstask.errors import DataError, RunError
from crosstask.learning import together
from crosstask.learning.fleets import Member, Phase, Trained
from crosstask.learning.models import ModelSpec
from crosstask.learning.own_models import arrays_of
from crosstask.learning.together import Kept, and_others, every, grouped, in_fleet, remembered
from crosstask.learning.training import evaluate, fit
from crosstask.learning.transferring import fresh_model
from crosstask.records import Budget
from crosstask.tasks import Task
from crosstask.testing import blobs

BUDGET = Budget(steps=6, learning_rate=0.03, evaluate_every=3)
WHOLE = (Phase(6),)
SPEC = ModelSpec(hidden=(8,))


def nan_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return outputs.sum() * float("nan")


def task_of(number: int, **more: Any) -> Task:
    task = blobs(f"t{number}", seed=number)
    return attrs.evolve(task, **more) if more else task


def member(number: int, task: Task | None = None, phases: Any = WHOLE, spec: ModelSpec = SPEC) -> Member:
    task = task or task_of(number)
    return Member(fresh_model(spec.build(task.descriptor, 0), task, number), task, BUDGET, phases, number)


def by_the_loop(number: int, task: Task | None = None) -> tuple[float, nn.Module]:
    made = member(number, task)
    fit(made.model, made.task, BUDGET, torch.Generator().manual_seed(number))
    return evaluate(made.model, made.task, "test"), made.model


def scored(made: Member, how: Trained) -> tuple[float, nn.Module]:
    assert how.score is not None
    return how.score, made.model


def test_who_goes_together() -> None:
    members = [member(n, phases=() if n == 2 else WHOLE) for n in range(7)]
    groups, reasons = grouped(members)
    assert groups == [[2], [0, 1, 3, 4, 5, 6]]
    assert reasons == {2: "it trains in a way of its own"}
    assert grouped(members, who="mine")[1] == {2: "mine trains in a way of its own"}
    assert grouped(members, workers=3)[0] == [[2], [0, 1], [3, 4], [5, 6]]
    assert grouped(members, workers=3, least=3)[0] == [[2], [0, 1, 3], [4, 5, 6]]
    assert grouped(members, workers=3, least=7)[0] == [[2], [0, 1, 3, 4, 5, 6]]
    assert grouped(members[:2], workers=2, each=3, least=3)[0] == [[0], [1]], "each stands for three"
    assert grouped([]) == ([], {})
    assert and_others(["a"]) == "a"
    assert and_others(["a", "b", "c"]) == "a and 2 more"


def test_what_a_fleet_gives_is_what_the_loop_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    found = in_fleet(3, member, scored, score_split="test")
    for number, result in enumerate(found):
        score, model = by_the_loop(number)
        assert result is not None
        assert result[0] == pytest.approx(score)
        torch.testing.assert_close(result[1].state_dict(), model.state_dict(), rtol=1e-5, atol=1e-6)
    bad = task_of(1, loss=nan_loss)

    def one_fails(number: int) -> Member:
        return member(number, bad if number == 1 else None)

    assert [each is None for each in in_fleet(3, one_fails, scored, score_split="test")] == [False, True, False]
    told = in_fleet(3, one_fails, scored, str, score_split="test")[1]
    assert told == "task 't1': the training loss is nan at step 1; try a smaller learning rate"
    unjudged = member(0).task.over(train=member(0).task.data("train"))
    assert in_fleet(2, lambda n: member(n, unjudged), scored, score_split="test") == [None, None]
    monkeypatch.setattr(together, "train_fleet", lambda *_, **__: 1 / 0)
    assert in_fleet(3, member, scored) == [None] * 3


def test_every_one_is_trained_and_the_first_that_fails_is_raised_last() -> None:
    def run(tasks: Sequence[Task], phases: Sequence[Any]) -> tuple[dict[int, float], list[int], Exception | None]:
        members = [member(n, task, own) for n, (task, own) in enumerate(zip(tasks, phases, strict=True))]
        single: list[int] = []

        def alone(number: int) -> float:
            single.append(number)
            return by_the_loop(number, tasks[number])[0]

        found: dict[int, float] = {}
        try:
            made = every(members, members.__getitem__, alone, lambda m, t: scored(m, t)[0], score_split="test")
            found.update(made)
        except RunError as error:
            return found, single, error
        return found, single, None

    good = [task_of(n) for n in range(5)]
    expected = {n: pytest.approx(by_the_loop(n)[0]) for n in range(5)}
    found, single, error = run(good, [WHOLE, (), WHOLE, WHOLE, ()])
    assert (found, single, error) == (expected, [1, 4], None)
    wrong = [task_of(n, loss=nan_loss) if n in (2, 3) else task_of(n) for n in range(5)]
    found, single, error = run(wrong, [WHOLE, (), WHOLE, WHOLE, ()])
    assert (sorted(found), single) == ([0, 1], [1]), "what was computed is given before it is raised"
    assert str(error).startswith("task 't2': the training loss is nan at step 1"), "the first of both"


def job_together(tasks: list[Task], seeds: list[int]) -> list[Kept | None]:
    def kept(made: Member, _: Trained) -> Kept:
        return {"seed": made.seed, "how": "fleet"}, arrays_of(made.model)

    return in_fleet(len(tasks), lambda n: member(seeds[n], tasks[n]), kept)


def job_alone(tasks: list[Task], seeds: list[int]) -> list[Kept]:
    ((_, model),) = [by_the_loop(seed, task) for seed, task in zip(seeds, tasks, strict=True)]
    return [({"seed": seeds[0], "how": "alone"}, arrays_of(model))]


@attrs.define
class Kitchen:
    """`remembered` over some tasks."""

    tasks: list[Task]
    context: LocalContext = attrs.field(factory=LocalContext)
    jobs: list[tuple[list[int], bool]] = attrs.field(factory=list)

    def run(self) -> dict[int, Remembered]:
        keys = [f"{99 - n}" for n in range(len(self.tasks))]

        def planned(numbers: Sequence[int]) -> list[Member]:
            return [member(n, self.tasks[n]) for n in numbers]

        def job(numbers: Sequence[int], several: bool) -> Job:
            self.jobs.append((list(numbers), several))
            args = ([self.tasks[n] for n in numbers], list(numbers))
            return Job(job_together if several else job_alone, args)

        return dict(remembered(self.context, "models", keys, planned, job))


def test_what_is_known_is_not_trained_again_and_only_the_rest_is() -> None:
    made = Kitchen([task_of(n) for n in range(4)])
    first = made.run()
    assert made.jobs == [([0, 1, 2, 3], True)]
    for number, found in first.items():
        assert found.payload == {"seed": number, "how": "fleet"}
        expected = by_the_loop(number)[1].state_dict()
        torch.testing.assert_close(found.tensors, dict(expected), rtol=1e-5, atol=1e-6)
    made.jobs.clear()
    assert made.run().keys() == first.keys()
    assert made.jobs == []
    del made.context._memory["models", "98"]
    again = made.run()
    assert made.jobs == [([1], False)]
    torch.testing.assert_close(again[1].tensors, first[1].tensors, rtol=1e-5, atol=1e-6)


def test_one_that_fails_in_a_fleet_is_tried_alone_after_the_others_are_kept() -> None:
    made = Kitchen([task_of(n, loss=nan_loss) if n == 1 else task_of(n) for n in range(4)])
    with pytest.raises(RunError, match="task 't1': the training loss is nan at step 1"):
        made.run()
    assert made.jobs == [([0, 1, 2, 3], True), ([1], False)]
    assert sorted(key for _, key in made.context._memory) == ["96", "97", "99"], "nothing computed is lost"
    made.tasks[1] = task_of(1)
    made.jobs.clear()
    assert sorted(made.run()) == [0, 1, 2, 3]
    assert made.jobs == [([1], False)]


def test_where_the_fleet_fails_each_goes_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(together, "train_fleet", lambda *_, **__: 1 / 0)
    made = Kitchen([task_of(n) for n in range(3)])
    assert {n: found.payload["how"] for n, found in made.run().items()} == dict.fromkeys(range(3), "alone")
    assert made.jobs == [([0, 1, 2], True), ([0], False), ([1], False), ([2], False)]


def test_what_another_run_finishes_meanwhile_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    made, asked = Kitchen([task_of(n) for n in range(3)]), []
    real = made.context.recall

    def recall(kind: str, key: str, claim: bool = True) -> Any:
        if claim:
            asked.append(key)
        if claim and key == "98":
            made.context.remember(kind, key, {"how": "elsewhere"})
        return real(kind, key, claim)

    monkeypatch.setattr(made.context, "recall", recall)
    found = made.run()
    assert asked == ["97", "98", "99"], "in the order of the keys"
    assert found[1].payload == {"how": "elsewhere"}
    assert made.jobs == [([0, 2], True)]
    alone = Kitchen([task_of(0)])
    monkeypatch.setattr(alone.context, "jobs", lambda jobs: [(0, Remembered({"how": str(j.key)})) for j in jobs])
    assert alone.run()[0].payload == {"how": "('models', '99')"}, "a job for one may find it done"


def test_an_error_of_the_job_itself_is_raised() -> None:
    made = Kitchen([task_of(0)])
    made.tasks[0] = made.tasks[0].over(validation=made.tasks[0].data("validation"))
    with pytest.raises(DataError, match="'t0' has no train data"):
        made.run()
