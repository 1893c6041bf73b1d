"""The sections that all built-in stages draw, without a browser: none is forgotten, and no name is markup in any."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import attrs
import pytest

from crosstask import Registry
from crosstask.report import write_report
from tests.browser.sample_report import FIGURES, HOSTILE, SECTIONS, sample

pytest.importorskip("plotly")
# what plotly reads as markup and fills in, as far as the report itself writes it
MARKUP = {"<b>", "</b>", "<br>", "<extra>", "</extra>"}
PLACES = {"%{text}", "%{hovertext}", "%{fullData.name}", "%{x}", "%{y}", "%{x:.3f}", "%{y:.3f}"}


class Page(HTMLParser):
    """The elements and attributes of a page, its text, its headings and the figures' data."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[str] = []
        self.attributes: set[str] = set()
        self.addresses: set[str] = set()
        self.headings: list[str] = []
        self.figures: list[Any] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        self.attributes |= {name for name, _ in attributes}
        self.addresses |= {str(value) for name, value in attributes if name in ("href", "src")}

    def handle_data(self, data: str) -> None:
        if self.elements[-1:] == ["h2"]:
            self.headings.append(data)
        if self.elements[-1:] not in (["script"], ["style"]):
            self.text += data
        elif data.startswith('{"data"'):
            self.figures.append(json.loads(data))


def read(folder: Path, *names: str, only: str | None = None) -> Page:
    made, graph = sample(*names)
    if only is not None:
        made = attrs.evolve(made, results={only: made.results[only]})
    path = write_report(made, graph, folder / "report.html", Registry.installed())
    return Page(path.read_text("utf-8"))


def labels(data: Any) -> Iterator[str]:
    """All texts of a figure but the names by which the page's own script finds its traces."""
    if isinstance(data, str):
        yield data
    elif isinstance(data, dict):
        for key, value in data.items():
            if key != "meta":
                yield from labels(value)
    elif isinstance(data, list):
        for value in data:
            yield from labels(value)


def test_the_sample_has_every_built_in_stage(tmp_path: Path) -> None:
    index = json.loads((Path(__file__).parents[1] / "plugins/index.json").read_text("utf-8"))["offers"]
    assert {name.removeprefix("stage/") for name in index if name.startswith("stage/")} == set(SECTIONS)
    page = read(tmp_path)
    assert page.headings == [*(title for titles in SECTIONS.values() for title in titles), "Recipe"]
    assert len(page.figures) == FIGURES
    assert "cannot be shown" not in page.text
    assert "This section failed" not in page.text


@pytest.mark.parametrize("stage", SECTIONS)
def test_text_from_data_is_never_markup(tmp_path: Path, stage: str) -> None:
    plain, evil = read(tmp_path, only=stage), read(tmp_path, *HOSTILE, only=stage)
    assert evil.headings == [*SECTIONS[stage], "Recipe"]
    assert evil.elements == plain.elements
    assert evil.attributes == plain.attributes
    assert all(address.startswith("#") or address == "data:," for address in evil.addresses)
    assert any(name in evil.text for name in HOSTILE)
    assert "\u202e" not in evil.text, "the text behind it, numbers too, would run backwards"
    assert len(evil.figures) == len(plain.figures)
    for label in labels(evil.figures):
        assert set(re.findall(r"<[^>]*>?", label)) <= MARKUP
        assert set(re.findall(r"%{[^}]*}", label)) <= PLACES
