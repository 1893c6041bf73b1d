"""Why it transferred: which layers carried the gain, and which classes and skills brought it, by taking each away."""

from __future__ import annotations

from collections.abc import Iterable

from crosstask.drawing import color
from crosstask.points.stage import Section
from crosstask.records import Interval
from crosstask.report.figures import dots, dots_height, figure, legend, plot, view
from crosstask.report.page import escape, note, number, short, spread, table, words
from crosstask_transfer.records import LEVEL, Causes, LayerAttribution

_SERIES = {
    "lost without it": ("lost without it", "more", "full"),
    "gained by it alone": ("gained by it alone", "series3", "hollow"),
    "lost if it is frozen": ("lost if it is frozen", "muted", "hollow"),
}


def why_it_transferred(attributions: Iterable[LayerAttribution]) -> list[Section]:
    """The section on these transfers; none without any."""
    shown = "".join(map(_one, attributions))
    return [Section("Why it transferred", shown)] if shown else []


def _one(found: LayerAttribution) -> str:
    metric = words(found.metric)
    lead = (
        f'<p class="lead">From <strong>{escape(found.source)}</strong> to <strong>{escape(found.target)}</strong>, '
        f"{escape(found.strategy)} gained {spread(found.gain, signed=True)} in {escape(metric)} over {found.seeds} "
        f"seeds. {_verdict(found)} Each layer's weights were drawn anew before the transfer, then transferred alone, "
        "then kept as they are while the rest trained; budget, seeds and samples are those of the transfer.</p>"
    )
    rows: list[tuple[str, list[tuple[str, str, Interval]]]] = [("the whole transfer", [("gain", "more", found.gain)])]
    for block in found.blocks:
        values = [block.lost_without, block.gained_alone, block.lost_frozen]
        signs = [(name, role) for name, role, _ in _SERIES.values()]
        rows.append((block.block, [(*sign, v) for sign, v in zip(signs, values, strict=True) if v is not None]))
    made = dots(rows, f"difference in {metric}", signed=True)
    label = f"What each layer brought to the transfer from {found.source} to {found.target}, in {metric}"
    figures = view(legend(_SERIES), plot(made, "What each layer brought", label, dots_height(rows)))
    cells = [
        (
            escape(block.block), number(block.weights),
            spread(block.lost_without, signed=True), _share(block.share_lost),
            spread(block.gained_alone, signed=True), _share(block.share_alone),
            "–" if block.lost_frozen is None else spread(block.lost_frozen, signed=True),
        )
        for block in found.blocks
    ]  # fmt: skip
    head = ("Layer", "Weights", "Lost without it", "Share", "Gained by it alone", "Share", "Lost if frozen")
    hint = note(
        "Shares are of the whole gain, and need not sum to 100 %: layers can stand in for one another, or work only "
        "together. A dash stands where the gain itself is not beyond doubt."
    )
    return lead + figures + table("Layer by layer", head, cells) + hint + "".join(map(_causes, found.causes))


def _causes(found: Causes) -> str:
    """What classes or skills brought: bars with their intervals, of classes a cell for each of the target's, too."""
    metric, one = words(found.metric), {"classes": "class", "skills": "skill"}[found.kind]
    how = {
        "classes": "The source was trained again without the samples of each class, and transferred",
        "skills": "The units before the source's head that serve each skill most were silenced, and it was transferred",
    }[found.kind]
    control = {"classes": "as many samples taken away at random", "skills": "as many units silenced at random"}
    names = ", ".join(f"<strong>{escape(name)}</strong>" for name in found.helping)
    told = (
        f"Beyond the control, {names} helped." if names else "<strong>None has an effect beyond the control.</strong>"
    )
    harm = ", ".join(escape(each.name) for each in found.effects if each.harms)
    told += f" Less is lost without {harm} than without anything else." if harm else ""
    lead = (
        f"<h3>What each {one} brought</h3><p>{told} {how} over {found.seeds} seeds; what is shown is how much more is "
        f"lost than with {control[found.kind]} (the mean of {found.controls}). The whole transfer scores "
        f"{spread(found.score)}.</p>"
    )
    rows = [
        (each.name, [("lost without it" if each.helps or each.harms else "not beyond the control",
                      "more" if each.helps else "less" if each.harms else "muted", each.lost)])
        for each in found.effects
    ]  # fmt: skip
    made = dots(rows, f"lost in {metric} beyond the control", signed=True)
    label = f"{metric} lost without each {one}, with intervals"
    bars = plot(made, f"Lost without each {one}, beyond the control", label, dots_height(rows, 1))
    cells = [
        (escape(each.name), str(each.removed), spread(each.lost, signed=True), f"{each.p_value:.2g}",
         f"{each.adjusted:.2g}", "helped" if each.helps else "harmed" if each.harms else "no effect beyond the control")
        for each in found.effects
    ]  # fmt: skip
    taken = {"classes": "Samples", "skills": "Units"}[found.kind]
    head = (one.capitalize(), taken, "Lost beyond the control", "p", "p adjusted", "Verdict")
    shown = view(bars, _cells(found), grid=True) if found.kind == "classes" and found.target_classes else view(bars)
    hint = note(
        "p: Student's t over the seeds, adjusted for all that were looked at (Holm; in the cells Benjamini and "
        "Hochberg). A star stands where it is not above 0.05."
    )
    return lead + shown + table(f"What each {one} brought", head, cells) + hint


