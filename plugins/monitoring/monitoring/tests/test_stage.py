"""The stage `heal`: what it finds on digits that change, what it refuses and shows; its recipe and command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import torch

from crosstask.engine import TransferEngine
from crosstask.errors import DataError, RecipeError
from crosstask.graph import TransferGraph
from crosstask.learning.models import ModelSpec
from crosstask.records import Budget
from crosstask.tasks import Portfolio, Task
from crosstask.testing import conformance, installed, invoke, reference_registry, small_portfolio, small_task
from crosstask_monitoring import digits
from crosstask_monitoring.cli import command
from crosstask_monitoring.records import HealResult
from crosstask_monitoring.stage import Heal
from crosstask_monitoring.testing import REFERENCE

REGISTRY = reference_registry(REFERENCE)

test_conformance = conformance(
    Heal, options={"task": "moons", "stream": ["moons", "mirrored"], "batch": 8, "records": 3}, registry=REGISTRY
)


def ran(stream: list[str], **given: Any) -> tuple[HealResult, Any]:
    budget = Budget(steps=given.pop("steps", 120), learning_rate=5e-3, evaluate_every=60)
    with TransferEngine(
        model=ModelSpec(hidden=(32,)), train=budget, budget=budget, seeds=1, discoverers=(), auto_discover=False,
        registry=REGISTRY,
    ) as engine:  # fmt: skip
        tasks = digits.portfolio(changes=("inverted", "noisy"))
        engine.register(Portfolio([tasks["digits"]], unseen=tasks.unseen))
        outcome = engine.run_stage("heal", task="digits", stream=stream, **given)
        assert engine.portfolio["digits"].model is outcome.artifacts["model"]
    return outcome.record, outcome


def test_a_change_is_found_healed_and_shown() -> None:
    result, _ = ran(["digits", "inverted"], batch=20, records=10)
    assert result.alarms == (10,)
    assert result.operated == (14,)
    (operation,) = result.operations
    assert operation.outcome == "replaced"
    old, new = result.phases
    assert (old.task, old.start, old.records, old.samples) == ("digits", 0, 10, 200)
    assert (new.task, new.start, new.records, new.samples) == ("inverted", 10, 10, 200)
    assert new.before < 0.3
    assert new.after > 0.6
    assert result.placed == (0, 15)
    assert [len(each.statistic) for each in result.readings] == [15, 5]
    (section,) = Heal.sections(result, TransferGraph())
    for told in (
        "1 alarm by",
        "1 replacement in 1 attempt",
        "model replaced",
        "The model at the end is worse",
        "digits now",
    ):
        assert told in section.html
    assert "replaced: better beyond noise" in Heal.summary(result)["attempt at record 14"]
    assert "digits: 20 records, 1 alarms, 1 replacements" in result._repr_html_()
    evil = "<script>alert(1)</script>"
    changed = attrs.evolve(result, task=evil, metric=evil, detector=evil,
                           phases=tuple(attrs.evolve(each, task=evil) for each in result.phases))  # fmt: skip
    assert "<script>alert" not in Heal.sections(changed, TransferGraph())[0].html


def test_a_healthy_stream_is_left_alone() -> None:
    result, _ = ran(["digits", "noisy"], batch=40)
    assert (result.alarms, result.operations, result.placed) == ((), (), (0,))
    assert len(result.scores) == 19
    assert [each.before for each in result.phases] == [each.after for each in result.phases]
    (section,) = Heal.sections(result, TransferGraph())
    assert "0 alarms by" in section.html
    assert "is worse" not in section.html
    assert "What was tried" not in section.html


def test_what_cannot_be_better_is_refused_and_not_tried_for_ever() -> None:
    """By a whole .999 better: every candidate is refused, five times at most; the model stays."""
    result, _ = ran(["inverted"], batch=40, collect=1, least=0.999, steps=25)
    assert {each.outcome for each in result.operations} == {"kept"}
    assert 2 <= len(result.operations) <= 5
    assert result.phases[0].before == result.phases[0].after
    (section,) = Heal.sections(result, TransferGraph())
    assert "candidate refused" in section.html


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"task": "mons"}, "task: no task 'mons' to learn; did you mean 'moons'"),
        ({"task": "mirrored"}, "task: no task 'mirrored' to learn"),
        ({"stream": []}, "stream: name whose samples come in"),
        ({"stream": ["turned"]}, "stream: 'turned' is a task that others learn from: hold it back as unseen"),
        ({"stream": ["mirored"]}, "stream: 'mirored' is no task; did you mean 'mirrored'"),
        ({"stream": ["other"]}, "samples of 'other' are none of 'moons'"),
        ({"stream": ["untested"]}, "'untested' has no test data"),
        ({"stream": ["untrained"]}, "'untrained' has no train data"),
        ({"batch": 99}, "'moons' has 48 samples, less than a batch"),
        ({"task": "untried"}, "'untried' has no validation data"),
    ],
)
def test_refused_before_any_work(given: dict[str, Any], told: str) -> None:
    tasks = small_portfolio(models=False)
    one = small_task("moons")

    def made(name: str, **splits: Any) -> Task:
        return Task(descriptor=attrs.evolve(one.descriptor, task_id=name), **splits)

    tasks.add(made("other", train=(torch.zeros(90, 3), one.train[1].repeat(2)[:90]),
                   test=(torch.zeros(9, 3), torch.zeros(9).long())), unseen=True)  # fmt: skip
    other = tasks["other"]
    other.descriptor = attrs.evolve(other.descriptor, input_shape=(3,))
    tasks.add(made("untested", train=one.train), unseen=True)
    tasks.add(made("untrained", test=one.test), unseen=True)
    tasks.add(made("untried", train=one.train))
    with pytest.raises(RecipeError, match=told):
        Heal(**{"task": "moons", "stream": ["moons"], **given}).check(tasks)


def test_digits_that_change() -> None:
    tasks = digits.portfolio()
    assert tasks.ids == ["digits", "parity", "loop"]
    assert [each.task_id for each in tasks.unseen] == list(digits.CHANGES)
    plain, inverted = tasks["digits"], tasks["inverted"]
    known = {
        tuple(row.tolist()) for split in ("train", "validation", "test") for row in plain.data(split).inputs.flatten(1)
    }
    later = {tuple((1 - row).tolist()) for split in ("train", "test") for row in inverted.data(split).inputs.flatten(1)}
    assert len(known & later) <= 2, "images of their own"
    assert len(inverted.data("train")) == 397
    with pytest.raises(DataError, match="no change 'inverse'"):
        digits.portfolio(changes=("inverse",))


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Record, check, heal and roll back in processes of their own, which share a store."""
    monkeypatch.chdir(tmp_path)
    Path("r.toml").write_text(
        'name = "r"\nseeds = 1\n[source]\nuse = "python"\nfunction = "crosstask_monitoring.digits:portfolio"\n'
        '[model]\nkind = "mlp"\nhidden = [32]\n[train]\nsteps = 120\nlearning_rate = 5e-3\n'
        "[budget]\nsteps = 120\nlearning_rate = 5e-3\n"
    )
    data = digits.portfolio()["inverted"].data("train")
    np.savez("now.npz", inputs=data.inputs[:200].numpy(), targets=data.targets[:200].numpy())
    np.savez("wrong.npz", x=np.zeros(3))
    Path("no.npz").write_text("no")
    known = ("--recipe", "r.toml", "--trust")

    def told(*words: str) -> str:
        with installed(REGISTRY):
            return invoke(command, *words, *known)

    def asked(*words: str) -> Any:
        return json.loads(told(*words, "--json"))

    assert asked("record", "digits", "0.96", "--samples", "200", "--reference")["kind"] == "reference"
    assert asked("record", "digits", "0.95", "--samples", "40")["score"] == 0.95
    assert asked("check", "digits")["alarm_at"] is None
    assert "accuracy" in told("record", "digits", "--file", "now.npz")
    found = told("check", "digits")
    assert "dropped, found at record 1, probably since record 1" in found
    assert "since the drop" in found
    done = asked("heal", "digits", "--file", "now.npz", "--max-tasks", "2")
    assert done["outcome"] == "replaced"
    assert "no drop in 0 records" in told("heal", "digits")
    assert "replaced" in told("show", "digits")
    assert asked("rollback", "digits")["model"] == done["old"]
    assert "is in place again" not in told("show", "digits")
    assert [entry["kind"] for entry in asked("show", "digits")][-2:] == ["reference", "rolled_back"]
    with pytest.raises(DataError, match="nothing to roll back to"):
        told("rollback", "digits")
    for file, why in (("wrong.npz", "must hold inputs and targets, got x"), ("no.npz", "no .npz file of arrays")):
        with pytest.raises(DataError, match=why):
            told("record", "digits", "--file", file)
    assert "is in place again" in (told("heal", "digits", "--file", "now.npz") and told("rollback", "digits"))
