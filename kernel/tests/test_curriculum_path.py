"""Curricula with a gate: what does not help the target is undone, and the best of all is the answer."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
import torch
from torch import nn

from crosstask import curriculum_path
from crosstask.engine import TransferEngine
from crosstask.errors import DataError, OptionError, RunError
from crosstask.executors import ProcessExecutor, SerialExecutor
from crosstask.graph import Evidence, TransferEdge
from crosstask.learning import together
from crosstask.learning.data import batch_table
from crosstask.learning.fleets import Phase
from crosstask.learning.models import ModelSpec
from crosstask.learning.modules import frozen, trunk_parameters
from crosstask.learning.own_models import network_like
from crosstask.learning.training import History, evaluate, fit
from crosstask.learning.transferring import drawn, fresh_model, receive
from crosstask.options import component, option
from crosstask.points.curriculum import CurriculumPlanner
from crosstask.points.transfer import Transfer
from crosstask.records import Budget, Curriculum, CurriculumResult, CurriculumStep, Interval
from crosstask.tasks import Task
from crosstask.testing import blobs
from crosstask_fakes.fleets import Double, InPhases
from crosstask_fakes.registry import with_fakes

TRAIN = Budget(steps=40, learning_rate=0.03, evaluate_every=20)
FEW = Budget(steps=3, samples=40, learning_rate=0.01, evaluate_every=3)
PATH = Curriculum(target="goal", task_sequence=("good", "bad", "goal"))


@component
class Ruins(Transfer):
    """Fine-tunes; of the tasks named, nothing is left but zeros."""

    ruined: tuple[str, ...] = option(("bad",), help="tasks after which every weight is 0")

    def learn(
        self, model: nn.Module, source: nn.Module, task: Task, budget: Budget, generator: torch.Generator
    ) -> History:
        history = fit(model, task, budget, generator)
        if task.task_id in self.ruined:
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.zero_()
        return history


def alike(name: str) -> Task:
    """A task of the same three classes: what is learned of it, head and all, helps the others."""
    task = blobs(name)
    task.descriptor = attrs.evolve(task.descriptor, classes=("a", "b", "c"))
    return task


def engine(**options: Any) -> TransferEngine:
    told = {"registry": with_fakes(), "discoverers": [], "model": ModelSpec(hidden=(8,)), "train": TRAIN, "budget": FEW,
            "seeds": 2, "auto_discover": False}  # fmt: skip
    made = TransferEngine(**{**told, **options})
    for name in ("good", "bad", "goal", "other"):
        made.register_task(blobs(name, seed=1) if name == "bad" else alike(name))
    return made


def ran(made: TransferEngine, path: Curriculum = PATH, **options: Any) -> CurriculumResult:
    return made.run_curriculum(path, options.pop("method", Ruins()), **options)


def worth(score: Interval | None) -> float:
    return -1.0 if score is None else score.mean


def test_a_step_that_does_not_help_the_target_is_undone() -> None:
    with engine() as made:
        gated, plain = ran(made), ran(made, gate=False)
    first, second, last = gated.steps
    assert first.kept == "path"
    assert second.kept == "undone"
    assert worth(second.progress) <= 0
    assert gated.reached_from == "step 1: good"
    assert (gated.sources, plain.sources) == (("good",), ("good", "bad"))
    assert gated.judged_on == "its validation data"
    assert last.score.mean > plain.steps[-1].score.mean, "nothing can be learned on top of zeros"
    assert last.curve.final == pytest.approx(worth(first.target_score)), "the answer is what was judged the best"
    assert gated.model is not None
    assert evaluate(gated.model, made.portfolio["goal"]) == pytest.approx(last.score.values[0])


def test_without_a_gate_every_step_is_kept() -> None:
    """Beside the same loop written out."""
    with engine() as made:
        found = ran(made, gate=False)
        assert [(s.kept, s.target_score, s.progress) for s in found.steps] == [("", None, None)] * 3
        assert (found.reached_from, found.judged_on, found.trial_steps) == ("", "", 0)
        assert found.total_steps == 2 * TRAIN.steps + FEW.steps
        for number in range(2):
            seed, model = made.run.seed_for("transfer", "goal", number), None
            for name, budget in (("good", TRAIN), ("bad", TRAIN), ("goal", FEW)):
                task, generator = drawn(made.portfolio[name], budget.samples, seed), torch.Generator().manual_seed(seed)
                if model is None:
                    learner = fresh_model(network_like(made.model, task, seed), task, seed)
                    fit(learner, task, budget, generator)
                else:
                    learner, _, _ = receive(model, task, seed, keep_head=False)
                    Ruins().learn(learner, model, task, budget, generator)
                model = learner
            assert found.steps[-1].score.values[number] == pytest.approx(evaluate(model, made.portfolio["goal"]))


def test_the_answer_is_the_best_of_all_that_was_looked_at() -> None:
    """Among them the tasks' own models alone, training from scratch, and the best measured source off the path."""
    with engine() as made:
        made.train()
        made.graph.add(
            TransferEdge(source="other", target="goal", transfer_coefficient=0.4, evidence=Evidence.MEASURED)
        )
        found = ran(made, method=Ruins(ruined=("good", "bad")))
        plain = ran(made, Curriculum(target="goal", task_sequence=("goal",)), method=Ruins(ruined=()))
        assert (plain.reached_from, plain.sources) == ("other alone", ("other",)), (
            "a path of the target only has the best source beside it, too"
        )
    looked = [worth(each) for s in found.steps[:2] for each in (s.target_score, s.alone_score)]
    assert all(found.steps[-1].curve.final >= each - 1e-9 for each in looked)
    assert found.steps[-1].curve.final >= found.steps[-1].scratch_curve.final - 1e-9
    assert found.reached_from in ("good alone", "bad alone", "other alone", "step 1: good", "from scratch")
    # two steps, two own models, the source off the path; one of these is the answer where it is not scratch
    answered = found.reached_from != "from scratch"
    assert found.trial_steps == (5 - answered) * FEW.steps
    assert found.total_steps == 2 * TRAIN.steps + FEW.steps


