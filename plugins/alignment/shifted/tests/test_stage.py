"""The stage: what it refuses, what it measures beside what, what is shown."""

from __future__ import annotations

import functools
import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch

from crosstask import TransferEngine
from crosstask.descriptors import TaskDescriptor
from crosstask.errors import DataError, RecipeError
from crosstask.graph import TransferGraph
from crosstask.learning.models import ModelSpec
from crosstask.learning.modules import origin_of
from crosstask.learning.own_models import prepare_model
from crosstask.options import build, structure, unstructure
from crosstask.records import Budget, Interval
from crosstask.tasks import Portfolio, Task
from crosstask.testing import reference_registry
from crosstask_alignment.testing import REFERENCE, digits
from crosstask_shifted import Shift, ShiftResult, ShiftRow
from crosstask_shifted.plugin import PLUGIN
from crosstask_shifted.stage import noted

REGISTRY = reference_registry(PLUGIN, REFERENCE)
QUICK = Budget(steps=20, batch_size=32, learning_rate=5e-3, samples=60, evaluate_every=20)


def engine(*tasks: Task, **given: Any) -> TransferEngine:
    made = TransferEngine(
        **{
            "registry": REGISTRY, "model": ModelSpec(hidden=(16,)), "seeds": 2, "discoverers": (), "budget": QUICK,
            "train": attrs.evolve(QUICK, samples=None, steps=60), **given,
        }
    )  # fmt: skip
    made.register(Portfolio(tasks or (digits("inverted"), digits())))
    return made


def shifted(made: TransferEngine, **options: Any) -> ShiftResult:
    given = {"targets": ["digits"], "severities": [1, 4], "attack_steps": 2, **options}
    record: ShiftResult = made.run_stage("shift", **given).record
    return record


def test_transfers_are_judged_beside_scratch_on_the_same_shifts(tmp_path: Path) -> None:
    with engine(store=f"{tmp_path}/store.db") as made:
        result = shifted(made, corruptions=["noise", "contrast"], alignment="reference")
        plain = made.transfer_knowledge("inverted", "digits")
        again = shifted(made, corruptions=["noise", "contrast"], alignment="reference")
    assert again == result
    assert [row.name for row in result.rows] == ["scratch", "inverted, reference", "inverted, reference to shifted"]
    assert result.shifts == ("noise", "contrast", "adversarial")
    scratch, moved, aligned = result.rows
    assert (scratch.clean, moved.clean) == (
        plain.scratch_score,
        plain.score,
    )  # it is the transfer that is measured elsewhere
    assert moved.gain is not None
    assert moved.gain.mean == pytest.approx(plain.performance_gain.mean)
    assert scratch.scores["noise"][1].mean < scratch.clean.mean
    assert scratch.scores["adversarial"][1].mean < scratch.scores["adversarial"][0].mean < scratch.clean.mean
    assert aligned.scores["noise"] != moved.scores["noise"]
    for name in result.shifts:
        gains = moved.gains[name]
        assert [g.mean for g in gains] == pytest.approx(
            [a.mean - b.mean for a, b in zip(moved.scores[name], scratch.scores[name], strict=True)]
        )


def test_without_a_radius_nothing_is_attacked_and_tables_have_their_own_shifts() -> None:
    tasks = []
    for name in ("inverted", "digits"):
        task = digits(name)
        own = {s: (task.data(s).inputs.flatten(1), task.data(s).targets) for s in ("train", "test")}
        tasks.append(Task(descriptor=TaskDescriptor(task_id=name, input_shape=(64,), output_dim=10), **own))
    with engine(*tasks, seeds=1) as made:
        result = shifted(made, radius=0.0, alignment="reference", align_with="source", severities=[2])
        assert result.shifts == ("noise", "dropout")
        assert result.rows[2].method == "reference to source"
        with pytest.raises(DataError, match="its inputs cannot have the corruption 'blur'"):
            shifted(made, corruptions=["blur"])


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"corruptions": ["nois"]}, "there is no 'nois'; did you mean 'noise'"),
        ({"severities": [3, 1]}, r"severities must be different and rise, got \[3, 1\]"),
        ({"severities": []}, "severities must be different"),
        ({"targets": ["digit"]}, "targets: no task 'digit'; did you mean 'digits'"),
        ({"targets": ["digits", "digits"]}, "'digits' is named twice"),
        ({"targets": []}, "say which tasks are learned"),
        ({"targets": ["digits"], "sources": ["digits"]}, "learned from at least one other"),
        ({"targets": ["digits", "inverted"]}, "learned from at least one other"),
        ({"targets": ["bare"], "sources": ["digits"]}, "'bare' has no train data"),
        (
            {"targets": ["values"], "sources": ["digits"], "alignment": "critic"},
            "looks at the probabilities of classes",
        ),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(options: Any, told: str) -> None:
    values = Task(
        descriptor=TaskDescriptor(task_id="values", task_type="regression"),
        train=(torch.randn(8, 3), torch.randn(8)),
        test=(torch.randn(8, 3), torch.randn(8)),
    )
    tasks = (digits("inverted"), digits())
    tasks += tuple(t for t in (Task(descriptor="bare"), values) if t.task_id in options.get("targets", ()))
    with engine(*tasks) as made, pytest.raises(RecipeError, match=told):
        shifted(made, **options)


