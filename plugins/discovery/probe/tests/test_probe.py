"""What the probe measures, in what order, how often, and that nothing finished is measured again."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import attrs
import pytest
import structlog
import torch
from torch import Tensor, nn

from crosstask.components import Context
from crosstask.context import LocalContext
from crosstask.descriptors import TaskDescriptor
from crosstask.errors import DataError
from crosstask.executors import ProcessExecutor
from crosstask.graph import Evidence, RelationType
from crosstask.learning import together
from crosstask.learning.modules import know
from crosstask.learning.training import History, fit
from crosstask.learning.transferring import weights_digest
from crosstask.options import component
from crosstask.points.observer import Observer
from crosstask.points.transfer import Transfer
from crosstask.records import Budget
from crosstask.registry import Registry
from crosstask.run import Run
from crosstask.store import open_store
from crosstask.tasks import Portfolio, Task
from crosstask_discovery.testing import digit_task, digits, graph_of, images
from crosstask_probe import Probe
from crosstask_probe.plugin import PLUGIN
from crosstask_probe.probe import BUDGET, measure_alone, most_promising

CALLS: list[str] = []


@component
class Counting(Transfer):
    """Fine-tuning that counts; stops the process, as it were, before its `fail_at`-th training."""

    fail_at: int | None = None

    def learn(
        self, model: nn.Module, source: nn.Module, task: Task, budget: Budget, generator: torch.Generator
    ) -> History:
        if self.fail_at is not None and len(CALLS) == self.fail_at:
            raise KeyboardInterrupt
        CALLS.append(task.task_id)
        return fit(model, task, budget, generator)


class Fakes(LocalContext):
    """A context whose only transfer method is the counting one."""

    fail_at: int | None = None

    def component(self, point: str, name: str, options: Any = None) -> Any:
        self.asked = [*getattr(self, "asked", []), name]
        made = Counting(fail_at=self.fail_at)
        made.bind(self)
        return made

    def tell(self, hook: str, **arguments: Any) -> None:
        self.told = [*getattr(self, "told", []), (hook, arguments)]


@pytest.fixture(autouse=True)
def reset() -> None:
    CALLS.clear()


def world(**more: Any) -> Portfolio:
    return Portfolio(list(digits("ten", "parity", "noise")), **more)


def probe(context: Context | None = None, **options: Any) -> Probe:
    made = Probe(**({"seeds": 2, "steps": 20} | options))
    made.bind(context or Fakes())
    return made


def test_every_pair_is_measured_with_its_interval() -> None:
    portfolio = world()
    edges = probe().discover(portfolio, graph_of(portfolio))
    assert [(e.source, e.target) for e in edges] == [(s.task_id, t.task_id) for s, t in portfolio.pairs()]
    assert len(CALLS) == 6 * 2
    for edge in edges:
        assert edge.evidence is Evidence.MEASURED
        assert edge.found_by == "probe"
        assert edge.best_strategy == "lp_ft"
        assert edge.low <= edge.transfer_coefficient <= edge.high
        assert edge.uncertainty > 0
    graph = graph_of(portfolio)
    for edge in edges:
        graph.add(edge)
    assert graph.edge("ten", "parity") is not None


def test_the_coefficient_by_hand() -> None:
    """One pair, written out with nothing of the probe."""
    from crosstask.learning.metrics import relative_gain
    from crosstask.learning.training import evaluate
    from crosstask.learning.transferring import drawn, fresh_model, receive

    portfolio = world()
    context = Fakes()
    source, target = portfolio["ten"], portfolio["parity"]
    budget = Budget(steps=20, batch_size=25, learning_rate=3e-3, samples=50, evaluate_every=10)
    gains = []
    for number in range(2):
        seed = context.seed_for("transfer", "parity", number)
        control, (learner, _, _) = fresh_model(source.model, target, seed), receive(source.model, target, seed, False)
        for model in (control, learner):
            fit(model, drawn(target, 50, seed), budget, torch.Generator().manual_seed(seed))
        gains.append(relative_gain(evaluate(learner, target, "validation"), evaluate(control, target, "validation")))
    edges = probe(context).discover(portfolio, graph_of(portfolio))
    found = next(e for e in edges if (e.source, e.target) == ("ten", "parity"))
    assert found.transfer_coefficient == pytest.approx(sum(gains) / 2)
    assert found.uncertainty == pytest.approx(abs(gains[0] - gains[1]) / 2)


@pytest.mark.parametrize(
    ("method", "component"),
    [
        ("lp_ft", "lp_ft"),
        ("linear_probe", "feature_extraction"),
        ("fine_tune", "fine_tuning"),
        ("l2_sp", "l2_sp"),
    ],
)
def test_what_counts_as_the_truth(method: str, component: str) -> None:
    context, portfolio = Fakes(), world()
    made = probe(context, method=method, seeds=1, steps=1)
    edges = made.discover(portfolio.restricted([("ten", "parity")]), graph_of(portfolio))
    assert context.asked == [component]
    assert [e.best_strategy for e in edges] == [component]


def test_each_seed_draws_its_own_samples_and_shots_count_per_class() -> None:
    portfolio, seen = world(), []

    class Watching(Fakes):
        def jobs(self, jobs: Any) -> Any:
            jobs = list(jobs)
            seen.extend(job.args[1][0].targets for job in jobs if job.function is measure_alone)
            return super().jobs(jobs)

    made = probe(Watching(), shots=3, seeds=3, steps=1)
    made.discover(portfolio.restricted([("parity", "ten"), ("ten", "parity")]), graph_of(portfolio))
    by_classes = {lights[0].descriptor.output_dim: lights for lights in seen}
    assert set(by_classes) == {10, 2}
    for classes, lights in by_classes.items():
        for light in lights:
            counts = light.data("train").targets.bincount(minlength=classes)
            assert counts.sum() == 3 * classes
            assert counts.min() >= 1, "stratified, as the data are"
        draws = {tuple(light.data("train").inputs.flatten().tolist()) for light in lights}
        assert len(draws) == 3


def test_negative_transfer_is_flagged() -> None:
    methods = pytest.importorskip("crosstask_finetuning.plugin", reason="measures with its methods")
    registry = Registry()
    registry.register(methods.PLUGIN)
    portfolio = world()
    with torch.no_grad():  # features that are zero whatever the input: nothing can be learned from them
        portfolio["noise"].model.trunk[1].weight.zero_()
        portfolio["noise"].model.trunk[1].bias.fill_(-1.0)
    made = probe(LocalContext(registry=registry), method="linear_probe", steps=60, seeds=4, learning_rate=1e-2)
    with structlog.testing.capture_logs() as events:
        (edge,) = made.discover(portfolio.restricted([("noise", "ten")]), graph_of(portfolio))
    assert edge.hurts
    assert edge.relation is RelationType.ANTAGONISTIC
    assert [e["pairs"] for e in events if e["event"] == "negative transfer"] == [["noise -> ten"]]


def test_nothing_is_measured_twice() -> None:
    context, portfolio = Fakes(), world()
    first = probe(context).discover(portfolio, graph_of(portfolio))
    CALLS.clear()
    assert probe(context).discover(portfolio, graph_of(portfolio)) == first
    assert CALLS == []
    probe(context, steps=21).discover(portfolio, graph_of(portfolio))
    assert len(CALLS) == 12, "another budget is another measurement"


def test_a_new_task_costs_its_own_pairs() -> None:
    context, portfolio = Fakes(), world()
    probe(context).discover(portfolio, graph_of(portfolio))
    portfolio.add(digit_task("low", (images()[1] > 4).long()))
    CALLS.clear()
    edges = probe(context).discover(portfolio.focused("low"), graph_of(portfolio))
    assert len(edges) == 6
    assert len(CALLS) == 6 * 2
    CALLS.clear()
    assert len(probe(context).discover(portfolio, graph_of(portfolio))) == 12
    assert CALLS == []


@pytest.mark.parametrize("fail_at", [1, 5, 10])
def test_a_killed_run_repeats_no_finished_pair(fail_at: int, tmp_path: Any) -> None:
    """The second process sees only the file that the first one left."""
    portfolio, whole = world(), probe().discover(world(), graph_of(world()))

    class Stored(Fakes):
        store = open_store(str(tmp_path / "store.db"))

        def recall(self, kind: str, key: str) -> Any:
            return self.store.get(kind, key)

        def remember(self, kind: str, key: str, payload: Any, tensors: Any = None) -> None:
            self.store.put(kind, key, payload, tensors=tensors)

    CALLS.clear()
    killed = Stored()
    killed.fail_at = fail_at
    with pytest.raises(KeyboardInterrupt):
        probe(killed).discover(portfolio, graph_of(portfolio))
    killed.store.close()
    finished = [*CALLS]
    CALLS.clear()
    Stored.store = open_store(str(tmp_path / "store.db"))
    resumed = Stored()
    resumed.fail_at = None
    # A fake's options are part of the key, as any method's are: the same method goes on.
    resumed.component = lambda *a, **k: _bound(Counting(fail_at=fail_at), resumed)  # type: ignore[method-assign]
    CALLS.extend(["-"] * 100)  # so that it does not fail again
    edges = probe(resumed).discover(portfolio, graph_of(portfolio))
    assert len(CALLS) - 100 == 12 - 2 * (len(finished) // 2), "only the pair that was cut off is done again"
    assert [e.transfer_coefficient for e in edges] == [e.transfer_coefficient for e in whole]
    resumed.store.close()


def _bound(made: Transfer, context: Context) -> Transfer:
    made.bind(context)
    return made


def test_a_budget_of_pairs_takes_the_most_promising_of_every_target() -> None:
    portfolio = world()
    hints = {"ten_to_parity": 0.9, "noise_to_parity": 0.8, "parity_to_ten": 0.3, "parity_to_noise": 0.1}
    context = Fakes()
    made = probe(context, max_pairs=4)
    with structlog.testing.capture_logs() as events:
        edges = made.discover(portfolio, graph_of(portfolio, **hints))
    assert {(e.source, e.target) for e in edges} == {
        ("ten", "parity"),
        ("parity", "ten"),
        ("parity", "noise"),
        ("noise", "parity"),
    }
    assert made.skipped == [
        ("noise", "ten", "more than max_pairs = 4"),
        ("ten", "noise", "more than max_pairs = 4"),
    ]
    assert [event["count"] for event in events if event["event"] == "pairs left out"] == [2]
    order = most_promising(list(portfolio.pairs()), graph_of(portfolio, **hints))
    assert [(s.task_id, t.task_id) for s, t in order][:3] == [("ten", "parity"), ("parity", "ten"), ("parity", "noise")]


def test_progress_is_told() -> None:
    context, portfolio = Fakes(), world()
    probe(context).discover(portfolio, graph_of(portfolio))
    hooks = [hook for hook, _ in context.told]
    assert hooks == ["stage_started", *["stage_progress"] * 6, "stage_finished"]
    assert context.told[0][1] == {"stage": "probe", "total": 6}


def test_what_cannot_be_measured_is_said() -> None:
    portfolio = world(unseen=[digit_task("hidden", images()[1] % 3, learned=False)])
    portfolio.add(Task(descriptor=TaskDescriptor(task_id="bare", output_dim=2)))
    portfolio.add(digit_task("raw", images()[1] % 3, learned=False))
    made = probe()
    edges = made.discover(portfolio, graph_of(portfolio))
    assert len(edges) == 6 + 3
    assert ("raw", "ten", "task 'raw' has no trained model") in made.skipped
    assert ("ten", "bare", "task 'bare' has no train data") in made.skipped
    assert not any("hidden" in (e.source, e.target) for e in edges)
    with pytest.raises(DataError, match="'hidden' is held back as unseen"):
        probe().discover(portfolio.focused("hidden"), graph_of(portfolio))


def test_nothing_to_measure_is_an_error() -> None:
    portfolio = Portfolio(Task(descriptor=TaskDescriptor(task_id=t, output_dim=2)) for t in "ab")
    with pytest.raises(DataError, match=r"no pair .* can be measured: task 'a' has no trained model; task 'b'"):
        probe().discover(portfolio, graph_of(portfolio))


def test_another_input_shape_is_left_out() -> None:
    portfolio = world()
    wide = TaskDescriptor(task_id="wide", input_shape=(5,), output_dim=2)
    portfolio.add(Task(descriptor=wide, train=(torch.ones(4, 5), [0, 1, 0, 1]), validation=(torch.ones(2, 5), [0, 1])))
    made = probe()
    assert len(made.discover(portfolio, graph_of(portfolio))) == 6
    assert ("ten", "wide", "the model of 'ten' takes inputs (1, 8, 8), 'wide' has (5,)") in made.skipped


def test_one_seed_says_that_it_knows_no_interval() -> None:
    portfolio = world()
    edge = probe(seeds=1).discover(portfolio, graph_of(portfolio))[0]
    assert (edge.low, edge.high, edge.uncertainty) == (-1.0, 1.0, 1.0)


def test_a_retrained_source_is_measured_anew() -> None:
    portfolio = world()
    before = weights_digest(portfolio["ten"].model)
    with torch.no_grad():
        portfolio["ten"].model.head.bias[0] += 1e-3
    assert weights_digest(portfolio["ten"].model) != before


class Listening(Observer):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def stage_progress(self, stage: str, detail: str) -> None:
        self.heard.append(detail)


def test_the_same_in_one_process_and_in_two() -> None:
    methods = pytest.importorskip("crosstask_finetuning.plugin", reason="measures with lp_ft, which it has")
    registry = Registry()
    registry.register(methods.PLUGIN)
    registry.register(PLUGIN)
    portfolio = world()
    found = []
    for executor in (None, ProcessExecutor(workers=2)):
        listening = Listening()
        with Run(registry, seed=3, executor=executor, observers=[listening]) as run:
            made = run.component("discovery", "probe", {"seeds": 2, "steps": 20})
            found.append(run.call(made, "discover", portfolio=portfolio, graph=graph_of(portfolio)))
        assert len(listening.heard) == 6
        assert all(re.search(r": [+-]\d\.\d{3} \[[+-]", told) for told in listening.heard), "coefficients have signs"
    assert found[0] == found[1]


def test_real_transfer_is_found_and_the_control_gives_none() -> None:
    methods = pytest.importorskip("crosstask_finetuning.plugin", reason="measures with lp_ft, which it has")
    registry = Registry()
    registry.register(methods.PLUGIN)
    truth = images()[1]
    low = digit_task("low", truth.clamp_max(5), learned=False)
    portfolio = world()
    portfolio.add(low)
    edges = probe(LocalContext(registry=registry), steps=60, seeds=5).discover(portfolio, graph_of(portfolio))
    found = {(e.source, e.target): e for e in edges}
    assert found["ten", "low"].low > 0.1, "labels that the ten classes determine"
    for edge in edges:
        if edge.target == "noise":
            assert abs(edge.transfer_coefficient) < 0.06, "nothing helps to learn random labels"


# --- What the options leave open, and what fails


def test_what_is_left_open_is_the_engine_s() -> None:
    portfolio = world()
    target = portfolio["ten"]
    alone = Probe()
    assert (alone.budget(target), alone.repeats) == (BUDGET, 3)
    context = Fakes()
    context.budget = Budget(steps=7, samples=20, learning_rate=0.1, optimizer="sgd", weight_decay=0.5, clip=1.0)
    context.seeds = 2
    for made, wanted, repeats in (
        (Probe(), context.budget, 2),
        (
            Probe(steps=9, samples=0, optimizer="adam", seeds=4),
            attrs.evolve(context.budget, steps=9, samples=None, optimizer="adam"),
            4,
        ),
        (Probe(shots=3, batch_size=5), attrs.evolve(context.budget, samples=30, batch_size=5), 2),
    ):
        made.bind(context)
        assert made.budget(target) == wanted
        assert made.repeats == repeats


def test_an_engine_says_what_a_probe_may_spend() -> None:
    from crosstask import TransferEngine

    budget = Budget(steps=3, samples=20, evaluate_every=3)
    with TransferEngine(budget=budget, seeds=2, discoverers=["probe"], auto_discover=False) as engine:
        engine.register(world())
        engine.discover()
        assert engine.discoverers[0].budget(engine.portfolio["ten"]) == budget  # type: ignore[attr-defined]
        kept = [known.payload for (kind, _), known in engine.run._memory.items() if kind == "transfers"]
        results = [payload for payload in kept if "coefficient" in payload]
        assert len(results) == 6
        assert all(r["budget"]["steps"] == 3 and len(r["coefficient"]["values"]) == 2 for r in results)
        record = engine.run_stage("discovery", discoverers=["probe"]).record
        assert record.repeats == {"probe": 2}


class Moody(nn.Module):
    """Fails where an image is bright."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(64, 8), nn.Linear(8, outputs)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if bool((inputs.flatten(1).mean(1) > 0.34).any()):
            raise ValueError("too bright")
        out: torch.Tensor = self.head(self.body(inputs.flatten(1)).relu())
        return out


