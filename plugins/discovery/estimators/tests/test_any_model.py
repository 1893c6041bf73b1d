"""Estimators and discovery over models and inputs of every kind, as users bring them."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from crosstask import Budget, DataError, ModelSpec, Portfolio, Task, TaskDescriptor, TransferEngine
from crosstask.descriptors import MultiInput
from crosstask.graph import TransferGraph
from crosstask.learning.inputs import joined, kind_of
from crosstask.learning.own_models import prepare_model
from crosstask.learning.training import fit
from crosstask_discovery.estimator import Estimator, features_and_outputs
from crosstask_discovery.testing import digits, graph_of, images
from crosstask_estimators import (
    CKA,
    GBC,
    KNN,
    LEEP,
    NCE,
    Fisher,
    HScore,
    LogME,
    MeanZ,
    ModelSimilarity,
    Ridge,
    TransRate,
)
from crosstask_estimators.leep import leep
from crosstask_estimators.logme import logme

EVERY = (LogME, LEEP, NCE, HScore, TransRate, GBC, CKA, KNN, Ridge, Fisher)


class Parts(nn.Module):
    """A network of digits that takes its upper and its lower half apart, and answers with a mapping."""

    def __init__(self, whole: nn.Module) -> None:
        super().__init__()
        self.whole = whole

    def forward(self, upper: Tensor, lower: Tensor) -> dict[str, Tensor]:
        return {"logits": self.whole(torch.cat([upper, lower], dim=2))}


class Loose(nn.Module):
    """The same network with the weights of its head used by `forward` itself."""

    def __init__(self, whole: Any) -> None:
        super().__init__()
        self.bias, self.weight = nn.Parameter(whole.head.bias.clone()), nn.Parameter(whole.head.weight.T.clone())
        self.trunk = whole.trunk

    def forward(self, inputs: Tensor) -> tuple[Tensor]:
        return (self.trunk(inputs) @ self.weight + self.bias,)


def in_parts(task: Task) -> Task:
    """The task with two inputs for each sample."""
    splits = {}
    for name in ("train", "validation"):
        data = task.data(name)
        halves = {"upper": data.inputs[:, :, :4], "lower": data.inputs[:, :, 4:]}
        splits[name] = (MultiInput(halves), data.targets)
    made = Task(descriptor=TaskDescriptor(task_id=task.task_id, output_dim=task.descriptor.output_dim), **splits)
    made.model = Parts(task.model)
    made.data()
    return made


def loose(task: Task) -> Task:
    made = task.over(**{name: task.data(name) for name in ("train", "validation")})
    made.model = Loose(task.model)
    prepare_model(made)
    return made


def raw(estimator: Estimator, portfolio: Portfolio) -> dict[tuple[str, str], float]:
    edges = estimator.discover(portfolio, graph_of(portfolio))
    return {(e.source, e.target): e.estimates[estimator.known_as] for e in edges}


@pytest.mark.parametrize("kind", EVERY, ids=lambda kind: kind.known_as)
@pytest.mark.parametrize("change", [in_parts, loose])
def test_the_same_estimates_as_of_one_tensor_and_a_head_that_is_a_module(kind: type[Estimator], change: Any) -> None:
    plain = digits("ten", "parity", "low")
    ours, theirs = raw(kind(), Portfolio(map(change, plain))), raw(kind(), plain)
    if kind is Fisher:  # it draws labels by fingerprints of other tasks, and loose heads come in another order
        assert ours.keys() == theirs.keys()
        assert all(abs(ours[pair] - theirs[pair]) < 0.1 for pair in ours)
        return
    assert ours == {pair: pytest.approx(value, rel=1e-4) for pair, value in theirs.items()}


class Turned(nn.Module):
    """The same network with its head declared before its trunk."""

    def __init__(self, whole: Any) -> None:
        super().__init__()
        self.answer, self.trunk = copy.deepcopy(whole.head), copy.deepcopy(whole.trunk)

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.answer(self.trunk(inputs))
        return found


def turned(task: Task, how: str) -> Task:
    """The task with such a network, compiled as `how` says after its head was looked for, or before it."""
    made = task.over(**{name: task.data(name) for name in ("train", "validation")})
    model: Any = Turned(task.model)
    if how == "whole":
        model = torch.compile(model, backend="eager")
    elif how == "in place":
        model.compile(backend="eager")
    elif how != "plain":
        setattr(model, how, torch.compile(getattr(model, how), backend="eager"))
    model(made.data().inputs[:5])
    made.model = model
    prepare_model(made)
    return made


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch's own
@pytest.mark.parametrize("how", ["whole", "in place", "trunk", "answer"])
def test_compiled_models_give_the_figures_of_the_models(how: str) -> None:
    plain, compiled = (
        Portfolio([turned(task, each) for task in digits("ten", "parity", "low")]) for each in ("plain", how)
    )
    try:
        for kind in EVERY:
            ours, theirs = raw(kind(), compiled), raw(kind(), plain)
            assert ours == {pair: pytest.approx(value, rel=1e-5) for pair, value in theirs.items()}, kind
        ours_alike, theirs_alike = (
            ModelSimilarity().discover(portfolio, graph_of(portfolio)) for portfolio in (compiled, plain)
        )
        for one, other in zip(ours_alike, theirs_alike, strict=True):
            assert one.estimates == pytest.approx(other.estimates)
            assert one.shared_representations == pytest.approx(other.shared_representations)  # by the same names
    finally:
        torch.compiler.reset()


def test_a_single_logit_stands_for_two_classes() -> None:
    portfolio = digits("ten", "parity")
    task = portfolio["parity"]
    two: Any = task.model
    one: Any = ModelSpec(hidden=(32, 24)).build(TaskDescriptor(task_id="x", input_shape=(1, 8, 8), output_dim=1), 0)
    one.trunk.load_state_dict(two.trunk.state_dict())
    with torch.no_grad():
        one.head.weight.copy_(two.head.weight[1:] - two.head.weight[:1])
        one.head.bias.copy_(two.head.bias[1:] - two.head.bias[:1])
    described = TaskDescriptor(task_id="parity", input_shape=(1, 8, 8), output_dim=1)
    single = Task(descriptor=described, train=task.train, validation=task.validation, model=one)
    for kind in EVERY:
        ours, theirs = raw(kind(), Portfolio([portfolio["ten"], single])), raw(kind(), portfolio)
        assert ours.keys() == theirs.keys()
        near = 0.1 if kind is Fisher else 1e-3
        assert all(abs(ours[pair] - theirs[pair]) < near * max(1, abs(theirs[pair])) for pair in ours), kind


class Pixels(nn.Module):
    """A label for every pixel."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.trunk, self.head = nn.Conv2d(1, 6, 3, padding=1), nn.Conv2d(6, classes, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        out: Tensor = self.head(self.trunk(inputs).relu())
        return out


