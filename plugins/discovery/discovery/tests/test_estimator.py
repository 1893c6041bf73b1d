"""What an estimator gets from its base: pairs, samples, one forward pass for each, edges, and what is left out."""

from __future__ import annotations

from typing import Any, ClassVar

import attrs
import pytest
import torch
from torch import nn

from crosstask.context import LocalContext
from crosstask.descriptors import TaskDescriptor
from crosstask.errors import DataError
from crosstask.graph import Evidence
from crosstask.learning.features import Passes
from crosstask.learning.models import ModelSpec
from crosstask.options import component, option
from crosstask.tasks import Portfolio, Task
from crosstask_discovery.arrays import centred, matrix, targets
from crosstask_discovery.estimator import Estimator, Looks, Seen, features_and_outputs, raw_estimates
from crosstask_discovery.testing import digit_task, digits, graph_of, images


@component
class Explained(Estimator):
    """Share of the variance of the features that lies between the classes."""

    known_as: ClassVar[str] = "explained"

    limit: float = option(1.0, gt=0, help="estimates above it are refused")

    def estimate(self, seen: Seen) -> float:
        rows, (members, _) = centred(matrix(seen.features)), targets(seen.targets, len(seen.features))
        between = ((members.T @ rows) ** 2).sum(axis=1) / members.sum(axis=0)
        value = float(between.sum() / (rows**2).sum())
        if value > self.limit:
            raise DataError(f"more than {self.limit}")
        return value


@component
class Outputs(Explained):
    """The same of what the source answers."""

    source_classes: ClassVar[bool] = True
    regression: ClassVar[bool] = True

    def estimate(self, seen: Seen) -> float:
        assert seen.outputs.shape == (len(seen.inputs), seen.source.descriptor.output_dim)
        return float(seen.outputs.std())


def made(kind: type[Estimator] = Explained, context: Any = None, **options: Any) -> Any:
    created = kind(**options)
    created.bind(context or LocalContext())
    return created


def test_edges_say_what_was_estimated() -> None:
    portfolio = digits()
    edges = made().discover(portfolio, graph_of(portfolio))
    assert [(e.source, e.target) for e in edges] == [(s.task_id, t.task_id) for s, t in portfolio.pairs()]
    for edge in edges:
        assert (edge.evidence, edge.found_by, set(edge.estimates)) == (Evidence.ESTIMATED, "explained", {"explained"})
        assert -1 <= edge.low <= edge.transfer_coefficient <= edge.high <= 1
    found = {(e.source, e.target): e for e in edges}
    best = max((e for e in edges if e.target == "low"), key=lambda e: e.transfer_coefficient)
    assert best.source == "ten"
    assert best.estimates["explained"] == max(
        found[s, "low"].estimates["explained"] for s in portfolio.ids if s != "low"
    )


def test_every_estimator_sees_the_same_pass() -> None:
    portfolio, context, passes = digits("ten", "low", "parity"), LocalContext(), []
    for task in portfolio:
        task.model.register_forward_hook(lambda module, given, out: passes.append(len(given[0])))
    for kind in (Explained, Outputs, Explained):
        assert len(made(kind, context, samples=30).discover(portfolio, graph_of(portfolio))) == 6
    assert passes == [30] * 6
    with torch.no_grad():
        portfolio["ten"].model.head.bias[0] += 1
    made(Outputs, context, samples=30).discover(portfolio, graph_of(portfolio))
    assert passes == [30] * 8, "the source that was retrained is passed anew"


def test_without_keeping() -> None:
    portfolio, context = digits("ten", "low"), LocalContext()
    kept = made().discover(portfolio, graph_of(portfolio))
    assert made(context=context, keep=False).discover(portfolio, graph_of(portfolio)) == kept
    assert not context._memory