def test_a_model_that_raises_for_some_inputs_is_left_out_and_the_others_go_on() -> None:
    portfolio = world()
    bright = portfolio["ten"].data("train").inputs.flatten(1).mean(1) > 0.34
    assert 0 < int(bright.sum()) < len(bright)
    assert not bright[:2].any()  # what a look at two samples sees
    portfolio["noise"].model = Moody(10)
    made, graph = probe(), graph_of(portfolio)
    edges = made.discover(portfolio, graph)
    assert {(e.source, e.target) for e in edges} == {(s, t) for s in ("ten", "parity") for t in portfolio.ids if s != t}
    assert [(s, t) for s, t, _ in made.skipped] == [("noise", "ten"), ("noise", "parity")]
    assert made.skipped[0][2].startswith("'ten' from scratch with the model of 'noise': ")
    assert made.skipped[0][2].endswith("too bright")
    assert dict(graph.impossible) == {(s, t): why for s, t, why in made.skipped}
    with pytest.raises(DataError, match="too bright"):
        probe().discover(portfolio.restricted([("noise", "ten")]), graph)


def test_a_method_that_fails_rules_nothing_out() -> None:
    portfolio = world()

    class Failing(Fakes):
        def component(self, point: str, name: str, options: Any = None) -> Any:
            class Picky(Counting):
                def learn(self, model: Any, source: Any, task: Task, budget: Any, generator: Any) -> History:
                    if task.task_id == "parity":
                        raise RuntimeError("not that one")
                    return super().learn(model, source, task, budget, generator)

            made = Picky()
            made.bind(self)
            return made

    made, graph = probe(Failing()), graph_of(portfolio)
    edges = made.discover(portfolio, graph)
    assert {e.target for e in edges} == {"ten", "noise"}
    assert ("ten", "parity", "'ten' to 'parity': RuntimeError: not that one") in made.skipped
    assert not graph.impossible


