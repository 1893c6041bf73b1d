"""The sections on a curriculum: its steps against training from scratch, and learning curves."""

from __future__ import annotations

from collections.abc import Sequence

from crosstask.points.stage import Section
from crosstask.records import CurriculumResult, CurriculumStep, Interval, LearningCurve, TransferResult, below_chance
from crosstask.report.figures import STEPS, dots, dots_height, dropdown, figure, legend, line, plot, view
from crosstask.report.page import escape, note, number, spread, table, words
from crosstask.showing import times
from crosstask_curricula.records import CurriculumComparison

KEPT = {"path": "yes", "alone": "this task alone", "needed": "a later task needs it", "undone": "undone", "": "–"}


def curriculum(found: CurriculumComparison) -> list[Section]:
    """The steps in order, each against training from scratch, and the target by other ways; none if none was run."""
    done = found.curriculum
    if not done.steps:
        return []
    plan = done.curriculum
    metric = words(done.metric)
    lead = (
        f'<p class="lead">Toward <strong>{escape(plan.target)}</strong> by way of {len(done.steps)} tasks, in '
        f"{number(done.total_steps)} optimiser steps, over {number(done.seeds)} seeds. Order: "
        f"{escape(plan.strategy or 'not named')}; training: {escape(done.strategy)}. Each step starts from what "
        f"{'is kept of those before' if done.judged_on else 'the one before left'}, and training from scratch has the "
        "same budget.</p>"
    )
    names = [f"{step.step} · {step.task_id}" for step in done.steps]
    scores = [
        (name, [("with transfer", "more", step.score), ("from scratch", "less", step.scratch_score)])
        for name, step in zip(names, done.steps, strict=True)
    ]
    gains = [
        (name, [("gain", "less" if step.gain.high < 0 else "more", step.gain)])
        for name, step in zip(names, done.steps, strict=True)
    ]
    height = dots_height(scores)
    series = {
        "with transfer": ("with transfer", "more", "full"),
        "from scratch": ("from scratch", "less", "hollow"),
    }
    figures = [
        plot(
            dots(scores, metric),
            "Score of each step",
            "Score of each step with transfer and from scratch",
            height,
        ),
        plot(
            dots(gains, f"gain in {metric}", signed=True),
            "Gain of each step",
            "Gain of each step over scratch",
            height,
        ),
    ]
    target = done.steps[-1]
    judged = [(name, step) for name, step in zip(names, done.steps, strict=True) if step.target_score is not None]
    if judged:
        rows = [(name, _judged(step)) for name, step in judged]
        label = f"{metric} on {target.task_id} after each step, on the data that decide"
        figures.append(plot(dots(rows, metric), f"{target.task_id} learned after each step", label, dots_height(rows)))
    if found.baselines:
        rows = [("this curriculum", [("with transfer", "more", target.score)])]
        rows += [(name, [("baseline", "muted", value)]) for name, value in found.baselines.items()]
        if target.chance is not None:
            nothing = Interval(mean=target.chance, low=target.chance, high=target.chance)
            rows.append(("always the most frequent answer", [("baseline", "muted", nothing)]))
        caption = f"{target.task_id} by other ways"
        label = f"{metric} on {target.task_id} by this curriculum and by each baseline"
        figures.append(plot(dots(rows, metric), caption, label, dots_height(rows)))
    cells = [
        (
            escape(name),
            number(plan.task_difficulties.get(step.task_id)),
            escape(", ".join(plan.prerequisites.get(step.task_id, ()))) or "–",
            spread(step.score),
            spread(step.scratch_score),
            spread(step.gain, signed=True),
            number(step.chance),
            *(_progress(step) if judged else ()),
        )
        for name, step in zip(names, done.steps, strict=True)
    ]
    head = ["Step", "Difficulty", "Needs first", escape(metric.capitalize()), "From scratch", "Gain", "Chance"]
    if judged:
        head += ["The target after it", "Progress", "Kept"]
    changes = "".join(
        f"<li>before step {change.step}, {escape(change.task_id)}: {escape(change.reason)}</li>"
        for change in plan.adjustments
    )
    adjusted = f"<p>Changed while it ran:</p><ul>{changes}</ul>" if changes else ""
    warned = "".join(note(text) for text in (*_kept(done), *_nothing_learned(done)))
    shown = lead + warned + view(legend(series), *figures, grid=True) + table("Step by step", head, cells) + adjusted
    return [Section("Curriculum", shown, {plan.target: "target of the curriculum"})]


def _judged(step: CurriculumStep) -> list[tuple[str, str, Interval]]:
    """The target's scores on the data that decide, after a step and from its task's own model alone."""
    scores = [("after this step", "more" if step.kept == "path" else "muted", step.target_score)]
    if step.alone_score is not None:
        scores.append(("from this task alone", "more" if step.kept == "alone" else "less", step.alone_score))
    return [(name, look, score) for name, look, score in scores if score is not None]


def _progress(step: CurriculumStep) -> tuple[str, str, str]:
    """Cells: the target after a step, what it is above the best before, whether that is kept."""
    after = "–" if step.target_score is None else spread(step.target_score)
    progress = "–" if step.progress is None else spread(step.progress, signed=True)
    return after, progress, KEPT.get(step.kept, escape(step.kept))


