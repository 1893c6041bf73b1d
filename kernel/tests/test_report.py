"""The report's frame: its text, its structure, and what is said where a stage's section cannot be had.

What happens in a browser is tested in tests/browser/test_report_browser.py, what the families draw in their own tests.
"""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, ClassVar

import attrs
import pytest

from crosstask import Extension, Plugin, Registry, RunError, RunRecord, TaskDescriptor, component, record
from crosstask.graph import Evidence, TransferEdge, TransferGraph
from crosstask.points.stage import Engine, Outcome, Section, Stage
from crosstask.records import Interval
from crosstask.report import figures, graph_view, render_report, write_report
from crosstask.report.page import PALETTE, escape, table
from crosstask_fakes.registry import with_fakes

EVIL = '<script>alert("x")</script> %{x} </b>'
TASKS = [
    "all_ten", "zero_to_four", "five_to_nine", "parity", "above_four", "prime", "has_loop", "rotated_90", "inverted",
    "blurred", "permuted_pixels", "shuffled_labels", "multiples_of_three", "thick_strokes",
]  # fmt: skip


def sample(first: str = "all_ten", *, seed: int = 7) -> tuple[RunRecord, TransferGraph]:
    """A finished run of the fakes with 14 tasks and invented numbers; `first` replaces the name of one task."""
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
    made = RunRecord(
        run_id="2f6c1a9e", name="Digits: what helps parity?", status="finished", seed=seed, seconds=83.4,
        started="2025-03-04T10:22:31+00:00",
        versions={"python": "3.11.2", "torch": "2.13.0", "crosstask-kernel": "0.1.0", "crosstask-rgb": "0.1.0"},
        recipe={"seeds": 3, "source": {"name": "digits"}, "look": {}, "prepare": {"task": "prime"},
                "again": {"use": "prepare", "max_tasks": 5}},
        summary={
            "pairs_measured": 126, "target": "parity", "target_accuracy": {"mean": 0.94, "low": 0.91, "high": 0.97},
            "scratch_accuracy": {"mean": 0.88}, "unseen_accuracy": 0.71, "not_measured": None, "list": ["a", "b"],
            "flag": True, "broken": float("nan"),
        },
        results={
            "look": {"edges": 9, "mean": 0.5},
            "prepare": {"task": "prime", "options": {"scale": 2.5}},
            "again": {"task": "parity"},
            "measure": {"score": 0.5},
        },
    )  # fmt: skip
    return made, graph