def test_a_loss_that_is_not_finite_leaves_out_its_pairs_only() -> None:
    portfolio = world()
    task = portfolio["parity"]
    task.loss = lambda outputs, targets: outputs.sum() * float("nan")
    made, graph = probe(), graph_of(portfolio)
    edges = made.discover(portfolio, graph)
    assert {e.target for e in edges} == {"ten", "noise"}
    assert all("the training loss is nan" in why for *_, why in made.skipped)
    assert not graph.impossible


# --- Trainings that go together


def methods() -> Registry:
    registry = Registry()
    registry.register(pytest.importorskip("crosstask_finetuning.plugin", reason="measures with its methods").PLUGIN)
    return registry


@pytest.mark.parametrize("method", ["lp_ft", "linear_probe", "fine_tune"])
def test_pairs_that_go_together_measure_what_each_measures_alone(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def edges() -> dict[Any, float]:
        portfolio = world()
        made = probe(LocalContext(registry=methods()), method=method)
        found = made.discover(portfolio, graph_of(portfolio))
        return {(e.source, e.target): e.transfer_coefficient for e in found}

    with structlog.testing.capture_logs() as events:
        in_fleets = edges()
    assert not [event for event in events if "one by one" in event["event"]]
    monkeypatch.setattr(together, "muster", lambda members, *more: ([], dict.fromkeys(range(len(members)), "today")))
    with structlog.testing.capture_logs() as events:
        alone = edges()
    told = [(event["event"], event["count"], event["reasons"]) for event in events if "one by one" in event["event"]]
    assert told == [("controls trained one by one", 6, ["today"]), ("pairs trained one by one", 6, ["today"])]
    assert in_fleets == pytest.approx(alone, abs=0.01)
    assert sorted(in_fleets, key=lambda pair: in_fleets[pair]) == sorted(alone, key=lambda pair: alone[pair])


class Mixing(nn.Module):
    """With a weight that nothing draws; `gain` is its spread."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.weight, self.head = nn.Parameter(torch.randn(64, 8) * gain), nn.Linear(8, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.head((inputs.flatten(1) @ self.weight).tanh())
        return found


def made_by(gain: float) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        made = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, 3))
        with torch.no_grad():
            for weight in made.parameters():
                weight.mul_(gain)
        return made

    return build


@pytest.mark.parametrize("kind", ["spread", "factory", "head"])
def test_which_source_comes_first_decides_nothing(kind: str) -> None:
    """Where the sources' architecture is one, but other models are drawn of each."""

    def tasks() -> dict[str, Task]:
        found = {}
        for number, task in enumerate(digits("ten", "parity", "noise")):
            torch.manual_seed(number)
            gain = (1.0, 0.01, 4.0)[number]
            if kind == "spread":
                task.model = Mixing(gain)
            elif kind == "factory":
                task.model = made_by(gain)()
                know(task.model, build=made_by(gain))
            else:
                head = nn.Sequential(nn.Linear(8, 2 + 3 * number), nn.Tanh(), nn.Linear(2 + 3 * number, 3))
                task.model = nn.Sequential(OrderedDict(flat=nn.Flatten(), body=nn.Linear(64, 8), head=head))
            found[task.task_id] = task
        return found

    def edges(portfolio: Portfolio) -> dict[Any, tuple[float, float]]:
        made = probe(LocalContext(registry=methods()), method="fine_tune", learning_rate=1e-2)
        found = made.discover(portfolio, graph_of(portfolio))
        return {(e.source, e.target): (e.transfer_coefficient, e.score) for e in found}

    first, last = edges(Portfolio(tasks().values())), edges(Portfolio(list(tasks().values())[::-1]))
    assert len(first) == 6
    for pair, figures in first.items():
        assert figures == pytest.approx(last[pair], abs=1e-6)
        alone = edges(Portfolio(tasks().values()).restricted([pair]))
        assert figures == pytest.approx(alone[pair], abs=1e-6)


def test_curves_are_measured_where_they_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    gains = []
    for alone in (False, True):
        if alone:
            monkeypatch.setattr(together, "muster", lambda members, *more: ([], dict.fromkeys(range(len(members)), "")))
        for curves in (True, False):
            context, portfolio = LocalContext(registry=methods()), world().restricted([("ten", "parity")])
            (edge,) = probe(context, curves=curves).discover(portfolio, graph_of(portfolio))
            (kept,) = [k.payload for k in context._memory.values() if "coefficient" in k.payload]
            assert len(kept["curve"]["steps"]) == (3 if curves else 0)
            assert len(kept["scratch_curve"]["steps"]) == 3, "curriculum and transfer read those of controls"
            gains.append((edge.convergence_speed_gain, edge.transfer_coefficient))
    assert gains[0][0] is not None
    assert gains[1][0] is gains[3][0] is None
    assert gains[2] == pytest.approx(gains[0])
    assert gains[3][1] == pytest.approx(gains[1][1])


def test_what_fails_together_is_tried_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*arguments: Any, **more: Any) -> Any:
        raise RuntimeError("not together")

    expected = probe(LocalContext(registry=methods())).discover(world(), graph_of(world()))
    monkeypatch.setattr(together, "train_fleet", fails)
    found = probe(LocalContext(registry=methods())).discover(world(), graph_of(world()))
    assert [e.transfer_coefficient for e in found] == pytest.approx(
        [e.transfer_coefficient for e in expected], abs=0.01
    )


