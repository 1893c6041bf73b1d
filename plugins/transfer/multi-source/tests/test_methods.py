"""Several sources at once, checked against what is known of each part by other means."""

from __future__ import annotations

import copy
import functools
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor, nn

from crosstask.context import LocalContext
from crosstask.descriptors import MultiInput, TaskDescriptor
from crosstask.errors import DataError
from crosstask.graph import Evidence, TransferEdge, TransferGraph
from crosstask.learning import together as together_module
from crosstask.learning.averaging import mean_weights
from crosstask.learning.fleets import Phase
from crosstask.learning.model_files import load_model, save_model
from crosstask.learning.modules import Headless, know
from crosstask.learning.own_models import prepare_model
from crosstask.learning.training import evaluate, fit, predict
from crosstask.learning.transferring import fresh_model, measure_transfer
from crosstask.options import component, structure, unstructure
from crosstask.records import Budget
from crosstask.tasks import Task
from crosstask.testing import reference_registry, small_task, trained
from crosstask.testing.references import ReferenceTransfer
from crosstask_multi_source import (
    BestOf,
    Concat,
    ConcatJoint,
    Ensemble,
    Joint,
    MultiSourceResult,
    SideBySide,
    Soup,
    train_jointly,
)
from crosstask_multi_source.best_of import called, compared
from crosstask_multi_source.methods import agreement, likeness
from crosstask_multi_source.networks import Mean, linear_head, mean_of, side_by_side
from crosstask_multi_source.work import Work, choose_sources, learned_nothing

FEW = Budget(steps=10, batch_size=8, learning_rate=1e-2, evaluate_every=10)
REGISTRY = reference_registry()


def plane(*names: str) -> list[Task]:
    return [trained(small_task(name)) for name in names]


def bound(method: Any, seed: int = 0) -> Any:
    method.bind(LocalContext(seed=seed, registry=REGISTRY))
    return method


def several(method: Any, sources: list[Task], target: Task, graph: TransferGraph | None = None, **more: Any) -> Any:
    given = {"train": FEW, "budget": FEW, "seeds": 2, "split": "test", **more}
    return bound(method).transfer_several(sources=sources, target=target, graph=graph, **given)


def work(sources: list[Task], target: Task, budget: Budget = FEW) -> Work:
    context = LocalContext(registry=REGISTRY)
    method: Any = context.component("transfer", "reference")
    return Work(context, method, sources, target, FEW, budget)


class Normed(nn.Module):
    """A user's own network: batch normalisation, and another width."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(2, 5), nn.BatchNorm1d(5), nn.ReLU())
        self.answer = nn.Linear(5, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.answer(self.body(inputs))


class Wide(Normed):
    """Whose constructor must be told something."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body, self.answer = nn.Linear(2, width), nn.Linear(width, 2)


