"""Expected scores: cases whose answer is known, Wilson's interval against scipy, and how often the interval holds."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from torch import Tensor, nn

from crosstask.descriptors import TaskDescriptor
from crosstask.errors import DataError
from crosstask.graph import Evidence, TransferEdge, TransferGraph
from crosstask.tasks import Task
from crosstask_synthesis.expectation import expected_score
from crosstask_synthesis.intervals import wilson
from crosstask_synthesis.known import Known, balanced, known_samples
from crosstask_synthesis.testing import described, source


class Guess(nn.Module):
    """Names the class whose letter is in column 0, but where column 1 is below `wrong` the next one."""

    def __init__(self, classes: str, wrong: float) -> None:
        super().__init__()
        self.letters, self.wrong = torch.tensor([ord(c) for c in classes]), wrong

    def forward(self, inputs: Tensor) -> Tensor:
        place = (inputs[:, :1].long() == self.letters).long().argmax(1)
        chosen = (place + (inputs[:, 1] < self.wrong)) % len(self.letters)
        return nn.functional.one_hot(chosen, len(self.letters)).to(inputs)


def task(name: str, classes: str, domain: str = "d", count: int = 200, seed: int = 0, **more: Any) -> Task:
    """Each input holds its class as a letter, a random number, and the random number that makes it one of a kind."""
    rng = np.random.default_rng([seed, *name.encode()])
    labels = np.arange(count) % len(classes)
    inputs = np.stack([[ord(classes[k]) for k in labels], rng.random(count), rng.random(count)], axis=1)
    descriptor = described(name, classes, domain=domain, input_shape=(3,), **more)
    return Task(descriptor=descriptor, validation=(inputs, labels), test=(inputs, labels), model=nn.Identity())


def maker(wrong: float) -> Any:
    def make(new: TaskDescriptor, sources: list[Task], graph: TransferGraph, inputs: Tensor | None) -> nn.Module:
        if not sources:
            raise DataError("no sources")
        return Guess("".join(new.classes), wrong)

    return make


@given(count=st.integers(1, 400), share=st.floats(0, 1))
def test_wilson_agrees_with_scipy(count: int, share: float) -> None:
    hits = round(share * count)
    low, high = wilson(hits / count, count)
    other = binomtest(hits, count).proportion_ci(0.95, method="wilson")
    assert (low, high) == pytest.approx((other.low, other.high), abs=1e-3)


def test_balanced_counts_each_class_alike() -> None:
    inputs = torch.tensor([[97.0, 1, 0]] * 8 + [[98.0, 0, 0]] * 2)
    known = Known(inputs, torch.tensor([0] * 8 + [1] * 2), torch.zeros(10, dtype=torch.bool))
    share, count = balanced(Guess("ab", wrong=0.5), known, 2)  # all of class 0 right, none of class 1
    assert share == 0.5
    assert count == pytest.approx(4 / (1 / 8 + 1 / 2))


def test_samples_of_a_class_from_its_own_domain_each_once() -> None:
    new = described("new", "bc", domain="d", input_shape=(3,))
    one = task("one", "abc")
    twin = Task(descriptor=described("twin", "abc", domain="d"), validation=one.validation)
    known = known_samples(new, [one, twin, task("far", "bc", domain="e")])
    assert known is not None
    assert len(known.labels) == int((one.data("validation").targets > 0).sum())
    assert set(known.labels.tolist()) == {0, 1}
    assert torch.equal(known.inputs[:, 0].long() - ord("b"), known.labels)
    assert known_samples(new, [task("one", "ab")]) is None, "nobody has c"
    assert known_samples(new, [task("one", "abc", count=12)]) is None, "four samples of a class say nothing"


@pytest.mark.parametrize("wrong", [0.0, 0.1, 0.5])
def test_covered_intervals_hold_as_often_as_they_say(wrong: float) -> None:
    new = described("new", "bd", domain="d", input_shape=(3,))
    hits = 0
    for seed in range(200):
        sources = [task("one", "abc", seed=seed), task("two", "cd", seed=seed)]
        graph = TransferGraph([new, *(s.descriptor for s in sources)])
        interval, how = expected_score(maker(wrong), Guess("bd", wrong), new, sources, graph)
        assert interval is not None
        assert "held-out samples" in how
        hits += interval.low <= 1 - wrong <= interval.high
    assert hits >= 182  # 95 % of 200, less two standard errors


def test_covered_intervals_hold_for_a_score_on_other_samples() -> None:
    """What it is compared with is a score on a test split, not the share that would be found on endless data."""
    new, hits, wide = described("new", "bd", domain="d", input_shape=(3,)), 0, 0.0
    for seed in range(200):
        sources = [task("one", "abc", seed=seed), task("two", "cd", seed=seed)]
        graph = TransferGraph([new, *(s.descriptor for s in sources)])
        interval, _ = expected_score(maker(0.1), Guess("bd", 0.1), new, sources, graph)
        assert interval is not None
        count = sum(int((s.data("validation").targets == k).sum()) for s, k in ((sources[0], 1), (sources[1], 1)))
        again = task("new", "bd", count=count, seed=1000 + seed)
        found = again.data("test")
        score = float((Guess("bd", 0.1)(found.inputs).argmax(1) == found.targets).float().mean())
        hits += interval.low <= score <= interval.high
        wide += (interval.high - interval.low) / 200
    assert 182 <= hits < 200
    assert wide < 0.25


def test_names_that_mean_something_else_elsewhere_widen_the_interval() -> None:
    """The same class names, but the model that serves one task is wrong on the other: the sources show it."""
    new = described("new", "ab", domain="d", input_shape=(3,))
    one, two = task("one", "ab"), task("two", "ab")
    shifted = task("odd", "ab", seed=1)
    data = shifted.data("validation")
    shifted = Task(descriptor=shifted.descriptor, validation=(data.inputs, 1 - data.targets), model=nn.Identity())
    widths = []
    for sources in ([one, two, task("odd", "ab", seed=1)], [one, two, shifted]):
        graph = TransferGraph([new, *(s.descriptor for s in sources)])
        interval, _ = expected_score(maker(0.05), Guess("ab", 0.05), new, sources, graph)
        assert interval is not None
        widths.append(interval.high - interval.low)
    assert widths[1] > 3 * widths[0]


def test_uncovered_is_one_more_draw_from_the_known_tasks() -> None:
    """Tasks of domains of their own, of which the way of making gets a share right that differs: how often is the
    share of one more such task within the interval?
    """
    rng, hits = np.random.default_rng(0), 0
    for _ in range(200):
        truth = rng.normal(0.6, 0.1, 7).clip(0, 1)
        sources = [task(f"t{k}", "abcd", domain=f"d{k}", count=400) for k in range(6)]
        wrong = dict(zip([s.task_id for s in sources], 1 - truth[1:], strict=True))
        new = described("new", "abcd", domain="unseen", input_shape=(3,))
        graph = TransferGraph([new, *(s.descriptor for s in sources)])

        def make(want: Any, known: list[Task], g: Any, inputs: Any, wrong: dict[str, float] = wrong) -> nn.Module:
            assert want.task_id not in [k.task_id for k in known], "the task itself is hidden"
            return Guess("abcd", wrong[want.task_id])

        interval, how = expected_score(make, Guess("abcd", 0.5), new, sources, graph)
        assert interval is not None
        assert "from 6 known tasks" in how
        hits += interval.low <= truth[0] <= interval.high
    assert hits >= 182


def test_confidence_is_used_where_it_tells_good_from_bad() -> None:
    """Models that are the surer the more they get right: on unlabelled inputs the new model's sureness tells."""

    class Sure(nn.Module):
        def __init__(self, right: float) -> None:
            super().__init__()
            self.right = right

        def forward(self, inputs: Tensor) -> Tensor:
            return Guess("ab", 1 - self.right)(inputs) * math.log(self.right / (1 - self.right))

    rights = {f"t{k}": 0.55 + 0.08 * k for k in range(6)}
    sources = [task(name, "ab", domain=name, count=2000) for name in rights]
    new = task("new", "ab", domain="unseen")
    graph = TransferGraph([new.descriptor, *(s.descriptor for s in sources)])
    interval, how = expected_score(
        lambda want, *_: Sure(rights[want.task_id]), Sure(0.9), new.descriptor, sources, graph,
        new.data("test").inputs,
    )  # fmt: skip
    assert interval is not None
    assert "mean confidence" in how
    assert interval.mean == pytest.approx(0.9, abs=0.05)
    assert interval.high - interval.low < 0.2


