"""Models for unseen tasks of every type, from models of every kind: the same as of plain tensors where both exist."""

from __future__ import annotations

import copy
import math
from functools import cache
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from crosstask import Budget, DataError, ModelSpec, Task, TaskDescriptor, TransferEngine
from crosstask.context import LocalContext
from crosstask.descriptors import MultiInput
from crosstask.graph import TransferEdge, TransferGraph
from crosstask.learning.modules import forward
from crosstask.learning.training import fit, predict
from crosstask_synthesis.expectation import expected_score
from crosstask_synthesis.judging import judged
from crosstask_synthesis.known import known_samples
from crosstask_synthesis.outputs import answering, baseline, is_single, outputs_wanted, two_sided
from crosstask_synthesis.testing import described

EVERY = (
    "weighted_ensemble",
    "knowledge_composition",
    "analogy_transfer",
    "uniform_soup",
    "regmean",
    "fisher_merge",
    "ties",
)


@cache
def learned() -> tuple[Task, ...]:
    """Three tasks that tell even digits from odd ones, learned from one start, so that they can be merged."""
    pixels, digits = load_digits(return_X_y=True)
    images, labels = torch.tensor(pixels / 16, dtype=torch.float32).reshape(-1, 1, 8, 8), torch.tensor(digits % 2)
    start = ModelSpec(hidden=(16,)).build(TaskDescriptor(task_id="x", input_shape=(1, 8, 8), output_dim=2), 0)
    found = []
    for number, name in enumerate(("a", "b", "c")):
        own = slice(number * 300, number * 300 + 200), slice(number * 300 + 200, number * 300 + 300)
        task = Task(
            descriptor=TaskDescriptor(
                task_id=name, domain="digits", input_shape=(1, 8, 8), output_dim=2, classes=("even", "odd")
            ),
            train=(images[own[0]], labels[own[0]]),
            validation=(images[own[1]], labels[own[1]]),
        )
        task.model = copy.deepcopy(start)
        fit(
            task.model,
            task,
            Budget(steps=60, learning_rate=1e-2),
            torch.Generator().manual_seed(number),
            curve_split=None,
        )
        found.append(task)
    return tuple(found)


IMAGES = torch.tensor(load_digits().data[900:1100] / 16, dtype=torch.float32).reshape(-1, 1, 8, 8)


def changed(task: Task, model: nn.Module, change: Any = None, **described_as: Any) -> Task:
    """The task with another model, inputs changed, and fields of its descriptor."""
    import attrs

    splits = {}
    for name in ("train", "validation"):
        data = task.data(name)
        splits[name] = (data.inputs if change is None else change(data.inputs), data.targets)
    return Task(descriptor=attrs.evolve(task.descriptor, **described_as), model=model, **splits)


def one_logit(task: Task) -> Task:
    """The same answers by a single logit."""
    model: Any = ModelSpec(hidden=(16,)).build(TaskDescriptor(task_id="x", input_shape=(1, 8, 8), output_dim=1), 0)
    two: Any = task.model
    model.trunk.load_state_dict(two.trunk.state_dict())
    with torch.no_grad():
        model.head.weight.copy_(two.head.weight[1:] - two.head.weight[:1])
        model.head.bias.copy_(two.head.bias[1:] - two.head.bias[:1])
    return changed(task, model, output_dim=1)


class Parts(nn.Module):
    """Takes the upper and the lower half apart, and answers with a mapping."""

    def __init__(self, whole: nn.Module) -> None:
        super().__init__()
        self.whole = whole

    def forward(self, upper: Tensor, lower: Tensor) -> dict[str, Tensor]:
        return {"logits": self.whole(torch.cat([upper, lower], dim=2))}


def halves(inputs: Tensor) -> MultiInput:
    return MultiInput({"upper": inputs[:, :, :4], "lower": inputs[:, :, 4:]})


def in_parts(task: Task) -> Task:
    assert task.model is not None
    found = changed(task, Parts(task.model), halves, input_shape=())
    found.data()
    return found