def test_where_all_harms_the_answer_is_from_scratch() -> None:
    with engine() as made:
        made.portfolio["goal"].model = None
        path = Curriculum(target="goal", task_sequence=("bad", "good", "goal"))
        done = ran(made, path, method=Zeros())
        adapted = made.adapt(path, strategy=Zeros())
        kept = made.adapt(PATH, strategy=Ruins())
    assert adapted.sources == done.sources == ()
    kind = type(adapted.model).__name__
    assert repr(adapted).startswith(
        f"Adapted({kind} for 'goal' from scratch: accuracy {adapted.score}; learned from 40 "
    )
    assert kept.sources == ("good",)
    assert "for 'goal' from good by " in repr(kept)
    assert done.reached_from == "from scratch"
    assert [s.kept for s in done.steps] == ["undone", "undone", ""]
    assert done.steps[-1].gain.values == (0.0, 0.0)


@component
class Zeros(Transfer):
    """Leaves nothing of any task."""

    def learn(
        self, model: nn.Module, source: nn.Module, task: Task, budget: Budget, generator: torch.Generator
    ) -> History:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()
        return fit(model, task, budget, generator)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_step_that_cannot_be_names_what_from_and_what_to() -> None:
    """The user's model that begins is all head: nothing of it goes over to a target of other classes."""
    wide = torch.randn(60, 2), torch.arange(60) % 5
    with engine() as made:
        made.register_task(Task(descriptor="bare", train=wide, test=wide), nn.Sequential(nn.Linear(2, 5)))
        for gate in (True, False):
            with pytest.raises(
                DataError, match="'goal' cannot be learned from 'bare' in a curriculum; leave 'bare' out"
            ):
                ran(made, Curriculum(target="goal", task_sequence=("bare", "goal")), gate=gate)
        scripted = torch.jit.script(nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 5)))
        made.register_task(Task(descriptor="scripted", train=wide, test=wide), scripted)
        with pytest.raises(DataError, match=r"for 'goal' can begin with the model of 'scripted'; .* torch\.jit has"):
            ran(made, Curriculum(target="goal", task_sequence=("scripted", "goal")))
        made.graph.rule_out("bare", "goal", "all head")
        assert "bare" not in made.generate_curriculum("goal", "fake", 9).task_sequence
        assert "bare" in made.generate_curriculum("other", "fake", 9).task_sequence


def test_what_a_later_task_needs_is_not_undone_before_it_came() -> None:
    with engine() as made:
        made.register_task(blobs("built_on", seed=7, prerequisites=("bad",)))
        path = Curriculum(target="goal", task_sequence=("good", "bad", "built_on", "goal"))
        found = ran(made, path)
    assert [s.kept for s in found.steps[:2]] == ["path", "needed"]
    assert found.steps[2].kept == "undone", "it was learned on top of zeros"
    assert found.reached_from == "step 1: good", "yet the answer is the best"