def _kept(done: CurriculumResult) -> list[str]:
    """From where the target was learned and what finding that out took, and whether it came out as expected."""
    told, last, expected = [], done.steps[-1], done.curriculum.expected_interval
    if done.judged_on:
        told.append(
            f"{escape(last.task_id)} was learned {_from(done.reached_from)} in the end, the best by {done.judged_on}. "
            f"Learning it from the others took {number(done.trial_steps)} more optimiser steps for each seed."
        )
    if expected is not None:
        held = "as expected" if done.as_expected else "not as expected"
        told.append(f"It came out {held}: {number(last.score.mean)}, where {spread(expected)} had been said before.")
    return told


def _from(name: str) -> str:
    return escape(name) if name.startswith("from ") else f"from {escape(name)}"


def _nothing_learned(done: CurriculumResult) -> list[str]:
    """Warnings, as HTML, where a score is no better than what a model reaches that has learned nothing."""
    told = []
    for step in done.steps:
        chance = number(step.chance)
        if step.learned_nothing:
            told.append(
                f"<strong>{escape(step.task_id)}: nothing was learned.</strong> Its score, {spread(step.score)}, is no "
                f"better than always giving the most frequent answer ({chance})."
            )
        elif below_chance(step.scratch_score, step.chance):
            told.append(
                f"{escape(step.task_id)}: from scratch nothing was learned with this budget "
                f"({spread(step.scratch_score)}; the most frequent answer alone gives {chance}). The gain says as much "
                "of the budget as of the transfer."
            )
    return told


def learning_curves(found: CurriculumComparison) -> list[Section]:
    """Curves with and without transfer, of each step and each single transfer; none if none was recorded."""
    done = found.curriculum
    pairs = {_name(step): (step.curve, step.scratch_curve) for step in done.steps}
    for single in found.transfers:
        pairs[f"{single.source} → {single.target}, {single.strategy}"] = single.curve, single.scratch_curve
    pairs = {name: both for name, both in pairs.items() if any(curve.values for curve in both)}
    shown = _curves(done, pairs) if pairs else ""
    shown += _transfers(found.transfers) if found.transfers else ""
    return [Section("Learning curves", shown)] if shown else []


def _curves(done: CurriculumResult, pairs: dict[str, tuple[LearningCurve, LearningCurve]]) -> str:
    last = _name(done.steps[-1]) if done.steps else ""
    order = sorted(pairs, key=lambda name: name != last)  # the target is what a reader asks for first
    looks = {"with transfer": ("more", "solid"), "from scratch": ("less", "dash")}
    traces = [
        line(curve.steps, curve.values, series, *looks[series], group=str(number_))
        for number_, name in enumerate(order)
        for series, curve in zip(looks, pairs[name], strict=True)
        if curve.values
    ]
    choices = {str(number_): (name, _speed(*pairs[name])) for number_, name in enumerate(order)}
    controls = f'<div class="controls">{dropdown("group", "Show", choices)}<output aria-live="polite"></output></div>'
    made = figure(traces, xaxis=STEPS, yaxis={"title": {"text": escape(words(done.metric))}}, hovermode="x unified")
    label = f"{words(done.metric)} over optimiser steps, with transfer and from scratch, for the chosen step"
    return view(
        controls, legend({name: (name, *look) for name, look in looks.items()}), plot(made, "", label, 380)
    )  # fmt: skip


def _name(step: CurriculumStep) -> str:
    return f"step {step.step} · {step.task_id}"


def _speed(curve: LearningCurve, scratch: LearningCurve) -> str:
    if not curve.values or not scratch.values:
        return ""
    level = scratch.final
    with_, without = curve.first_reaching(level), scratch.first_reaching(level)
    if with_ is None:
        return f"Transfer does not reach scratch's final {number(level)}."
    return f"Transfer reaches scratch's final {number(level)} at step {with_}, scratch at step {without}."


def _transfers(transfers: Sequence[TransferResult]) -> str:
    rows = [
        (f"{t.source} → {t.target}", [("coefficient", "less" if t.negative else "more", t.coefficient)])
        for t in transfers
    ]
    made = dots(rows, "transfer coefficient", signed=True)
    label = "Coefficient of each single transfer with its interval"
    cells = [
        (
            f"{escape(t.source)} → {escape(t.target)}",
            spread(t.score),
            spread(t.scratch_score),
            spread(t.performance_gain, signed=True),
            number(t.chance),
            times(t.convergence_speed_gain, t.speed_capped, t.convergence_speed_interval) if t.certain else "–",
            times(t.sample_efficiency_gain, t.sample_efficiency_capped) if t.certain else "–",
        )
        for t in transfers
    ]
    head = ("Transfer", "Score", "From scratch", "Gain", "Chance", "Steps", "Samples")
    hint = note(
        "“Steps” and “Samples”: how many times as many training from scratch needs for what it ends with; “at least” "
        "where more could not be seen. A dash stands where the gain itself is not beyond doubt. “Chance” is the score "
        "of always giving the most frequent answer."
    )
    return (
        view(plot(made, "Single transfers", label, dots_height(rows))) + table("Single transfers", head, cells) + hint
    )
