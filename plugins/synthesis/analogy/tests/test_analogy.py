"""Analogies are found where they are, the arithmetic is exact, and what it is worth on real digits."""

from __future__ import annotations

import copy
import math
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import nn

from crosstask.descriptors import TaskDescriptor
from crosstask.engine import TransferEngine
from crosstask.errors import DataError, RunError
from crosstask.graph import TransferEdge, TransferGraph
from crosstask.learning import together
from crosstask.learning.models import ModelSpec
from crosstask.learning.training import evaluate, fit
from crosstask.records import Budget, SynthesisStrategy
from crosstask.registry import Registry
from crosstask.tasks import Task
from crosstask_analogy import AnalogyTransfer, best_analogies
from crosstask_synthesis import testing


def described(name: str, domain: str, classes: str = "ab", **more: Any) -> TaskDescriptor:
    return testing.described(name, classes, domain=domain, input_shape=(4,), **more)


def square() -> list[TaskDescriptor]:
    return [described("ab_day", "day"), described("cd_day", "day", "cd"), described("ab_night", "night")]


def test_the_fourth_corner_of_a_square_is_found() -> None:
    new = described("cd_night", "night", "cd")
    best = best_analogies(new, [*square(), described("other", "dusk", "xy")])[0]
    assert best.a == "ab_day"
    assert {best.b, best.c} == {"cd_day", "ab_night"}
    assert best.distance == pytest.approx(0)
    assert best.nearest > 0.5


def test_learned_embeddings_and_the_graph_take_part() -> None:
    tasks = [attrs.evolve(t, embedding=e) for t, e in zip(square(), [(0.0, 0.0), (0.0, 1.0), (2.0, 0.0)], strict=True)]
    far = attrs.evolve(described("far", "x"), embedding=(9.0, 9.0))
    best = best_analogies(attrs.evolve(described("new", "y"), embedding=(2.0, 1.0)), [far, *tasks])[0]
    assert (best.a, best.b, best.c) == ("ab_day", "cd_day", "ab_night")
    alike = [described(name, "d") for name in ("one", "two", "three", "four")]
    new = described("new", "d")
    graph = TransferGraph([*alike, new])
    for source in [*alike, new]:  # what they give to `four` tells them apart
        value = {"one": 0.1, "two": 0.4, "three": 0.5, "new": 0.8}.get(source.task_id)
        if value is not None:
            graph.add(TransferEdge(source=source.task_id, target="four", transfer_coefficient=value))
    best = best_analogies(new, alike, graph)[0]
    assert best.a == "one"
    assert {best.b, best.c} == {"two", "three"}, "0.4 + 0.5 - 0.1 = 0.8"


def net(seed: int) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 2)).eval()


def test_weights_by_hand() -> None:
    tasks = [Task(descriptor=d, model=net(n)) for n, d in enumerate(square())]
    new = described("cd_night", "night", "dc")
    made = AnalogyTransfer(strength=0.5).synthesize(new, tasks, TransferGraph([new]), None)
    a, b, c = (tasks[k].model.state_dict() for k in (0, 1, 2))
    state = made.model.state_dict()
    torch.testing.assert_close(state["0.weight"], c["0.weight"] + 0.5 * (b["0.weight"] - a["0.weight"]))
    torch.testing.assert_close(
        state["1.running_var"], (a["1.running_var"] + b["1.running_var"] + c["1.running_var"]) / 3
    )
    assert torch.equal(state["3.weight"], b["3.weight"]), "the classes are those of cd_day: its head, in another order"
    inputs = torch.randn(6, 4)
    assert torch.equal(made(inputs), made.model(inputs)[:, [1, 0]])
    assert made.provenance.sources == {"ab_night": 1.0, "cd_day": 0.5, "ab_day": -0.5}
    assert made.provenance.notes[0] == "ab_day is to cd_day as ab_night is to cd_night"
    assert made.provenance.confidence == pytest.approx(1)


def test_where_all_classes_are_the_same_the_head_moves_too() -> None:
    tasks = [Task(descriptor=described(d, d), model=net(n)) for n, d in enumerate(("p", "q", "r"))]
    new = described("new", "s")
    made = AnalogyTransfer(analogy=("p", "q", "r")).synthesize(new, tasks, TransferGraph([new]), None)
    p, q, r = (t.model[3].weight for t in tasks)
    torch.testing.assert_close(made[3].weight, r + q - p)


def test_what_is_missing_is_said() -> None:
    tasks = [Task(descriptor=d, model=net(n)) for n, d in enumerate(square())]
    graph = TransferGraph()
    bare = Task(descriptor=described("bare", "day"))
    with pytest.raises(DataError, match=r"three models of one architecture, got 2 \(bare left out: has no trained"):
        AnalogyTransfer().synthesize(described("n", "night"), [*tasks[:2], bare], graph, None)
    with pytest.raises(DataError, match=r"no model has all of its outputs \(x, y\)"):
        AnalogyTransfer().synthesize(described("n", "night", "xy"), tasks, graph, None)
    with pytest.raises(DataError, match=r"must name three of ab_day, cd_day, ab_night, got \['p', 'q'\]"):
        AnalogyTransfer(analogy=("p", "q")).synthesize(described("n", "night"), tasks, graph, None)


