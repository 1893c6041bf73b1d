"""The stage, its section, and the engine's door, on handwritten digits."""

from __future__ import annotations

import attrs
import pytest

from crosstask.engine import TransferEngine
from crosstask.errors import DataError, RecipeError
from crosstask.graph import Evidence, TransferEdge, TransferGraph
from crosstask.learning.model_files import load_model
from crosstask.learning.training import evaluate
from crosstask.options import structure, unstructure
from crosstask.parts import Choice
from crosstask.records import Budget
from crosstask.tasks import Portfolio, Task
from crosstask.testing import reference_registry
from crosstask_multi_source.plugin import PLUGIN
from crosstask_multi_source.records import MultiSourceReport
from crosstask_multi_source.stage import MultiSourceStage
from crosstask_transfer.testing import digits, trained_digits

FEW = Budget(steps=40, batch_size=25, learning_rate=3e-3, samples=50, evaluate_every=40)


def fresh(task: Task) -> Task:
    made = task.over(**{split: task.data(split) for split in ("train", "validation", "test")})
    made.model = task.model
    return made


def engine() -> TransferEngine:
    made = TransferEngine(
        registry=reference_registry(PLUGIN), discoverers=(), auto_discover=False, budget=FEW, train=FEW, seeds=2
    )
    for task in (trained_digits(), trained_digits("dim"), trained_digits("plain", (0, 1, 2, 3)), digits(parity=True)):
        made.register_task(fresh(task))
    for source, value in (("plain-10", 0.5), ("dim-10", 0.4), ("plain-4", -0.2)):
        edge = {"source": source, "target": "plain-parity", "transfer_coefficient": value}
        made.graph.add(TransferEdge(**edge, evidence=Evidence.MEASURED))  # type: ignore[arg-type]
    return made


def by(name: str, **options: object) -> Choice:
    return Choice(use=name, options={"method": "reference", **options})


def test_the_engine_adapts_a_target_from_the_sources_that_the_graph_knows(tmp_path: pytest.TempPathFactory) -> None:
    with engine() as made:
        target = made.portfolio["plain-parity"]
        found = made.adapt("plain-parity", strategy=by("concat_joint"))
        assert found.sources == ("plain-10", "dim-10")
        assert "left out, for they hurt: plain-4" in found.notes
        assert evaluate(found.model, target) == pytest.approx(found.score.values[0])
        again = load_model(found.save(tmp_path / "parity.safetensors"), trust=True)  # type: ignore[operator]
        assert evaluate(again, target) == pytest.approx(found.score.values[0])
        named = made.adapt(["plain-4", "dim-10"], "plain-parity", by("concat"))
        assert named.sources == ("plain-4", "dim-10"), "who is named is taken"
        single = made.adapt(["plain-10"], "plain-parity", by("concat"))
        assert single.score == made.adapt("plain-10", "plain-parity", "reference").score


def test_what_the_stage_finds_and_what_the_report_says() -> None:
    with engine() as made:
        options = {
            "candidates": ["concat", {"use": "ensemble", "members": ["soup"]}],
            "judge_on": "validation",
            "margin": 1e6,
        }
        outcome = made.run_stage("multi_source", targets=["plain-parity"], strategy=by("best_of", **options))
        other = made.run_stage("multi_source", targets=["plain-parity"], strategy=by("joint"))
        with pytest.raises(DataError, match=r"strategy: .* does not learn from several sources"):
            made.run_stage("multi_source", targets=["plain-parity"], strategy="reference")
        assert evaluate(outcome.artifacts["model"], made.portfolio["plain-parity"]) == pytest.approx(
            outcome.record.results[0].score.values[0]
        )
    record = structure(unstructure(outcome.record), MultiSourceReport, "report")
    assert record == outcome.record
    assert MultiSourceStage.summary(record) == {"learned_by": "plain-parity: single", "gain_over_single_source": 0.0}
    (section,) = MultiSourceStage.sections(record, TransferGraph())
    for text in (
        "learned from <strong>plain-10</strong> alone: no other way was better beyond noise",
        "left out, for they hurt: plain-4",
        "What there was to choose from, on",
        "Steps (single)",
        "All candidates together took",
        "concat",
    ):
        assert text in section.html, text
    assert section.marks == {"plain-parity": "learned from several sources"}
    (told,) = MultiSourceStage.sections(other.record, TransferGraph())
    assert "learned by joint from plain-10, dim-10, as it was asked for" in told.html
    best = attrs.evolve(record.results[0], chosen="concat")
    assert (
        "learned by <strong>concat</strong> from plain-10, dim-10"
        in MultiSourceStage.sections(MultiSourceReport(results=(best,)), TransferGraph())[0].html
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"targets": []}, "targets: name at least one task"),
        ({"targets": ["plain-11"]}, "targets: .*no task 'plain-11'"),
        ({"targets": ["bare"]}, "targets: task 'bare' has no train data"),
        ({"targets": ["plain-parity"], "sources": ["bare"]}, "sources: task 'bare' has no train data"),
        ({"targets": ["plain-parity"], "sources": ["plain-parity"]}, "sources: 'plain-parity' is a target, too"),
    ],
)
def test_what_does_not_fit_is_refused_before_any_work(options: dict[str, list[str]], words: str) -> None:
    bare = Task(descriptor=attrs.evolve(digits().descriptor, task_id="bare"))
    with pytest.raises(RecipeError, match=words):
        MultiSourceStage(**options).check(Portfolio([digits(parity=True), bare]))  # type: ignore[arg-type]