def pixels(name: str, classes: int, blank: int = 0) -> Task:
    """How bright each pixel is, in so many steps; the first `blank` rows have no label."""
    inputs = images()[0][:60]
    labels = (inputs[:, 0] * (classes - 1e-3)).long()
    labels[:, :blank] = -100
    described = TaskDescriptor(task_id=name, task_type="segmentation", input_shape=(1, 8, 8), output_dim=classes)
    task = Task(descriptor=described, train=(inputs, labels), validation=(inputs, labels), test=(inputs, labels))
    torch.manual_seed(classes)
    task.model = Pixels(classes)
    fit(task.model, task, Budget(steps=40, learning_rate=1e-2), torch.Generator().manual_seed(0), curve_split=None)
    return task


def test_places_are_the_rows_of_dense_targets() -> None:
    one, other = pixels("two", 2), pixels("three", 3, blank=3)
    estimator = LogME()
    seen = estimator.see(one, other)
    assert seen.features.shape[1:] == (6,)
    assert len(seen.features) == len(seen.targets) <= 60 * (2000 // 60)
    assert set(seen.targets.unique().tolist()) <= {0, 1, 2}
    with torch.no_grad():  # every row is that of a known place of the target's images
        every = one.model.trunk(other.data().inputs).relu().movedim(1, -1)[:, 3:].reshape(-1, 6)  # type: ignore[union-attr, operator]
        labels = other.data().targets[:, 3:].reshape(-1)
    for row, label in list(zip(seen.features, seen.targets, strict=True))[:40]:
        match = (every - row).abs().amax(1) < 1e-5
        assert label in labels[match]
    found = raw(estimator, Portfolio([one, other]))
    assert found["two", "three"] == pytest.approx(logme(seen.features, seen.targets))
    chances = torch.softmax(seen.outputs.double(), 1)
    assert raw(LEEP(), Portfolio([one, other]))["two", "three"] == pytest.approx(leep(chances, seen.targets))
    with pytest.raises(DataError, match="'fisher' needs classification"):
        Fisher().discover(Portfolio([one, other]), graph_of(Portfolio([one, other])))


def test_several_labels_are_columns_and_unknown_ones_are_left_out_column_by_column() -> None:
    portfolio = digits("ten", "parity")
    pictures, truth = images()
    several = torch.stack([truth % 2, (truth > 4).long(), (truth == 3).long()], dim=1).float()
    hidden = several.clone()
    hidden[::2, 1] = float("nan")
    made = {}
    for name, targets in (("whole", several), ("part", hidden)):
        described = TaskDescriptor(task_id="marks", task_type="multilabel", input_shape=(1, 8, 8), output_dim=3)
        task = Task(descriptor=described, train=(pictures[:200], targets[:200]))
        made[name] = raw(LogME(samples=None), Portfolio([portfolio["ten"], task]))["ten", "marks"]
    features, _ = features_and_outputs(portfolio["ten"].model, pictures[:200])  # type: ignore[arg-type]
    assert made["whole"] == pytest.approx(logme(features, several[:200]))
    rows = torch.arange(200)
    known = [rows, rows[1::2], rows]
    each = [logme(features[own], several[own][:, k : k + 1]) for k, own in enumerate(known)]
    assert made["part"] == pytest.approx(sum(each) / 3)


def bert(outputs: int) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=12, num_labels=outputs,
    )  # fmt: skip
    torch.manual_seed(0)
    model: nn.Module = transformers.BertForSequenceClassification(config)
    return model


