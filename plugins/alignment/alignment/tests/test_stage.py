"""The stage: what it refuses before any work, what it measures, whose labels it never sees, what it shows."""

from __future__ import annotations

import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch

from crosstask import TransferEngine
from crosstask.descriptors import TaskDescriptor
from crosstask.errors import OptionError, RecipeError
from crosstask.graph import TransferGraph
from crosstask.learning.models import ModelSpec
from crosstask.manifest import Plugin
from crosstask.options import build, structure, unstructure
from crosstask.records import Budget
from crosstask.tasks import Portfolio, Task
from crosstask.testing import reference_registry, small_portfolio
from crosstask_alignment import Align, AlignmentResult
from crosstask_alignment.plugin import PLUGIN
from crosstask_alignment.testing import REFERENCE, digits, shifted

REGISTRY = reference_registry(PLUGIN, Plugin("alignments", REFERENCE.extensions, api=(2, 0)))
QUICK = Budget(steps=30, batch_size=32, learning_rate=5e-3, evaluate_every=10)


def engine(*tasks: Task, **given: Any) -> TransferEngine:
    made = TransferEngine(
        **{
            "registry": REGISTRY,
            "model": ModelSpec(hidden=(32,)),
            "seeds": 1,
            "discoverers": (),
            **given,
        }
    )
    made.register(Portfolio(tasks) if tasks else shifted())
    return made


def aligned(made: TransferEngine, **options: Any) -> tuple[AlignmentResult, torch.nn.Module]:
    outcome = made.run_stage("alignment", **{"targets": ["inverted"], "budget": QUICK, **options})
    return outcome.record, outcome.artifacts["model"]


def small(
    name: str, shape: tuple[int, ...] = (2,), outputs: int = 2, classes: tuple[str, ...] = (), **given: Any
) -> Task:
    kind = given.pop("kind", "classification")
    descriptor = TaskDescriptor(task_id=name, input_shape=shape, output_dim=outputs, task_type=kind, classes=classes)
    data = (torch.zeros(4, *shape), torch.zeros(4, 1) if kind == "regression" else torch.arange(4) % outputs)
    return Task(descriptor=descriptor, **{"train": data, "test": data, **given})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "targets: say which tasks have no labels"),
        ({"targets": ["bb"]}, "targets: no task 'bb'; did you mean 'b'"),
        ({"sources": ["a", "a"]}, "sources: 'a' is named twice"),
        ({"sources": ["a"], "targets": ["a"]}, "targets: 'a' is a source, too"),
        ({"sources": ["a", "b", "wide", "four", "value", "bare", "named", "other"]}, "targets: none is left"),
        ({"sources": ["a"], "targets": ["wide"]}, r"inputs of 'a' and 'wide' are \(2,\) and \(3,\)"),
        ({"sources": ["a"], "targets": ["four"]}, "'a' and 'four' must mean the same, they have 2 and 4 outputs"),
        ({"sources": ["a"], "targets": ["value"]}, "'a' and 'value' are classification and regression"),
        ({"sources": ["a"], "targets": ["bare"]}, "task 'bare' has no test data"),
        ({"sources": ["named"], "targets": ["other"]}, "their classes are x, y and y, x"),
    ],
)
def test_tasks_that_cannot_be_aligned(options: dict[str, Any], message: str) -> None:
    tasks = [small("a"), small("b"), small("wide", (3,)), small("four", outputs=4)]
    tasks += [small("value", outputs=1, kind="regression"), small("bare", test=None)]
    tasks += [small("named", classes=("x", "y")), small("other", classes=("y", "x"))]
    with pytest.raises(RecipeError, match=message):
        Align(**options).check(Portfolio(tasks))


def test_the_options_are_the_table() -> None:
    found = build(Align, {"alignment": {"use": "mmd", "unbiased": False}, "sources": ["a"], "weight": 2}, "alignment")
    assert (found.alignment.use, found.weight, found.supervised) == ("mmd", 2.0, True)
    with pytest.raises(OptionError, match="weight must be >= 0"):
        build(Align, {"weight": -1}, "alignment")
    with pytest.raises(OptionError, match="unknown option 'target'; did you mean 'targets'"):
        build(Align, {"target": ["a"]}, "alignment")