def test_tasks_that_nothing_tells_apart_are_no_analogy() -> None:
    tasks = [Task(descriptor=described(name, "day"), model=net(n)) for n, name in enumerate("pqr")]
    new = described("new", "day")
    same = r"^nothing tells the tasks 'p', 'q', 'r', 'new' apart: their domain, classes, .* are the same, .*"
    for graph in (TransferGraph(), TransferGraph([*(t.descriptor for t in tasks), new])):
        with pytest.raises(DataError, match=rf"{same}, and the graph knows .*; say .* or name the three tasks"):
            AnalogyTransfer().synthesize(new, tasks, graph, None)
    with pytest.raises(DataError, match=rf"{same}, and there is no graph; say"):
        best_analogies(new, [t.descriptor for t in tasks])
    made = AnalogyTransfer(analogy=("p", "q", "r")).synthesize(new, tasks, TransferGraph(), None)
    assert made.provenance.sources == {"r": 1.0, "q": 1.0, "p": -1.0}


VIEWS = {"faint": lambda x: x * 0.4, "blurred": lambda x: gaussian_filter(x, (0, 0, 0.7, 0.7))}


def views() -> list[Task]:
    """Real digits plain, faint, blurred, and both: the last is unseen."""
    plain = Registry.installed().create("source", "digits", {"tasks": ["digits"]}).load()["digits"]
    tasks = []
    for chosen in ((), ("faint",), ("blurred",), ("faint", "blurred")):
        data: dict[str, Any] = {}
        for split in ("train", "validation", "test"):
            images = plain.data(split).inputs.numpy()
            for view in chosen:
                images = VIEWS[view](images)
            data[split] = (images.astype(np.float32), plain.data(split).targets)
        name = "_".join(chosen) or "plain"
        its = attrs.evolve(plain.descriptor, task_id=name, domain=f"digits/{name}", required_skills=("digits", *chosen))
        tasks.append(Task(descriptor=its, **data))
    return tasks


def test_a_new_combination_of_domains_by_the_engine() -> None:
    """Models trained each for itself share no basin: B and C are fine-tuned from A, and then the sum works."""
    *known, new = views()
    with TransferEngine(
        store=":memory:", discoverers=["skills"], train=Budget(steps=200, learning_rate=3e-3)
    ) as engine:
        for task in known:
            engine.register_task(task)
        engine.register_task(new, unseen=True)
        engine.train()
        strategy = SynthesisStrategy.ANALOGY_TRANSFER.value
        score = engine.run_stage("synthesis", task="faint_blurred", synthesizer=strategy).record
    told = score.provenance
    assert told.notes[0].startswith("plain is to")
    assert "share no basin" in told.notes[1]
    assert score.score is not None
    assert score.full_training_score is not None
    assert score.score > 0.9 * score.full_training_score


def test_models_fine_tuned_from_one_are_used_as_they_are() -> None:
    *known, new = views()
    base = ModelSpec().build(known[0].descriptor, seed=0)
    fit(base, known[0], Budget(steps=200, learning_rate=3e-3), torch.Generator().manual_seed(0), curve_split=None)
    for task in known:
        task.model = copy.deepcopy(base)
        fit(task.model, task, Budget(steps=100), torch.Generator().manual_seed(1), curve_split=None)
    graph = TransferGraph([new.descriptor])
    made = AnalogyTransfer(refit=0).synthesize(new.descriptor, known, graph, None)
    alone = max(evaluate(t.model, new) for t in known if t.model is not None)
    assert evaluate(made, new) >= alone - 0.01
    strangers = [Task(descriptor=t.descriptor, validation=t.validation) for t in known]
    for number, task in enumerate(strangers):
        task.model = ModelSpec().build(task.descriptor, seed=number)
        fit(task.model, known[number], Budget(steps=200, learning_rate=3e-3), torch.Generator(), curve_split=None)
    with pytest.raises(DataError, match="share no basin"):
        AnalogyTransfer(refit=0).synthesize(new.descriptor, strangers, graph, None)


class Doubled(nn.Module):
    """Data are kept in single precision: here they become double."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs.double()


def strangers() -> tuple[list[Task], TaskDescriptor]:
    """Digits, with models in double precision that are trained each for itself, and the task that nobody knows."""
    *known, new = views()
    made = []
    for number, task in enumerate(known):
        model = ModelSpec().build(task.descriptor, seed=number)
        model.trunk.insert(0, Doubled())  # type: ignore[operator,union-attr]
        made.append(task.over(train=task.data("train"), validation=task.data("validation")))
        made[-1].model = model.double()
    for task in made:
        budget = Budget(steps=100, learning_rate=3e-3)
        fit(task.model, task, budget, torch.Generator().manual_seed(0), curve_split=None)
    return made, new.descriptor


def test_b_and_c_are_fine_tuned_together_and_are_what_they_are_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    known, new = strangers()
    sizes: list[int] = []
    train = together.train_fleet
    monkeypatch.setattr(together, "train_fleet", lambda members, **more: sizes.append(len(members)) or train(members))
    found = AnalogyTransfer(refit=60).synthesize(new, known, TransferGraph([new]), None)
    assert sizes == [2]
    monkeypatch.setattr(together, "train_fleet", lambda members, **more: 1 / 0)
    alone = AnalogyTransfer(refit=60).synthesize(new, known, TransferGraph([new]), None)
    assert found.provenance == alone.provenance
    for name, weight in alone.state_dict().items():
        assert torch.allclose(found.state_dict()[name], weight, rtol=1e-9, atol=1e-9), name


def test_one_that_cannot_be_fine_tuned_says_so() -> None:
    """The loss of one is no number from the first step on: its error, and nothing of the other."""
    known, new = strangers()
    for task in known:
        if task.task_id == "faint":
            task.loss = lambda outputs, targets: outputs.sum() * math.nan
    with pytest.raises(RunError, match="task 'faint': the training loss is nan at step 1"):
        AnalogyTransfer(refit=60, analogy=("plain", "blurred", "faint")).synthesize(
            new, known, TransferGraph([new]), None
        )
