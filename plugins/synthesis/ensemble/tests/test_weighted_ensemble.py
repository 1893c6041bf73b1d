"""The weights and logits by hand, what is refused, and what it is worth on real digits."""

from __future__ import annotations

import itertools
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from crosstask.descriptors import TaskDescriptor
from crosstask.errors import DataError
from crosstask.graph import TransferEdge, TransferGraph
from crosstask.learning.models import ModelSpec
from crosstask.learning.training import evaluate, fit
from crosstask.records import Budget, Provenance
from crosstask.registry import Registry
from crosstask.tasks import Task
from crosstask_ensemble import WeightedEnsemble
from crosstask_ensemble.plugin import PLUGIN
from crosstask_synthesis import testing


class Fixed(nn.Module):
    """Answers with the first columns of its inputs, times a factor: logits that a test can choose."""

    def __init__(self, outputs: int, factor: float = 1.0) -> None:
        super().__init__()
        self.outputs, self.factor = outputs, factor

    def forward(self, inputs: Tensor) -> Tensor:
        return self.factor * inputs[:, : self.outputs]


def source(name: str, classes: str = "", model: nn.Module | None = None, **more: Any) -> Task:
    return testing.source(name, classes, model or Fixed(len(classes)), **{"domain": "d", "input_shape": (6,)} | more)


def graph_of(new: TaskDescriptor, sources: list[Task], coefficients: list[float | None]) -> TransferGraph:
    graph = TransferGraph([new, *(s.descriptor for s in sources)])
    for task, coefficient in zip(sources, coefficients, strict=True):
        if coefficient is not None:
            graph.add(TransferEdge(source=task.task_id, target=new.task_id, transfer_coefficient=coefficient))
    return graph


def make(
    new: TaskDescriptor,
    sources: list[Task],
    coefficients: list[float | None] | None = None,
    inputs: Tensor | None = None,
    **options: Any,
) -> Any:
    graph = graph_of(new, sources, coefficients or [0.5] * len(sources))
    return WeightedEnsemble(**options).synthesize(new, sources, graph, inputs)


def wanted(classes: str, **more: Any) -> TaskDescriptor:
    return testing.described("new", classes, **{"domain": "d", "input_shape": (6,)} | more)


X = torch.tensor([[1.0, 2.0, 6.0, 0.0, 0.0, 0.0], [4.0, 0.0, -1.0, 3.0, 0.0, 0.0]])


def test_a_graph_that_does_not_have_the_new_task_says_nothing_of_it() -> None:
    new, sources = wanted("ca"), [source("s", "abc"), source("t", "ca")]
    known = TransferGraph(each.descriptor for each in sources)
    one, other = (WeightedEnsemble().synthesize(new, sources, graph, None) for graph in (known, TransferGraph()))
    assert torch.equal(one(X), other(X))
    assert one.provenance == other.provenance


def test_one_source_gives_its_own_centred_logits() -> None:
    made = make(wanted("ca"), [source("s", "abc")])
    torch.testing.assert_close(made(X), X[:, [2, 0]] - X[:, :3].mean(1, keepdim=True))
    assert made.provenance == Provenance(
        strategy="weighted_ensemble", new_task="new", sources={"s": 1.0}, confidence=0.5
    )


def test_two_sources_by_hand() -> None:
    one, two = source("one", "ab"), source("two", "bc", Fixed(2, factor=3.0))
    made = make(wanted("abc"), [one, two], [0.6, 0.5], temperature=0.1)
    near = 1 / (1 + np.exp(-1.0))  # weight of `one` for b: e^6 against e^5
    first, second = X[:, :2] - X[:, :2].mean(1, keepdim=True), 3 * (X[:, :2] - X[:, :2].mean(1, keepdim=True))
    expected = torch.stack([first[:, 0], near * first[:, 1] + (1 - near) * second[:, 0], second[:, 1]], dim=1)
    torch.testing.assert_close(made(X), expected)
    assert made.provenance.sources == pytest.approx({"one": (1 + near) / 3, "two": (2 - near) / 3})
    assert sum(made.provenance.sources.values()) == pytest.approx(1)


def test_a_loud_model_does_not_drown_the_others() -> None:
    """With unlabelled inputs each model's logits are brought to the same size."""
    quiet, loud = source("quiet", "ab"), source("loud", "cd", Fixed(2, factor=100.0))
    made = make(wanted("abcd"), [quiet, loud], inputs=X)
    made_even = make(wanted("abcd"), [quiet, source("loud", "cd")], inputs=X)
    torch.testing.assert_close(made(X), made_even(X))


