"""The report in a real browser: what a reader clicks, drags and points at, without a network."""

import json
import runpy
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from crosstask.report import write_report

webdriver = pytest.importorskip("selenium.webdriver", reason="pip install selenium (the extra `test` has it)")
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.support.ui import Select  # noqa: E402

pytestmark = pytest.mark.browser

ROOT = Path(__file__).parents[2]
# one sample for both files of tests; test files cannot import one another under --import-mode=importlib
KERNEL_TESTS = runpy.run_path(str(ROOT / "kernel/tests/test_report.py"))
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
def page(browser: Any, tmp_path: Path) -> Iterator[Any]:
    """The sample report, opened; afterwards the browser must have complained of nothing and asked for nothing."""
    path = write_report(*KERNEL_TESTS["sample"](KERNEL_TESTS["EVIL"]), tmp_path / "report.html")
    for log in ("browser", "performance"):
        browser.get_log(log)
    browser.get(path.as_uri())
    wait(lambda: len(browser.find_elements(By.CSS_SELECTOR, ".plot .main-svg")) >= 15)
    yield browser
    assert browser.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = {e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"}
    assert path.as_uri() in asked, "the log of requests is not being written"
    assert {url for url in asked if not url.startswith(("data:", "blob:"))} == {path.as_uri()}


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
    assert 20 <= start <= 3 * len(KERNEL_TESTS["TASKS"])
    assert move(0) == 14 * 13
    assert move(1) == 0
    assert 0 < move(0.6) < start
    slider.send_keys("\ue012")  # the left arrow key: it works without a mouse, too
    assert told(page, "transfer-graph").startswith("0.59")


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
    wait(lambda: select.first_selected_option.text == KERNEL_TESTS["EVIL"].strip())
    assert 0 < edges_drawn(page) < start


def test_learning_curves_follow_the_dropdown(page: Any) -> None:
    lines = "return [...document.querySelectorAll('#learning-curves .js-line')].map(e => e.getAttribute('d')).join()"
    before, said = page.execute_script(lines), told(page, "learning-curves")
    assert "reaches" in said
    select = Select(page.find_element(By.CSS_SELECTOR, "#learning-curves select"))
    assert select.first_selected_option.text == "stage 5 · parity"
    select.select_by_visible_text("stage 2 · inverted")
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


def test_page_without_any_data_opens(browser: Any, tmp_path: Path) -> None:
    from crosstask.graph import TransferGraph
    from crosstask.records import RunRecord

    path = write_report(RunRecord(run_id="1", name="early"), TransferGraph(), tmp_path / "report.html")
    browser.get_log("browser")
    browser.get(path.as_uri())
    assert "no graph to draw" in browser.find_element(By.TAG_NAME, "main").text
    assert browser.get_log("browser") == []