class Early(nn.Module):
    """Whose head is declared first."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(6, 2)
        self.body = nn.Linear(2, 6)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.out(self.body(inputs).relu())


def own(name: str = "moons", model: nn.Module | None = None, **known: Any) -> Task:
    torch.manual_seed(3)
    task = small_task(name)
    task.model = Normed() if model is None else model
    prepare_model(task)
    fit(task.model, task, FEW, torch.Generator().manual_seed(0), curve_split=None)
    know(task.model, **known)
    return task


@component
class InPhases(ReferenceTransfer):
    """The same training, told to fleets."""

    def phases(self, budget: Budget) -> tuple[Phase, ...]:
        return (Phase(budget.steps),)


# Side by side ---------------------------------------------------------------------------------------------------------


def test_the_features_of_concat_are_those_of_the_trunks_one_after_another() -> None:
    tasks, target = [*plane("halves"), own()], small_task("quarters")
    made = work(tasks, target)
    start = made.side_by_side([made.single(task) for task in tasks], scaled=False)
    inputs = target.data("test").inputs
    trunks = [Headless(task.model).eval()(inputs) for task in tasks]  # type: ignore[arg-type]
    torch.testing.assert_close(start.model.features(inputs), torch.cat(trunks, dim=1))  # type: ignore[operator]
    torch.testing.assert_close(start.model(inputs), start.model.head(torch.cat(trunks, dim=1)))  # type: ignore[operator]
    assert start.model.head.weight.shape == (4, trunks[0].shape[1] + 5)  # type: ignore[union-attr]
    scaled = made.side_by_side([made.single(task) for task in tasks], scaled=True).model
    seen = target.data("train").inputs
    sizes = [Headless(task.model).eval()(seen).double().square().mean().sqrt() for task in tasks]  # type: ignore[arg-type]
    expected = torch.stack([sizes[0] / size / 2 for size in sizes]).float()
    torch.testing.assert_close(scaled.scales, expected)  # type: ignore[arg-type]


def test_a_head_for_the_targets_classes_comes_along() -> None:
    target, (like, other) = small_task("turned"), plane("moons", "halves")
    made = work([other, like], target)
    start = made.side_by_side([made.single(other), made.single(like)], scaled=True)
    assert start.keep_head
    inputs = target.data("test").inputs
    torch.testing.assert_close(start.model(inputs), like.model.eval()(inputs), rtol=1e-4, atol=1e-5)  # type: ignore[union-attr]
    assert not made.side_by_side([made.single(other), made.joint([other])], scaled=False).keep_head


def test_features_that_are_no_vector_are_told() -> None:
    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.head = nn.Linear(2, 4), nn.Linear(4, 2)

        def forward(self, inputs: Tensor) -> Tensor:
            return self.head(self.one(inputs[:, None])).squeeze(1)

    (halves,), task = plane("halves"), small_task("moons")
    task.model = Wide()
    with pytest.raises(DataError, match=r"receives features of shape \(1, 4\): side by side takes one vector"):
        several(Concat(method="reference"), [halves, task], small_task("quarters"))


# One source, and too few ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [Concat, Joint, ConcatJoint, Ensemble, Soup])
def test_of_one_source_it_is_the_single_transfer(method: Any) -> None:
    (source,), target = plane("halves"), small_task("quarters")
    made = bound(method(method="reference"))
    found = several(made, [source], target)
    single = measure_transfer(made.inner, source, target, FEW, 2, "test")
    assert found.score == single.score == found.single_score
    assert found.scratch_score == single.scratch_score
    assert found.cost == found.single_cost
    assert any("sources there is 1" in note for note in found.notes)
    assert measure_transfer(made, source, target, FEW, 2, "test").score == single.score, "and as a method of a pair"


# Joint ----------------------------------------------------------------------------------------------------------------


def test_joint_training_of_one_source_is_its_own_training() -> None:
    for task in (own("halves"), *plane("halves")):
        assert task.model is not None
        alone = fresh_model(task.model, task, 5)
        budget = attrs.evolve(FEW, samples=30, clip=1.0, schedule="cosine")
        fit(alone, task, budget, torch.Generator().manual_seed(5), curve_split=None)
        made = train_jointly(task.model, [task], budget, 5)
        for (name, ours), theirs in zip(made.state_dict().items(), alone.state_dict().values(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=0, msg=name)


def test_joint_training_is_that_of_the_mean_of_the_tasks_losses() -> None:
    """Two steps of gradient descent by hand, on all samples of both tasks."""
    tasks = plane("halves", "quarters")
    budget = Budget(steps=2, batch_size=200, learning_rate=0.1, optimizer="sgd", evaluate_every=2)
    made = train_jointly(tasks[0].model, tasks, budget, 1)  # type: ignore[arg-type]
    nets = [fresh_model(tasks[0].model, task, 1 + n) for n, task in enumerate(tasks)]  # type: ignore[arg-type]
    nets[1].trunk = nets[0].trunk  # one trunk
    parameters = list({id(p): p for net in nets for p in net.parameters()}.values())
    descent = torch.optim.SGD(parameters, lr=0.1, momentum=0.9)
    for _ in range(2):
        descent.zero_grad()
        losses = [
            nn.functional.cross_entropy(net(t.data().inputs), t.data().targets)
            for net, t in zip(nets, tasks, strict=True)
        ]
        (sum(losses) / 2).backward()  # type: ignore[union-attr]
        descent.step()
    for (name, ours), theirs in zip(made.state_dict().items(), nets[0].state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5, msg=name)


def test_what_cannot_be_trained_jointly_is_told() -> None:
    (halves,), target = plane("halves"), small_task("quarters")
    bare = Task(descriptor=attrs.evolve(halves.descriptor, task_id="bare"), model=copy.deepcopy(halves.model))
    with pytest.raises(DataError, match="no joint training of bare: there are no training data"):
        several(Joint(method="reference"), [halves, bare], target)
    other = Task(descriptor=TaskDescriptor(task_id="wide", input_shape=(3,), output_dim=2),
                 train=(torch.randn(6, 3), torch.arange(6) % 2))  # fmt: skip
    with pytest.raises(
        DataError, match=r"no joint training of 'halves', 'wide': their inputs have shapes \(2,\), \(3,\)"
    ):
        train_jointly(halves.model, [halves, other], FEW, 0)  # type: ignore[arg-type]
    loose = nn.Sequential(copy.deepcopy(halves.model), nn.Softmax(1))  # type: ignore[arg-type]
    with pytest.raises(DataError, match="no joint training: what Sequential answers is not what its head makes"):
        train_jointly(loose, [halves], FEW, 0)


class Pair(nn.Module):
    """Two inputs by name."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.head = nn.Linear(3, 4), nn.Linear(4, 1)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.head(self.one(torch.cat([left, right], dim=1)).relu())


