"""The report in a real browser: what a reader clicks, drags and points at, without a network."""

from __future__ import annotations

import itertools
import json
import math
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import attrs
import pytest

from crosstask import Extension, Plugin, Registry, RunRecord, component, record
from crosstask.descriptors import TaskDescriptor
from crosstask.graph import Evidence, TransferEdge, TransferGraph
from crosstask.options import unstructure
from crosstask.points.stage import Engine, Outcome, Section, Stage
from crosstask.report import write_report
from crosstask_discovery.records import DiscoveryResult
from tests.browser.sample_report import EVIL, FIGURES, HOSTILE, IMPOSSIBLE, TASKS, sample

webdriver = pytest.importorskip("selenium.webdriver", reason="pip install selenium (the extra `test` has it)")
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.support.ui import Select  # noqa: E402

pytestmark = pytest.mark.browser

CHROMIUM, DRIVER = "/usr/bin/chromium", "/usr/bin/chromedriver"
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage "
    "--force-prefers-reduced-motion --window-size=1400,1000"
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    for program in (CHROMIUM, DRIVER):
        if not shutil.which(program):
            pytest.skip(f"no {program}: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in [*FLAGS.split(), f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    driver.set_page_load_timeout(60)
    yield driver
    driver.quit()


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Opens the report of a run; afterwards the browser must have complained of nothing and asked for nothing."""
    path = tmp_path / "report.html"

    def open_report(made: RunRecord, graph: TransferGraph, registry: Registry | None = None) -> Any:
        write_report(made, graph, path, registry or Registry.installed())
        for log in ("browser", "performance"):
            browser.get_log(log)
        browser.get(path.as_uri())
        wait(lambda: browser.execute_script("return document.readyState") == "complete")
        return browser

    yield open_report
    assert browser.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = {e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"}
    assert path.as_uri() in asked, "the log of requests is not being written"
    own = ("data:", "blob:", "chrome:")  # chrome: the browser may still be at its first page
    assert {url for url in asked if not url.startswith(own)} == {path.as_uri()}


@pytest.fixture
def page(opened: Callable[..., Any]) -> Any:
    """The sample report."""
    browser = opened(*sample(EVIL))
    wait(lambda: plots_drawn(browser) == FIGURES)
    return browser


def plots_drawn(page: Any) -> int:
    return len(page.find_elements(By.CSS_SELECTOR, ".plot:has(.main-svg)"))


def wait(condition: Callable[[], Any], seconds: float = 15) -> Any:
    end = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.05)
    return result


# what is on the page: the last trace is the tasks, those before it with points are arrows, most points without a size
ARROWS = (
    "[...document.querySelectorAll('#transfer-graph .points')].slice(0, -1)"
    ".flatMap(e => [...e.querySelectorAll('.point')]).filter(e => e.getBoundingClientRect().width > 3)"
)
FIRST_ARROW = f"return {ARROWS}[0]"
FIRST_TASK = "return [...document.querySelectorAll('#transfer-graph .points')].at(-1).querySelector('.point')"


def edges_drawn(page: Any) -> int:
    return int(page.execute_script(f"return {ARROWS}.length"))


def headings(page: Any) -> list[str]:
    return [heading.text for heading in page.find_elements(By.CSS_SELECTOR, "main h2")]


def told(page: Any, section: str) -> str:
    return str(page.find_element(By.CSS_SELECTOR, f"#{section} output").text)


def point_at(page: Any, x: float, y: float) -> str:
    """Move the mouse to a place of the window and return what the tooltip says."""
    page.execute_script("document.querySelectorAll('.hoverlayer > *').forEach(e => e.remove())")
    mouse = ActionChains(page, duration=0)
    mouse.w3c_actions.pointer_action.move_to_location(int(x) - 40, int(y) - 40)
    mouse.w3c_actions.pointer_action.move_to_location(int(x), int(y))
    mouse.perform()
    tip = wait(lambda: page.find_elements(By.CSS_SELECTOR, ".hoverlayer .hovertext"))
    return str(tip[0].text)


def place(page: Any, script: str) -> tuple[float, float]:
    """Where on the window the element is that `script` returns, scrolled into view."""
    box = page.execute_script(
        f"const e = (() => {{ {script} }})(); e.scrollIntoView({{block: 'center'}});"
        "const b = e.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2]"
    )
    return box[0], box[1]


def test_threshold_slider_removes_edges(page: Any) -> None:
    slider = page.find_element(By.CSS_SELECTOR, "#transfer-graph input[type=range]")

    def move(value: float) -> int:
        set_value = "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input', {bubbles: true}))"
        page.execute_script(set_value, slider, value)
        shown = int(told(page, "transfer-graph").split("· ")[1].split(" of")[0])
        wait(lambda: edges_drawn(page) == shown)
        return shown

    start = edges_drawn(page)
    assert 20 <= start <= 3 * len(TASKS)
    measured = move(0)
    assert 0 < measured < 14 * 13 - IMPOSSIBLE
    assert told(page, "transfer-graph").endswith(f"{measured} of {measured} edges shown")
    assert move(1) == 0
    assert 0 < move(0.6) < start
    slider.send_keys("\ue012")  # the left arrow key: it works without a mouse, too
    assert told(page, "transfer-graph").startswith("0.59")


def dashed(page: Any) -> int:
    lines = "[...document.querySelectorAll('#transfer-graph .js-line')]"
    return int(page.execute_script(f"return {lines}.filter(e => e.style.strokeDasharray.includes('px')).length"))


def test_what_was_not_measured_waits_behind_a_switch(page: Any) -> None:
    start, switch = edges_drawn(page), page.find_element(By.CSS_SELECTOR, "#transfer-graph .switch")
    assert not switch.is_selected()
    assert dashed(page) == 0
    switch.send_keys(" ")  # as a reader without a mouse would
    slider = page.find_element(By.CSS_SELECTOR, "#transfer-graph input[type=range]")
    slider.send_keys("\ue011")  # Home: every edge
    wait(lambda: told(page, "transfer-graph").startswith("0.00"))
    every = 14 * 13 - IMPOSSIBLE
    assert told(page, "transfer-graph").endswith(f"{every} of {every} edges shown")
    wait(lambda: edges_drawn(page) == every > start)
    assert dashed(page) > 0


def test_the_target_of_the_curriculum_is_marked(page: Any) -> None:
    marked = page.find_element(By.CSS_SELECTOR, "#transfer-graph .marked")
    assert marked.text == "◎ parity: target of the curriculum\n◎ has_loop: learned from several sources"
    names = [e.text for e in page.find_elements(By.CSS_SELECTOR, "#transfer-graph .textpoint")]
    assert [name for name in names if "◎" in name] == ["◎ parity", "◎ has_loop"]
    node = "return [...document.querySelectorAll('#transfer-graph .points')].at(-1).querySelectorAll('.point')[3]"
    assert "target of the curriculum" in point_at(page, *place(page, node))


def active(page: Any, what: str) -> Any:
    return page.execute_script(f"return document.activeElement.{what}")


def test_graph_by_keyboard(page: Any) -> None:
    """Tab comes to the figure, arrows go from task to task and on to the edges, Enter shows the edges of one alone."""
    select = page.find_element(By.CSS_SELECTOR, "#transfer-graph select")
    page.execute_script("arguments[0].focus()", select)
    passed = []
    while "plot" not in str(active(page, "className")).split():
        ActionChains(page).send_keys("\ue004").perform()
        passed.append(active(page, "tagName"))
        assert len(passed) < 20
    assert passed[0] == "INPUT", "the switch"
    assert set(passed[1:-1]) == {"BUTTON"}, "the legend"
    outline = "return getComputedStyle(document.activeElement).outlineStyle"
    assert page.execute_script(outline) == "solid", "a reader sees where the focus is"

    def press(key: str) -> str:
        page.execute_script("document.querySelectorAll('.hoverlayer > *').forEach(e => e.remove())")
        page.execute_script("document.activeElement.nextElementSibling.textContent = ''")
        ActionChains(page).send_keys(key).perform()
        said = "return document.activeElement.nextElementSibling.textContent"
        return str(wait(lambda: page.execute_script(said)))

    right, left, end, enter, escape = "\ue014", "\ue012", "\ue010", "\ue007", "\ue00c"
    assert EVIL[:8] in press(right), "the first task"
    assert "zero_to_four" in press(right)
    assert page.find_elements(By.CSS_SELECTOR, "#transfer-graph .hoverlayer .hovertext"), "it shows the tooltip, too"
    assert EVIL[:8] in press(left)
    all_edges = edges_drawn(page)
    press(enter)
    assert Select(select).first_selected_option.text == EVIL
    assert 0 < edges_drawn(page) < all_edges
    press(enter)
    wait(lambda: edges_drawn(page) == all_edges)
    assert "coefficient" in press(end), "edges come after the tasks"
    ActionChains(page).send_keys(escape).perform()
    assert active(page, "nextElementSibling.textContent") == ""


def test_a_row_of_the_strongest_edges_shows_its_target_in_the_graph(page: Any) -> None:
    summary = page.find_element(By.CSS_SELECTOR, "#transfer-graph summary")
    summary.send_keys("\ue007")
    row = page.find_element(By.CSS_SELECTOR, "#transfer-graph td button, #transfer-graph th button")
    target = row.text.split(" → ")[1]
    row.send_keys("\ue007")
    assert Select(page.find_element(By.CSS_SELECTOR, "#transfer-graph select")).first_selected_option.text == target
    assert "plot" in active(page, "className")


def test_the_matrix_and_dots_can_be_walked_by_keyboard(page: Any) -> None:
    for section, said in (("transfer-matrix", "coefficient"), ("curriculum", "with transfer")):
        figure = page.find_element(By.CSS_SELECTOR, f"#{section} .plot")
        page.execute_script("arguments[0].focus()", figure)
        ActionChains(page).send_keys("\ue014").perform()
        assert said in str(wait(lambda: active(page, "nextElementSibling.textContent")))


def test_on_a_phone_only_tables_scroll_sideways_each_in_its_box(page: Any) -> None:
    screen = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    try:
        page.execute_script("document.querySelectorAll('details').forEach(e => e.open = true)")
        wait(lambda: page.execute_script("return innerWidth") == 390)
        wait(lambda: page.execute_script("return document.documentElement.scrollWidth <= innerWidth"))
        beyond = (
            "const out = e => e.getBoundingClientRect().right > 391 && getComputedStyle(e).position !== 'absolute';"
            "return [...document.querySelectorAll('main *, header *')].filter(e => out(e)"
            " && !e.closest('.scroll, pre, svg, .plot')).map(e => e.outerHTML.slice(0, 120))"
        )
        assert page.execute_script(beyond) == []
        wide = page.execute_script(
            "return [...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth + 1)"
            ".map(e => [e.tabIndex, getComputedStyle(e).overflowX])"
        )
        assert wide, "the widest tables are wider than a phone"
        assert all(each == [0, "auto"] for each in wide), "and a reader without a mouse can scroll them"
        small = page.execute_script(
            "return [...document.querySelectorAll('.controls select, .legend button, .controls input')]"
            ".map(e => e.closest('label, button').getBoundingClientRect().height).filter(h => h < 24)"
        )
        assert small == [], "what a finger presses is 24 pixels high at least (WCAG 2.2, 2.5.8)"
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_nodes_and_edges_have_tooltips(page: Any) -> None:
    node = place(page, FIRST_TASK)
    text = point_at(page, *node)
    assert "training samples: 1,078" in text
    assert "best sources" in text
    assert '<script>alert("x")</script>' in text  # the task's name, as text
    text = point_at(page, *place(page, FIRST_ARROW))
    assert "coefficient" in text
    assert "→" in text


def test_matrix_has_tooltips(page: Any) -> None:
    x, y = place(page, "return document.querySelector('#transfer-matrix .heatmaplayer image')")
    size = page.find_element(By.CSS_SELECTOR, "#transfer-matrix .heatmaplayer image").rect
    # fourteen cells each way, and the middle is a corner: go up a half, to the right one and a half (not the diagonal)
    text = point_at(page, x + 1.5 * size["width"] / 14, y - 0.5 * size["height"] / 14)
    assert "coefficient" in text


def test_legend_hides_a_relation_and_brings_it_back(page: Any) -> None:
    start = edges_drawn(page)
    button = page.find_element(By.CSS_SELECTOR, "[data-series='relation moderately_similar']")
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", button)
    button.click()
    assert button.get_attribute("aria-pressed") == "false"
    assert 0 < wait(lambda: (now := edges_drawn(page)) < start and now) < start
    button.click()
    wait(lambda: edges_drawn(page) == start)


def test_one_task_alone_by_dropdown_and_by_click(page: Any) -> None:
    start = edges_drawn(page)
    select = Select(page.find_element(By.CSS_SELECTOR, "#transfer-graph select"))
    select.select_by_visible_text("shuffled_labels")
    wait(lambda: edges_drawn(page) == 0)  # nothing helps the negative control
    x, y = place(page, FIRST_TASK)
    mouse = ActionChains(page, duration=0)
    mouse.w3c_actions.pointer_action.move_to_location(int(x), int(y)).click()
    mouse.perform()
    wait(lambda: select.first_selected_option.text == EVIL)
    assert 0 < edges_drawn(page) < start


def test_learning_curves_follow_the_dropdown(page: Any) -> None:
    lines = "return [...document.querySelectorAll('#learning-curves .js-line')].map(e => e.getAttribute('d')).join()"
    before, said = page.execute_script(lines), told(page, "learning-curves")
    assert "reaches" in said
    select = Select(page.find_element(By.CSS_SELECTOR, "#learning-curves select"))
    assert select.first_selected_option.text == "step 5 · parity"
    select.select_by_visible_text("step 2 · inverted")
    wait(lambda: page.execute_script(lines) != before)
    assert told(page, "learning-curves") != said


@pytest.mark.parametrize("width", [420, 1400])
def test_page_fits_and_follows_the_theme(page: Any, width: int) -> None:
    def look(theme: str) -> tuple[str, str]:
        features = [{"name": "prefers-color-scheme", "value": theme}]
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        return tuple(
            page.execute_script(
                "const of = (q, p) => getComputedStyle(document.querySelector(q))[p];"
                "return [of('body', 'backgroundColor'), of('#transfer-graph .textpoint text', 'fill')]"
            )
        )

    screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    try:
        paper, ink = look("light")
        assert look("dark")[0] != paper
        wait(lambda: look("dark")[1] != ink)
        wait(lambda: page.execute_script("return document.documentElement.scrollWidth <= innerWidth"))
        plots = "[...document.querySelectorAll('.plot .main-svg')]"
        widest = f"return Math.max(...{plots}.map(e => e.getBoundingClientRect().right))"
        wait(lambda: page.execute_script(widest) <= width)
    finally:
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.slow
def test_a_graph_of_300_tasks_opens_in_three_seconds(opened: Callable[..., Any]) -> None:
    """Of 89,700 edges those into each task that are strongest are in the page; what the reader does not see yet is
    drawn after it has opened. In the browser's own CPU time, as the machine may have other work.
    """
    names = [f"task {number}" for number in range(300)]
    graph = TransferGraph(TaskDescriptor(task_id=name) for name in names)
    for number, (a, b) in enumerate(itertools.permutations(names, 2)):
        told = {"evidence": Evidence.MEASURED, "found_by": "probe"} if number % 100 == 0 else {"found_by": "gnn"}
        graph.add(TransferEdge(source=a, target=b, transfer_coefficient=math.sin(number), **told))  # type: ignore[arg-type]
    result = DiscoveryResult(tasks=len(names), metrics=graph.metrics())
    page = opened(RunRecord(run_id="r", name="large", results={"discovery": unstructure(result)}), graph)
    page.execute_cdp_cmd("Performance.enable", {"timeDomain": "threadTicks"})
    page.refresh()
    spent = {each["name"]: each["value"] for each in page.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]}
    assert page.find_elements(By.CSS_SELECTOR, "#transfer-graph .main-svg"), "the graph is there when the page is"
    assert spent["TaskDuration"] < 3
    wait(lambda: plots_drawn(page) == 2, 60)


def test_page_without_any_data_opens(opened: Callable[..., Any]) -> None:
    page = opened(RunRecord(run_id="1", name="early"), TransferGraph())
    assert page.find_element(By.TAG_NAME, "h1").text == "early"
    assert headings(page) == ["Recipe"]
    assert "There is no summary" in page.find_element(By.TAG_NAME, "header").text


# Hostile names --------------------------------------------------------------------------------------------------------

INTRUDERS = "u, img, svg a, [onclick], [onerror], a:not([href^='#']), tspan[style*=underline]"


@pytest.mark.parametrize("width", [390, 1400])
def test_hostile_names_do_no_harm(opened: Callable[..., Any], width: int) -> None:
    """The log of the browser, which must be empty, would also tell of a script that the page's policy had to stop."""
    screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser = opened(*sample())
    wait(lambda: plots_drawn(browser) == FIGURES)
    usual = headings(browser)
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    try:
        page = opened(*sample(*HOSTILE))
        wait(lambda: plots_drawn(page) == FIGURES)
        page.execute_script("document.querySelectorAll('details').forEach(e => e.open = true)")
        assert page.find_elements(By.CSS_SELECTOR, INTRUDERS) == []
        assert len(page.find_elements(By.CSS_SELECTOR, "script:not([type])")) == 2
        assert headings(page) == usual
        for section in page.find_elements(By.CSS_SELECTOR, "main > section"):
            shown = section.get_property("textContent")
            assert "\"'><u/>" in shown, section.get_attribute("id")
        wait(lambda: page.execute_script("return document.documentElement.scrollWidth <= innerWidth"))
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


# What cannot be shown -------------------------------------------------------------------------------------------------


@record
class Done:
    """The result of the stage below."""

    ok: bool = True


@component
class Failing(Stage):
    """Cannot draw."""

    Result: ClassVar[type] = Done

    def work(self, engine: Engine) -> Outcome:
        return Outcome(Done())

    @classmethod
    def sections(cls, result: Any, graph: Any) -> list[Section]:
        raise ValueError(EVIL)


def test_what_cannot_be_shown_is_a_sentence_and_stops_nothing(opened: Callable[..., Any]) -> None:
    registry = Registry.installed()
    extension = Extension("stage", "failing", f"{__name__}:Failing")
    registry.register(Plugin("failing", [extension], api=(2, 0)), distribution="failing-dist", version="1")
    made, graph = sample()
    results = {"failing": {"ok": True}, "nobodys": {"score": 0.5}, **made.results}
    page = opened(attrs.evolve(made, results=results), graph, registry)
    wait(lambda: plots_drawn(page) == FIGURES)
    assert headings(page)[:3] == ["Failing", "Nobodys", "Transfer graph"]
    said = page.find_element(By.ID, "failing").text
    assert f"This section failed: ValueError: {EVIL} (test_report_browser.py, line " in said
    said = page.find_element(By.ID, "nobodys").text
    assert "This result cannot be shown: no stage named 'nobodys'" in said
