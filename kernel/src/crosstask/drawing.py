"""Pictures without a plotting library: colours, where tasks are drawn, and a small picture that is written as SVG,
which needs nothing, or PNG, which needs Pillow. The report draws its graph in the same places.
"""

from __future__ import annotations

import html
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import networkx as nx

from crosstask.errors import CrosstaskError, GraphError
from crosstask.writing import atomic

# role: (light, dark). Figures are made with the light colour; page.js swaps it, so each light colour occurs once.
# Blue against orange, and Okabe and Ito's colours for series, stay apart for every common kind of colour blindness.
PALETTE = {
    "paper": ("#fdfdfc", "#12161c"),
    "panel": ("#f4f5f4", "#1a2029"),
    "rule": ("#dfe2e4", "#2c3541"),
    "ink": ("#1b2430", "#e8ebef"),
    "muted": ("#5a6573", "#98a4b3"),
    "accent": ("#0067a8", "#63b3ee"),
    "identical": ("#08306b", "#dcecff"),
    "highly_similar": ("#1f5fa8", "#9dcbfb"),
    "moderately_similar": ("#4a8fd0", "#5c9fe6"),
    "weakly_similar": ("#86b6e2", "#3c6fa8"),
    "complementary": ("#00876c", "#35c9a0"),
    "independent": ("#9aa2ac", "#667180"),
    "antagonistic": ("#c8540a", "#ff9147"),
    "less": ("#a8480a", "#ff9a52"),
    "slightly_less": ("#eba36c", "#8f562d"),
    "neither": ("#f0f1f2", "#262e39"),
    "slightly_more": ("#7fb0e0", "#34618f"),
    "more": ("#16508f", "#7dbdff"),
    "on_strong": ("#ffffff", "#0b0f14"),
    "series1": ("#0072b2", "#4ba6e3"),
    "series2": ("#d55e00", "#ff8a3c"),
    "series3": ("#009e73", "#2fc498"),
    "series4": ("#b5609a", "#e29ac4"),
    "series5": ("#d99400", "#f2b63c"),
    "series6": ("#4fb0e4", "#8ed3f8"),
    "series7": ("#333d4a", "#c3ccd6"),
}

Point = tuple[float, float]
Pair = tuple[str, str]