def test_several_inputs_values_and_labels_at_once() -> None:
    """Regression and multilabel tasks over named inputs are sources of one another, in every way."""
    generator = torch.Generator().manual_seed(0)
    parts = {"left": torch.randn(60, 1, generator=generator), "right": torch.randn(60, 2, generator=generator)}
    inputs = MultiInput(parts)
    line = parts["left"] + parts["right"] @ torch.tensor([[1.0], [-1.0]])
    targets = {"regression": line, "multilabel": torch.cat([line > 0, parts["left"] > 0], dim=1).float()}
    tasks = []
    for number, (name, kind) in enumerate([("a", "regression"), ("b", "multilabel"), ("c", "regression")]):
        values = targets[kind] * (1 + number)  # 1 and 0 stay so for one
        values = values.clamp(max=1) if kind == "multilabel" else values
        cut = {
            s: (inputs[i], values[i])
            for s, i in (("train", slice(30)), ("validation", slice(30, 45)), ("test", slice(45, 60)))
        }
        task = Task(descriptor=TaskDescriptor(task_id=name, task_type=kind, output_dim=values.shape[1]), **cut)  # type: ignore[arg-type]
        torch.manual_seed(number)
        task.model = fresh_model(Pair(), task, number)
        fit(task.model, task, FEW, torch.Generator().manual_seed(0), curve_split=None)
        tasks.append(task)
    a, b, c = tasks
    brief = attrs.evolve(FEW, steps=3)
    for target, sources in ((c, [a, b]), (b, [a, c])):
        for distill in (False, True):
            found = several(Ensemble(method="reference", distill=distill), sources, target, seeds=1, budget=brief)
            assert evaluate(found.model, target) == pytest.approx(found.score.mean, rel=1e-4)
        found = several(BestOf(method="reference", candidates=(Concat(), Joint()), folds=2), sources, target, seeds=1,
                        split="test") if target is c else found  # fmt: skip
    assert isinstance(found, MultiSourceResult)


# Ensembles ------------------------------------------------------------------------------------------------------------


def test_the_ensemble_answers_with_the_mean_of_the_logits() -> None:
    tasks, target = [*plane("halves", "shuffled"), own()], small_task("quarters")
    made = work(tasks, target)
    starts = [made.single(task) for task in tasks]
    draws = made.draws([1])
    ((*models,),) = made.learn(starts, draws)
    inputs = target.data("test").inputs
    expected = sum(predict(model, inputs) for model in models) / 3
    one = mean_of(models, inputs[:4])
    assert isinstance(one, SideBySide), "one network: trunks side by side, heads added up"
    torch.testing.assert_close(predict(one, inputs), expected, rtol=1e-4, atol=1e-5)
    odd = [*models, nn.Sequential(copy.deepcopy(models[0]), nn.Softmax(1))]
    other = mean_of(odd, inputs[:4])
    assert isinstance(other, Mean)
    torch.testing.assert_close(predict(other, inputs), sum(predict(m, inputs) for m in odd) / 4)
    with pytest.raises(DataError, match="the mean of whole models has none; distil it into one model"):
        fresh_model(other, target, 0)
    assert mean_of(models[:1], inputs) is models[0]
    bare = nn.Sequential(nn.Flatten(), nn.Linear(2, 4, bias=False))
    two = mean_of([bare, models[0]], inputs[:4])
    torch.testing.assert_close(predict(two, inputs), (bare(inputs) + predict(models[0], inputs)) / 2)


