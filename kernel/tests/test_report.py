"""The report's text and structure. What happens in a browser is tested in tests/browser/test_report_browser.py."""

import json
import math
import random
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import attrs
import pytest

from crosstask.graph import Evidence, TransferEdge, TransferGraph
from crosstask.records import (
    Adjustment,
    BlockAttribution,
    Curriculum,
    CurriculumResult,
    Interval,
    LayerAttribution,
    LearningCurve,
    MultiTaskResult,
    Provenance,
    RunRecord,
    StageResult,
    SynthesisResult,
    TransferResult,
)
from crosstask.report import write_report
from crosstask.report.page import PALETTE
from crosstask.tasks import TaskDescriptor

EVIL = '<script>alert("x")</script> %{x} </b>'
TASKS = [
    "all_ten", "zero_to_four", "five_to_nine", "parity", "above_four", "prime", "has_loop", "rotated_90", "inverted",
    "blurred", "permuted_pixels", "shuffled_labels", "multiples_of_three", "thick_strokes",
]  # fmt: skip


def around(mean: float, width: float = 0.03) -> Interval:
    return Interval(mean=mean, low=mean - width, high=mean + width)


def curve(start: float, end: float, speed: float) -> LearningCurve:
    steps = tuple(range(0, 201, 20))
    return LearningCurve(steps=steps, values=tuple(end - (end - start) * math.exp(-s * speed / 60) for s in steps))