# control characters, above all those that reorder the text around them: a name could turn the page's own numbers round
_HIDDEN = (*range(9), *range(0xE, 0x20), 0x7F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
_UNSEEN = dict.fromkeys((*_HIDDEN, *range(0xD800, 0xE000), 0xFFFE, 0xFFFF), "\ufffd")  # the rest no XML can hold


def color(role: str) -> str:
    """The colour of a role (see `PALETTE`), as CSS writes it."""
    return PALETTE[role][0]


def seen(text: object) -> str:
    """Text whose control characters, and what would change the order of the text around it, are shown as `�`."""
    return str(text).translate(_UNSEEN)


def cut(text: str, length: int) -> str:
    """A label, cut in the middle if it is long: names often differ at their ends. Not yet escaped."""
    half = (length - 1) // 2
    return text if len(text) <= length else f"{text[:half]}…{text[-half:]}"


def places(tasks: Sequence[str], strengths: Mapping[Pair, float], seed: int = 0) -> dict[str, Point]:
    """Tasks that help one another lie near one another; spread so that they fill the square from -1 to 1.

    `strengths` are transfer coefficients by (source, target); `seed` decides between layouts that are as good.
    """
    if not tasks:
        return {}
    pull = nx.Graph()
    pull.add_nodes_from(tasks)
    pull.add_edges_from(itertools.combinations(tasks, 2), weight=0.02)  # who has no edge does not drift away
    for (source, target), coefficient in strengths.items():
        # the fourth power: nearly every pair helps a little, and only what stands out should shape the picture
        pull[source][target]["weight"] += max(0.0, coefficient) ** 4
    spring = nx.spring_layout(pull, weight="weight", seed=seed, iterations=300, k=2.2 / math.sqrt(len(pull)))
    spread: list[list[float]] = []
    for axis in (0, 1):
        values = [float(spring[task][axis]) for task in tasks]
        low, high, ranked = min(values), max(values), sorted(values)
        # half way to even spacing: a lone outlier would otherwise press all others, and their names, together
        spread.append(
            [(v - low) / (high - low) + ranked.index(v) / (len(values) - 1) - 1 if high > low else 0.0 for v in values]
        )
    return {task: (x, y) for task, x, y in zip(tasks, *spread, strict=True)}


def bent(start: Point, end: Point, points: int = 9) -> list[Point]:
    """Points from start to end, bent to the left, so that the edge back, bent to its own left, lies beside it."""
    (x0, y0), (x1, y1) = start, end
    bx, by = (x0 + x1) / 2 - 0.14 * (y1 - y0), (y0 + y1) / 2 + 0.14 * (x1 - x0)
    return [
        (
            round((1 - t) ** 2 * x0 + 2 * t * (1 - t) * bx + t**2 * x1, 3),
            round((1 - t) ** 2 * y0 + 2 * t * (1 - t) * by + t**2 * y1, 3),
        )
        for t in (n / (points - 1) for n in range(points))
    ]


class Drawing:
    """A picture of lines, areas, dots and words, in pixels from the upper left corner. A notebook shows it.

    `save` writes .svg, which needs nothing, or .png, which needs Pillow.
    """

    def __init__(self, width: int, height: int, title: str) -> None:
        self.width, self.height, self.title = width, height, title
        self._parts: list[tuple[str, dict[str, Any]]] = []

    def line(self, points: Iterable[Point], color: str, width: float = 1.0, dashed: bool = False) -> None:
        """A line through these points."""
        self._parts.append(("line", {"points": list(points), "color": color, "width": width, "dashed": dashed}))

    def area(self, points: Iterable[Point], color: str) -> None:
        """A filled shape with these corners."""
        self._parts.append(("area", {"points": list(points), "color": color}))

    def dot(self, at: Point, radius: float, color: str) -> None:
        """A disc."""
        self._parts.append(("dot", {"at": at, "radius": radius, "color": color}))

    def words(self, at: Point, text: str, color: str, size: int = 12, anchor: str = "middle") -> None:
        """One line of text; `anchor` is start, middle or end."""
        text = " ".join(seen(text).split())
        self._parts.append(("words", {"at": at, "text": text, "color": color, "size": size, "anchor": anchor}))

    def svg(self) -> str:
        """The picture as a text."""
        shown = "".join(_SVG[kind](**told) for kind, told in self._parts)
        title = html.escape(seen(self.title))
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{self.width}" height="{self.height}" '
            f'viewBox="0 0 {self.width} {self.height}" style="max-width:100%;height:auto" role="img" '
            f'font-family="sans-serif"><title>{title}</title>'
            f'<rect width="100%" height="100%" fill="{color("paper")}"/>{shown}</svg>'
        )

    def _repr_html_(self) -> str:
        return self.svg()

    def save(self, path: str | Path) -> Path:
        """Write the picture, by suffix: .svg or .png. CrosstaskError for another, and for .png without Pillow."""
        path = Path(path)
        kind = path.suffix.lower()
        if kind not in (".svg", ".png"):
            raise GraphError(f"cannot draw {path.name!r}: the suffix must be .svg or .png")
        with atomic(path, "picture", kind=CrosstaskError) as part:
            if kind == ".svg":
                part.write_text(self.svg(), encoding="utf-8")
            else:
                self._image().save(part, format="PNG")
        return path

    def _image(self) -> Any:
        try:
            from PIL import Image, ImageDraw, ImageFont
        except ImportError:
            raise CrosstaskError("a .png needs Pillow: pip install 'pillow>=10.1'; a .svg needs nothing") from None
        fine = 3  # drawn so many times as large, then made smaller: Pillow's lines have steps
        image = Image.new("RGB", (self.width * fine, self.height * fine), color("paper"))
        draw = ImageDraw.Draw(image)

        def large(points: Iterable[Point]) -> list[Point]:
            return [(x * fine, y * fine) for x, y in points]

        for kind, told in self._parts:
            paint = told["color"]
            if kind == "line":
                width = max(1, round(told["width"] * fine))
                for part in _dashes(told["points"]) if told["dashed"] else [told["points"]]:
                    draw.line(large(part), fill=paint, width=width, joint="curve")
            elif kind == "area":
                draw.polygon(large(told["points"]), fill=paint)
            elif kind == "dot":
                (x, y), r = told["at"], told["radius"]
                draw.ellipse(large([(x - r, y - r), (x + r, y + r)]), fill=paint)
            else:
                where = {"start": "ls", "middle": "ms", "end": "rs"}[told["anchor"]]
                font = ImageFont.load_default(told["size"] * fine)
                told_at = large([told["at"]])[0]
                draw.text(told_at, told["text"], paint, font, where, stroke_width=2 * fine, stroke_fill=color("paper"))
        return image.resize((2 * self.width, 2 * self.height), Image.Resampling.LANCZOS)