def test_members_of_an_ensemble_are_the_best_source_and_what_the_methods_learn() -> None:
    tasks, target = plane("halves", "moons"), small_task("quarters")
    made = work(tasks, target)
    joint = bound(Ensemble(method="reference", members=(Joint(), ConcatJoint(), Concat(most=1))))
    starts = joint.starts(made)
    assert [start.sources for start in starts] == [("halves",), ("halves", "moons"), ("halves", "moons")]
    assert starts[1] is made.joint(tasks)
    with pytest.raises(DataError, match=r"members learn one model each, .*Ensemble.* learns several"):
        bound(Ensemble(members=(Ensemble(),))).starts(made)
    with pytest.raises(DataError, match="members are methods that learn from several sources in one way"):
        bound(Ensemble(members=("reference",))).starts(made)
    with pytest.raises(DataError, match="method must learn from one source"):
        _ = bound(Concat(method=Joint())).inner


def test_a_distilled_ensemble_is_one_model_and_its_agreement_is_measured() -> None:
    tasks, target = plane("halves", "moons"), small_task("quarters")
    budget = attrs.evolve(FEW, steps=60)
    whole = several(Ensemble(method="reference"), tasks, target, budget=budget, seeds=1)
    small = several(Ensemble(method="reference", distill=True), tasks, target, budget=budget, seeds=1)
    assert isinstance(whole.model, SideBySide)
    assert type(small.model) is type(tasks[0].model)
    assert small.cost.parameters == small.single_cost.parameters < whole.cost.parameters
    assert small.cost.steps == whole.cost.steps + budget.steps
    seen = target.data("validation").inputs
    agreed = (predict(small.model, seen).argmax(1) == predict(whole.model, seen).argmax(1)).double().mean()
    assert agreed > 0.8
    assert f"agrees with the ensemble on {float(agreed):.1%} of the validation samples" in small.notes[-1]


def test_agreement_by_hand() -> None:
    def of(kind: str, outputs: int) -> Task:
        return Task(descriptor=TaskDescriptor(task_id="x", task_type=kind, output_dim=outputs))

    one, other = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    assert agreement(one, other, of("classification", 2)) == 0.5
    assert agreement(one - 0.5, other - 0.5, of("multilabel", 2)) == 0.5
    assert agreement(one, one, of("regression", 2)) == 1.0
    values, near = torch.tensor([[0.0], [2.0]]), torch.tensor([[0.5], [2.0]])
    assert agreement(near, values, of("regression", 1)) == pytest.approx(1 - 0.125), "of variance 1"


# Soup -----------------------------------------------------------------------------------------------------------------


def test_the_soup_of_identical_models_is_the_model() -> None:
    (task,) = plane("halves")
    assert task.model is not None
    made = mean_weights([task.model, copy.deepcopy(task.model), copy.deepcopy(task.model)])
    for ours, theirs in zip(made.state_dict().values(), task.model.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs)
    assert likeness(task.model, task.model) == pytest.approx(1)
    bare = nn.Sequential(nn.Flatten(), nn.Linear(2, 2))
    assert likeness(bare, copy.deepcopy(bare)) == 1, "without a trunk there is nothing that could differ"


def related() -> list[Task]:
    """Two sources whose models began as one."""
    (first,) = plane("moons")
    second = small_task("halves")
    second.model = copy.deepcopy(first.model)
    fit(second.model, second, attrs.evolve(FEW, learning_rate=1e-3), torch.Generator().manual_seed(0), curve_split=None)  # type: ignore[arg-type]
    return [first, second]


def test_the_greedy_soup_adds_what_is_no_worse_on_validation_data() -> None:
    target = small_task("quarters")
    sources = related()
    found = several(Soup(method="reference"), sources, target, seeds=1)
    made = work(sources, target)
    draws = made.draws([bound(Soup()).context.seed_for("transfer", "quarters", 0)])
    ((one, other),) = made.learn([made.single(s) for s in sources], draws)
    level = max(evaluate(one, target, "validation"), evaluate(other, target, "validation"))
    assert evaluate(found.model, target, "validation") >= level
    mean = {n: (a + other.state_dict()[n]) / 2 for n, a in one.state_dict().items()}
    both = copy.deepcopy(one)
    both.load_state_dict(mean)
    if evaluate(both, target, "validation") >= level:
        torch.testing.assert_close(found.model.state_dict(), mean)
    bare = target.over(train=target.data("train"), test=target.data("test"))
    plain = several(Soup(method="reference"), sources, bare, seeds=1)
    torch.testing.assert_close(plain.model.state_dict(), mean)
    assert "no validation data: all were averaged" in plain.notes


