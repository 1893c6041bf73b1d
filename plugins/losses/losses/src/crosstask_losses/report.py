"""Training on several objectives: the loss of each term, the weights, and how much the objectives conflict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from crosstask.points.stage import Section
from crosstask.report.figures import STEPS, figure, legend, line, plot, style, view
from crosstask.report.page import escape, note, number, table, words
from crosstask_losses.records import LossesResult

Curves = Mapping[str, Sequence[float | None]]


def section(done: LossesResult) -> Section:
    """What a training came to, as a section of the report."""
    names = ", ".join(map(escape, done.objectives))
    lead = (
        f'<p class="lead">One model ({escape(done.model)}) trained on {names}; the gradients are balanced by '
        f"<strong>{escape(done.balancer)}</strong>.</p>"
    )
    parts = [lead]
    if done.stopped:
        parts.append(note(f"Training ended early: {escape(done.stopped)}."))
    parts.append(_group("Loss of each objective", {"Loss of each objective": done.losses}, done.steps))
    for name, terms in done.objectives.items():
        plots = {words(term).capitalize(): {term: done.terms[term]} for term in terms if term in done.terms}
        parts.append(f"<h3>Terms of {escape(name)}</h3>" + _plots(plots, done.steps))
    rest = {t: c for t, c in done.terms.items() if t not in {t for terms in done.objectives.values() for t in terms}}
    if rest:
        figures = {words(term).capitalize(): {term: curve} for term, curve in rest.items()}
        parts.append("<h3>Sums, metrics and losses apart</h3>" + _plots(figures, done.steps))
    weights = {"Weight of each term": done.weights, "Weight of each objective": done.balance}
    parts += ["<h3>Weights</h3>", *(_group(each, {each: curves}, done.steps) for each, curves in weights.items())]
    parts.append("<h3>Conflicts between objectives</h3>")
    if done.cosines:
        caption = "Cosine between the gradients of two objectives"
        parts.append(_group(caption, {caption: done.cosines}, done.steps))
        rows = [(escape(pair), number(_mean(curve)), number(_against(curve))) for pair, curve in done.cosines.items()]
        parts.append(table("Pairs of objectives", ("Pair", "Mean cosine", "Share of steps in conflict"), rows))
    else:
        parts.append(note("There is one objective: nothing conflicts."))
    rows = [(escape(t), number(done.before.get(t)), number(value)) for t, value in done.after.items()]
    parts.append(table("On the test data", ("Term", "Untrained", "Trained"), rows))
    return Section("Objectives", "".join(parts))


def _group(label: str, captions: Mapping[str, Curves], steps: Sequence[int]) -> str:
    """Curves that share a figure, with their legend."""
    names = list(dict.fromkeys(name for curves in captions.values() for name in curves))
    looks = {name: style(place) for place, name in enumerate(names)}
    made = []
    for caption, curves in captions.items():
        traces = [line(steps, [*values], name, *looks[name]) for name, values in curves.items()]  # type: ignore[list-item]
        made.append(plot(figure(traces, xaxis=STEPS, yaxis={"zeroline": True}), caption, f"{label} over steps", 300))
    return view(legend({name: (name, *look) for name, look in looks.items()}), *made, grid=True)


def _plots(captions: Mapping[str, Curves], steps: Sequence[int]) -> str:
    """A small figure for each curve: terms have units of their own."""
    made = [
        plot(figure([line(steps, [*v], k, "series1")], xaxis=STEPS), caption, f"{caption} over steps", 220)  # type: ignore[list-item]
        for caption, curves in captions.items()
        for k, v in curves.items()
    ]
    return view(*made, grid=True)


def _known(curve: Sequence[float | None]) -> list[float]:
    return [value for value in curve if value is not None]


def _mean(curve: Sequence[float | None]) -> float:
    values = _known(curve)
    return sum(values) / len(values)


def _against(curve: Sequence[float | None]) -> float:
    values = _known(curve)
    return sum(value < 0 for value in values) / len(values)
