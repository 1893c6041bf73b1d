"""Figures that say what they are, and results at home in Python: gains, frames, notebook tables, pictures, progress."""

from __future__ import annotations

import io
import itertools
import math
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from rich.console import Console

from crosstask import (
    Budget,
    CrosstaskError,
    Curriculum,
    Evidence,
    GraphError,
    Interval,
    ModelSpec,
    Portfolio,
    Progress,
    RunRecord,
    Task,
    TaskDescriptor,
    TransferEdge,
    TransferEngine,
    TransferGraph,
    TransferResult,
)
from crosstask.drawing import color
from crosstask.learning.transferring import speed_interval
from crosstask.points.stage import Section
from crosstask.records import CurriculumResult, CurriculumStep, LearningCurve
from crosstask.showing import flat, times
from crosstask_fakes.registry import with_fakes

EVIL = '<script>"x"</script>&'


# Gains ----------------------------------------------------------------------------------------------------------------


def reaching(step: int, level: float = 0.8, last: int = 80) -> LearningCurve:
    """A curve that is at `level` from this step on."""
    steps = tuple(range(0, last + 1, 5))
    return LearningCurve(steps=steps, values=tuple(level if s >= step else 0.1 for s in steps))


def test_the_speed_gains_interval_is_of_the_logarithms_over_seeds() -> None:
    found = speed_interval([reaching(20), reaching(5)], [reaching(40), reaching(40)])  # twice and eight times as fast
    assert found is not None
    assert found.values == (2.0, 8.0)
    assert found.mean == pytest.approx(4)
    # the logarithms ln 2 and ln 8 have a standard error of ln 2; t for one degree of freedom is 12.706
    assert (found.low, found.high) == (pytest.approx(4 / 2**12.706), pytest.approx(4 * 2**12.706))
    even = speed_interval([reaching(20)] * 3, [reaching(40)] * 3)
    assert even is not None
    assert (even.low, even.mean, even.high) == (pytest.approx(2),) * 3


def test_no_interval_where_a_seed_never_gets_there_or_is_alone() -> None:
    never = LearningCurve(steps=(0, 40), values=(0.1, 0.2))
    assert speed_interval([reaching(20), never], [reaching(40), reaching(40)]) is None
    assert speed_interval([reaching(20)], [reaching(40)]) is None


def test_an_interval_has_signs_where_it_is_of_a_difference() -> None:
    score, gain = Interval(mean=0.871, low=0.85, high=0.8919), Interval(mean=0.02, low=-0.01, high=0.05)
    assert str(score) == f"{score}" == "0.871 [0.850, 0.892]"
    assert f"{gain:+}" == "+0.020 [-0.010, +0.050]"
    assert str(gain) == "0.020 [-0.010, 0.050]"
    assert f"{score:.1%}" == "87.1% [85.0%, 89.2%]"
    assert f"{gain:+.2f}" == "+0.02 [-0.01, +0.05]"
    with pytest.raises(ValueError, match="format"):
        f"{score:wide}"


def test_ratios_say_when_they_are_capped() -> None:
    assert times(None) == "–"
    assert times(8.0, True) == "at least 8×"
    assert times(2.44, False, Interval(mean=2.44, low=1.11, high=5.2)) == "2.4× [1.1×, 5.2×]"
    assert times(2.5) == "2.5×"