class Page(HTMLParser):
    """What a browser would make of the page: headings, scripts, elements with an address, labels of figures."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.headings: list[str] = []
        self.scripts: list[str] = []
        self.addresses: list[str] = []
        self.figures: list[str] = []
        self.ids: list[str] = []
        self.elements: list[str] = []
        self.text = ""
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        self._inside = tag
        self.elements.append(tag)
        if tag == "script":
            self.scripts.append("")
        if tag == "section":
            self.ids.append(str(given["id"]))
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

    def traces(self) -> list[dict[str, Any]]:
        found = (json.loads(script) for script in self.scripts if script.startswith('{"data"'))
        return [trace for figure in found for trace in figure["data"]]


def read(made: RunRecord, graph: TransferGraph, folder: Path, registry: Registry | None = None) -> Page:
    path = folder / "report.html"
    assert write_report(made, graph, path, registry or with_fakes()) == path
    return Page(path.read_text("utf-8"))


def drawn(html: str) -> list[dict[str, Any]]:
    return Page(html).traces()


# The frame ------------------------------------------------------------------------------------------------------------


def test_header_sections_of_stages_and_recipe_and_nothing_from_outside(tmp_path: Path) -> None:
    page = read(*sample(), tmp_path)
    assert page.headings == [
        "Digits: what helps parity?", "Transfer graph", "Prepared", "Prepared: again", "Recipe",
    ], "a stage without sections has no heading"  # fmt: skip
    assert all(address.startswith(("#", "data:")) for address in page.addresses)
    assert sum(len(script) > 1_000_000 for script in page.scripts) == 1  # plotly, once
    assert [bool(label) for label in page.figures] == [True]
    for shown in (
        "0.940", "0.910 to 0.970", "1 min 23 s", "torch 2.13.0", "max_tasks", "a model of parity", "a, b", "yes",
        "crosstask-kernel 0.1.0", "2025-03-04 10:22:31",
    ):  # fmt: skip
        assert shown in page.text
    assert "crosstask-rgb 0.1.0" not in page.text, "built-in plugins are listed at the end alone"
    assert '"crosstask-rgb": "0.1.0"' in page.text
    assert page.text.count("Options of ") == 1
    assert "Options of prepare" in page.text
    assert '"scale": 2.5' in page.text


@pytest.mark.parametrize("status", ["running", "interrupted", "failed"])
def test_what_is_missing_is_said(tmp_path: Path, status: str) -> None:
    page = read(RunRecord(run_id="1", name="early", status=status), TransferGraph(), tmp_path)
    assert page.headings == ["early", "Recipe"]
    assert page.figures == []
    for said in ("no summary", "neither a recipe nor options"):
        assert said in page.text


def test_what_went_wrong_stands_at_the_top(tmp_path: Path) -> None:
    made, graph = sample()
    page = read(attrs.evolve(made, status="failed", error="ZeroDivisionError: in <stage>"), graph, tmp_path)
    assert "What went wrong. ZeroDivisionError: in <stage>" in page.text
    assert page.text.index("What went wrong") < page.text.index("Transfer graph")


def test_text_from_data_is_never_markup(tmp_path: Path) -> None:
    made, graph = sample(EVIL)
    plain = read(*sample(), tmp_path)
    made = attrs.evolve(
        made, name=EVIL, run_id=EVIL, error=EVIL, started=EVIL, summary={EVIL: EVIL},
        versions={EVIL: EVIL}, recipe={**made.recipe, EVIL: {"use": "prepare"}, "lost": {"use": EVIL}},
        results={**made.results, EVIL: {"task": "x", "options": {EVIL: EVIL}}, "lost": {EVIL: EVIL}},
    )  # fmt: skip
    page = read(made, graph, tmp_path)
    assert len(page.scripts) == len(plain.scripts)
    assert page.headings[0] == EVIL
    assert f"Prepared: {EVIL}" in page.headings
    assert f"{EVIL.capitalize()}: lost" in page.headings
    assert EVIL in page.text
    for trace in page.traces():
        assert "<script" not in json.dumps(trace)


def test_the_same_run_gives_the_same_report(tmp_path: Path) -> None:
    first, second = (write_report(*sample(), tmp_path / name, with_fakes()).read_bytes() for name in ("a", "b"))
    assert first == second


def test_text_cannot_turn_round_what_follows_it() -> None:
    assert escape("a\u202eb\u2067c\0 <") == "a\ufffdb\ufffdc\ufffd &lt;"
    assert escape("שלום\n\tلا") == "שלום\n\tلا", "scripts that run from right to left are as they are"


def test_numbers_stay_on_one_line_and_text_does_not() -> None:
    html = table("t", ("a", "b", "c"), [("first", "−0.123 [−0.456, −0.023]", "a task, another task, a third one")])
    assert html.count("<td class=text>a task") == html.count("<td>−0.123") == 1


def test_a_long_word_is_cut_but_not_left_out() -> None:
    rows = [(f"{n} · {'x' * 40}{n}", [("gain", "more", Interval(mean=0.1, low=0.0, high=0.2))]) for n in range(2)]
    ticks = figures.dots(rows, "gain").layout.yaxis.ticktext
    assert [tick.endswith(f"x{n}") and "…" in tick for n, tick in enumerate(ticks)] == [True, True]


def test_each_light_colour_stands_for_one_role() -> None:
    assert len({light for light, _ in PALETTE.values()}) == len(PALETTE)


def test_importing_the_report_imports_no_plotly() -> None:
    code = "import sys, crosstask.report; sys.exit('plotly' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_plotly_that_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crosstask.report.available", lambda: False)
    with pytest.raises(RunError, match=r"the report needs plotly: pip install 'crosstask-kernel\[report\]'"):
        write_report(*sample(), tmp_path / "report.html", with_fakes())


# Sections of stages ---------------------------------------------------------------------------------------------------


@record
class Done:
    """The result of the stages below."""

    ok: bool = True


class Shows(Stage):
    """Whatever `sections` gives."""

    Result: ClassVar[type] = Done

    def work(self, engine: Engine) -> Outcome:
        return Outcome(Done())


@component
class Failing(Shows):
    """Cannot draw."""

    @classmethod
    def sections(cls, result: Any, graph: Any) -> list[Section]:
        return [Section("Before", "<p>drawn</p>"), Section("x", str({}["no <such> key"]))]


@component
class Odd(Shows):
    """Gives no section."""

    @classmethod
    def sections(cls, result: Any, graph: Any) -> Any:
        return ["<p>text</p>"]


@component
class Same(Shows):
    """Two sections of one title, one of another stage's, and one whose title is markup."""

    @classmethod
    def sections(cls, result: Any, graph: Any) -> Any:
        titles = ("Learning curves", "Learning curves", "Transfer graph", EVIL, "!")
        return (Section(title, f"<p>number {n}</p>") for n, title in enumerate(titles))


def showing(**stages: str) -> Registry:
    registry = with_fakes()
    extensions = [Extension("stage", name, f"{__name__}:{cls}") for name, cls in stages.items()]
    registry.register(Plugin("shows", extensions, api=(2, 0)), distribution="shows-dist", version="3")
    return registry


def with_results(*names: str) -> tuple[RunRecord, TransferGraph]:
    made, graph = sample()
    return attrs.evolve(made, results={"look": made.results["look"], **{name: {"ok": True} for name in names}}), graph