def synthesised(name: str, sources: list[Task], new: TaskDescriptor, inputs: Any = None, **options: Any) -> nn.Module:
    graph = TransferGraph([new, *(s.descriptor for s in sources)])
    for source, worth in zip(sources, (0.5, 0.4, 0.3), strict=False):
        graph.add(TransferEdge(source=source.task_id, target=new.task_id, transfer_coefficient=worth))
    if name == "analogy_transfer":
        options["analogy"] = ("a", "b", "c")
    maker: Any = LocalContext().component("synthesis", name, options)
    made: nn.Module = maker.synthesize(new, sources, graph, inputs)
    told = maker.expect(lambda *given: maker.synthesize(*given), made, new, sources, graph, inputs)
    assert told is not None
    assert told[0] is None or told[0].low <= told[0].mean <= told[0].high
    return made


def parity(**more: Any) -> TaskDescriptor:
    given = {
        "task_id": "new",
        "domain": "digits",
        "input_shape": (1, 8, 8),
        "classes": ("even", "odd"),
        "output_dim": 2,
    }
    return TaskDescriptor(**given | more)


@pytest.mark.parametrize("name", EVERY)
def test_a_single_logit_is_of_two_classes(name: str) -> None:
    plain, single = list(learned()), [one_logit(task) for task in learned()]
    both = predict(synthesised(name, plain, parity(), IMAGES), IMAGES)
    wanted = both[:, 1:] - both[:, :1]
    near = {"rtol": 1e-3, "atol": 1e-3}
    if name == "fisher_merge":  # by two outputs or by one the head's share of the information is another
        near = {"rtol": 0.2, "atol": 0.5}
    if name in ("ties", "knowledge_composition"):  # what is trimmed, or calibrated, is of one weight and not of two
        near = {"rtol": 0.5, "atol": 3.0}
    one = predict(synthesised(name, single, parity(output_dim=1), IMAGES), IMAGES)
    assert one.shape == (len(IMAGES), 1)
    torch.testing.assert_close(one, wanted, **near)
    assert float(((one > 0) == (wanted > 0)).float().mean()) > 0.97
    again = predict(synthesised(name, single, parity(), IMAGES), IMAGES)  # two outputs from single logits
    torch.testing.assert_close(again[:, 1:] - again[:, :1], one)
    other = predict(synthesised(name, plain, parity(output_dim=1), IMAGES), IMAGES)  # and the other way
    torch.testing.assert_close(other, wanted)
    turned = predict(synthesised(name, single, parity(classes=("odd", "even")), IMAGES), IMAGES)
    torch.testing.assert_close(turned[:, 0] - turned[:, 1], one[:, 0], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("name", EVERY)
def test_several_inputs_and_answers_that_are_mappings(name: str) -> None:
    plain, several = list(learned()), [in_parts(task) for task in learned()]
    wanted = predict(synthesised(name, plain, parity(), IMAGES), IMAGES)
    new = parity(input_shape=(), input_shapes={"upper": (1, 4, 8), "lower": (1, 4, 8)})
    made = synthesised(name, several, new, halves(IMAGES))
    torch.testing.assert_close(forward(made, halves(IMAGES)), wanted, rtol=1e-3, atol=1e-4)
    blind = synthesised(name, several, parity(input_shape=()))
    torch.testing.assert_close(
        predict(blind, halves(IMAGES)), predict(synthesised(name, plain, parity()), IMAGES), rtol=1e-3, atol=1e-4
    )
    with pytest.raises(DataError, match="the unlabelled ones have"):
        synthesised(name, several, new, IMAGES)


class Places(nn.Module):
    """Logits of fixed classes at every place, answered as a tuple."""

    def __init__(self, weight: Tensor, tokens: bool) -> None:
        super().__init__()
        self.body, self.head, self.tokens = nn.Linear(4, 4), nn.Linear(weight.shape[1], len(weight)), tokens
        with torch.no_grad():
            self.body.weight.copy_(torch.eye(4)), self.body.bias.zero_()
            self.head.weight.copy_(weight), self.head.bias.zero_()

    def forward(self, inputs: Tensor) -> tuple[Tensor, str]:
        rows = self.body(inputs if self.tokens else inputs.movedim(1, -1))
        outputs = self.head(rows)
        return (outputs if self.tokens else outputs.movedim(-1, 1)), "more"


@pytest.mark.parametrize("kind", ["segmentation", "token_classification"])
def test_an_ensemble_of_dense_models_is_that_of_its_places(kind: str) -> None:
    tokens = kind == "token_classification"
    torch.manual_seed(0)
    shape = (5, 4) if tokens else (4, 3, 2)
    inputs = torch.randn(6, *shape)
    rows = (inputs if tokens else inputs.movedim(1, -1)).reshape(-1, 4)
    weights = {"one": torch.randn(3, 4), "two": torch.randn(2, 4)}
    classes = {"one": "abc", "two": "cb"}

    def sources(dense: bool) -> list[Task]:
        about = {"task_type": kind} if dense else {}
        models = {n: Places(w, tokens) if dense else _linear(w) for n, w in weights.items()}
        return [Task(descriptor=described(n, classes[n], domain="d", **about), model=m) for n, m in models.items()]

    dense = synthesised("weighted_ensemble", sources(True), described("new", "bca", domain="d", task_type=kind), inputs)
    plain = synthesised("weighted_ensemble", sources(False), described("new", "bca", domain="d"), rows)
    outputs = predict(dense, inputs)
    assert outputs.shape == ((6, 5, 3) if tokens else (6, 3, 3, 2))
    flat = (outputs if tokens else outputs.movedim(1, -1)).reshape(-1, 3)
    torch.testing.assert_close(flat, predict(plain, rows))
    ensemble: Any = dense
    other: Any = plain
    torch.testing.assert_close(ensemble.confidence(inputs).reshape(-1), other.confidence(rows))
    spread = ensemble.spread(inputs)
    torch.testing.assert_close((spread if tokens else spread.movedim(1, -1)).reshape(-1, 3), other.spread(rows))
    student = synthesised(
        "weighted_ensemble",
        sources(True),
        described("new", "bca", domain="d", task_type=kind),
        inputs,
        distill_steps=150,
    )
    assert predict(student, inputs).shape == outputs.shape
    with pytest.raises(DataError, match="gives one answer for each sample"):
        synthesised("knowledge_composition", sources(True), described("new", "bca", task_type=kind), inputs)


def _linear(weight: Tensor) -> nn.Module:
    layer = nn.Linear(weight.shape[1], len(weight))
    with torch.no_grad():
        layer.weight.copy_(weight), layer.bias.zero_()
    return layer


def test_several_labels_are_averaged_as_they_are() -> None:
    torch.manual_seed(0)
    weights, inputs = [torch.randn(2, 4), torch.randn(2, 4)], torch.randn(7, 4)
    about = {"task_type": "multilabel", "domain": "d"}
    names = ("ab", "bc")
    sources = [
        Task(descriptor=described(n, c, **about), model=_linear(w))
        for n, c, w in zip("xy", names, weights, strict=True)
    ]
    made = synthesised("weighted_ensemble", sources, described("new", "cb", **about), inputs, temperature=1e6)
    wanted = torch.stack([inputs @ weights[1][1], (inputs @ weights[0][1] + inputs @ weights[1][0]) / 2], dim=1)
    torch.testing.assert_close(predict(made, inputs), wanted, rtol=1e-4, atol=1e-5)
    places = [
        Task(descriptor=described(n, output_dim=2, **about), model=_linear(w))
        for n, w in zip("xy", weights, strict=True)
    ]
    by_place = synthesised(
        "weighted_ensemble", places, described("new", output_dim=2, **about), inputs, temperature=1e6
    )
    torch.testing.assert_close(predict(by_place, inputs), inputs @ (sum(weights) / 2).T, rtol=1e-4, atol=1e-5)


def boxes(model: bool = True) -> Task:
    """Found boxes: a type of its own, with its own loss and metric."""
    inputs = torch.randn(12, 4)
    task = Task(
        descriptor=TaskDescriptor(task_id="boxes", task_type="detection", input_shape=(4,), output_dim=4),
        train=(inputs, inputs), validation=(inputs, inputs), loss="mse", metric="rmse",
    )  # fmt: skip
    task.model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)) if model else None
    return task


