"""The section of the report: what routing gains over one tool for all, and who is asked about what."""

from __future__ import annotations

from crosstask.points.stage import Section
from crosstask.report.figures import figure, legend, line, plot, style, view
from crosstask.report.page import escape, note, number, spread, table
from crosstask_routing.benchmark import TENTHS
from crosstask_routing.records import RoutingResult


def section(done: RoutingResult) -> Section:
    """Figures, curves and choices."""
    static = done.of("best static")
    lead = (
        f'<p class="lead">{done.requests} requests, drawn from {len(done.tasks)} tasks without saying which, and '
        f"{len(done.tools)} models that could answer. A router chooses one by what the request looks like, and learns "
        "whether the answer was right.</p>"
    )
    head = ("Who chooses", "Right answers", "Cost of an answer", "Reward", "Regret")
    rows = [
        (escape(p.name), number(p.success_rate), number(p.cost), number(p.reward), spread(p.regret))
        for p in done.policies
    ]
    return Section("Routing", lead + _curves(done) + table("Over all repeats", head, rows) + _tools(done)
                   + _choices(done) + _verdict(done, static.regret.mean))  # fmt: skip


def _curves(done: RoutingResult) -> str:
    shown = [*done.routers, "best static"]
    steps = [done.requests * part // TENTHS for part in range(1, TENTHS + 1)]
    axis = {"title": {"text": "requests"}, "rangemode": "tozero", "showgrid": False}
    looks = {name: style(place) for place, name in enumerate(shown)}
    regret = [line([0, *steps], [0.0, *done.of(name).regrets], name, *looks[name]) for name in shown]
    exploring = [
        line(steps[: len(done.of(name).exploration)], done.of(name).exploration, name, *looks[name])
        for name in done.routers
    ]
    return view(
        legend({name: (name, *look) for name, look in looks.items()}),
        plot(figure(regret, xaxis=axis, yaxis={"title": {"text": "regret"}}), "Regret so far", "Regret so far", 280),
        plot(
            figure(exploring, xaxis=axis, yaxis={"title": {"text": "share"}, "rangemode": "tozero"}),
            "Share of decisions that explore", "Share of decisions that explore", 280,
        ),
        grid=True,
    )  # fmt: skip


def _tools(done: RoutingResult) -> str:
    head = ("Tool", "Cost", *map(escape, done.tasks))
    rows = [(escape(tool), number(done.costs[tool]), *map(number, done.accuracy[tool])) for tool in done.tools]
    return table("How often each tool is right, by task (no router is told)", head, rows)


def _choices(done: RoutingResult) -> str:
    made = []
    for name, chosen in done.chosen.items():
        rows = [(escape(task), *map(number, shares)) for task, shares in chosen.items()]
        caption = f"Whom {escape(name)} asks in the last fifth of the requests"
        made.append(table(caption, ("Task", *map(escape, done.tools)), rows))
    return "".join(made)


def _verdict(done: RoutingResult, static: float) -> str:
    lost = [name for name in done.routers if done.of(name).regret.mean >= static]
    told = (
        "Regret is what is lost against an oracle that is told the task and knows how often each tool is right: the "
        "sum over all requests of expected right answers less weighted costs."
    )
    if lost:
        told += f" <strong>No better than one tool for all</strong>: {', '.join(map(escape, lost))}."
    return note(told)