def test_no_soup_of_models_that_began_apart() -> None:
    target = small_task("quarters")
    (halves,) = plane("halves")
    apart = small_task("moons")
    apart.model = fresh_model(halves.model, apart, 77)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"no soup of halves and moons: their weights did not begin as the same"):
        several(Soup(method="reference"), [halves, apart], target)
    with pytest.raises(DataError, match=r"different architectures; concat takes them"):
        several(Soup(method="reference"), [halves, own()], target)


# Which sources --------------------------------------------------------------------------------------------------------


def edge(source: str, target: str, value: float, low: float | None = None, high: float | None = None) -> TransferEdge:
    return TransferEdge(
        source=source, target=target, transfer_coefficient=value, low=low, high=high, evidence=Evidence.MEASURED
    )


def test_sources_that_hurt_and_controls_are_left_out_and_the_best_stands_first() -> None:
    tasks, target = plane("halves", "shuffled", "moons", "turned"), small_task("quarters")
    graph = TransferGraph([t.descriptor for t in (*tasks, target)])
    graph.add(edge("halves", "quarters", 0.1))
    graph.add(edge("moons", "quarters", 0.4))
    graph.add(edge("turned", "quarters", -0.3, -0.5, -0.1))
    graph.add(edge("shuffled", "quarters", 0.9))
    chosen, notes = choose_sources(tasks, target, graph, 3)
    assert [t.task_id for t in chosen] == ["moons", "halves"]
    assert notes == [
        "left out, for they hurt: turned",
        "left out, for they learned nothing of their own task: shuffled",
        "of at most 3 sources there are 2",
    ]
    graph.add(edge("turned", "quarters", -0.3, -0.7, 0.1))
    assert [t.task_id for t in choose_sources(tasks, target, graph, 3)[0]] == ["moons", "halves", "turned"]
    named, told = choose_sources(tasks, target, None, 2)
    assert [t.task_id for t in named] == ["halves", "shuffled"]
    assert told == []
    empty = TransferGraph([t.descriptor for t in (*tasks, target)])
    assert "the graph knows no source of quarters" in choose_sources(tasks[:1], target, empty, 1)[1][0]
    with pytest.raises(DataError, match="no source for 'quarters': left out, for they learned nothing"):
        choose_sources([tasks[1]], target, empty, 1)


def test_who_learned_nothing() -> None:
    halves, shuffled = plane("halves", "shuffled")
    free = Task(descriptor=TaskDescriptor(task_id="free", task_type="generation"), model=halves.model, loss="mse",
                metric=lambda outputs, targets: 0.0, train=(torch.zeros(4, 2), torch.zeros(4, 2)),
                validation=(torch.zeros(4, 2), torch.zeros(4, 2)))  # fmt: skip
    assert not learned_nothing(free), "of a type for which nobody knows chance"
    assert not learned_nothing(halves)
    assert learned_nothing(shuffled)
    assert not learned_nothing(halves.over(train=halves.data("train"))), "nothing is held out: nobody knows"
    strange = halves.over(**{s: halves.data(s) for s in ("train", "validation")})
    strange.model = nn.Sequential(nn.Linear(3, 2))
    assert not learned_nothing(strange), "a model that does not fit its task: nobody knows"


# The choice -----------------------------------------------------------------------------------------------------------


def test_the_error_of_a_gain_is_that_of_paired_differences() -> None:
    """For accuracy it is known: the standard deviation of the differences over the root of their number."""
    task = small_task("moons")
    generator = torch.Generator().manual_seed(0)
    right = torch.randint(2, (400,), generator=generator)
    ours, theirs = ((torch.rand(400, generator=generator) < share) for share in (0.9, 0.8))
    outputs = [nn.functional.one_hot(torch.where(hit, right, 1 - right), 2).float() for hit in (ours, theirs)]
    gain, error = compared([(outputs[0], right)], [(outputs[1], right)], task, 0)
    difference = ours.double() - theirs.double()
    assert gain == pytest.approx(float(difference.mean()), abs=1e-6)
    assert error == pytest.approx(float(difference.std()) / 20, rel=0.15)
    assert compared([(outputs[0], right)], [(outputs[0], right)], task, 0) == (0.0, 0.0)


def measured(*coefficients: tuple[str, float]) -> TransferGraph:
    graph = TransferGraph([small_task(n).descriptor for n in ("moons", "halves", "turned", "quarters", "shuffled")])
    for source, value in coefficients:
        graph.add(edge(source, "quarters", value))
    return graph