def sample(first: str = "all_ten", *, seed: int = 7) -> tuple[RunRecord, TransferGraph]:
    """A finished run of 14 tasks with invented numbers; `first` replaces the name of one task."""
    rng = random.Random(seed)
    tasks = [first, *TASKS[1:]]
    graph = TransferGraph(
        TaskDescriptor(task_id=t, domain="digits", sample_count=1078, required_skills=("shape", f"skill {n % 3}"))
        for n, t in enumerate(tasks)
    )
    for i, source in enumerate(tasks):
        for j, target in enumerate(tasks):
            if source == target:
                continue
            near = 0.62 if i % 3 == j % 3 else 0.16
            mean = 0.0 if "shuffled_labels" in (source, target) else max(-0.9, min(0.95, rng.gauss(near, 0.2)))
            ends = {"source": source, "target": target}
            guess = max(-0.99, min(0.99, mean + rng.gauss(0, 0.15)))
            graph.add(TransferEdge(**ends, transfer_coefficient=guess, evidence=Evidence.ESTIMATED, found_by="skills"))
            if rng.random() < 0.7:
                width = rng.uniform(0.03, 0.2)
                graph.add(
                    TransferEdge(
                        **ends, transfer_coefficient=mean, evidence=Evidence.MEASURED, found_by="probe",
                        uncertainty=width / 2, low=mean - width, high=mean + width, accuracy_gain=mean / 8,
                        convergence_speed_gain=1 + max(0, 2 * mean), best_strategy="fine_tuning",
                    )
                )  # fmt: skip
    path = [first, "inverted", "blurred", "has_loop", "parity"]
    stages = tuple(
        StageResult(
            stage=n + 1, task_id=t, score=around(0.9 + 0.01 * n), scratch_score=around(0.9 - 0.03 * n),
            gain=around(0.04 * n, 0.02), curve=curve(0.3 + 0.1 * n, 0.92 + 0.01 * n, 2),
            scratch_curve=curve(0.1, 0.9 - 0.03 * n, 1),
        )
        for n, t in enumerate(path)
    )  # fmt: skip
    plan = Curriculum(
        target="parity", task_sequence=tuple(path), strategy="transfer_potential",
        task_difficulties={t: 0.2 + 0.1 * n for n, t in enumerate(path)}, prerequisites={"parity": (first, "has_loop")},
        adjustments=(Adjustment(stage=3, task_id="blurred", reason="the stage before it fell short"),),
    )  # fmt: skip
    transfers = tuple(
        TransferResult(
            source=s, target=t, strategy="fine_tuning", metric="accuracy", split="test", score=around(0.9),
            scratch_score=around(0.9 - c / 5), coefficient=around(c, 0.08), performance_gain=around(c / 5), seeds=3,
            curve=curve(0.5, 0.9, 2), scratch_curve=curve(0.1, 0.9 - c / 5, 1),
        )
        for s, t, c in [(first, "prime", 0.61), ("blurred", "inverted", 0.34), ("shuffled_labels", "parity", -0.16)]
    )  # fmt: skip
    together = ("zero_to_four", "five_to_nine", "parity", "prime")
    steps = tuple(range(0, 200, 5))
    record = RunRecord(
        run_id="2f6c1a9e", name="Digits: what helps parity?", status="finished", seed=seed, seconds=83.4,
        started="2025-03-04T10:22:31+00:00",
        versions={"python": "3.11.2", "torch": "2.13.0", "crosstask-kernel": "0.1.0", "crosstask-rgb": "0.1.0"},
        recipe={"seeds": 3, "source": {"name": "digits"}, "curriculum": {"target": "parity", "max_tasks": 5}},
        summary={
            "pairs_measured": 126, "target": "parity", "target_accuracy": {"mean": 0.94, "low": 0.91, "high": 0.97},
            "scratch_accuracy": {"mean": 0.88, "low": 0.85, "high": 0.91}, "unseen_accuracy": 0.71,
            "not_measured": None,
        },
        discovery={"pairs_left": 56},
        curriculum=CurriculumResult(
            curriculum=plan, strategy="fine_tuning", metric="accuracy", stages=stages, total_steps=1000, seeds=3
        ),
        curriculum_baselines={
            "from scratch": {"mean": 0.88, "low": 0.85, "high": 0.91},
            "best single source: has_loop": {"mean": 0.91, "low": 0.87, "high": 0.95},
        },
        transfers=transfers,
        synthesis=SynthesisResult(
            task_id="even_and_small", metric="accuracy", score=0.71, full_training_score=0.95,
            provenance=Provenance(
                strategy="weighted_ensemble", new_task="even_and_small", confidence=0.64,
                expected=Interval(mean=0.74, low=0.66, high=0.81),
                sources={"zero_to_four": 0.41, "parity": 0.33, first: 0.26},
                notes=("two tasks share no class with it",),
            ),
        ),
        multitask=MultiTaskResult(
            tasks=together, balancer="rgb", sharing="HardParameterSharing",
            scores={t: 0.93 - 0.02 * n for n, t in enumerate(together)},
            single_task_scores={t: 0.9 - 0.01 * n for n, t in enumerate(together)}, steps=steps,
            losses={t: tuple(2.3 * math.exp(-s / (40 + 12 * n)) + rng.random() / 20 for s in steps)
                    for n, t in enumerate(together)},
            weights={t: tuple(0.25 + rng.gauss(0, 0.02) for s in steps) for t in together},
            conflicts={
                "mean_cosine": tuple(0.5 - s / 250 + rng.gauss(0, 0.06) for s in steps),
                "conflict_share": tuple(min(1, max(0, s / 300 + rng.gauss(0, 0.05))) for s in steps),
                "magnitude_similarity": tuple(0.8 + rng.gauss(0, 0.03) for s in steps),
            },
        ),
    )  # fmt: skip
    return record, graph