def test_a_target_without_validation_data_is_judged_on_a_part_of_its_training_data() -> None:
    def without(name: str, samples: int) -> Task:
        task = alike(name)
        return task.over(train=task.data("train").head(samples), test=task.data("test"))

    with engine() as made:
        for name, count in (("some", 40), ("few", 9)):
            made.register_task(without(name, count))
        found = ran(made, Curriculum(target="some", task_sequence=("good", "bad", "some")))
        assert found.judged_on == "a 5th of its training samples"
        assert [s.kept for s in found.steps[:2]] == ["path", "undone"]
        assert found.trial_steps == 2 * FEW.steps, "the answer is learned once more, from all of its samples"
        seed = made.run.seed_for("transfer", "some", 0)
        task = drawn(made.portfolio["good"], TRAIN.samples, seed)
        model = fresh_model(network_like(made.model, task, seed), task, seed)
        fit(model, task, TRAIN, torch.Generator().manual_seed(seed))
        goal = made.portfolio["some"]
        learner, _, _ = receive(model, goal, seed, keep_head=True)
        fit(learner, goal, FEW, torch.Generator().manual_seed(seed))
        assert found.steps[-1].score.values[0] == pytest.approx(evaluate(learner, goal))
        few = ran(made, Curriculum(target="few", task_sequence=("good", "bad", "few")))
        assert few.judged_on == "", "of nine samples none can be spared"


def test_a_score_on_the_data_that_decided_is_said() -> None:
    with engine() as made:
        goal = made.portfolio["goal"]
        bare = goal.over(train=goal.data("train"), validation=goal.data("validation"))
        bare.descriptor = attrs.evolve(goal.descriptor, task_id="bare")
        made.register_task(bare)
        found = ran(made, Curriculum(target="bare", task_sequence=("good", "bare")))
    assert found.judged_on == "its validation data, by which it is scored, too"


def test_a_head_that_is_kept_is_another_answer_than_one_that_is_not(tmp_path: Any) -> None:
    """Of the same model and data: the source's classes have other names, so its head does not carry over."""

    def score(classes: tuple[str, ...]) -> tuple[float, ...]:
        with engine(store=str(tmp_path / "store.db")) as made:
            made.train()
            goal, other = made.portfolio["goal"], made.portfolio["other"]
            other.descriptor = attrs.evolve(other.descriptor, classes=classes)
            made.graph.add(
                TransferEdge(source="other", target="goal", transfer_coefficient=0.4, evidence=Evidence.MEASURED)
            )
            return (
                ran(made, Curriculum(target=goal.task_id, task_sequence=("goal",)), method=Ruins(ruined=()))
                .steps[0]
                .score.values
            )

    assert score(("a", "b", "c")) != score(("x", "y", "z"))


def test_advice_tries_again_where_a_head_no_longer_carries_over(tmp_path: Any) -> None:
    def spent(classes: tuple[str, ...]) -> float:
        with engine(store=str(tmp_path / "store.db")) as made:
            made.train()
            other = made.portfolio["other"]
            other.descriptor = attrs.evolve(other.descriptor, classes=classes)
            return made.advise("goal", Ruins(ruined=()), share=1.0).spent

    assert spent(("a", "b", "c")) > 0
    assert spent(("a", "b", "c")) == 0
    assert spent(("x", "y", "z")) > 0


def test_whether_it_came_out_as_expected() -> None:
    def of(low: float, high: float) -> CurriculumResult:
        expected = Interval(mean=(low + high) / 2, low=low, high=high)
        plan = Curriculum(target="goal", task_sequence=("good", "goal"), expected_interval=expected)
        with engine() as made:
            return ran(made, plan, gate=False)

    assert of(0.0, 1.0).as_expected is True
    assert of(-0.2, -0.1).as_expected is False
    with engine() as made:
        assert ran(made).as_expected is None


def test_a_gate_is_yes_or_no() -> None:
    with engine() as made, pytest.raises(OptionError, match="gate must be true or false"):
        ran(made, gate="often")