def test_hidden_are_the_sources_that_give_the_answer_away_and_measurements_into_it() -> None:
    sources = [task("one", "ab"), task("same", "bc"), task("far", "ab", domain="e"), task("other", "xy")]
    new = described("new", "ab", domain="n", input_shape=(3,))
    graph = TransferGraph([new, *(s.descriptor for s in sources)])
    edge = TransferEdge(source="far", target="one", transfer_coefficient=0.9, evidence=Evidence.MEASURED)
    graph.add(edge)
    seen: dict[str, tuple[set[str], bool]] = {}

    def make(want: Any, known: list[Task], g: TransferGraph, inputs: Any) -> nn.Module:
        seen[want.task_id] = {k.task_id for k in known}, g.edge("far", want.task_id) is not None
        return Guess("ab", 0.1)

    expected_score(make, Guess("ab", 0.1), new, sources, graph)
    assert seen["one"] == ({"far", "other"}, False)
    graph.add(TransferEdge(source="far", target="new", transfer_coefficient=0.9, evidence=Evidence.MEASURED))
    expected_score(make, Guess("ab", 0.1), new, sources, graph)
    assert seen["one"][1], "as much is measured of the new task"


def test_nothing_to_measure_it_on() -> None:
    new = described("new", "ab", domain="d", input_shape=(3,))
    bare = source("bare", "ab", nn.Identity(), domain="d")
    graph = TransferGraph([new, bare.descriptor])
    assert expected_score(maker(0), Guess("ab", 0), new, [bare], graph) == (
        None, "no expected score: no source has validation data",
    )  # fmt: skip
    alone = task("alone", "xy", domain="e")
    interval, how = expected_score(maker(0), Guess("ab", 0), new, [alone], TransferGraph([new, alone.descriptor]))
    assert interval is None
    assert "no known task can be made" in how


def test_a_single_known_task_promises_nothing() -> None:
    new = described("new", "ab", domain="n", input_shape=(3,))
    sources = [task("one", "ab"), task("other", "xy", domain="e", task_type="imitation")]
    interval, _ = expected_score(maker(0.1), Guess("ab", 0.1), new, sources, TransferGraph([new]))
    assert interval is not None
    assert (interval.low, interval.high) == (0.0, 1.0)