def test_a_loss_that_diverges_in_a_fleet_leaves_out_its_pairs_only() -> None:
    portfolio = world()
    task = portfolio["parity"]
    task.loss = lambda outputs, targets: outputs.sum() * float("nan")
    made = probe(LocalContext(registry=methods()))
    edges = made.discover(portfolio, graph_of(portfolio))
    assert {e.target for e in edges} == {"ten", "noise"}
    assert all("the training loss is nan at step 1" in why for *_, why in made.skipped)


def test_a_transfer_that_diverges_in_a_fleet_leaves_out_its_pair_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a source whose features are too large for single precision; from scratch there is nothing wrong with it."""
    said = []
    for alone in (False, True):
        portfolio = world()
        with torch.no_grad():
            portfolio["noise"].model.trunk[1].weight.fill_(3e38)
        if alone:
            monkeypatch.setattr(together, "muster", lambda members, *_: ([], dict.fromkeys(range(len(members)), "")))
        made, graph = probe(LocalContext(registry=methods()), method="fine_tune"), graph_of(portfolio)
        edges = made.discover(portfolio, graph)
        assert {(e.source, e.target) for e in edges} == {(s, t) for s in ("ten", "parity") for t in portfolio.ids} - {
            ("ten", "ten"), ("parity", "parity")
        }  # fmt: skip
        assert not graph.impossible
        said.append(made.skipped)
    assert said[0] == said[1]
    assert [(source, target) for source, target, _ in said[0]] == [("noise", "ten"), ("noise", "parity")]
    assert all("the training loss is nan at step 1" in why for *_, why in said[0])
