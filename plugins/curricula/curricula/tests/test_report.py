"""The sections on a curriculum."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import attrs
import pytest

from crosstask.graph import TransferGraph
from crosstask.points.stage import Section
from crosstask.records import (
    Adjustment,
    Curriculum,
    CurriculumResult,
    CurriculumStep,
    Interval,
    LearningCurve,
    TransferResult,
)
from crosstask_curricula import Curriculum as Stage
from crosstask_curricula import CurriculumComparison
from crosstask_transfer.records import BlockAttribution, LayerAttribution

EVIL = '<script>alert("x")</script> %{x} </b>'


def around(mean: float, width: float = 0.03) -> Interval:
    return Interval(mean=mean, low=mean - width, high=mean + width)


def curve(start: float, end: float, speed: float) -> LearningCurve:
    steps = tuple(range(0, 201, 20))
    return LearningCurve(steps=steps, values=tuple(end - (end - start) * math.exp(-s * speed / 60) for s in steps))


def sample(first: str = "all_ten") -> CurriculumComparison:
    """Invented numbers for a path of five tasks, of which `first` is one."""
    path = (first, "inverted", "blurred", "has_loop", "parity")
    steps = tuple(
        CurriculumStep(
            step=n + 1, task_id=t, score=around(0.9 + 0.01 * n), scratch_score=around(0.9 - 0.03 * n),
            gain=around(0.04 * n, 0.02), curve=curve(0.3 + 0.1 * n, 0.92 + 0.01 * n, 2),
            scratch_curve=curve(0.1, 0.9 - 0.03 * n, 1),
        )
        for n, t in enumerate(path)
    )  # fmt: skip
    plan = Curriculum(
        target="parity", task_sequence=path, strategy="transfer_potential",
        task_difficulties={t: 0.2 + 0.1 * n for n, t in enumerate(path)}, prerequisites={"parity": (first, "has_loop")},
        adjustments=(Adjustment(step=3, task_id="blurred", reason="the step before it fell short"),),
    )  # fmt: skip
    single = TransferResult(
        source=first, target="parity", strategy="fine_tuning", metric="accuracy", split="test", score=around(0.9),
        scratch_score=around(0.8), coefficient=around(0.5, 0.08), performance_gain=around(0.1), seeds=3,
        curve=curve(0.5, 0.9, 2), scratch_curve=curve(0.1, 0.8, 1),
    )  # fmt: skip
    done = CurriculumResult(
        curriculum=plan, strategy="fine_tuning", metric="accuracy", steps=steps, total_steps=1700, seeds=3
    )
    baselines = {"from scratch": around(0.88), f"best single source: {first}": around(0.91)}
    return CurriculumComparison(curriculum=done, baselines=baselines, transfers=(single,))


def sections(found: CurriculumComparison) -> dict[str, str]:
    return {section.title: section.html for section in Stage.sections(found, TransferGraph())}


def figures(html: str) -> list[dict[str, Any]]:
    found = re.findall(r"<script[^>]*>(.*?)</script>", html, re.DOTALL)
    return [made for made in map(json.loads, found) if "data" in made]


def test_steps_in_order_and_other_ways() -> None:
    found = sections(sample())
    assert list(found) == ["Curriculum", "Learning curves"]
    shown = found["Curriculum"]
    for words in ("Toward <strong>parity</strong> by way of 5 tasks, in 1,700 optimiser steps, over 3 seeds",
                  "1 · all_ten", "5 · parity", "fell short", "all_ten, has_loop",
                  "0.940 [0.910, 0.970]", "+0.160 [+0.140, +0.180]"):  # fmt: skip
        assert words in shown
    scores, gains, ways = figures(shown)
    assert [trace["name"] for trace in scores["data"]] == ["with transfer", "from scratch"]
    assert gains["data"][0]["x"] == pytest.approx([0.0, 0.04, 0.08, 0.12, 0.16])
    assert sum(len(trace["x"]) for trace in ways["data"]) == 3


def test_what_the_target_made_of_every_step() -> None:
    whole = sample()
    kept = ("path", "alone", "undone", "needed")
    steps = [
        attrs.evolve(step, target_score=around(0.8 + 0.01 * n), progress=around(0.02 - 0.01 * n, 0.001), kept=kept[n],
                     alone_score=around(0.85) if n else None)
        for n, step in enumerate(whole.curriculum.steps[:4])
    ]  # fmt: skip
    done = attrs.evolve(
        whole.curriculum, steps=(*steps, whole.curriculum.steps[4]), judged_on="its validation data",
        reached_from="inverted alone", trial_steps=1200,
        curriculum=attrs.evolve(whole.curriculum.curriculum, expected_interval=around(0.5)),
    )  # fmt: skip
    found = attrs.evolve(whole, curriculum=done)
    shown = sections(found)["Curriculum"]
    for words in ("starts from what is kept of those before", "this task alone", "undone", "a later task needs it",
                  "parity was learned from inverted alone in the end, the best by its validation data",
                  "1,200 more optimiser",
                  "came out not as expected: 0.940, where 0.500 [0.470, 0.530] had been said"):  # fmt: skip
        assert words in shown
    _, _, judged, ways = figures(shown)
    assert sum(len(trace["x"]) for trace in judged["data"]) == 4 + 3
    assert sum(len(trace["x"]) for trace in ways["data"]) == 3
    rows = Stage.summary(found)
    assert (rows["curriculum_kept"], rows["as_expected"]) == ("inverted alone", False)


def test_learning_curves_begin_with_the_target() -> None:
    found = sections(sample())["Learning curves"]
    choices = re.findall(r"<option[^>]*>([^<]*)</option>", found)
    assert choices == ["step 5 · parity", "step 1 · all_ten", "step 2 · inverted", "step 3 · blurred",
                       "step 4 · has_loop", "all_ten → parity, fine_tuning"]  # fmt: skip
    curves, single = figures(found)
    assert len(curves["data"]) == 12
    assert single["data"][0]["x"] == [0.5]
    assert "Transfer reaches scratch&#x27;s final" in found or "Transfer reaches scratch's final" in found


def test_the_target_is_marked_in_the_graph() -> None:
    first, *others = Stage.sections(sample(), TransferGraph())
    assert first.marks == {"parity": "target of the curriculum"}
    assert not any(section.marks for section in others)


def with_single(**changes: Any) -> CurriculumComparison:
    whole = sample()
    told = {"convergence_speed_gain": 40.0, "sample_efficiency_gain": 8.0, "chance": 0.3, **changes}
    return attrs.evolve(whole, transfers=(attrs.evolve(whole.transfers[0], **told),))


def test_a_ratio_stands_only_beside_a_gain_that_is_beyond_doubt() -> None:
    sure = Stage.summary(with_single(convergence_speed_interval=Interval(mean=30.0, low=20.0, high=45.0)))
    assert sure["best_source_gain"] == around(0.1)
    assert sure["convergence_speed_gain"] == "30× [20×, 45×]"
    assert sure["sample_efficiency_gain"] == "8×"
    ahead = curve(0.85, 0.9, 2)  # there before its first step
    capped = Stage.summary(with_single(curve=ahead, sample_efficiency_capped=True))
    assert capped["convergence_speed_gain"] == "at least 40×"
    assert capped["sample_efficiency_gain"] == "at least 8×"
    for doubt in ({"performance_gain": around(0.02)}, {"seeds": 1}):
        found = with_single(**doubt)
        assert not {"convergence_speed_gain", "sample_efficiency_gain"} & set(Stage.summary(found))
        assert "40" not in re.findall(r"<td>(.*?)</td>", sections(found)["Learning curves"])
    assert "<td>40×</td>" in sections(with_single())["Learning curves"]


def test_a_source_that_was_only_predicted_is_called_so() -> None:
    rows = Stage.summary(attrs.evolve(sample(), source_measured=False))
    assert rows["source_predicted_to_be_best"] == "all_ten"
    assert "best_source" not in rows


def test_where_nothing_was_learned_that_is_said() -> None:
    whole = sample()
    steps = [attrs.evolve(step, chance=0.2) for step in whole.curriculum.steps]
    told = sections(attrs.evolve(whole, curriculum=attrs.evolve(whole.curriculum, steps=tuple(steps))))["Curriculum"]
    assert "nothing was learned" not in told
    assert "<td>0.200</td>" in told
    *_, ways = figures(told)
    assert sum(len(trace["x"]) for trace in ways["data"]) == 4, "chance is one of the ways"
    steps[1] = attrs.evolve(steps[1], chance=0.95)
    steps[4] = attrs.evolve(steps[4], chance=0.8)  # with transfer 0.94, from scratch 0.78
    found = attrs.evolve(whole, curriculum=attrs.evolve(whole.curriculum, steps=tuple(steps)))
    told = sections(found)["Curriculum"]
    assert "<strong>inverted: nothing was learned.</strong> Its score, 0.910 [0.880, 0.940]" in told
    assert "parity: from scratch nothing was learned with this budget" in told
    assert "nothing_learned" not in Stage.summary(found)
    steps[4] = attrs.evolve(steps[4], chance=0.97)
    found = attrs.evolve(whole, curriculum=attrs.evolve(whole.curriculum, steps=tuple(steps)))
    assert "nothing_learned" in Stage.summary(found)


def test_what_was_not_done_has_no_heading() -> None:
    whole = sample()
    bare = attrs.evolve(whole.curriculum.steps[-1], curve=LearningCurve(), scratch_curve=LearningCurve())
    done = attrs.evolve(whole.curriculum, steps=(bare,))
    found = sections(CurriculumComparison(curriculum=done))
    assert list(found) == ["Curriculum"]
    assert len(figures(found["Curriculum"])) == 2
    half = sections(CurriculumComparison(curriculum=done, transfers=whole.transfers))
    assert list(half) == ["Curriculum", "Learning curves"]
    assert sections(CurriculumComparison(curriculum=attrs.evolve(done, steps=()))) == {}


def test_why_it_transferred_comes_last() -> None:
    block = BlockAttribution(block="trunk.1", weights=3, without=around(0.8), alone=around(0.9),
                             lost_without=around(0.1), gained_alone=around(0.1))  # fmt: skip
    why = LayerAttribution(source="all_ten", target="parity", strategy="fine_tuning", metric="accuracy", split="test",
                           gain=around(0.1), blocks=(block,))  # fmt: skip
    found = sections(attrs.evolve(sample(), attributions=(why,)))
    assert list(found) == ["Curriculum", "Learning curves", "Why it transferred"]
    assert "<strong>trunk.1</strong> carried most" in found["Why it transferred"]


def test_text_from_data_is_never_markup() -> None:
    plain, evil = sections(sample()), sections(sample(EVIL))
    for title, html in evil.items():
        assert "<script>alert" not in html
        assert html.count("<script") == plain[title].count("<script")


def test_sections_are_the_points_own_type() -> None:
    assert all(isinstance(section, Section) for section in Stage.sections(sample(), TransferGraph()))