@pytest.mark.parametrize("name", ["weighted_ensemble", "knowledge_composition", "analogy_transfer", "uniform_soup"])
def test_a_type_that_cannot_be_is_refused_and_nothing_is_registered(name: str) -> None:
    with TransferEngine(auto_discover=False, discoverers=[]) as engine:
        engine.register_task(boxes())
        for task in learned():
            engine.register_task(task)
        boxed = TaskDescriptor(task_id="found", task_type="detection", input_shape=(4,), output_dim=4)
        mapped = TaskDescriptor(task_id="map", task_type="segmentation", input_shape=(1, 8, 8), output_dim=3)
        strange = TaskDescriptor(task_id="strange", input_shape=(1, 8, 8), classes=("ant", "bee"))
        why = ("detection|two|three", "is a class|names of|one answer", "ant")
        for new, reason in zip((boxed, mapped, strange), why, strict=True):
            with pytest.raises(DataError, match=reason):
                engine.synthesize_zero_shot_model(new, name)
            assert engine.portfolio.unseen == []
            assert new.task_id not in engine.graph.task_ids


def test_merging_makes_models_for_types_of_their_own() -> None:
    one = boxes()
    two = Task(descriptor=TaskDescriptor(task_id="two", task_type="detection", input_shape=(4,), output_dim=4))
    two.model = copy.deepcopy(one.model)
    made = synthesised("uniform_soup", [one, two], TaskDescriptor(task_id="n", task_type="detection", output_dim=4))
    inputs = one.data().inputs
    torch.testing.assert_close(predict(made, inputs), predict(one.model, inputs))  # type: ignore[arg-type]