def test_without_inputs_the_sources_own_data_set_the_size() -> None:
    loud = source("loud", "ab", Fixed(2, factor=100.0))
    with_data = Task(descriptor=loud.descriptor, train=(X, torch.tensor([0, 1])), model=loud.model)
    torch.testing.assert_close(make(wanted("ab"), [with_data])(X), make(wanted("ab"), [loud], inputs=X)(X))


def test_top_and_minimum() -> None:
    sources = [source("best", "ab"), source("good", "ab"), source("bad", "ab")]
    made = make(wanted("ab"), sources, [0.8, 0.5, -0.1])
    assert set(made.provenance.sources) == {"best", "good"}
    assert "bad left out: is not expected to help (-0.10)" in made.provenance.notes
    assert set(make(wanted("ab"), sources, [0.8, 0.5, -0.1], top=1).provenance.sources) == {"best"}


def test_another_domain_only_where_nothing_else_is_known() -> None:
    here, there = source("here", "ab"), source("there", "abc", domain="d/rotated")
    made = make(wanted("ab"), [here, there], [0.5, 0.9])
    assert made.provenance.sources == {"here": 1.0}
    assert made.provenance.confidence == 0.5
    made = make(wanted("abc"), [here, there], [0.5, 0.9])
    assert made.provenance.notes == ("c: known from other domains only",)
    assert made.provenance.confidence == pytest.approx(0.9 / 4), "the weakest class counts"
    assert set(make(wanted("ab"), [here, there], [0.5, 0.9], same_domain=False).provenance.sources) == {"here", "there"}


def test_what_does_not_fit_is_left_out_and_named() -> None:
    sources = [
        source("good", "ab"),
        source("strange", "xy"),
        source("wide", "ab", input_shape=(9,)),
        source("values", task_type="regression", output_dim=2),
        testing.source("bare", "ab", domain="d"),
    ]
    notes = make(wanted("ab"), sources).provenance.notes
    assert notes == (
        "bare left out: has no trained model",
        "strange left out: has none of the classes",
        "values left out: is a regression task",
        "wide left out: takes inputs (9,)",
    )


def test_a_class_that_nobody_knows_is_named() -> None:
    with pytest.raises(DataError, match=r"'new': no source knows class 'd', class 'e' \(far has none of the classes\)"):
        make(wanted("ade"), [source("s", "abc"), source("far", "xy")])


@pytest.mark.parametrize(
    ("new", "sources", "message"),
    [
        (wanted("", output_dim=2), [source("s", "ab")], "needs the names of its classes"),
        (wanted("ab"), [], "no source knows class 'a', class 'b'"),
        (wanted("", task_type="regression", output_dim=1), [source("s", "ab")], "no source knows output 0"),
    ],
)
def test_nothing_to_make_it_from(new: TaskDescriptor, sources: list[Task], message: str) -> None:
    with pytest.raises(DataError, match=message):
        make(new, sources)


def test_inputs_of_another_shape_are_refused() -> None:
    with pytest.raises(DataError, match=r"has inputs \(6,\), the unlabelled ones have \(5,\)"):
        make(wanted("ab"), [source("s", "ab")], inputs=torch.zeros(3, 5))


def test_a_graph_that_knows_nothing_gives_equal_weights_and_no_confidence() -> None:
    made = make(wanted("ab"), [source("one", "ab"), source("two", "ab")], [None, None])
    assert made.provenance.sources == {"one": 0.5, "two": 0.5}
    assert made.provenance.confidence is None


def test_regression_is_the_weighted_mean_of_the_outputs() -> None:
    new = wanted("", task_type="regression", output_dim=2)
    fields = {"task_type": "regression", "output_dim": 2}
    one, two = source("one", model=Fixed(2), **fields), source("two", model=Fixed(2, factor=3.0), **fields)
    other = source("other", model=Fixed(1), **(fields | {"output_dim": 1}))
    made = make(new, [one, two, other], [0.5, 0.4, 0.9], temperature=0.1)
    share = 1 / (1 + np.exp(-1.0))
    torch.testing.assert_close(made(X), (share + (1 - share) * 3) * X[:, :2])
    assert made.provenance.notes == ("other left out: has 1 outputs",)


def test_how_far_members_differ_by_hand() -> None:
    fields = {"task_type": "regression", "output_dim": 2}
    one, two = source("one", model=Fixed(2), **fields), source("two", model=Fixed(2, factor=3.0), **fields)
    made = make(wanted("", task_type="regression", output_dim=2), [one, two], [0.5, 0.4], temperature=0.1)
    share = 1 / (1 + np.exp(-1.0))
    mean = (share + (1 - share) * 3) * X[:, :2]
    variance = share * (X[:, :2] - mean) ** 2 + (1 - share) * (3 * X[:, :2] - mean) ** 2
    torch.testing.assert_close(made.spread(X), variance.sqrt())
    with pytest.raises(DataError, match="no classes to be sure of"):
        made.confidence(X)
    alone = make(wanted("ab"), [source("one", "ab"), source("two", "cd")])
    assert not alone.spread(X).any(), "each output has one owner"