def digits(name: str, classes: int) -> Task:
    """scikit-learn's digits, told apart modulo `classes`."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    inputs, targets = torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels % classes)
    rows = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(0))
    parts = dict(zip(("train", "validation", "test"), rows[:900].split(300), strict=True))
    about = TaskDescriptor(task_id=name, input_shape=(64,), output_dim=classes, task_type="classification")
    return Task(descriptor=about, **{split: (inputs[own], targets[own]) for split, own in parts.items()})


def engine(**options: Any) -> TransferEngine:
    told = {"registry": with_fakes(), "discoverers": [], "model": ModelSpec(hidden=(32,)), "seeds": 2, "seed": 1,
            "train": Budget(steps=150), "budget": Budget(steps=20, evaluate_every=5)}  # fmt: skip
    return TransferEngine(**{**told, **options})


def test_a_transfer_of_the_same_task_is_capped_in_steps_and_samples_and_stands_beside_chance() -> None:
    tasks = [digits(name, 10) for name in ("one", "same")]
    with engine() as made:
        made.register(Portfolio(tasks))
        result = made.transfer_knowledge("one", "same", samples=True)
        _, test = (tasks[1].data(split).targets.numpy() for split in ("train", "test"))
        most = np.bincount(tasks[1].data("train").targets.numpy()).argmax()
        assert result.chance == pytest.approx(float((test == most).mean()))
        assert not result.learned_nothing
        assert result.curve.values[0] >= result.scratch_curve.values[-1], "it is there before its first step"
        assert result.speed_capped
        assert (result.sample_efficiency_gain, result.sample_efficiency_capped) == (8.0, True)
        done = made.run_curriculum(Curriculum(target="same", task_sequence=("one", "same")))
        assert [step.chance for step in done.steps] == [result.chance] * 2
        frame = done.to_frame()
        assert list(frame["task_id"]) == ["one", "same"]
        assert frame["gain_low"][1] == done.steps[1].gain.low
        assert "Best measured source" in made._repr_html_()


def test_a_task_without_signal_is_said_to_have_taught_nothing() -> None:
    noise = torch.Generator().manual_seed(3)
    rows = (torch.zeros(60, 4), (torch.rand(60, generator=noise) < 0.3).long())
    about = TaskDescriptor(task_id="noise", input_shape=(4,), output_dim=2)
    with engine(budget=Budget(steps=30)) as made:
        for name in ("a", "b"):
            task = attrs.evolve(about, task_id=name)
            made.register_task(Task(descriptor=task, train=rows, validation=rows, test=rows))
        result = made.transfer_knowledge("a", "b")
    assert result.chance == pytest.approx(float((rows[1] == 0).float().mean()))
    assert result.learned_nothing
    assert not result.certain


# Frames ---------------------------------------------------------------------------------------------------------------


def small(*names: str) -> TransferGraph:
    a, b, c = names or ("a", "b", "c")
    graph = TransferGraph(TaskDescriptor(task_id=name, domain=name) for name in (a, b, c))
    measured = {"evidence": Evidence.MEASURED, "found_by": "probe"}
    graph.add(TransferEdge(source=a, target=b, transfer_coefficient=0.9, found_by="skills", estimates={"logme": 0.5}))
    graph.add(TransferEdge(source=a, target=b, transfer_coefficient=0.3, low=0.1, high=0.5, **measured))
    graph.add(TransferEdge(source=b, target=a, transfer_coefficient=-0.4, low=-0.6, high=-0.2, **measured))
    graph.add(TransferEdge(source=c, target=a, transfer_coefficient=0.99, found_by="skills"))
    graph.add(TransferEdge(source=c, target=b, transfer_coefficient=0.7, found_by="skills"))
    graph.rule_out(c, a, "its inputs have another shape")
    return graph


def test_a_graphs_frame_has_a_row_for_each_edge_and_each_impossible_pair() -> None:
    frame = small().to_frame()
    assert len(frame) == 6
    assert list(frame.query("measured & strongest")["transfer_coefficient"]) == [0.3, -0.4]
    assert list(frame.query("strongest")["evidence"]) == ["measured", "measured", "predicted", "predicted"]
    assert frame.query("evidence == 'impossible'")[["source", "target", "reason"]].values.tolist() == [
        ["c", "a", "its inputs have another shape"]
    ]
    assert frame["estimate_logme"].dropna().tolist() == [0.5]
    assert frame.query("measured")["low"].tolist() == [0.1, -0.6]
    empty = TransferGraph().to_frame()
    assert len(empty) == 0
    assert {"source", "target", "transfer_coefficient"} <= set(empty)


def step(number: int, task_id: str) -> CurriculumStep:
    return CurriculumStep(
        step=number, task_id=task_id, score=Interval(mean=0.9, low=0.8, high=1.0), chance=0.5,
        scratch_score=Interval(mean=0.7, low=0.6, high=0.8), gain=Interval(mean=0.2, low=0.0, high=0.4),
    )  # fmt: skip


def results(name: str = "a") -> dict[str, Any]:
    half = Interval(mean=0.5, low=0.25, high=0.75, values=(0.4, 0.6))
    plan = Curriculum(target=name, task_sequence=("b", name), task_difficulties={name: 0.5})
    transfer = TransferResult(
        source="b", target=name, strategy="lp_ft", metric="accuracy", split="test", score=half, scratch_score=half,
        coefficient=half, performance_gain=half, seeds=2, budget=Budget(steps=7),
    )  # fmt: skip
    done = CurriculumResult(
        curriculum=plan, strategy="lp_ft", metric="accuracy", steps=(step(1, "b"), step(2, name)), total_steps=9
    )
    record = RunRecord(run_id="1", name=name, summary={"gain": {"mean": 0.5, "low": 0.1, "high": 0.9}, "tasks": 3})
    return {"plan": plan, "transfer": transfer, "done": done, "record": record}


def test_results_are_frames_with_intervals_as_columns() -> None:
    made = results()
    [row] = made["transfer"].to_frame().to_dict("records")
    assert (row["performance_gain"], row["performance_gain_low"], row["performance_gain_high"]) == (0.5, 0.25, 0.75)
    assert (row["source"], row["target"], row["budget_steps"]) == ("b", "a", 7)
    assert made["plan"].to_frame()["task_id"].tolist() == ["b", "a"]
    assert made["done"].to_frame()["gain_high"].tolist() == [0.4, 0.4]
    assert made["record"].to_frame().to_dict("records")[0] == {"figure": "gain", "value": 0.5, "low": 0.1, "high": 0.9}
    assert flat(step(1, "b"))["score_low"] == 0.8
    assert isinstance(Portfolio([Task(descriptor=TaskDescriptor(task_id="a"))]).to_frame(), pd.DataFrame)


def test_without_pandas_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    for shown in (small(), results()["transfer"], Portfolio()):
        with pytest.raises(CrosstaskError, match="a frame needs pandas: pip install pandas"):
            shown.to_frame()


# Notebooks ------------------------------------------------------------------------------------------------------------


def test_notebook_tables_hold_text_and_no_markup_of_data() -> None:
    portfolio = Portfolio([Task(descriptor=TaskDescriptor(task_id=EVIL))], name=EVIL)
    with engine() as made:
        made.register_task(Task(descriptor=TaskDescriptor(task_id=EVIL)))
        shown = [made, portfolio, small(EVIL, "b", "c"), small(EVIL, "b", "c").plot(), *results(EVIL).values()]
        for each in shown:
            html = each._repr_html_()
            assert "<script" not in html
            assert "&lt;script&gt;" in html
            tree = ET.fromstring(html)  # well formed, and so escaped
            assert tree.tag in ("table", "{http://www.w3.org/2000/svg}svg")


def test_a_graphs_table_says_what_is_only_predicted_and_what_cannot_be() -> None:
    html = small()._repr_html_()
    assert "2 pairs; 2 more only estimated or predicted; 1 impossible" in html
    assert "0.990" not in html
    long = TransferGraph(TaskDescriptor(task_id=str(n)) for n in range(30))
    for n in range(29):
        long.add(TransferEdge(source=str(n), target=str(n + 1), transfer_coefficient=0.5))
    assert long._repr_html_().count("<tr>") == 1 + 20 + 1, "a notebook is not flooded"
    assert "and 9 more" in long._repr_html_()


def test_hubs_are_tasks_that_were_measured_to_help() -> None:
    graph = small()
    assert graph.metrics()["hubs"] == ["a"]
    assert graph.centrality() == {"a": pytest.approx(0.15), "b": 0.0, "c": 0.0}
    guessed = TransferGraph([TaskDescriptor(task_id="a"), TaskDescriptor(task_id="b")])
    guessed.add(TransferEdge(source="a", target="b", transfer_coefficient=0.5))
    assert guessed.centrality()["a"] == 0.5, "where nothing was measured, a prediction is all there is"


# Pictures -------------------------------------------------------------------------------------------------------------

SVG = "{http://www.w3.org/2000/svg}"


def test_a_graph_is_drawn_as_svg_with_measured_edges_first(tmp_path: Path) -> None:
    path = tmp_path / "graph.svg"
    drawn = small().plot(path)
    tree = ET.parse(path).getroot()
    edges = [e for e in tree.iter(f"{SVG}polyline") if len(e.attrib["points"].split()) > 2]
    assert len(edges) == len(list(tree.iter(f"{SVG}polygon"))) == 2
    assert not any("stroke-dasharray" in e.attrib for e in edges)
    assert {"a", "b", "c"} <= {e.text for e in tree.iter(f"{SVG}text")}
    assert "2 edges (measured)" in drawn.svg()
    more = ET.fromstring(small().plot(guessed=True).svg())
    dashed = [e for e in more.iter(f"{SVG}polyline") if "stroke-dasharray" in e.attrib]
    assert len(dashed) == 1, "c -> b; what cannot be tried is not drawn"
    assert len(list(ET.fromstring(small().plot(most=1).svg()).iter(f"{SVG}polygon"))) == 1
    assert small().plot().svg() == small().plot().svg() != small().plot(seed=1).svg()
    TransferGraph().plot(tmp_path / "empty.svg")


def test_a_graph_is_drawn_as_png(tmp_path: Path) -> None:
    names = (EVIL, "two\nlines", "\ud800 長い名前 \u202e")
    small(*names).plot(tmp_path / "graph.svg", guessed=True)
    ET.parse(tmp_path / "graph.svg")
    drawn = small(*names).plot(tmp_path / "graph.png", guessed=True)
    with Image.open(tmp_path / "graph.png") as image:
        assert image.size == (2 * drawn.width, 2 * drawn.height)
        colours = {tuple(int(color(role)[at : at + 2], 16) for at in (1, 3, 5)) for role in ("paper", "ink")}
        assert colours <= {colour for _, colour in image.convert("RGB").getcolors(1 << 24)}


def test_what_cannot_be_drawn_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(GraphError, match=r"cannot draw 'graph\.pdf': the suffix must be \.svg or \.png"):
        small().plot(tmp_path / "graph.pdf")
    (tmp_path / "file").write_text("")
    with pytest.raises(CrosstaskError, match=r"cannot write picture .*graph.svg: File exists"):
        small().plot(tmp_path / "file" / "graph.svg")
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(CrosstaskError, match=r"needs Pillow: pip install 'pillow>=10.1'; a \.svg needs nothing"):
        small().plot(tmp_path / "graph.png")
    assert not (tmp_path / "graph.png").exists()


def test_a_dashed_line_keeps_its_length() -> None:
    from crosstask.drawing import _dashes

    parts = _dashes([(0.0, 0.0), (30.0, 40.0), (30.0, 90.0)])  # 100 long: 5 drawn, 4 left out, eleven times, and 1
    drawn = sum(math.dist(a, b) for part in parts for a, b in itertools.pairwise(part))
    assert drawn == pytest.approx(11 * 5 + 1)
    assert len(parts) == 12


# Progress -------------------------------------------------------------------------------------------------------------


def test_progress_is_drawn_while_something_works_and_not_longer(capsys: pytest.CaptureFixture[str]) -> None:
    bars = Progress()
    with engine(observers=[bars]) as made:
        made.register(Portfolio([digits("a", 2), digits("b", 2)]))
        made.train()
        assert bars._bars is None, "the terminal is its owner's again"
        made.run_curriculum(Curriculum(target="b", task_sequence=("a", "b")))
    told = capsys.readouterr()
    assert told.out == "", "what a script prints stays clean"
    assert "Train" in told.err
    assert "Curriculum" in told.err
    assert told.err.count("2/2") == 2


def test_progress_is_quiet_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    bars = Progress(quiet=True)
    bars.stage_started("train", 3)
    bars.stage_progress("train", "a")
    bars.training_step("train", 1, {})
    bars.stage_finished("train", None)
    bars.run_finished(None, None)
    told = capsys.readouterr()
    assert (told.out, told.err) == ("", "")


def test_progress_draws_into_the_cell_of_a_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[bool] = []
    own = Console(file=io.StringIO())
    own.is_jupyter = True
    found: list[Any] = [None]

    def consoles(**options: Any) -> Console:
        shown.append(bool(options))
        return own if not options else Console(**options)

    monkeypatch.setattr("crosstask.progress.Console", consoles)
    monkeypatch.setattr("crosstask.progress.find_spec", lambda name: found[0])
    monkeypatch.setattr("rich.live.Live.refresh", lambda self: None)  # IPython itself is not there
    for installed, asked in ((True, [False]), (False, [False, True])):
        shown.clear()
        found[0] = object() if installed else None
        bars = Progress()
        bars.stage_started("train", None)
        assert shown == asked, "with options: the console on standard error"
        assert bars._bars is not None
        assert (bars._bars.console is own) is installed
        bars.stop()


def test_a_section_may_mark_tasks() -> None:
    assert Section("t", "<p></p>").marks == {}
    assert Section("t", "<p></p>", {"a": "target"}).marks == {"a": "target"}