def test_outputs_of_one_task_for_another() -> None:
    two, one = parity(), parity(output_dim=1)
    assert (is_single(one), is_single(two), outputs_wanted(one), outputs_wanted(two)) == (True, False, 2, 2)
    logits = torch.tensor([[3.0], [-1.0]])
    torch.testing.assert_close(two_sided(logits).softmax(1)[:, 1:], logits.sigmoid())
    model = nn.Identity()
    assert answering(model, two, two) is model
    assert answering(model, one, one) is model
    torch.testing.assert_close(answering(model, one, parity(classes=("odd", "even"), output_dim=1))(logits), -logits)
    tags = TaskDescriptor(task_id="t", task_type="token_classification", classes=("x", "y", "z"))
    chosen = answering(model, tags, TaskDescriptor(task_id="u", task_type="token_classification", classes=("z", "x")))
    torch.testing.assert_close(chosen(torch.tensor([[[1.0, 2.0, 3.0]] * 2])), torch.tensor([[[3.0, 1.0]] * 2]))


def test_what_one_scores_who_knows_nothing() -> None:
    labels = torch.tensor([0] * 30 + [1] * 10)
    data = (torch.randn(40, 2), labels)
    plain = Task(descriptor=TaskDescriptor(task_id="p", output_dim=2), train=data, validation=data)
    assert baseline(plain) == 0.5
    assert baseline(plain.over(train=data, validation=data)) == 0.5
    single = Task(descriptor=TaskDescriptor(task_id="s", output_dim=1), train=data, validation=data)
    assert baseline(single) == 0.5
    values = (data[0], torch.tensor([1.0, 3.0] * 20))
    about = TaskDescriptor(task_id="v", task_type="regression")
    assert baseline(Task(descriptor=about, train=values, validation=values)) == 0.0
    assert baseline(Task(descriptor=about, train=values, validation=values, metric="rmse")) == pytest.approx(-1.0)