@cache
def digits(keep: str) -> Task:
    raw = load_digits()
    order = np.random.default_rng(0).permutation(len(raw.target))
    digit = raw.target[order]
    chosen = np.isin(digit, [int(k) for k in keep])
    images = torch.tensor(raw.images[order][chosen] / 16, dtype=torch.float32)[:, None]
    labels = torch.tensor([keep.index(str(d)) for d in digit[chosen]])
    half = (np.nonzero(chosen)[0] < 900).sum()  # one split of all images, for every task
    descriptor = testing.described(keep, keep, domain="digits", input_shape=(1, 8, 8))
    ends = (0, half - len(labels) // 10, half, len(labels))
    splits = [(images[a:b], labels[a:b]) for a, b in itertools.pairwise(ends)]
    task = Task(descriptor=descriptor, train=splits[0], validation=splits[1], test=splits[2])
    task.model = ModelSpec().build(descriptor, seed=0)
    budget = Budget(steps=400, learning_rate=3e-3)
    fit(task.model, task, budget, torch.Generator().manual_seed(0), curve_split=None)
    return task


@pytest.mark.parametrize(
    ("parts", "share"), [(("0123456789", "01234", "56789"), 0.95), (("01234", "56789"), 0.85)], ids=["with", "without"]
)
def test_zero_shot_on_real_digits(parts: tuple[str, ...], share: float) -> None:
    """1, 3, 6 and 8 told apart without training on them; `share` of what full training reaches."""
    mix, sources = digits("1368"), [digits(part) for part in parts]
    full = evaluate(mix.model, mix)
    coefficients = [0.9 if len(part) == 10 else 0.8 for part in parts]
    made = make(mix.descriptor, sources, coefficients)
    score = evaluate(made, mix)
    assert score > share * full, f"{score:.3f} of {full:.3f}; chance is 0.25"


def test_distilled_into_one_model_on_unlabelled_inputs() -> None:
    mix, sources = digits("1368"), [digits(part) for part in ("0123456789", "01234", "56789")]
    inputs = mix.data("train").inputs
    whole = make(mix.descriptor, sources, inputs=inputs)
    one = make(mix.descriptor, sources, inputs=inputs, distill_steps=200)
    again = make(mix.descriptor, sources, inputs=inputs, distill_steps=200)
    size = {m: sum(p.numel() for p in m.parameters()) for m in (whole, one)}
    assert size[one] < 0.4 * size[whole]
    assert evaluate(one, mix) > evaluate(whole, mix) - 0.05
    assert one.provenance.sources == whole.provenance.sources
    assert one.provenance.notes[0].startswith("distilled into the architecture of")
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), again.parameters(), strict=True))


def test_it_knows_of_each_input_how_sure_it_is() -> None:
    """Held-out labels of the two halves make the confidence of the whole a probability: on test images it is right as
    often as it says, and right answers get more of it than wrong ones.
    """
    mix, sources = digits("1368"), [digits("01234"), digits("56789")]
    made = make(mix.descriptor, sources)
    assert made.provenance.notes[0].startswith("its confidence in an input was fitted to")
    images, labels = mix.data("test").inputs, mix.data("test").targets
    sure, right = made.confidence(images), made(images).argmax(1) == labels
    assert abs(float(sure.mean()) - float(right.double().mean())) < 0.06
    assert roc_auc_score(right, sure) > 0.75
    bare = [Task(descriptor=t.descriptor, train=t.train, model=t.model) for t in sources]
    raw = make(mix.descriptor, bare).confidence(images)  # nothing to fit it to: the bare softmax
    assert abs(float(raw.mean()) - float(right.double().mean())) > 0.15


def test_sources_are_not_changed_and_batch_norm_is_used_as_trained() -> None:
    model = nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 2))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    made = make(wanted("ab"), [source("s", "ab", model)])
    made.train()
    torch.testing.assert_close(made(X), made(torch.cat([X, X + 5]))[:2])
    for parameter in made.parameters():
        parameter.data += 1
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_found_by_name_and_where_none_is_named() -> None:
    registry = Registry()
    registry.register(PLUGIN)
    assert registry.default("synthesis") == "weighted_ensemble"
    assert registry.create("synthesis", "weighted_ensemble", {"top": 2}).top == 2