def test_what_was_learned_is_not_learned_again(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with engine(store=str(tmp_path / "store.db")) as made:
        first = ran(made)
    for place in ("crosstask.curriculum_path.fit", f"{__name__}.fit"):
        monkeypatch.setattr(place, lambda *_, **__: pytest.fail("learned again"))
    with engine(store=str(tmp_path / "store.db")) as made:
        again = ran(made)
    assert again == first


@pytest.mark.parametrize("order", [("goal", "good"), ("goal", "good", "goal"), ("good",), ()])
@pytest.mark.parametrize("gate", [True, False])
def test_a_target_that_is_not_the_last_is_refused(order: tuple[str, ...], gate: bool) -> None:
    """What came after it was learned, and its score given as the target's."""
    with engine() as made, pytest.raises(DataError, match="the target of a curriculum comes last, and once: 'goal' in"):
        ran(made, Curriculum(target="goal", task_sequence=order), gate=gate)


def test_a_planner_that_goes_to_the_target_early_ends_with_it() -> None:
    class Early(CurriculumPlanner):
        def rank(self, portfolio: Any, graph: Any, target: str, candidates: Any) -> Any:
            return candidates

        def next_task(self, curriculum: Curriculum, history: list[CurriculumStep]) -> str | None:
            done = [step.task_id for step in history]
            return next((name for name in ("good", "goal", "bad") if name not in done), None)

    with engine() as made:
        found = ran(made, planner=Early())
    assert [step.task_id for step in found.steps] == ["good", "goal"]


# In fleets


@component
class HeadFirst(Transfer):
    """The head first, then everything, as phases."""

    def learn(
        self, model: nn.Module, source: nn.Module, task: Task, budget: Budget, generator: torch.Generator
    ) -> History:
        first, then = (phase.steps for phase in self.phases(budget))
        with frozen(trunk_parameters(model)):
            history = fit(model, task, attrs.evolve(budget, learning_rate=5 * budget.learning_rate), generator,
                          steps=first)  # fmt: skip
        return history.extend(fit(model, task, budget, generator, steps=then))

    def phases(self, budget: Budget) -> tuple[Phase, ...]:
        first = budget.steps // 2
        return Phase(first, head=True, rate=5.0), Phase(budget.steps - first)


def in_two() -> nn.Module:
    return Double(2)


def in_double(**options: Any) -> TransferEngine:
    made = engine(seeds=3, **options)
    for name in ("good", "bad", "goal", "other"):
        made.portfolio[name].build = in_two
    made.train()
    made.graph.add(TransferEdge(source="other", target="goal", transfer_coefficient=0.4, evidence=Evidence.MEASURED))
    return made


def kept(made: TransferEngine) -> dict[str, Any]:
    """What the run remembers of its trainings on the path."""
    found = {key: known for (kind, key), known in made.run._memory.items() if kind == "models"}
    return {key: known for key, known in found.items() if "score" in known.payload}


@pytest.mark.parametrize("method", [HeadFirst, InPhases])
@pytest.mark.parametrize("validated", [True, False])
def test_in_fleets_as_alone(method: Any, validated: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """In double precision to 1e-9: weights, scores and curves of every seed, each under the same key."""

    def done(one_by_one: bool) -> tuple[CurriculumResult, dict[str, Any], int]:
        with in_double() as made, monkeypatch.context() as patch:
            if one_by_one:
                patch.setattr(together, "muster", lambda members, *_: ([], dict.fromkeys(range(len(members)), "")))
            goal = made.portfolio["goal"]
            if not validated:
                bare = goal.over(train=goal.data("train").head(40), test=goal.data("test"))
                bare.descriptor = attrs.evolve(goal.descriptor, task_id="bare")
                bare.build = in_two
                made.register_task(bare)
                goal = bare
            alone = []
            real = curriculum_path._alone
            patch.setattr(curriculum_path, "_alone", lambda given: alone.append(given) or real(given))
            path = Curriculum(target=goal.task_id, task_sequence=("good", "bad", goal.task_id))
            found = ran(made, path, method=method())
            return found, kept(made), len(alone)

    fleets, ours, single = done(one_by_one=False)
    assert single == 0
    loop, theirs, single = done(one_by_one=True)
    assert single == len(theirs) > 15
    assert ours.keys() == theirs.keys()
    for key, one in ours.items():
        other = theirs[key]
        torch.testing.assert_close(one.tensors, other.tensors, rtol=0, atol=1e-9)
        assert one.payload == other.payload, "scores of so few samples are the same"
    assert fleets == loop


def test_the_first_step_is_its_own_control(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = []
    real = together.train_fleet
    monkeypatch.setattr(
        together, "train_fleet", lambda members, **more: counts.append(len(members)) or real(members, **more)
    )
    with in_double() as made:
        counts.clear()
        found = ran(made, method=HeadFirst())
    # the first step, and each with its control; from scratch on the target once, beside the path and a model alone
    assert counts == [3, 3, 6, 3, 3, 6, 3]
    assert found.steps[0].score == found.steps[0].scratch_score


def test_only_seeds_that_are_not_known_are_trained(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path, store = Curriculum(target="goal", task_sequence=("good", "goal")), str(tmp_path / "store.db")
    with engine(store=store, seeds=2) as made:
        two = ran(made, path, method=HeadFirst())
    seeds = []
    real = together.train_fleet
    monkeypatch.setattr(
        together, "train_fleet", lambda members, **more: seeds.extend(m.seed for m in members) or real(members, **more)
    )
    with engine(store=store, seeds=5) as made:
        numbers = [made.run.seed_for("transfer", "goal", number) for number in range(5)]
        five = ran(made, path, method=HeadFirst())
    assert set(seeds) == set(numbers[2:])
    assert five.steps[-1].score.values[:2] == two.steps[-1].score.values
    with engine(seeds=5) as made:
        assert ran(made, path, method=HeadFirst()) == five, "whatever was known before"


def test_one_seed_that_fails_says_what_it_says_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its loss is not a number at a sample that one seed draws and the others do not."""

    def failing(alone: bool) -> tuple[str, list[str], int]:
        with engine(seeds=3) as made, monkeypatch.context() as patch:
            goal = made.portfolio["goal"]
            goal.loss = told
            if alone:
                patch.setattr(together, "muster", lambda members, *_: ([], dict.fromkeys(range(len(members)), "")))
            with pytest.raises(RunError) as caught:
                ran(made, Curriculum(target="goal", task_sequence=("goal",)), method=HeadFirst(), gate=False)
            return str(caught.value), caught.value.__notes__, len(kept(made))

    def told(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        loss = nn.functional.cross_entropy(outputs, targets)
        return loss * float("nan") if len(targets) and bool((targets == 0).sum() == chosen) else loss

    with engine(seeds=3) as made:
        budget, counts = made.budget, []
        for number in range(3):
            seed = made.run.seed_for("transfer", "goal", number)
            data = drawn(made.portfolio["goal"], budget.samples, seed).data("train")
            table = batch_table(len(data), budget.batch_size, budget.steps, torch.Generator().manual_seed(seed))
            counts.append([int((data.targets[row] == 0).sum()) for row in table])
    chosen = next(c for c in counts[1] if c not in counts[0] and c not in counts[2])
    step = counts[1].index(chosen) + 1
    one, notes, remembered = failing(alone=False)
    other, same, first = failing(alone=True)
    assert one == other == f"task 'goal': the training loss is nan at step {step}; try a smaller learning rate"
    assert notes == same
    assert (remembered, first) == (2, 1), "the other two are kept; one by one the third was not begun"


def test_in_worker_processes_as_here() -> None:
    results = []
    for executor in (SerialExecutor(), ProcessExecutor(workers=1)):
        with engine(executor=executor, seeds=2) as made:
            results.append(ran(made, method=HeadFirst()))
    assert results[0] == results[1]


def test_another_model_of_ones_own_is_another_path(tmp_path: Any) -> None:
    """In one store: the same tasks and architecture, begun from one model and then from another."""

    def begun(seed: int, store: Any) -> list[Any]:
        torch.manual_seed(seed)
        own = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 3))
        told = {"discoverers": [], "train": TRAIN, "budget": FEW, "seeds": 2, "auto_discover": False, "store": store}
        with TransferEngine(registry=with_fakes(), **told) as made:
            made.register_task(alike("good"), own)
            made.register_task(alike("other"))
            made.register_task(alike("goal"))
            path = Curriculum(target="goal", task_sequence=("good", "other", "goal"))
            return [step.score.values for step in made.run_curriculum(path, Ruins(ruined=()), gate=False).steps]

    first, second = begun(1, tmp_path / "store.db"), begun(2, tmp_path / "store.db")
    assert first != second
    assert second == begun(2, None)


def test_with_patience_the_steps_that_were_taken_are_counted() -> None:
    patient = {"train": attrs.evolve(TRAIN, steps=400, evaluate_every=10, patience=1),
               "budget": attrs.evolve(FEW, steps=400, evaluate_every=10, patience=1)}  # fmt: skip
    with engine(**patient) as made:
        found = ran(made, gate=False)
        ends = []
        for seed in (made.run.seed_for("transfer", "goal", number) for number in range(2)):
            model = None
            for name, budget in (("good", patient["train"]), ("bad", patient["train"]), ("goal", patient["budget"])):
                task, generator = drawn(made.portfolio[name], budget.samples, seed), torch.Generator().manual_seed(seed)
                learner = (
                    fresh_model(network_like(made.model, task, seed), task, seed)
                    if model is None
                    else receive(model, task, seed, keep_head=False)[0]
                )
                history = fit(learner, task, budget, generator)
                if name == "bad":
                    for parameter in learner.parameters():
                        parameter.data.zero_()
                ends.append((name, len(history.losses)))
                model = learner
    expected = sum(round(sum(n for each, n in ends if each == name) / 2) for name in ("good", "bad", "goal"))
    assert found.total_steps == expected < 1200