def test_real_digits_beside_source_only_and_supervised() -> None:
    with engine(seeds=2) as made:
        result, model = aligned(made, alignment="critic")
        again, other = aligned(made, alignment="critic")
        changed, _ = aligned(made, alignment="critic", weight=0.0)
    assert (result.sources, result.targets, result.metric) == (("digits",), ("inverted",), "accuracy")
    assert "critic" in result.alignment
    assert len(result.adapted["inverted"].values) == 2
    assert result.supervised["inverted"].mean > result.source_only["inverted"].mean + 0.3
    assert result.sources_only["digits"].mean > 0.6
    assert result.domain_accuracy_before.mean > 0.9
    assert result.domain_chance == 0.5
    assert 0.08 < result.chances["inverted"] < 0.15
    assert (result.steps, len(result.terms)) == ((10, 20, 30), 3)
    assert again == result
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    assert changed.source_only == result.source_only
    assert changed.adapted == result.source_only  # the same batches: without weight it is the source alone
    assert "nothing was gained" in changed.notes[0]


def test_labels_of_the_target_are_never_seen() -> None:
    target = digits("inverted")
    inputs, labels = target.train
    blind = target.over(train=(inputs, labels.flip(0)), test=target.test)
    weights = []
    for each in (target, blind):
        with engine(digits(), each) as made:
            result, model = aligned(made, supervised=False)
            assert result.supervised == {}
            weights.append([p.detach() for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


def test_two_sources_and_two_targets_are_four_domains() -> None:
    tasks = [small_portfolio(models=False)[name] for name in ("moons", "turned", "halves")]
    named = [attrs.evolve(task.descriptor, classes=()) for task in tasks]
    four = [Task(descriptor=d, train=t.train, test=t.test) for d, t in zip(named, tasks, strict=True)]
    extra = Task(descriptor=attrs.evolve(named[0], task_id="again"), train=tasks[0].train, test=tasks[0].test)
    budget = attrs.evolve(QUICK, samples=20)
    with engine(*four, extra) as made:
        result, _ = aligned(made, sources=["moons", "again"], targets=["turned", "halves"], budget=budget)
    assert result.domain_chance == 0.25
    assert set(result.adapted) == {"turned", "halves"}
    assert set(result.sources_adapted) == {"moons", "again"}


def test_patience_looks_at_the_sources_validation_data() -> None:
    tasks = small_portfolio(models=False)
    budget = attrs.evolve(QUICK, patience=1)
    with engine(tasks["moons"], tasks["turned"]) as made:
        result, _ = aligned(made, sources=["moons"], targets=["turned"], budget=budget)
    assert result.steps[-1] <= 30


def test_the_model_is_rebuilt_in_a_resumed_run(tmp_path: Path) -> None:
    found = []
    for _ in range(2):
        with engine(store=f"{tmp_path}/store.db") as made:
            found.append(aligned(made, supervised=False))
    assert found[0][0] == found[1][0]
    pairs = zip(found[0][1].parameters(), found[1][1].parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_what_is_shown() -> None:
    with engine() as made:
        result, _ = aligned(made, weight=0.0)
    rows = Align.summary(result)
    assert rows["inverted_adapted"] == result.adapted["inverted"]
    assert rows["domain_accuracy_of_chance"] == 0.5
    read = structure(unstructure(result), AlignmentResult, "result")
    (section,) = Align.sections(read, TransferGraph())
    assert section.title == "Domain alignment"
    for text in ("inverted", "with its labels", "new critic tells the domains apart", "on the sources themselves"):
        assert text in section.html
    assert "nothing was gained by aligning" in section.html
    bare = attrs.evolve(result, supervised={}, chances={}, terms=(), steps=(), notes=())
    assert "with its labels" not in Align.sections(bare, TransferGraph())[0].html
    assert "without the targets' labels" in result._headline()
    assert result._rows()[0]["source only"] == result.source_only["inverted"].mean


def test_the_recipe_names_what_is_installed() -> None:
    recipe = tomllib.loads(files("crosstask_alignment").joinpath("recipes/alignment.toml").read_text("utf-8"))
    made = build(Align, recipe["alignment"], "alignment")
    assert made.budget.steps <= 400
    assert set(recipe["requires"]) == {"crosstask-digits", "crosstask-mmd"}


def test_values_are_no_logits_of_classes() -> None:
    tasks = [small(name, outputs=1, kind="regression") for name in ("a", "b")]
    with pytest.raises(RecipeError, match="looks at the probabilities of classes, and task 'a' is a regression"):
        engine(*tasks).run_stage("alignment", sources=["a"], targets=["b"], alignment="critic", budget=QUICK)