def _dashes(points: Sequence[Point], dash: float = 5.0, gap: float = 4.0) -> list[list[Point]]:
    """A line as its dashes."""
    found: list[list[Point]] = []
    left, drawn = dash, True
    here: list[Point] = [points[0]]
    for start, end in itertools.pairwise(points):
        length, done = math.dist(start, end), 0.0
        while length - done > left:
            done += left
            share = done / length
            at = (start[0] + share * (end[0] - start[0]), start[1] + share * (end[1] - start[1]))
            if drawn:
                found.append([*here, at])
            here, drawn, left = [at], not drawn, gap if drawn else dash
        left -= length - done
        here.append(end)
    return [*found, here] if drawn and len(here) > 1 else found


def _svg_line(points: list[Point], color: str, width: float, dashed: bool) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dash = ' stroke-dasharray="5 4"' if dashed else ""
    return f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="{width:.1f}"{dash}/>'


def _svg_area(points: list[Point], color: str) -> str:
    return f'<polygon points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}" fill="{color}"/>'


def _svg_dot(at: Point, radius: float, color: str) -> str:
    return f'<circle cx="{at[0]:.1f}" cy="{at[1]:.1f}" r="{radius:.1f}" fill="{color}"/>'


def _svg_words(at: Point, text: str, color: str, size: int, anchor: str) -> str:
    paper = PALETTE["paper"][0]
    look = f'font-size="{size}" text-anchor="{anchor}" fill="{color}" stroke="{paper}" stroke-width="3"'
    return f'<text x="{at[0]:.1f}" y="{at[1]:.1f}" {look} paint-order="stroke">{html.escape(text)}</text>'


_SVG: dict[str, Callable[..., str]] = {"line": _svg_line, "area": _svg_area, "dot": _svg_dot, "words": _svg_words}


def network(
    title: str,
    nodes: Mapping[str, tuple[str, float]],
    edges: Sequence[tuple[str, str, float, str, bool]],
    key: Mapping[str, str],
    *,
    seed: int = 0,
    width: int = 900,
    height: int = 640,
) -> Drawing:
    """A picture of a graph. `nodes`: id -> (label, size from 0 to 1); `edges`: (source, target, strength from -1 to 1,
    colour's role, whether it is dashed); `key`: text -> colour's role of the legend below.
    """
    made = Drawing(width, height, title)
    at = places(list(nodes), {(a, b): strength for a, b, strength, _, _ in edges}, seed)

    def pixel(point: Point) -> Point:
        return 90 + (point[0] + 1) / 2 * (width - 180), 60 + (1 - point[1]) / 2 * (height - 150)

    made.words((20, 26), title, color("ink"), 15, "start")
    for source, target, strength, role, dashed in sorted(edges, key=lambda edge: abs(edge[2])):
        points = [pixel(point) for point in bent(at[source], at[target], 17)]
        thick = 1 + 4 * abs(strength)
        made.line(points, color(role), thick, dashed)
        (x0, y0), (x1, y1) = points[8], points[9]
        length = math.dist((x0, y0), (x1, y1)) or 1.0
        dx, dy, size = (x1 - x0) / length, (y1 - y0) / length, 6 + 2 * abs(strength)
        tip = (x0 + size * dx, y0 + size * dy)
        back = (x0 - size * dx, y0 - size * dy)
        sides = [(back[0] - s * size * dy, back[1] + s * size * dx) for s in (0.8, -0.8)]
        made.area([tip, *sides], color(role))
    for node, (label, size) in nodes.items():
        x, y = pixel(at[node])
        made.dot((x, y), 6 + 6 * size, color("ink"))
        made.words((x, y - 12 - 6 * size), cut(label, 24), color("ink"))
    x = 20.0
    for text, role in key.items():
        made.line([(x, height - 22), (x + 22, height - 22)], color(role), 3)
        made.words((x + 28, height - 18), text, color("muted"), 12, "start")
        x += 44 + 7 * len(text)
    return made