@pytest.mark.parametrize("judge_on", ["validation", "folds"])
def test_the_single_source_is_chosen_unless_another_way_is_better_beyond_noise(judge_on: str) -> None:
    tasks, target = plane("halves", "moons"), small_task("quarters")
    tasks[1].model = fresh_model(tasks[1].model, tasks[1], 77)  # type: ignore[arg-type]
    fit(tasks[1].model, tasks[1], attrs.evolve(FEW, steps=60), torch.Generator().manual_seed(0), curve_split=None)
    graph = measured(("halves", 0.4), ("moons", 0.2))
    options = {"method": "reference", "candidates": (Concat(), Joint(), Soup()), "judge_on": judge_on, "folds": 3}
    never = several(BestOf(**options, margin=1e9), tasks, target, graph)
    assert never.chosen == "single"
    assert never.score == never.single_score
    assert never.gain.mean == 0
    assert never.candidates[0].name == "single"
    always = several(BestOf(**options, margin=0.0), tasks, target, graph)
    best = max((c for c in always.candidates if c.gain is not None), key=lambda c: c.gain)
    assert always.chosen == (best.name if best.gain > 0 else "single")
    rows = {c.name: c for c in always.candidates}
    refused = next(c for c in always.candidates if c.validation is None)
    assert "no soup of halves and moons" in refused.reason
    assert len(rows) == 4
    ends = 1 if always.chosen == "single" else 2  # what is learned from all samples in the end
    trainings = 3 if judge_on == "validation" else 3 * 3 + ends
    search, joint = always.search, FEW.steps
    assert search.steps == trainings * FEW.steps + joint
    assert search.samples == trainings * FEW.steps * 8 + joint * 16
    assert "folds" in always.judged_on or "validation samples" in always.judged_on
    assert structure(unstructure(always), MultiSourceResult, "result") == always
    assert len(always.to_frame()) == 4


def test_without_measurements_the_best_single_source_is_found_on_the_same_data() -> None:
    tasks, target = plane("shuffled", "halves"), small_task("quarters")
    found = several(BestOf(method="reference", candidates=(Concat(),), judge_on="validation"), tasks, target)
    made = work(tasks, target)
    draws = made.draws([bound(BestOf()).context.seed_for("transfer", "quarters", n) for n in range(2)])
    scores = {}
    for task in tasks:
        learned = made.learn([made.single(task)], draws)
        scores[task.task_id] = sum(evaluate(models[0], target, "validation") for models in learned)
    assert found.candidates[0].sources == (max(scores, key=lambda n: scores[n]),)
    assert any("the best single source was found on" in note for note in found.notes)
    one = several(BestOf(method="reference", candidates=(Concat(),), judge_on="validation"), tasks[:1], target)
    assert one.candidates[1].reason == "with these sources it is the single transfer"


def test_of_two_candidates_of_one_name_the_better_is_what_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    gains = iter((0.0, 1.0, 2.0))  # of the single source, the first, the second
    monkeypatch.setattr("crosstask_multi_source.best_of.compared", lambda *_: (next(gains), 0.1))
    tasks, target = plane("halves", "moons"), small_task("quarters")
    twice = (Ensemble(), Ensemble(distill=True))
    found = several(BestOf(method="reference", candidates=twice, folds=2), tasks, target, seeds=1)
    assert found.chosen.endswith("Ensemble")  # as a component that nobody registered is called
    assert type(found.model) is type(tasks[0].model)  # the distilled one
    assert found.cost.steps == 3 * FEW.steps


def test_what_cannot_be_judged_is_told() -> None:
    tasks, target = plane("halves", "moons"), small_task("quarters")
    bare = target.over(train=target.data("train"), test=target.data("test"))
    with pytest.raises(DataError, match="'quarters' has no validation data to judge on: judge_on = 'folds'"):
        several(BestOf(method="reference", candidates=(), judge_on="validation"), tasks, bare)
    with pytest.raises(DataError, match="6 training samples are too few for 5 folds"):
        several(BestOf(method="reference", candidates=()), tasks, target, budget=attrs.evolve(FEW, samples=6))


def test_without_any_candidate_it_is_the_best_single_source() -> None:
    tasks, target = plane("halves", "moons"), small_task("quarters")
    method = bound(BestOf(method="reference", candidates=({"use": "reference"},), folds=2))
    assert [start.sources for start in method.starts(work(tasks, target))] == [("halves",)]
    with pytest.raises(DataError, match="candidates are methods that learn from several sources in one way, not"):
        several(method, tasks, target)
    ensemble = bound(Ensemble(members=(Joint(), Concat())))
    assert called(ensemble) == "crosstask_multi_source.methods:Ensemble of single, " + ", ".join(
        f"crosstask_multi_source.methods:{name}" for name in ("Joint", "Concat")
    )