class Page(HTMLParser):
    """What a browser would make of the page: headings, scripts, elements with an address, labels of figures."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.headings: list[str] = []
        self.scripts: list[str] = []
        self.addresses: list[str] = []
        self.figures: list[str] = []
        self.text = ""
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        self._inside = tag
        if tag == "script":
            self.scripts.append("")
        self.addresses += [str(given[name]) for name in ("src", "href") if name in given]
        if given.get("role") == "img":
            self.figures.append(str(given["aria-label"]))

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts[-1] += data
        else:
            self.text += data
            if self._inside in ("h1", "h2", "h3"):
                self.headings.append(data)

    def traces(self) -> list[dict]:
        found = (json.loads(script) for script in self.scripts if script.startswith('{"data"'))
        return [trace for figure in found for trace in figure["data"]]


def read(record: RunRecord, graph: TransferGraph, folder: Path) -> Page:
    path = folder / "report.html"
    assert write_report(record, graph, path) == path
    return Page(path.read_text("utf-8"))


SECTIONS = [
    "Transfer graph", "Transfer matrix", "Curriculum", "Learning curves", "Multi-task training", "Zero-shot synthesis",
    "Recipe",
]  # fmt: skip


def test_report_has_every_section_and_needs_nothing_from_outside(tmp_path: Path) -> None:
    page = read(*sample(), tmp_path)
    assert page.headings == ["Digits: what helps parity?", *SECTIONS[:5], "Gradient conflicts", *SECTIONS[5:]]
    assert all(address.startswith(("#", "data:")) for address in page.addresses)
    assert sum(len(script) > 1_000_000 for script in page.scripts) == 1  # plotly, once
    assert len(page.figures) == 15  # graph, matrix, 3 of the curriculum, 2 of curves, 6 of multi-task, 2 of synthesis
    assert all(page.figures)
    for shown in (
        "0.940", "0.910 to 0.970", "1 min 23 s", "torch 2.13.0", "two tasks share no class", "fell short", "max_tasks",
    ):  # fmt: skip
        assert shown in page.text


def explained(gain: Interval) -> LayerAttribution:
    def block(name: str, lost: float, alone: float, frozen: float | None) -> BlockAttribution:
        return BlockAttribution(
            block=name, weights=1200, without=around(0.9 - lost), alone=around(0.8 + alone), lost_without=around(lost),
            gained_alone=around(alone), lost_frozen=None if frozen is None else around(frozen),
            share_lost=Interval(mean=lost / 0.1, low=0.55, high=1.25), share_alone=around(alone / 0.1, 0.4),
        )  # fmt: skip

    blocks = (block("trunk.1", 0.08, 0.06, -0.01), block("trunk.3", 0.02, -0.05, 0.01), block("head", 0.01, 0.0, None))
    return LayerAttribution(
        source="digits", target="prime", strategy="lp_ft", metric="accuracy", split="test", gain=gain, blocks=blocks,
        seeds=3,
    )  # fmt: skip


def test_why_it_transferred(tmp_path: Path) -> None:
    record, graph = sample()
    record = attrs.evolve(record, attributions=(explained(around(0.1, 0.05)),))
    page = read(record, graph, tmp_path)
    assert page.headings[5] == "Why it transferred"
    for shown in ("trunk.1 carried most: without it 0.080 are lost (80 % [55 to 125] of the gain)", "1,200",
                  "−50 % [−90 to −10]", "+0.100 [+0.050, +0.150]"):  # fmt: skip
        assert shown in page.text
    rows = {text: trace for trace in page.traces() for text in [trace.get("name")] if text in
            ("lost without it", "gained by it alone", "lost if it is frozen")}  # fmt: skip
    assert rows["lost without it"]["x"] == [0.08, 0.02, 0.01]
    assert rows["lost if it is frozen"]["x"] == [-0.01, 0.01], "a head cannot be frozen"


@pytest.mark.parametrize(("mean", "told"), [(0.02, "is not beyond doubt"), (-0.2, "did not help")])
def test_a_gain_that_is_none_is_not_explained_away(tmp_path: Path, mean: float, told: str) -> None:
    record, graph = sample()
    page = read(attrs.evolve(record, attributions=(explained(around(mean, 0.05)),)), graph, tmp_path)
    assert told in page.text
    assert "carried most" not in page.text


def test_graph_draws_every_pair_once_and_dots_what_is_not_measured(tmp_path: Path) -> None:
    record, graph = sample()
    traces = [trace for trace in read(record, graph, tmp_path).traces() if "edges" in trace.get("meta", {})]
    lines, arrows = ([t for t in traces if t["mode"] == mode] for mode in ("lines", "markers"))
    for half in (lines, arrows):
        drawn = [(s, t) for trace in half for _, s, t in trace["meta"]["edges"]]
        assert len(drawn) == len(set(drawn)) == 14 * 13
        for trace in half:
            points = len(trace["meta"]["edges"]) * trace["meta"]["span"]
            assert len(trace["x"]) == len(trace["y"]) == points
    for trace in lines:
        assert (trace["line"]["dash"] == "solid") == ("measured" in trace["meta"]["series"])
    assert all(len(trace["text"]) == len(trace["meta"]["edges"]) for trace in arrows)
    text = next(t for trace in arrows for t in trace["text"] if "probe" in t)
    assert re.search(r"coefficient [+−]0\.\d{3} \[[+−]", text)
    assert "also" in text
    assert "estimated by skills" in text


def test_matrix_marks_the_cells_whose_interval_excludes_zero(tmp_path: Path) -> None:
    record, graph = sample()
    traces = read(record, graph, tmp_path).traces()
    [cells] = [t for t in traces if t["type"] == "heatmap"]
    [signs] = [t for t in traces if t.get("mode") == "text"]
    measured = [e for e in graph.edges() if e.evidence is Evidence.MEASURED]
    assert sum(z is not None for row in cells["z"] for z in row) == len(measured)
    certain = {(e.source, e.target) for e in measured if e.low > 0 or e.high < 0}
    assert {(graph.task_ids[y], graph.task_ids[x]) for x, y in zip(signs["x"], signs["y"], strict=True)} == certain
    assert "3 seeds" in next(text for row in cells["text"] for text in row if text)


def test_text_from_data_is_never_markup(tmp_path: Path) -> None:
    record, graph = sample(EVIL)
    plain = read(*sample(), tmp_path)
    record = attrs.evolve(record, name=EVIL, run_id=EVIL, error=EVIL, summary={EVIL: EVIL}, recipe={EVIL: EVIL})
    page = read(record, graph, tmp_path)
    assert len(page.scripts) == len(plain.scripts)
    assert page.headings[0] == EVIL
    assert EVIL in page.text
    for trace in page.traces():
        assert "<script" not in json.dumps(trace)


@pytest.mark.parametrize("status", ["running", "interrupted", "failed"])
def test_what_is_missing_is_said(tmp_path: Path, status: str) -> None:
    page = read(RunRecord(run_id="1", name="early", status=status), TransferGraph(), tmp_path)
    assert page.headings == ["early", *SECTIONS]
    assert page.figures == []
    for said in (
        "no summary", "no graph to draw", "matrix is empty", "No stage of a curriculum", "No learning curve",
        "no transfer outside",
        "No tasks were trained together", "No model was synthesised", "neither a recipe nor options",
    ):  # fmt: skip
        assert said in page.text


def test_half_of_a_record_is_enough(tmp_path: Path) -> None:
    """Every optional part of a part may be missing: curves, baselines, weights, scores, notes, a single task."""
    record, _ = sample()
    assert record.curriculum is not None
    assert record.multitask is not None
    assert record.synthesis is not None
    bare = attrs.evolve(record.curriculum.stages[0], curve=LearningCurve(), scratch_curve=LearningCurve())
    record = attrs.evolve(
        record,
        curriculum=attrs.evolve(record.curriculum, stages=(bare,)),
        curriculum_baselines={"odd": "?", "number": 0.5, "mean": {"mean": 0.4}},
        transfers=(),
        multitask=attrs.evolve(record.multitask, steps=(), losses={}, weights={}, conflicts={}, single_task_scores={}),
        synthesis=attrs.evolve(record.synthesis, score=None, full_training_score=None, metric=None),
        summary={"broken": float("nan"), "list": ["a", "b"], "flag": True},
    )
    page = read(record, TransferGraph([TaskDescriptor(task_id="all_ten")]), tmp_path)
    for said in ("No learning curve", "not recorded", "could not be judged", "a, b", "yes"):
        assert said in page.text


def test_each_light_colour_stands_for_one_role() -> None:
    assert len({light for light, _ in PALETTE.values()}) == len(PALETTE)


def test_the_same_run_gives_the_same_report(tmp_path: Path) -> None:
    first, second = (write_report(*sample(), tmp_path / name).read_bytes() for name in ("a.html", "b.html"))
    assert first == second


def test_importing_the_report_imports_no_plotly() -> None:
    code = "import sys, crosstask.report; sys.exit('plotly' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