def test_samples_and_shots() -> None:
    portfolio = digits("ten", "parity")
    ten, parity = portfolio
    assert len(made(shots=4).see(ten, ten).targets) == 40
    assert len(made(shots=4).see(ten, parity).targets) == 8
    assert len(made(samples=None).see(ten, parity).targets) == 400
    assert len(made().see(ten, parity, samples=20).targets) == 20
    with pytest.raises(DataError, match="task 'raw' has no trained model"):
        made().see(digit_task("raw", images()[1] % 3, learned=False), parity)
    drawn = made().see(parity, ten, samples=20)
    assert torch.equal(made().see(ten, ten, samples=20).inputs, drawn.inputs), "the same for all sources of a target"
    assert drawn.targets.bincount().tolist() == [2] * 10


def test_features_are_taken_in_evaluation_mode_and_modes_are_restored() -> None:
    body = nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.BatchNorm1d(6), nn.Dropout(0.5))
    model = nn.Sequential(body, nn.Sequential(nn.Linear(6, 5), nn.ReLU()))
    model.add_module("head", nn.Linear(5, 3))
    model.train()
    body[2].eval()
    before = body[2].running_mean.clone()
    features, outputs = features_and_outputs(model, images()[0][:30], batch_size=7)
    assert features.shape == (30, 5)
    assert torch.allclose(model.head(features), outputs)
    assert torch.equal(body[2].running_mean, before)
    assert (model.training, body[2].training, body[3].training) == (True, False, True)
    assert not features.requires_grad


def test_a_new_source_is_scored_among_the_known_ones() -> None:
    portfolio = digits()
    graph = graph_of(portfolio)
    whole = made().discover(portfolio, graph)
    for edge in whole:
        if "low" not in (edge.source, edge.target):
            graph.add(edge)
    focused = made().discover(portfolio.focused("low"), graph)
    assert len(focused) == 8
    expected = {(e.source, e.target): e.transfer_coefficient for e in whole}
    for edge in focused:
        assert edge.transfer_coefficient == pytest.approx(expected[edge.source, edge.target])


def test_what_is_left_out_is_said() -> None:
    pictures = images()[0][:40]
    ink = Task(
        descriptor=TaskDescriptor(task_id="ink", task_type="regression", input_shape=(1, 8, 8), output_dim=1),
        train=(pictures, pictures.sum(dim=(1, 2, 3))[:, None]),
    )
    raw = digit_task("raw", images()[1] % 3, learned=False)
    portfolio = Portfolio([*digits("ten", "low"), raw, ink], unseen=[digit_task("new", images()[1] % 3, learned=False)])
    plain = made()
    assert len(plain.discover(portfolio, graph_of(portfolio))) == 4
    assert ("raw", "ten", "task 'raw' has no trained model") in plain.skipped
    needs = "'explained' needs classification, segmentation or token_classification"
    assert ("ten", "ink", f"task 'ink' is of type 'regression', {needs}") in plain.skipped
    assert len(made(Outputs).discover(portfolio, graph_of(portfolio))) == 6
    with pytest.raises(DataError, match=r"no pair of portfolio .* can be estimated: .*'new' is held back as unseen"):
        plain.discover(portfolio.focused("new"), graph_of(portfolio))


def test_an_estimator_can_leave_a_pair_out() -> None:
    portfolio = digits()
    values = [e.estimates["explained"] for e in made().discover(portfolio, graph_of(portfolio))]
    middle = sorted(values)[9]
    strict = made(limit=middle)
    assert len(strict.discover(portfolio, graph_of(portfolio))) == 10
    assert {reason for *_, reason in strict.skipped} == {f"more than {middle}"}
    with pytest.raises(DataError, match="can be estimated: more than"):
        made(limit=min(values) / 2).discover(portfolio, graph_of(portfolio))


# --- What estimators share