def test_what_is_in_the_store_is_not_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    tasks, target = plane("halves", "moons"), small_task("quarters")
    context = LocalContext(registry=REGISTRY)
    method: Any = context.component("transfer", "reference")
    first = Work(context, method, tasks, target, FEW, FEW)
    ((one,),) = first.learn([first.joint(tasks)], first.draws([1]))
    monkeypatch.setattr(context, "jobs", lambda jobs: pytest.fail("made again"))
    second = Work(context, method, tasks, target, FEW, attrs.evolve(FEW))
    ((other,),) = second.learn([second.joint(tasks)], second.draws([1]))
    torch.testing.assert_close(one.state_dict(), other.state_dict())


def test_parts_of_a_draw_are_stratified_and_each_sample_is_held_out_once() -> None:
    target = small_task("quarters")
    made = work(plane("halves"), target)
    (draw,) = made.draws([3])
    parts = made.parts(draw, 4)
    data = draw.task.data("train")
    counts = torch.bincount(data.targets, minlength=4)
    for part in parts:
        held = part.task.data("validation")
        assert len(held) + len(part.task.data("train")) == len(data)
        assert (torch.bincount(held.targets, minlength=4) - counts / 4).abs().max() <= 1
    every = torch.cat([part.task.data("validation").inputs for part in parts])
    torch.testing.assert_close(every.sort(0).values, data.inputs.sort(0).values)


# Fleets, stores, files ------------------------------------------------------------------------------------------------


def test_trainings_in_fleets_are_those_of_the_method_and_are_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tasks, target = plane("halves", "moons"), small_task("quarters")
    made, other = work(tasks, target), work(tasks, target)
    alone = [m for models in made.learn([made.single(t) for t in tasks], made.draws([1, 2])) for m in models]
    other.method = InPhases()
    draws = other.draws([1, 2])
    fleet = [m for models in other.learn([other.single(t) for t in tasks], draws) for m in models]
    for one, two in zip(alone, fleet, strict=True):
        torch.testing.assert_close(one.state_dict(), two.state_dict(), rtol=1e-3, atol=1e-4)
    monkeypatch.setattr(together_module, "train_fleet", lambda members, **_: 1 / 0)
    third = work(tasks, target)
    third.method = InPhases()
    single = [m for models in third.learn([third.single(t) for t in tasks], third.draws([1, 2])) for m in models]
    for one, two in zip(alone, single, strict=True):
        torch.testing.assert_close(one.state_dict(), two.state_dict())
    again = other.learn([other.single(tasks[0])], draws[:1])
    assert again[0][0] is fleet[0]


@pytest.mark.parametrize("kind", ["specification", "factory", "class"])
def test_a_network_of_several_goes_through_a_file(kind: str, tmp_path: Any) -> None:
    tasks = [*plane("halves"), own(**({"build": Normed} if kind == "factory" else {}))]
    if kind == "specification":
        tasks = plane("halves", "moons")
    target = small_task("quarters")
    for method in (Concat(method="reference"), Ensemble(method="reference"), ConcatJoint(method="reference")):
        found = several(method, tasks, target, seeds=1)
        path = save_model(found.model, tmp_path / f"{type(method).__name__}.safetensors")
        inputs = target.data("test").inputs
        torch.testing.assert_close(predict(load_model(path, trust=True), inputs), predict(found.model, inputs))
        into = fresh_model(found.model, target, 3)
        torch.testing.assert_close(predict(load_model(path, into=into), inputs), predict(found.model, inputs))
        with pytest.raises(DataError, match="trust=True"):
            load_model(path)
    again = small_task("quarters")
    again.model = found.model
    further = several(Concat(method="reference"), [*tasks, again], small_task("moons"), seeds=1)
    assert further.cost.parameters > found.cost.parameters, "a network of several is a source like another"


def test_networks_of_ones_own_with_a_head_in_any_place_need_nothing_but_trust(tmp_path: Any) -> None:
    torch.manual_seed(1)
    tasks, target = [own("moons", Early()), own("halves")], small_task("quarters")
    inputs = target.data("test").inputs
    for method in (Joint(method="reference"), ConcatJoint(method="reference"), Concat(method="reference")):
        found = several(method, tasks, target, seeds=1)
        path = save_model(found.model, tmp_path / "several.safetensors")
        torch.testing.assert_close(predict(load_model(path, trust=True), inputs), predict(found.model, inputs))


