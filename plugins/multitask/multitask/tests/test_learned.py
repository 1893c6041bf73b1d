"""What was learned of sharing: measured on test samples, kept in the record, drawn in the report."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import attrs
import pytest
import torch
from torch import nn

from crosstask import Budget, DataError, ModelSpec, Registry, TransferEngine, component
from crosstask.context import LocalContext
from crosstask.descriptors import TaskDescriptor
from crosstask.options import structure, unstructure
from crosstask.tasks import Task
from crosstask.testing import blobs, reference_registry
from crosstask_multitask import MultiTaskModule, MultiTaskResult, MultiTaskTrainer, SharingMatrix
from crosstask_multitask.report import render
from crosstask_multitask.testing import REFERENCE, Heads, ReferenceSharing


def matrix(values: Any, name: str = "Shares", **given: Any) -> SharingMatrix:
    rows, columns = len(values), len(values[0]) if values else 0
    names = {"rows": tuple(f"r{n}" for n in range(rows)), "columns": tuple(f"c{n}" for n in range(columns))}
    return SharingMatrix(**{"name": name, "values": values, **names, **given})


class Telling(Heads):
    """Tells how many samples it was asked about, and in which mode."""

    value = staticmethod(float)

    def __init__(self, inner: Heads) -> None:
        super().__init__(inner.trunk, dict(inner.heads.items()))
        self.asked: list[Any] = []

    def learned(self, inputs: Any) -> list[SharingMatrix]:
        self.asked.append((self.training, torch.is_grad_enabled(), {t: len(batch) for t, batch in inputs.items()}))
        values = tuple((self.value(len(batch)),) for batch in inputs.values())
        return [SharingMatrix(name="Asked of each task", rows=tuple(inputs), columns=("samples",), values=values)]


class Diverged(Telling):
    value = staticmethod(lambda count: float("nan"))


@component
class TellingSharing(ReferenceSharing):
    """Builds what tells."""

    diverged: bool = False

    def build(self, tasks: list[Task], trunk: nn.Module) -> MultiTaskModule:
        built: Any = super().build(tasks, trunk)
        return Diverged(built) if self.diverged else Telling(built)


def joint(sharing: Any) -> MultiTaskResult:
    registry = reference_registry(REFERENCE)
    with TransferEngine(model=ModelSpec(hidden=(8,)), discoverers=[], registry=registry) as engine:
        for number in range(2):
            engine.register_task(blobs(f"task{number}", seed=number))
        outcome = engine.run_stage(
            "multitask", tasks=["task0", "task1"], sharing=sharing, budget=Budget(steps=2, batch_size=8)
        )
    found: MultiTaskResult = outcome.record
    return found


def test_the_record_of_a_joint_training_keeps_it_and_is_read_back() -> None:
    result = joint(TellingSharing())
    (told,) = result.learned
    assert told.rows == ("task0", "task1")
    assert all(value > 0 for (value,) in told.values)
    again = structure(json.loads(json.dumps(unstructure(result))), MultiTaskResult)
    assert again.learned == result.learned
    assert "learned" not in result.to_frame().columns


def test_what_is_not_finite_is_left_out_and_said() -> None:
    result = joint(TellingSharing(diverged=True))
    assert result.learned == ()
    assert result.notes == ("Asked of each task: what was learned of it is not finite.",)


def test_a_record_from_before_is_read() -> None:
    plain = unstructure(MultiTaskResult(tasks=("a",), balancer="b", sharing="s", scores={}, single_task_scores={}))
    del plain["learned"]
    assert structure(plain, MultiTaskResult).learned == ()


@pytest.mark.parametrize(("splits", "wanted"), [(("test", "validation"), 5), (("validation",), 7), ((), 9)])
def test_a_module_is_asked_in_evaluation_about_its_latest_split(splits: tuple[str, ...], wanted: int) -> None:
    counts = {"train": 9, "validation": 7, "test": 5}
    data = {name: (torch.randn(counts[name], 4), torch.arange(counts[name]) % 2) for name in ("train", *splits)}
    task = Task(descriptor=TaskDescriptor(task_id="a", output_dim=2), **data)
    module: Any = TellingSharing().build([task], nn.Linear(4, 3)).train()
    balancer: Any = Registry.installed().create("balancer", "equal")
    trainer = MultiTaskTrainer(module, [task], balancer, Budget(steps=1), LocalContext())
    (told,) = trainer.learned()
    assert told.values == ((wanted,),)
    assert trainer.learned(samples=3)[0].values == ((3,),)
    assert module.asked[0] == (False, False, {"a": wanted})
    assert module.training


def test_a_matrix_whose_values_do_not_fit_its_names_is_refused() -> None:
    with pytest.raises(DataError, match=r"Shares: 2 rows of 1 values are named, got \[1, 2\]"):
        matrix(((1.0,), (1.0, 2.0)))
    assert not matrix(((float("inf"),),)).finite
    assert matrix(()).finite


def drawn(*matrices: SharingMatrix) -> list[dict[str, Any]]:
    """The figures of these matrices in the report, as plotly gets them."""
    done = MultiTaskResult(
        tasks=("a",), balancer="b", sharing="s", scores={}, single_task_scores={}, learned=tuple(matrices)
    )
    shown = render(done).partition("What is shared")[2]
    return [json.loads(each) for each in re.findall(r'<script type="application/json">(.*?)</script>', shown)]


def test_the_report_draws_a_cell_for_each_value_with_its_number() -> None:
    values = ((0.9, 0.1), (-0.5, 0.25))
    (figure,) = drawn(matrix(values, rows=("<odd>", "b"), told="what is taken"))
    heat, numbers = figure["data"]
    assert tuple(map(tuple, heat["z"])) == values
    assert numbers["text"] == ["0.90", "0.10", "−0.50", "0.25"]
    assert figure["layout"]["yaxis"]["ticktext"] == ["&lt;odd&gt;", "b"]
    assert "0.900" in heat["text"][0][0]
    axis = figure["layout"]["coloraxis"]
    assert (axis["cmin"], axis["cmax"], len(axis["colorscale"])) == (-0.9, 0.9, 5)


@pytest.mark.parametrize(
    ("made", "check"),
    [
        (lambda: matrix(((0.2, 0.8),)), lambda f: f["layout"]["coloraxis"]["cmin"] == 0),
        (lambda: matrix(((0.0, 0.0),)), lambda f: f["layout"]["coloraxis"]["cmax"] == 1),
        (lambda: matrix((tuple(n / 30 for n in range(30)),)), lambda f: len(f["data"]) == 1),
        (lambda: matrix(()), lambda f: f["data"][0].get("z", []) == []),
    ],
)
def test_the_scale_and_the_numbers_fit_the_matrix(
    made: Callable[[], SharingMatrix], check: Callable[[dict[str, Any]], bool]
) -> None:
    (figure,) = drawn(made())
    assert check(figure)


def test_what_the_values_are_is_said_once() -> None:
    done = MultiTaskResult(
        tasks=("a",), balancer="b", sharing="s", scores={}, single_task_scores={},
        learned=tuple(matrix(((1.0,),), name=name, told="share <of> it") for name in "xy"),
    )  # fmt: skip
    page = render(done)
    assert page.count("Share &lt;of&gt; it.") == 1
    assert "What is shared" not in render(attrs.evolve(done, learned=()))