def test_a_stage_whose_plugin_is_missing_is_a_sentence(tmp_path: Path) -> None:
    page = read(*with_results("few_shot"), tmp_path)
    assert page.headings[1:] == ["Transfer graph", "Few shot", "Recipe"]
    assert "This result cannot be shown: no stage named 'few_shot'" in page.text
    page = read(*with_results("shows"), tmp_path, showing(shows="Nowhere"))
    assert "This result cannot be shown: stage 'shows' (shows-dist 3): " in page.text
    assert "has no 'Nowhere'" in page.text


def test_a_result_that_its_stage_cannot_read_is_a_sentence(tmp_path: Path) -> None:
    made, graph = with_results()
    page = read(attrs.evolve(made, results={"prepare": {"taks": "x"}}), graph, tmp_path)
    assert page.headings[1:] == ["Prepare", "Recipe"]
    assert "This result cannot be shown: prepare: unknown option 'taks'; did you mean 'task'" in page.text


@pytest.mark.parametrize(
    ("cls", "said"),
    [
        ("Failing", "This section failed: KeyError: 'no <such> key' (test_report.py, line "),
        ("Odd", "This section failed: TypeError: sections must give Section objects, got '<p>text</p>' ("),
    ],
)
def test_a_section_that_fails_takes_nothing_with_it(tmp_path: Path, cls: str, said: str) -> None:
    page = read(*with_results("shows"), tmp_path, showing(shows=cls))
    assert page.headings[1:] == ["Transfer graph", "Shows", "Recipe"]
    assert said in page.text


def test_every_section_can_be_reached_whatever_its_title(tmp_path: Path) -> None:
    page = read(*with_results("shows"), tmp_path, showing(shows="Same"))
    wanted = ["Transfer graph", "Learning curves", "Learning curves", "Transfer graph", EVIL, "!", "Recipe"]
    assert page.headings[1:] == wanted
    assert len(page.ids) == len(set(page.ids)) == len(wanted)
    assert page.ids[:3] == ["transfer-graph", "learning-curves", "learning-curves-2"]
    assert all(re.fullmatch(r"[a-z0-9-]+", name) for name in page.ids)
    assert [address for address in page.addresses if address.startswith("#")] == [f"#{name}" for name in page.ids]
    for number in range(5):
        assert f"number {number}" in page.text


# The graph ------------------------------------------------------------------------------------------------------------


def test_graph_draws_every_pair_once_and_dots_what_is_not_measured() -> None:
    _, graph = sample()
    traces = [trace for trace in drawn(graph_view.render(graph)) if "edges" in trace.get("meta", {})]
    lines, arrows = ([t for t in traces if t["mode"] == mode] for mode in ("lines", "markers"))
    for half in (lines, arrows):
        pairs = [(s, t) for trace in half for _, s, t in trace["meta"]["edges"]]
        assert len(pairs) == len(set(pairs)) == 14 * 13
        for trace in half:
            points = len(trace["meta"]["edges"]) * trace["meta"]["span"]
            assert len(trace["x"]) == len(trace["y"]) == points
    for trace in lines:
        assert (trace["line"]["dash"] == "solid") != ("guessed" in trace["meta"]["series"])
    assert all(len(trace["text"]) == len(trace["meta"]["edges"]) for trace in arrows)
    text = next(t for trace in arrows for t in trace["text"] if "probe" in t)
    assert re.search(r"coefficient [+−]0\.\d{3} \[[+−]", text)
    assert "also" in text
    assert "estimated by skills" in text


def test_the_seed_decides_where_tasks_are_drawn() -> None:
    _, graph = sample()
    assert graph_view.render(graph) == graph_view.render(graph, 0)
    assert graph_view.render(graph, seed=1) == graph_view.render(graph, seed=1) != graph_view.render(graph, seed=2)


def test_a_graph_without_edges_is_a_sentence() -> None:
    assert "no graph to draw" in graph_view.render(TransferGraph([TaskDescriptor(task_id="a")]))


def test_what_was_noticed_stands_above_the_summary() -> None:
    record, graph = sample()
    page = render_report(attrs.evolve(record, notes=("task 'a': <b>hardly</b> better",)), graph, with_fakes())
    assert "<li>task 'a': &lt;b&gt;hardly&lt;/b&gt; better</li>" in page
    assert page.index("What was noticed") < page.index("Summary")
    assert "What was noticed" not in render_report(record, graph, with_fakes())


def test_a_report_that_cannot_be_written_is_said_and_the_old_one_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_report(*sample(), tmp_path / "report.html", with_fakes())
    before = path.read_bytes()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    for what in ("write_bytes", "replace"):
        with monkeypatch.context() as patched:
            patched.setattr(Path, what, full)
            with pytest.raises(
                RunError,
                match=r"cannot write report .*\.html: No space left on device \([\d,]+ bytes free, [\d,]+ needed\)",
            ):
                write_report(*sample(), path, with_fakes())
    assert [each.name for each in tmp_path.iterdir()] == ["report.html"]
    assert path.read_bytes() == before
