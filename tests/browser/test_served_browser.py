"""The served page in a real browser: it follows a run that works in another process, and lays runs side by side."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from crosstask import Registry
from crosstask.cli.serve import Runs, Server
from crosstask.options import unstructure
from tests.browser.sample_report import EVIL, FIGURES, sample
from tests.browser.test_report_browser import By, browser, plots_drawn, wait

__all__ = ["browser"]  # the fixture

pytestmark = pytest.mark.browser

SLOW = Path(__file__).parents[2] / "kernel" / "tests" / "slow_run.py"


@pytest.fixture
def site(tmp_path: Path, browser: Any) -> Iterator[str]:
    """The address of a server over the runs in `tmp_path`; afterwards the browser must have complained of nothing and
    asked nobody else.
    """
    with Server(Runs([tmp_path]), Registry.installed()) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        for log in ("browser", "performance"):
            browser.get_log(log)
        yield server.url
        browser.get("about:blank")
        server.shutdown()
    assert browser.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = {e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"}
    own = (server.url, "data:", "blob:", "chrome:", "about:")
    assert asked
    assert [url for url in asked if not url.startswith(own)] == []


def main(page: Any) -> str:
    return str(page.execute_script("return document.querySelector('main').innerText"))


def test_a_run_is_followed_from_its_begin_to_its_end_without_a_reload(browser: Any, site: str, tmp_path: Path) -> None:
    browser.get(site)
    assert "There is no run here yet" in main(browser)
    go = tmp_path / "go"
    process = subprocess.Popen([sys.executable, str(SLOW), str(tmp_path / "out"), str(go)])
    try:
        wait(lambda: "2 of 3" in main(browser), 60)
        browser.execute_script("document.querySelector(\"main a[href^='/runs/']\").click()")
        wait(lambda: "3 of 8" in main(browser))
        browser.execute_script("window.same = true")
        assert "running" in main(browser)
        assert len(browser.find_elements(By.CSS_SELECTOR, "polyline")) == 2
        drawn = browser.execute_script("return document.querySelector('svg.live').getBoundingClientRect().height")
        assert drawn > 50
        bar = "return [...document.querySelectorAll('progress')].at(-1).value"
        assert browser.execute_script(bar) == pytest.approx(3 / 8, abs=1e-3)
        go.touch()
        wait(lambda: "waited score" in main(browser), 60)
        assert "finished" in main(browser)
        assert browser.execute_script(bar) == 1
        assert browser.execute_script("return window.same"), "the page was not loaded again"
        assert process.wait(60) == 0
        browser.find_element(By.CSS_SELECTOR, "main a[href$='/report']").click()
        wait(lambda: browser.find_elements(By.CSS_SELECTOR, "#recipe"))
        assert browser.find_element(By.TAG_NAME, "h1").text == "slow <i>run"
    finally:
        process.kill()
        process.wait()


def write(folder: Path, *names: str, **changes: Any) -> str:
    record, graph = sample(*names)
    record = attrs.evolve(record, **changes)
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps(unstructure(record)))
    graph.export(folder / "graph.json")
    return record.run_id


def test_ticks_stay_when_something_is_new_and_two_runs_are_laid_side_by_side(
    browser: Any, site: str, tmp_path: Path
) -> None:
    write(tmp_path / "a", EVIL, run_id="one")
    write(tmp_path / "b", EVIL, run_id="two", recipe={"seeds": 4})
    browser.get(site)
    wait(lambda: len(browser.find_elements(By.CSS_SELECTOR, "main input")) == 2)
    for box in browser.find_elements(By.CSS_SELECTOR, "main input"):
        box.click()
    write(tmp_path / "c", EVIL, run_id="three", recipe={"seeds": 5})
    wait(lambda: len(browser.find_elements(By.CSS_SELECTOR, "main input")) == 3)
    ticked = [box.get_attribute("value") for box in browser.find_elements(By.CSS_SELECTOR, "main input:checked")]
    assert sorted(ticked) == ["one", "two"]
    browser.find_element(By.CSS_SELECTOR, "main button").click()
    wait(lambda: "Reports" in main(browser))
    assert "seeds" in main(browser)
    assert "0 of them with another coefficient" in main(browser)
    frames = browser.find_elements(By.CSS_SELECTOR, "iframe")
    places = [frame.rect for frame in frames]
    assert len(places) == 2
    assert places[0]["y"] == places[1]["y"]
    assert places[0]["x"] + places[0]["width"] <= places[1]["x"], "side by side"
    for frame in frames:
        browser.execute_script("arguments[0].scrollIntoView()", frame)
        browser.switch_to.frame(frame)
        wait(lambda: plots_drawn(browser) == FIGURES, 60)
        assert browser.find_element(By.TAG_NAME, "h1").text == "Digits: what helps parity?"
        browser.switch_to.default_content()


@pytest.mark.parametrize("width", [390, 1400])
def test_pages_fit_a_phone_and_names_do_no_harm(browser: Any, site: str, tmp_path: Path, width: int) -> None:
    evil = "\"'><img src=x onerror=alert(1)>" + EVIL
    results = {evil: {"score": 1}}
    for name in ("a", "b"):
        write(tmp_path / name, run_id=f"{evil}{name}", name=evil, results=results, recipe={evil: {}, "b": name})
    screen = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    try:
        browser.get(site)
        wait(lambda: len(browser.find_elements(By.CSS_SELECTOR, "main input")) == 2)
        link = browser.find_element(By.CSS_SELECTOR, "main a[href^='/runs/']").get_attribute("href")
        for box in browser.find_elements(By.CSS_SELECTOR, "main input"):
            browser.execute_script("arguments[0].click()", box)
        button = browser.find_element(By.CSS_SELECTOR, "main button")
        for go in (
            lambda: None,
            lambda: browser.execute_script("arguments[0].click()", button),
            lambda: browser.get(link),
        ):
            go()
            wait(lambda: browser.execute_script("return document.readyState") == "complete")
            assert browser.find_elements(By.CSS_SELECTOR, "img, [onerror], u") == []
            wait(lambda: browser.execute_script("return document.documentElement.scrollWidth <= innerWidth"))
        assert evil in browser.find_element(By.TAG_NAME, "h1").text
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
