"""Why it transferred: which layers carried the gain, by taking each away."""

from __future__ import annotations

from collections.abc import Iterable

from crosstask.points.stage import Section
from crosstask.records import Interval
from crosstask.report.figures import dots, dots_height, legend, plot, view
from crosstask.report.page import escape, note, number, spread, table, words
from crosstask_transfer.records import LayerAttribution

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
    return lead + figures + table("Layer by layer", head, cells) + hint


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
