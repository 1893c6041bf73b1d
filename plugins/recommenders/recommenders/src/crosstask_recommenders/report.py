"""The section of the report: what each recommender makes of one rating more, beside the baselines."""

from __future__ import annotations

from crosstask.points.stage import Section
from crosstask.report.figures import figure, legend, line, plot, style, view
from crosstask.report.page import escape, note, number, table
from crosstask_recommenders.records import METRICS, RecommendResult


def section(done: RecommendResult) -> Section:
    metrics = {m: _called(m, done.top) for m in METRICS if getattr(done.scores[0], m) is not None}
    lead = (
        f'<p class="lead">Fitted to the {done.feedback} feedback of {done.train_users} users on {done.items} items '
        f"({escape(done.task)}), and judged on <strong>{done.test_users} users whom they had never seen</strong>"
        f"{f', each query among {done.negatives} items that the user does not have' if done.negatives else ''}.</p>"
    )
    head = ("Recommender", "Support", *metrics.values(), "ms per user")
    rows = [
        (
            escape(name) + (" (baseline)" if done.of(name, support).baseline else ""),
            str(support),
            *(number(getattr(done.of(name, support), metric)) for metric in metrics),
            number(1000 * done.of(name, support).seconds),
        )
        for name in done.names
        for support in done.supports
    ]
    figures = [
        _curves(done, metric, called) for metric, called in metrics.items() if metric in (done.main, "auc", "hit")
    ]
    looks = {name: (name + (" (baseline)" if done.of(name, done.supports[0]).baseline else ""), *style(place))
             for place, name in enumerate(done.names)}  # fmt: skip
    body = lead + view(legend(looks), *figures, grid=True) + table("By number of support ratings", head, rows)
    return Section("Recommendation to new users", body + _verdict(done))


def _curves(done: RecommendResult, metric: str, called: str) -> str:
    traces = []
    for place, name in enumerate(done.names):
        values = [getattr(done.of(name, support), metric) for support in done.supports]
        traces.append(line(done.supports, values, name, *style(place)))
    axis = {"title": {"text": "support ratings"}, "rangemode": "tozero", "showgrid": False}
    made = figure(traces, xaxis=axis, yaxis={"title": {"text": escape(called)}})
    return plot(made, called, f"{called} by number of support ratings", 280)


def _verdict(done: RecommendResult) -> str:
    """Which of them do not beat the baselines, in words."""
    told = []
    for name in done.names:
        lost = [s for s in done.supports if not done.of(name, s).baseline and done.beaten(name, s) is False]
        if lost:
            told.append(f"{escape(name)} with {', '.join(map(str, lost))}")
    if not told:
        return ""
    return note(
        f"<strong>Not better than the best baseline</strong> by {done.main}: {'; '.join(told)} support ratings."
    )


def _called(metric: str, top: int) -> str:
    return {"rmse": "RMSE", "mae": "MAE", "auc": "AUC", "ndcg": f"NDCG@{top}", "hit": f"hit@{top}"}[metric]