@component
class Widths(Estimator):
    """What it sees, counted; needs the source seen on its own samples, too."""

    known_as: ClassVar[str] = "widths"

    def estimate(self, seen: Seen) -> float:
        own = self.see(seen.source, seen.source)
        return float(seen.features.double().sum() + own.outputs.double().sum())


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many models go through each pass from now on."""
    found: list[int] = []
    whole = Passes.received

    def received(self: Passes, models: Any, inputs: Any) -> Any:
        found.append(len(models))
        return whole(self, models, inputs)

    monkeypatch.setattr(Passes, "received", received)
    return found


def test_estimates_in_one_go_are_those_of_each_pair_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models of one architecture go through a target's samples together, once, whatever the estimators and options."""
    portfolio, together = digits(), counted(monkeypatch)
    context, graph = LocalContext(), graph_of(portfolio)
    parts = [made(context=context), made(Widths, context), made(context=context, samples=90)]
    found = raw_estimates(parts, portfolio, graph)
    # 5 targets with 4 sources each, by 250 and by 90 samples; and each of the 5 sources on its own
    assert sorted(together) == [1] * 5 + [4] * 10
    assert [list(values) for values in found] == [[(s.task_id, t.task_id) for s, t in portfolio.pairs()]] * 3
    assert all(each._looks is None for each in parts)
    for source, target in portfolio.pairs():
        pair = source.task_id, target.task_id
        for part, values in zip(parts, found, strict=True):
            sample = part.see(target, target).inputs
            features, _ = features_and_outputs(source.model, sample)  # type: ignore[arg-type]
            seen = attrs.evolve(part.see(source, target), features=features)
            assert values[pair] == pytest.approx(part.estimate(seen), rel=1e-5)
    again = [made(context=LocalContext()).discover(portfolio.restricted([pair]), graph)[0] for pair in found[0]]
    assert [e.estimates["explained"] for e in again] == list(found[0].values()), "alone to the last bit"


def test_what_is_known_is_not_passed_again_and_no_more_is_held_than_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    portfolio, context = digits(), LocalContext()
    graph = graph_of(portfolio)
    first = made(context=context).discover(portfolio.restricted([("parity", "ten")]), graph)
    together, held, done = counted(monkeypatch), [], Looks.done_with

    def note(looks: Looks, source: Task) -> None:
        done(looks, source)
        held.append((len(looks._seen), len(looks._ahead)))

    monkeypatch.setattr(Looks, "done_with", note)
    edges = made(context=context).discover(portfolio.focused("ten"), graph)
    assert together == [3, 1, 1, 1, 1]
    assert held == [(0, 0), (0, 2), (0, 1), (0, 0), (0, 0), (0, 0), (0, 0), (0, 0)], "what is to come, nothing else"
    assert first[0].estimates in [e.estimates for e in edges if (e.source, e.target) == ("parity", "ten")]


def test_only_those_go_along_that_will_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the same architecture, but a regression: an estimator of classes leaves it out."""
    pictures = images()[0]
    ink = Task(
        descriptor=TaskDescriptor(task_id="ink", task_type="regression", input_shape=(1, 8, 8), output_dim=1),
        train=(pictures, pictures.sum(dim=(1, 2, 3))[:, None]),
    )
    ink.model = ModelSpec(hidden=(32, 24)).build(ink.descriptor, 0)
    portfolio, together = Portfolio([*digits("ten", "low", "parity"), ink]), counted(monkeypatch)
    assert len(made(Outputs).discover(portfolio, graph_of(portfolio))) == 9
    assert sorted(together) == [2, 2, 2, 3]  # into each of the digits, and into the ink


def test_a_model_that_fails_with_others_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    portfolio = digits("ten", "low", "parity")

    def broken(self: Passes, models: Any, inputs: Any) -> Any:
        raise MemoryError("too much")

    plain = {(e.source, e.target): e.estimates for e in made().discover(portfolio, graph_of(portfolio))}
    monkeypatch.setattr(Passes, "received", broken)
    graph = graph_of(portfolio)
    edges = made().discover(portfolio, graph)
    for edge in edges:
        assert edge.estimates["explained"] == pytest.approx(plain[edge.source, edge.target]["explained"], rel=1e-5)

    class Refuses(nn.Module):
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.trunk, self.head = model.trunk, model.head

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            if len(inputs) > 2:
                raise ValueError("no more than two at once")
            found: torch.Tensor = self.head(self.trunk(inputs))
            return found

    portfolio["low"].model = Refuses(portfolio["low"].model)  # type: ignore[arg-type]
    component_ = made()
    assert {e.source for e in component_.discover(portfolio, graph)} == {"ten", "parity"}
    assert "ValueError: no more than two at once" in graph.impossible["low", "ten"]