def _cells(found: Causes) -> str:
    """Source classes as rows, the target's as columns."""
    import plotly.graph_objects as go  # type: ignore[import-untyped]  # plotly ships no types

    columns = [name for name in found.target_classes if any(name in each.by_class for each in found.effects)]
    values = [[e.by_class[n].mean if n in e.by_class else None for n in columns] for e in found.effects]
    most = max((abs(value) for row in values for value in row if value is not None), default=0.0) or 1.0
    texts = [
        [
            f"<b>without {short(each.name)}</b><br>recall of {short(n)}: "
            f"{spread(each.by_class[n], signed=True)} lost, p adjusted {each.class_adjusted[n]:.2g}"
            if n in each.by_class else "" for n in columns
        ]
        for each in found.effects
    ]  # fmt: skip
    traces = [go.Heatmap(z=values, text=texts, coloraxis="coloraxis", xgap=2, ygap=2, hoverongaps=False,
                         hovertemplate="%{text}<extra></extra>")]  # fmt: skip
    written = [
        (x, y, round(value, 2) + 0.0, found.effects[y].class_adjusted[n] <= LEVEL)
        for y, row in enumerate(values) for x, (n, value) in enumerate(zip(columns, row, strict=True))
        if value is not None
    ]  # fmt: skip
    traces.append(
        go.Scatter(
            x=[x for x, *_ in written], y=[y for _, y, *_ in written], mode="text", hoverinfo="skip",
            text=[f"{value:.2f}{'*' if beyond else ''}".replace("-", "−") for *_, value, beyond in written],
            textfont={"size": 12, "color": [
                color("on_strong" if abs(value) > 0.7 * most else "ink") for _, _, value, _ in written
            ]},
        )
    )  # fmt: skip
    roles = ("less", "slightly_less", "neither", "slightly_more", "more")
    axis = {"showgrid": False}
    made = figure(
        traces,
        xaxis={**axis, "tickvals": list(range(len(columns))), "side": "top", "range": [-0.5, len(columns) - 0.5],
               "ticktext": [short(n, 18) for n in columns], "title": {"text": "target's class"}},
        yaxis={**axis, "tickvals": list(range(len(values))), "range": [len(values) - 0.5, -0.5],
               "ticktext": [short(each.name, 18) for each in found.effects], "title": {"text": "source's class"}},
        coloraxis={"colorscale": [[n / 4, color(role)] for n, role in enumerate(roles)], "cmin": -most, "cmax": most,
                   "showscale": False},
    )  # fmt: skip
    label = f"Recall of each of the target's classes lost without each class of {found.source}"
    return plot(made, "Recall of each of the target's classes lost", label, 110 + 34 * max(2, len(values)))


def _verdict(found: LayerAttribution) -> str:
    if found.gain.low <= 0:
        told = "The gain is not beyond doubt, and so is what carried it."
        return told if found.gain.high > 0 else "It did not help; what is shown is what did the harm."
    carrier = found.carrier
    if carrier is None:
        return "No single layer carried it: without any one of them the loss is within chance."
    share = "" if carrier.share_lost is None else f" ({_share(carrier.share_lost)} of the gain)"
    lost = number(carrier.lost_without.mean)
    return f"<strong>{escape(carrier.block)}</strong> carried most: without it {lost} are lost{share}."


def _share(value: Interval | None) -> str:
    if value is None:
        return "–"
    ends = "to".join(f" {round(100 * end):d} ".replace("-", "−") for end in (value.low, value.high)).strip()
    return f"{round(100 * value.mean):d} % [{ends}]".replace("-", "−")
