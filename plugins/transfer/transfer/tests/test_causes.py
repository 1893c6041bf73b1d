"""What classes and skills of a source bring: cases where the answer is known, the tests against scipy."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from crosstask.context import LocalContext
from crosstask.descriptors import TaskDescriptor
from crosstask.engine import TransferEngine
from crosstask.errors import DataError, RecipeError, RunError
from crosstask.graph import TransferGraph
from crosstask.learning.fleets import Phase
from crosstask.learning.models import ModelSpec
from crosstask.learning.modules import know
from crosstask.learning.training import History, fit
from crosstask.options import component, structure, unstructure
from crosstask.points.transfer import Transfer
from crosstask.records import Budget, Interval
from crosstask.tasks import Portfolio, Task
from crosstask.testing import reference_registry, small_task, trained
from crosstask_transfer import Causes, Effect, Explain, LayerAttribution, causes
from crosstask_transfer.plugin import PLUGIN
from crosstask_transfer.testing import digits

REGISTRY = reference_registry(PLUGIN)
TRAIN = Budget(steps=120, learning_rate=5e-3, evaluate_every=120)
BUDGET = Budget(steps=100, samples=24, learning_rate=5e-3, evaluate_every=100)
SPLITS = ("train", "validation", "test")


@component
class Probe(Transfer):
    """Trains the head only; in fleets, as it says in `phases`."""

    def phases(self, budget: Budget) -> tuple[Phase, ...]:
        return (Phase(budget.steps, head=True, rate=4.0),)

    def learn(
        self, model: nn.Module, source: nn.Module, task: Task, budget: Budget, generator: torch.Generator
    ) -> History:
        raise AssertionError("it says its phases")


@component
class Tune(Transfer):
    """Plain fine-tuning, one by one."""

    def learn(
        self, model: nn.Module, source: nn.Module, task: Task, budget: Budget, generator: torch.Generator
    ) -> History:
        return fit(model, task, budget, generator, curve_split=None)


@functools.cache
def some_help() -> tuple[Task, Task]:
    """Digits of which 3, 5 and 8 are images, the other classes noise; and 3, 5, 8 from few samples: the noise cannot
    help to tell them apart.
    """
    useful, noise = (3, 5, 8), (0, 1, 2)
    whole, splits = digits(keep=(*noise, *useful)), {}
    for split in SPLITS:
        data = whole.data(split)
        inputs = data.inputs.clone()
        for label in range(len(noise)):
            rows = data.targets == label
            drawn = torch.rand(inputs[rows].shape, generator=torch.Generator().manual_seed(label))
            inputs[rows] = (0.3 + 0.3 * label) * drawn
        splits[split] = inputs, data.targets
    names = ("noise 0", "noise 1", "noise 2", "3", "5", "8")
    about = TaskDescriptor(task_id="some help", input_shape=(1, 8, 8), output_dim=6, classes=names)
    source = Task(descriptor=about, **splits)  # type: ignore[arg-type]
    source.model = ModelSpec(hidden=(32,)).build(about, 0)
    return source, digits("faded", useful)


def test_the_classes_that_can_help_are_named() -> None:
    source, target = some_help()
    found = causes.class_causes(Probe(), source, target, TRAIN, BUDGET, seeds=5, controls=2)
    print([(e.name, e.lost.mean, e.p_value, e.by_class) for e in found.effects], found.score)
    assert set(found.helping) == {"3", "5", "8"}
    by_name = {effect.name: effect for effect in found.effects}
    for name in ("noise 0", "noise 1", "noise 2"):
        assert not by_name[name].helps
        assert by_name[name].lost.mean < 0.02
    for name in ("3", "5", "8"):  # each helps its own kind most
        lost = {called: each.mean for called, each in by_name[name].by_class.items()}
        assert max(lost, key=lost.__getitem__) == name
    assert found.target_classes == ("3", "5", "8")
    assert (found.seeds, found.controls, found.metric) == (5, 2, "accuracy")
    assert structure(unstructure(found), Causes, "causes") == found


def test_classes_that_are_drawn_at_random_are_no_cause() -> None:
    """Labels of a coin: without a class is without as many samples at random, which is the control."""
    whole, target = digits(keep=(3, 5, 8, 9)), digits("faded", (3, 5, 8))
    splits: dict[str, Any] = {}
    for number, split in enumerate(SPLITS):
        data = whole.data(split)
        order = torch.randperm(len(data), generator=torch.Generator().manual_seed(number))
        splits[split] = data.inputs, data.targets[order]
    about = TaskDescriptor(task_id="random", input_shape=(1, 8, 8), output_dim=4)
    source = Task(descriptor=about, **splits)
    source.model = ModelSpec(hidden=(16,)).build(about, 0)
    found = causes.class_causes(Probe(), source, target, TRAIN, BUDGET, seeds=4, controls=1)
    assert found.helping == ()
    assert [effect.name for effect in found.effects] == ["0", "1", "2", "3"]


@functools.cache
def two_digits() -> Portfolio:
    """Two digits side by side: `both` asks for both, `left` and `right` for one; the skills say which."""
    whole = digits()

    def task(name: str, label: Callable[[Tensor, Tensor], Tensor], classes: str, *skills: str) -> Task:
        splits: dict[str, Any] = {}
        for number, split in enumerate(SPLITS):
            data, generator = whole.data(split), torch.Generator().manual_seed(number)
            one, other = (torch.randperm(len(data), generator=generator) for _ in range(2))
            inputs = torch.cat([data.inputs[one], data.inputs[other]], -1)
            splits[split] = inputs, label(data.targets[one], data.targets[other])
        about = TaskDescriptor(task_id=name, input_shape=(1, 8, 16), output_dim=len(classes), classes=tuple(classes),
                               required_skills=skills)  # fmt: skip
        return Task(descriptor=about, **splits)

    both = task("both", lambda left, right: 3 * (left % 3) + right % 3, "abcdefghi", "left", "right")
    both.model = ModelSpec(hidden=(64,)).build(both.descriptor, 0)
    fit(both.model, both, attrs.evolve(TRAIN, steps=250), torch.Generator().manual_seed(0), curve_split=None)
    asks = {"left": lambda left, right: left % 3, "right": lambda left, right: right % 3}
    singles = [task(name, label, "abc", name) for name, label in asks.items()]
    return Portfolio([both, *singles, small_task("moons")])


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_skill_that_a_target_needs_is_named(side: str) -> None:
    tasks = two_digits()
    budget = attrs.evolve(BUDGET, samples=60)
    target = tasks[side]
    found = causes.skill_causes(Probe(), tasks["both"], target, tasks, budget, seeds=6, controls=4, share=0.5)
    assert found.helping == (side,)
    assert {effect.name for effect in found.effects} == {"left", "right"}
    assert {effect.removed for effect in found.effects} == {32}


def test_only_the_units_of_the_skill_are_silenced(monkeypatch: pytest.MonkeyPatch) -> None:
    model = ModelSpec(hidden=(8, 6)).build(small_task("moons").descriptor, 0)
    names, rows = causes.unit_weights(model)
    assert (names, rows) == (("trunk.3.weight", "trunk.3.bias"), 6)
    seen: list[nn.Module] = []
    monkeypatch.setattr(causes, "transferred", lambda method, sources, *rest: seen.extend(sources))
    causes.without_units(Probe(), model, small_task("moons"), BUDGET, names, [torch.tensor([1, 4])], 0, "test", False)
    for name, value in seen[0].state_dict().items():
        changed = (value != model.state_dict()[name]).reshape(len(value), -1).any(1)
        assert changed.nonzero()[:, 0].tolist() == ([1, 4] if name in names else [])
    assert not seen[0].state_dict()["trunk.3.weight"][[1, 4]].any()


def test_each_method_learns_in_its_own_way(tmp_path: Path) -> None:
    """One by one as in a fleet, up to rounding; what is known is not measured again."""

    @component
    class Alone(Probe):
        """The same without saying its phases."""

        def learn(
            self, model: nn.Module, source: nn.Module, task: Task, budget: Budget, generator: torch.Generator
        ) -> History:
            faster = attrs.evolve(budget, learning_rate=4 * budget.learning_rate)
            head = model.get_submodule("head").parameters()
            return fit(model, task, faster, generator, parameters=head, curve_split=None)

    source, target = some_help()
    model = source.model
    assert model is not None
    found = [causes.transferred(m, [model] * 3, target, BUDGET, 1, "test", False) for m in (Probe(), Alone())]
    assert np.allclose([s for s, _ in found[0]], [s for s, _ in found[1]], atol=0.01)
    assert np.allclose(found[0][0][1], found[1][0][1], atol=0.02)


def test_groups_of_classes_of_about_one_size_share_controls() -> None:
    assert causes._groups({0: 10, 1: 100, 2: 11, 3: 120, 4: 12}) == {0: 11, 2: 11, 4: 11, 1: 110, 3: 110}


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 7, 30])
def test_student_tail_is_that_of_scipy(freedom: int) -> None:
    for t in (0.0, 0.3, 1.0, 2.5, 9.0, 60.0):
        assert causes.student_tail(t, freedom) == pytest.approx(2 * stats.t.sf(t, freedom), abs=1e-12)


def test_tests_and_corrections_are_those_of_scipy() -> None:
    values = [0.1, 0.2, -0.05, 0.15]
    assert causes.paired_t(values) == pytest.approx(stats.ttest_1samp(values, 0).pvalue)
    assert causes.paired_t([0.0, 0.0]) == 1.0
    assert causes.paired_t([0.3]) == 1.0
    assert causes.paired_t([0.25, 0.25]) == 0.0
    raw = [0.01, 0.04, 0.03, 0.005, 0.5]
    assert causes.holm(raw) == pytest.approx([0.04, 0.09, 0.09, 0.025, 0.5])  # Holm (1979), by hand
    assert causes.benjamini_hochberg(raw) == pytest.approx(stats.false_discovery_control(raw))
    features = torch.tensor([[0.0, 1.0], [0.0, 2.0], [4.0, 1.0], [4.0, 2.0]])
    assert causes.explained(features, torch.tensor([0, 0, 1, 1])).tolist() == pytest.approx([1.0, 0.0])


def engine(store: Path | None = None) -> TransferEngine:
    made = TransferEngine(
        budget=Budget(steps=6, batch_size=16, learning_rate=1e-2), train=Budget(steps=6), seeds=2, discoverers=(),
        auto_discover=False, store=store and f"sqlite:///{store}", registry=REGISTRY, transfer=Tune(),
    )  # fmt: skip
    for name in ("moons", "quarters"):
        made.register_task(trained(small_task(name)))
    return made


def test_the_stage_asks_for_them_and_the_report_shows_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted: dict[str, Any] = {"classes": True, "skills": True, "cause_seeds": 2, "controls": 1}
    with engine(tmp_path / "store.db") as made:
        plain = made.run_stage("explain", source="quarters", target="moons").record
        found = made.run_stage("explain", source="quarters", target="moons", **wanted).record
    assert plain.causes == ()
    assert attrs.evolve(found, causes=()) == plain, "the layers are the same, and were not measured again"
    assert [each.kind for each in found.causes] == ["classes", "skills"]
    assert structure(unstructure(found), LayerAttribution, "attribution") == found
    monkeypatch.setattr(causes, "retrained", lambda *_: pytest.fail("measured again"))
    monkeypatch.setattr(causes, "without_units", lambda *_: pytest.fail("measured again"))
    with engine(tmp_path / "store.db") as again:
        task = again.portfolio["quarters"]
        moons = again.portfolio["moons"]
        how = {"seeds": 2, "controls": 1}
        known = causes.class_causes(again.method(), task, moons, again.train_budget, again.budget, **how)
        units = causes.skill_causes(again.method(), task, moons, again.portfolio, again.budget, share=0.5, **how)
        assert (known, units) == found.causes
    [section] = Explain.sections(found, TransferGraph())
    for told in (
        "What each class brought", "What each skill brought", "None has an effect beyond the control",
        "no effect beyond the control", "as many samples taken away at random", "as many units silenced",
    ):  # fmt: skip
        assert told in section.html
    assert Explain.summary(found)["classes that helped"] == "none beyond the control"
    sure = tuple(
        attrs.evolve(each, effects=tuple(
            attrs.evolve(effect, adjusted=0.01, name="<b>x", lost=attrs.evolve(effect.lost, mean=mean),
                         class_adjusted=dict.fromkeys(effect.class_adjusted, 0.01))
            for effect, mean in zip(each.effects, (0.2, -0.1, 0.3, 0.1), strict=False)
        ))
        for each in found.causes
    )  # fmt: skip
    [section] = Explain.sections(attrs.evolve(found, causes=sure), TransferGraph())
    assert "helped." in section.html
    assert "Less is lost without" in section.html
    assert "<b>x" not in section.html.replace("\\u003cb\\u003ex", "")
    assert sure[0].effects[1].harms


def test_of_a_target_without_classes_only_the_whole_is_said() -> None:
    source, rows = trained(small_task("quarters")), small_task("moons")
    values = {split: (rows.data(split).inputs, rows.data(split).inputs.sum(1, keepdim=True)) for split in SPLITS}
    about = TaskDescriptor(task_id="sum", task_type="regression", output_dim=1, input_shape=(2,))
    target = Task(descriptor=about, **values)  # type: ignore[arg-type]
    found = causes.class_causes(Tune(), source, target, Budget(steps=4), Budget(steps=4), seeds=2, controls=1)
    assert found.target_classes == ()
    assert all(effect.by_class == {} for effect in found.effects)
    layers = LayerAttribution(source="a", target="b", strategy="s", metric="r2", split="test", gain=found.score,
                              blocks=(), causes=(found,))  # fmt: skip
    assert "Recall of each" not in Explain.sections(layers, TransferGraph())[0].html


def test_a_single_logit_has_two_classes() -> None:
    rows = small_task("moons")
    about = attrs.evolve(rows.descriptor, task_id="one logit", output_dim=1, classes=())
    target = Task(descriptor=about, **{split: (rows.data(split).inputs, rows.data(split).targets) for split in SPLITS})
    assert causes.classes_of(target) == ("0", "1")
    model = ModelSpec(hidden=(4,)).build(about, 0)
    score, recalls = causes._judged(model, target, "test")
    data = target.data("test")
    right = ((model(data.inputs)[:, 0] > 0).long() == data.targets).float()
    assert score == pytest.approx(float(right.mean()))
    assert recalls == pytest.approx([float(right[data.targets == n].mean()) for n in (0, 1)])


@pytest.mark.parametrize(
    ("change", "options", "told"),
    [
        ({"task_type": "regression", "output_dim": 1, "classes": ()}, {"classes": True},
         "classes: task 'quarters': a classification with training data is needed"),
        ({"required_skills": ()}, {"skills": True}, "skills: the descriptor of 'quarters' requires none"),
    ],
)  # fmt: skip
def test_what_cannot_be_asked_for_is_refused_before_any_work(
    change: dict[str, Any], options: dict[str, Any], told: str
) -> None:
    source, target = small_task("quarters"), small_task("moons")
    source.descriptor = attrs.evolve(source.descriptor, prerequisites=(), **change)
    with pytest.raises(RecipeError, match=told):
        Explain(source="quarters", target="moons", **options).check(Portfolio([source, target]))


def test_what_cannot_be_found_out_is_said() -> None:
    source, target = trained(small_task("quarters")), small_task("moons")
    how: dict[str, Any] = {"seeds": 2, "controls": 1, "share": 0.5}
    only = Portfolio([source])
    source.descriptor = attrs.evolve(source.descriptor, required_skills=("cooking",))
    asked = trained(small_task("moons"))
    values = Task(descriptor=TaskDescriptor(task_id="values", task_type="regression", output_dim=1), train=target.train)
    with pytest.raises(DataError, match="skill 'curves': no task with data"):
        causes.skill_causes(Tune(), asked, target, Portfolio([values]), BUDGET, **how)
    assert set(causes.serving_units(source, only)) == {"cooking"}
    source.descriptor = attrs.evolve(source.descriptor, required_skills=())
    with pytest.raises(DataError, match="requires no skill"):
        causes.skill_causes(Tune(), source, target, only, BUDGET, **how)
    with pytest.raises(DataError, match="no weights before its head"):
        causes.unit_weights(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)))
    data = target.data("train")
    same = Task(descriptor=target.descriptor, train=(data.inputs, torch.zeros(len(data), dtype=torch.long)))
    same.model = trained(small_task("moons")).model
    with pytest.raises(DataError, match="at least two classes with training samples"):
        causes.class_causes(Tune(), same, target, BUDGET, BUDGET, seeds=2, controls=1)


class Beside(nn.Module):
    """A head that sees the inputs beside the units."""

    def __init__(self) -> None:
        super().__init__()
        self.units, self.head = nn.Linear(2, 6), nn.Linear(8, 4)

    def forward(self, inputs: Tensor) -> Tensor:
        made: Tensor = self.head(torch.cat([self.units(inputs).relu(), inputs], 1))
        return made


def test_units_that_cannot_be_told_apart_are_said() -> None:
    source = small_task("quarters")
    source.model = Beside()
    with pytest.raises(DataError, match="cannot be told apart: its head receives 8 numbers from 6 units"):
        causes.serving_units(source, Portfolio([small_task("moons")]))


def test_networks_that_go_alone_and_trainings_that_fail() -> None:
    source, target = small_task("quarters"), small_task("moons")
    source.model = ModelSpec(hidden=(8,)).build(source.descriptor, 0)
    few = Budget(steps=3, learning_rate=1e-2)
    half = attrs.evolve(few, precision="bfloat16")
    found = causes.class_causes(Tune(), source, target, half, few, seeds=2, controls=1)
    assert len(found.effects) == 4
    with pytest.raises(RunError, match="the training loss is"):
        causes.class_causes(Probe(), source, target, attrs.evolve(few, learning_rate=1e38), few, seeds=2, controls=1)


def test_what_is_shown_of_them() -> None:
    """In notebooks, and where no layer carries a gain."""
    value = Interval(mean=0.1, low=0.05, high=0.15)
    effect = Effect(name="3", removed=5, control=0.9, lost=value, p_value=0.01, adjusted=0.02)
    found = Causes(kind="classes", source="a", target="b", metric="accuracy", score=value, effects=(effect,))
    assert found.helping == ("3",)
    assert "What classes of a brought to b" in found._repr_html_()
    layers = LayerAttribution(source="a", target="b", strategy="s", metric="accuracy", split="test", gain=value,
                              blocks=(), causes=(found,))  # fmt: skip
    assert "What each layer brought from a to b" in layers._repr_html_()
    assert "No single layer carried it" in Explain.sections(layers, TransferGraph())[0].html


@pytest.mark.parametrize("kind", ["classes", "skills"])
def test_causes_are_known_by_the_factory_of_the_source(kind: str) -> None:
    def keys(gain: float, name: str = "moons") -> set[str]:
        source, seen = small_task("moons"), set()
        source.descriptor = attrs.evolve(source.descriptor, task_id=name, required_skills=("telling apart",))
        source.model = ModelSpec(hidden=(8,)).build(source.descriptor, 0)
        know(source.model, build=functools.partial(_drawn, source.descriptor, gain))
        method, target = Tune(), small_task("halves")
        context = LocalContext()
        context.remember = lambda of, key, *more: seen.add(key)  # type: ignore[method-assign,assignment]
        method.bind(context)
        few: dict[str, Any] = {"seeds": 2, "controls": 1}
        budget = Budget(steps=2, batch_size=8)
        if kind == "classes":
            causes.class_causes(method, source, target, budget, budget, **few)
        else:
            causes.skill_causes(method, source, target, Portfolio([source, target]), budget, share=0.5, **few)
        return seen

    first = keys(1.0)
    assert len(first) == 2
    assert keys(1.0) == first
    assert not first & keys(2.0)
    assert not first & keys(1.0, "another"), "by its name the controls are drawn"


def _drawn(descriptor: TaskDescriptor, gain: float) -> nn.Module:
    made = ModelSpec(hidden=(8,)).build(descriptor, int(torch.randint(2**31, (1,))))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(gain)
    return made