def test_what_is_expected_has_the_range_of_the_metric() -> None:
    """Errors of known tasks are drawn from a normal distribution: how often is that of one more within the interval?"""
    generator, hits = torch.Generator().manual_seed(0), 0
    inputs = torch.zeros(50, 1)
    for _ in range(100):
        errors = (3 + 0.5 * torch.randn(7, generator=generator)).tolist()
        about = {"task_type": "regression", "input_shape": (1,), "output_dim": 1}
        sources = [
            Task(
                descriptor=TaskDescriptor(task_id=f"t{n}", **about), validation=(inputs, torch.full((50,), error)),
                metric="rmse", model=nn.Identity(),
            )
            for n, error in enumerate(errors[:6])
        ]  # fmt: skip
        new = TaskDescriptor(task_id="new", **about)
        graph = TransferGraph([new, *(s.descriptor for s in sources)])
        found, how = expected_score(lambda *_: nn.Identity(), nn.Identity(), new, sources, graph)
        assert found is not None
        assert "in neg_rmse" in how
        assert found.mean == pytest.approx(-sum(errors[:6]) / 6, abs=1e-4)
        assert found.high <= 0
        hits += found.low <= -errors[6] <= found.high
    assert hits >= 90
    alone, how = expected_score(lambda *_: nn.Identity(), nn.Identity(), new, sources[:1], TransferGraph([new]))
    assert alone is None
    assert "one known task says nothing" in how


def test_held_out_samples_of_several_inputs() -> None:
    plain, several = learned(), [in_parts(task) for task in learned()]
    whole, parts = known_samples(parity(), plain), known_samples(parity(input_shape=()), several)
    assert whole is not None
    assert parts is not None
    assert isinstance(parts.inputs, MultiInput)
    torch.testing.assert_close(
        torch.cat([parts.inputs.parts["upper"], parts.inputs.parts["lower"]], dim=2), whole.inputs
    )
    assert torch.equal(parts.labels, whole.labels)
    assert known_samples(parity(), several) is None


def test_full_training_is_of_the_tasks_own_architecture() -> None:
    """Of the task's own model, its builder, the user's source; the engine's network only where none of these is."""

    class Own(nn.Module):
        made = 0

        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Linear(64, 6), nn.Linear(6, 2)

        def forward(self, inputs: Tensor) -> Tensor:
            type(self).made += 1
            out: Tensor = self.head(self.body(inputs.flatten(1)).relu())
            return out

    pixels, digits = load_digits(return_X_y=True)
    images = torch.tensor(pixels[1000:1200] / 16, dtype=torch.float32).reshape(-1, 1, 8, 8)
    data = (images[:100], torch.tensor(digits[1000:1100] % 2)), (images[100:], torch.tensor(digits[1100:1200] % 2))
    scores = {}
    for how in ("model", "build", "engine"):
        with TransferEngine(
            auto_discover=False, discoverers=[], train=Budget(steps=20), model=ModelSpec(hidden=(4,))
        ) as engine:
            for task in learned():
                engine.register_task(task.over(train=task.train, validation=task.validation), copy.deepcopy(task.model))
            given: dict[str, Any] = {"model": {"model": Own()}, "build": {"build": Own}, "engine": {}}[how]
            new = Task(descriptor=parity(), train=data[0], test=data[1], **given)
            engine.register_task(new, unseen=True)
            made = engine.synthesize_zero_shot_model("new", "weighted_ensemble", expect=False)
            Own.made = 0
            found = judged(engine, made, "new")
            assert (Own.made > 0) is (how != "engine")
            scores[how] = found.full_training_score
            assert found.full_training_score is not None
            assert math.isfinite(found.full_training_score)