def test_sources_that_do_not_fit_are_left_out_and_without_any_it_is_told() -> None:
    flat = Task(
        descriptor=TaskDescriptor(task_id="flat", input_shape=(3,), output_dim=2),
        train=(torch.randn(20, 3), torch.arange(20) % 2), test=(torch.randn(20, 3), torch.arange(20) % 2),
    )  # fmt: skip
    with engine(flat, digits(), digits("inverted"), seeds=1) as made:
        result = shifted(made, sources=made.portfolio.ids, corruptions=["noise"], severities=[1], radius=0.0)
        assert [row.source for row in result.rows] == [None, "inverted"]
        with pytest.raises(DataError, match="no source has a model that fits it"):
            shifted(made, sources=["flat"])
        given = digits("inverted")
        without = Task(
            descriptor=attrs.evolve(given.descriptor, task_id="model"), model=made.portfolio["inverted"].model
        )
        made.register_task(without)
        with pytest.raises(DataError, match="'model' has no training data: an alignment needs its inputs"):
            shifted(made, sources=["model"], alignment="reference", align_with="source")


def test_what_was_measured_with_other_inputs_of_a_source_is_not_taken(tmp_path: Path) -> None:
    """A source of the same name and with the same model, but other data: what is aligned with them is learned anew."""
    found = []
    for turned in (False, True, False):
        source, target = digits("inverted"), digits()
        if turned:
            own = {s: (source.data(s).inputs.flip(2), source.data(s).targets) for s in ("train", "test")}
            source = Task(descriptor=source.descriptor, **own)
        source.model = ModelSpec(hidden=(16,)).build(digits().descriptor, 0)
        with engine(source, target, store=f"{tmp_path}/store.db", seeds=1) as made:
            given = {"radius": 0.0, "severities": [1], "corruptions": ["contrast"], "weight": 10.0}
            found.append(shifted(made, alignment="reference", align_with="source", **given).rows)
    assert found[0] == found[2]
    assert found[0][-1] != found[1][-1], "aligned with the source's inputs"
    assert found[0][:2] == found[1][:2], "fine-tuning does not look at them"


def test_domains_of_another_kind_are_told() -> None:
    own = {s: ((16 * digits().data(s).inputs).long(), digits().data(s).targets) for s in ("train", "test")}
    whole = Task(descriptor=TaskDescriptor(task_id="whole", input_shape=(1, 8, 8), output_dim=10), **own)
    with (
        engine(whole, digits(), seeds=1) as made,
        pytest.raises(DataError, match="'whole' and 'digits' differ in kind"),
    ):
        shifted(made, alignment="reference", align_with="source")


def interval(mean: float, half: float = 0.01) -> Interval:
    return Interval(mean=mean, low=mean - half, high=mean + half)


def test_what_is_shown() -> None:
    scratch = ShiftRow(
        target="t", source=None, method="scratch", clean=interval(0.8), scores={"noise": (interval(0.7), interval(0.5))}
    )
    gains = {"noise": (interval(0.1), interval(-0.05))}
    moved = ShiftRow(
        target="t", source="<s>", method="m", clean=interval(0.9), gain=interval(0.1), gains=gains,
        scores={"noise": (interval(0.8), interval(0.45))},
    )  # fmt: skip
    good = attrs.evolve(moved, source="u", gains={"noise": (interval(0.1), interval(0.05))})
    result = ShiftResult(
        metric="accuracy", severities=(1, 3), shifts=("noise",), rows=(scratch, moved, good), radius=0.01,
        chances={"t": 0.1}, notes=("<s> is worse",),
    )  # fmt: skip
    assert (moved.stays, moved.turns, good.stays, good.turns) == ((), ("noise",), ("noise",), ())
    assert scratch.mean == pytest.approx(0.6)
    assert noted(result.rows) == ("<s> to t by m: better than scratch as the data are, worse under noise",)
    rows = Shift.summary(result)
    assert rows["t_best_under_shift"] == "<s>, m: 0.625"
    assert rows["t_scratch_under_shift"] == pytest.approx(0.6)
    (section,) = Shift.sections(structure(unstructure(result), ShiftResult, "result"), TransferGraph())
    assert section.title == "Transfer under shift"
    for text in ("t: noise", "&lt;s&gt; is worse", "chance is 0.100", "scratch"):
        assert text in section.html
    bare = attrs.evolve(result, radius=0.0, chances={}, notes=())
    assert "adversarial" not in Shift.sections(bare, TransferGraph())[0].html
    assert result._rows()[0]["noise"] == 0.5
    assert "under 1 shifts" in result._headline()


def test_the_recipe_names_what_is_installed() -> None:
    recipe = tomllib.loads(files("crosstask_shifted").joinpath("recipes/shift.toml").read_text("utf-8"))
    made = build(Shift, recipe["shift"], "shift")
    assert made.radius > 0
    assert set(recipe["requires"]) == {"crosstask-digits", "crosstask-finetuning", "crosstask-mmd"}


def test_what_is_measured_is_known_by_the_factory_of_the_source(tmp_path: Path) -> None:
    def found(gain: float, store: str | None) -> ShiftResult:
        source = digits("inverted")
        source.build = functools.partial(_drawn, gain)
        with engine(source, digits(), store=store, seeds=1, train=attrs.evolve(QUICK, steps=1)) as made:
            torch.manual_seed(0)
            made.portfolio["inverted"].model = after = _drawn(1.0)  # the same weights in all of them
            prepare_model(made.portfolio["inverted"])
            assert origin_of(after).build is source.build
            return shifted(made, corruptions=["noise"], severities=[1], radius=0)

    store = f"{tmp_path}/store.db"
    first = found(1.0, store)
    assert found(9.0, store) == found(9.0, None) != first


def _drawn(gain: float) -> torch.nn.Module:
    made = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 16), torch.nn.ReLU(), torch.nn.Linear(16, 10))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(gain)
    return made