def sentences(name: str, outputs: int, model: nn.Module | None) -> Task:
    generator = torch.Generator().manual_seed(outputs)
    ids = torch.randint(1, 40, (90, 8), generator=generator)
    labels = ids[:, 0] % outputs
    rows = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    one, two = slice(0, 50), slice(50, 90)
    parts = [({k: v[part] for k, v in rows.items()}, labels[part]) for part in (one, two)]
    return Task(descriptor=name, train=parts[0], validation=parts[1], test=parts[1], model=model)


class Fussy(nn.Module):
    """Takes digits, but not every one."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(64, 8), nn.Linear(8, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        if len(inputs) > 2:
            raise RuntimeError("what is this?\nmore that nobody needs")
        out: Tensor = self.head(self.body(inputs.flatten(1)).relu())
        return out


class Convolved(nn.Module):
    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.answer, self.see = nn.Linear(8, outputs), nn.Conv2d(1, 8, 3)  # the head is declared first

    def forward(self, inputs: Tensor) -> tuple[Tensor, None]:
        return self.answer(functional.relu(self.see(inputs)).mean((2, 3))), None


def mixed() -> list[Task]:
    pictures, truth = images()
    found = [sentences("topic", 3, bert(3)), sentences("mood", 2, bert(2))]
    one, two = slice(0, 60), slice(60, 120)
    for name, labels, model in (
        ("ten", truth, Convolved(10)), ("parity", truth % 2, Convolved(2)), ("odd", truth % 2, Fussy()),
    ):  # fmt: skip
        parts = [(pictures[part], labels[part]) for part in (one, two)]
        found.append(Task(descriptor=name, train=parts[0], validation=parts[1], test=parts[1], model=model))
    flat = pictures.flatten(1)
    for name, values in (("ink", flat.sum(1)), ("height", pictures.amax(3)[:, 0].sum(1))):
        described = TaskDescriptor(task_id=name, task_type="regression")
        model = nn.Sequential(nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 1))
        parts = [(flat[part], values[part]) for part in (one, two)]
        found.append(Task(descriptor=described, train=parts[0], validation=parts[1], test=parts[1], model=model))
    halves = (pictures[:, :, :4], pictures[:, :, 4:])
    for name, labels in (("both", truth % 2), ("high", (truth > 4).long())):
        parts = [(tuple(half[part] for half in halves), labels[part]) for part in (one, two)]
        whole = Parts(nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 2)))
        found.append(Task(descriptor=name, train=parts[0], validation=parts[1], test=parts[1], model=whole))
    return found


def test_discovery_over_mixed_models_finds_edges_where_they_can_be_and_says_why_not() -> None:
    engine = TransferEngine(seeds=2, budget=Budget(steps=5, samples=30, evaluate_every=5))
    for task in mixed():
        engine.register_task(task)
    usual = [d.name for d in engine.discoverers]
    graph = engine.discover([*usual, "logme", "leep", "model_similarity", "probe"])
    measured = {(e.source, e.target) for e in graph.measured_edges()}
    sentences_, pictures, values, several = (
        {"topic", "mood"},
        {"ten", "parity", "odd"},
        {"ink", "height"},
        {"both", "high"},
    )
    groups = (sentences_, pictures - {"odd"}, values, several)
    wanted = {(s, t) for group in groups for s in group for t in group if s != t}
    wanted |= {(s, "odd") for s in ("ten", "parity")}
    # A network of vectors cannot take images, one that flattens could: what fits is for a forward pass to say.
    assert wanted <= measured
    assert not any({s, t} & sentences_ and not {s, t} <= sentences_ for s, t in measured)
    found = {(e.source, e.target): set() for e in graph.all_edges()}
    for edge in graph.all_edges():
        found[edge.source, edge.target].add(edge.found_by)
    assert "leep" in found["topic", "mood"]
    assert "logme" in found["both", "high"]
    assert "leep" not in found.get(("ink", "height"), ())  # values have no classes
    assert "logme" in found["ink", "height"]
    assert ("odd", "ten") not in measured
    assert "what is this?" in graph.impossible["odd", "ten"]
    assert "more that nobody needs" not in graph.impossible["odd", "ten"]
    engine.close()


def test_a_model_that_raises_is_left_out_by_each_and_the_others_go_on() -> None:
    tasks = [t for t in mixed() if t.task_id in ("ten", "parity", "odd")]
    for task in tasks:
        prepare_model(task)
    portfolio = Portfolio(tasks)
    for made in (LogME(), MeanZ(estimators=("knn", "nce", "fisher"))):
        graph = TransferGraph(t.descriptor for t in portfolio)
        edges = made.discover(portfolio, graph)
        assert {e.source for e in edges} == {"ten", "parity"}
        assert {e.target for e in edges} == {"ten", "parity", "odd"}
        skipped = {(s, t): why for s, t, why in made.skipped}
        assert skipped.keys() == graph.impossible.keys() == {("odd", "ten"), ("odd", "parity")}
        assert all("(Fussy) fails on samples of 'ten': RuntimeError" in w for p, w in skipped.items() if p[1] == "ten")
    with pytest.raises(DataError, match=r"no pair .* fails on samples of"):
        LogME().discover(portfolio.restricted([("odd", "ten")]), TransferGraph())


def test_likeness_of_models_with_several_inputs() -> None:
    plain = digits("ten", "parity", "low")
    parts = Portfolio(map(in_parts, plain))
    ours, theirs = ModelSimilarity(), ModelSimilarity()
    found = {(e.source, e.target): e for e in ours.discover(parts, graph_of(parts))}
    known = {(e.source, e.target): e for e in theirs.discover(plain, graph_of(plain))}
    assert ours.skipped == []
    assert found.keys() == known.keys()
    for pair, edge in found.items():  # other samples of the same digits are shown
        assert abs(edge.estimates["model_similarity"] - known[pair].estimates["model_similarity"]) < 0.2


def test_kinds_of_inputs() -> None:
    one, whole = torch.zeros(3, 4), torch.zeros(3, 4, dtype=torch.long)
    assert kind_of(one) == kind_of(torch.ones(9, 4)) != kind_of(whole)
    several = MultiInput({"a": one, "b": whole})
    assert kind_of(several) != kind_of(MultiInput({"a": one, "b": one}))
    both = joined([several, several])
    assert isinstance(both, MultiInput)
    assert {n: tuple(p.shape) for n, p in both.parts.items()} == {"a": (6, 4), "b": (6, 4)}