def test_of_what_nobody_else_can_make_it_is_said_what_to_give(tmp_path: Any) -> None:
    class Hidden(Normed):
        pass

    target = small_task("quarters")
    inputs = target.data("test").inputs
    for odd, name in ((Wide(3), "Wide"), (Hidden(), "Hidden")):
        tasks = [*plane("halves"), own("moons", odd)]
        found = several(Concat(method="reference"), tasks, target, seeds=1)
        path = save_model(found.model, tmp_path / "several.safetensors")
        told = rf"into=SideBySide\(\[Network\(...\), {name}\(...\)\], \[16, {3 if name == 'Wide' else 5}\], 4\)"
        for trust in (False, True):
            with pytest.raises(DataError, match=told):
                load_model(path, trust=trust)
        into = SideBySide([copy.deepcopy(t.model) for t in tasks], [16, 3 if name == "Wide" else 5], 4)  # type: ignore[misc]
        torch.testing.assert_close(predict(load_model(path, into=into), inputs), predict(found.model, inputs))
    path = save_model(Mean([Normed(), Wide(3)]), tmp_path / "mean.safetensors")
    with pytest.raises(DataError, match=r"into=Mean\(\[Normed\(...\), Wide\(...\)\]\)"):
        load_model(path, trust=True)


def test_a_part_that_cannot_be_made_again_is_told() -> None:
    parts = [{"factory": "nowhere:Nothing", "outputs": None}]
    with pytest.raises(DataError, match="trunk 0: nowhere:Nothing cannot make its model"):
        side_by_side((1,), 4, parts=parts, widths=[5])
    assert linear_head(nn.Sequential(nn.ReLU())) is None


def test_what_is_learned_is_of_the_type_of_the_first_source() -> None:
    tasks, target = plane("halves", "moons"), small_task("quarters")
    tasks[0].model = tasks[0].model.double()  # type: ignore[union-attr]
    model = SideBySide([task.model for task in tasks], [16, 16], 4)  # type: ignore[misc]
    assert {p.dtype for p in model.parameters()} == {torch.float64}
    assert model(target.data("test").inputs.double()).dtype == torch.float64


class Widened(nn.Module):
    """In half precision, but for its inputs and its answer."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.answer = nn.Linear(2, 5, dtype=torch.bfloat16), nn.Linear(5, 2, dtype=torch.bfloat16)

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.answer(self.body(inputs.bfloat16()).relu())
        return logits.float()


def test_trunks_that_widen_what_they_answer() -> None:
    sources, inputs = [own(model=Widened()), own("halves", Widened())], small_task("quarters").data("test").inputs
    one = mean_of([task.model for task in sources], inputs[:4])  # type: ignore[misc]
    assert isinstance(one, SideBySide)
    assert {p.dtype for p in one.parameters()} == {torch.bfloat16}
    expected = sum(predict(task.model, inputs) for task in sources) / 2  # type: ignore[arg-type]
    torch.testing.assert_close(predict(one, inputs).float(), expected, rtol=0.05, atol=0.05)


def test_starts_and_trainings_are_known_by_the_factories_of_their_sources() -> None:
    """Networks of one architecture and of the same weights, of which fresh ones are drawn in other ways."""

    def known(gain: float | None) -> set[str]:
        sources, keys = plane("moons", "turned"), set()
        for source in sources:
            model = source.model
            assert model is not None
            if gain is not None:
                know(model, build=functools.partial(_drawn, type(model), copy.deepcopy(model), gain))
        made = work(sources, small_task("halves"))
        recall = made.context.recall
        made.context.recall = lambda kind, key, claim=True: keys.add(key) or recall(kind, key, claim)  # type: ignore[method-assign,func-returns-value]
        made.learn([made.single(sources[0]), made.joint(sources)], made.draws([1]))
        return keys

    first = known(1.0)
    assert len(first) == 3, "the joint start, and what is learned from each"
    assert known(1.0) == first
    assert not first & known(2.0)
    assert not first & known(None)


def _drawn(kind: type[nn.Module], like: nn.Module, gain: float) -> nn.Module:
    made = copy.deepcopy(like)
    assert isinstance(made, kind)
    with torch.no_grad():
        for layer in made.modules():
            if isinstance(layer, nn.Linear):
                layer.reset_parameters()
                layer.weight.mul_(gain)
    return made
