"""Which source, with which method, for a target: found out for less than trying all."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from crosstask.components import Context, Job, Remembered
from crosstask.descriptors import MultiInput, TensorData
from crosstask.learning.metrics import confidence_interval
from crosstask.learning.modules import Headless
from crosstask.learning.objectives import Metric, metric_of
from crosstask.learning.training import device_of, evaluate, fit, predict
from crosstask.learning.transferring import (
    fresh_model,
    fresh_text,
    key_of,
    receive,
    same_classes,
    source_digest,
    without_model,
)
from crosstask.points.transfer import Transfer
from crosstask.records import Advice, AdviceRow, Budget, Interval, TransferResult
from crosstask.tasks import Task

RIDGES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
FINALISTS = 3
FOLDS = 5
UNTRAINED = 3
"""Untrained networks of a source's architecture whose features are looked at, too."""
MOST = 2000
"""Samples of the target that are looked at, at most: a Gram matrix of them is decomposed."""
ENOUGH = 4
"""Samples of the target without which no features are looked at."""
NOTHING = "nothing is known"
ROWS = 100_000
"""Samples of a source among which those of the target are looked for, at most."""


@attrs.frozen
class _Candidate:
    """A source and what is known of it."""

    source: Task
    measured: TransferResult | None
    edge: Any


def advise(
    context: Context,
    method: Transfer,
    target: Task,
    candidates: Sequence[tuple[Task, TransferResult | None, Any]],
    avoid: Mapping[str, str],
    budget: Budget,
    seeds: int,
    share: float,
    controls: Collection[str] = (),
) -> Advice:
    """Choose among sources for a target; see `TransferEngine.advise`.

    Every source is looked at without training: ridge regression on the features of its frozen trunk, left one out (its
    error in closed form: Allen 1974). The best few are learned from for real on folds of the target's samples, as far
    as the share of the cost allows, and ranked by the mean of both; on the same folds their architectures are trained
    from scratch, which says whether they help. What was measured before, a transfer or an edge of
    the graph, counts as it is. `controls` are sources that learned nothing of their own tasks: chance may put one
    first, and it is used only where it helps beyond doubt.
    """
    metric = metric_of(target)
    known = [_Candidate(*each) for each in candidates]
    with_data = target.has_data("train")
    samples = len(_samples(target, budget)) if with_data else 0
    screened = {c.source.task_id: _screened(c.source.model, target, metric, budget) for c in known} if with_data else {}
    plain = {c.source.task_id: _untrained(c, target, metric, context, budget) for c in known} if with_data else {}
    unmeasured = [c for c in known if c.measured is None and _of_edge(c, method) is None]
    whole = max(1, len(known)) * seeds * budget.steps
    tried, spent = _tried(context, method, target, unmeasured, screened, budget, int(share * whole))
    plainly: dict[str, list[float]] = {}
    if tried:  # trying all trains every architecture from scratch, too
        built = {c.source.task_id: fresh_text(_model(c)) for c in known}
        whole += len(set(built.values())) * seeds * budget.steps
        left = int(share * whole) - sum(map(len, tried.values())) * budget.steps
        order = sorted(tried, key=lambda name: _of_both(tried[name], screened.get(name)), reverse=True)
        finalists = [next(c for c in known if c.source.task_id == name) for name in order]
        plainly, more = _from_scratch(context, target, finalists, built, budget, len(tried[order[0]]), left)
        spent += more
    rows, nothing = [], {}
    for c in known:
        name = c.source.task_id
        expected, evidence = _expected(c, screened.get(name), tried.get(name), method, metric, samples)
        looked, fresh = screened.get(name), plain.get(name)
        shared = _shared(c.source, target, budget) if name in tried else 0
        if shared and expected is not None:  # nothing bounds by how much it is too good
            expected = attrs.evolve(expected, low=expected.mean, high=expected.mean)
        from_scratch = _mean(plainly.get(name))
        if from_scratch is None:
            helps = _more(looked, fresh, samples)
        else:
            part = len(plainly[name]) / len(tried[name])
            helps = _more(_mean(tried[name][: len(plainly[name])]), from_scratch, int(samples * part))
        surely = _clearly_less(fresh, looked, samples)
        if c.measured is not None or (c.edge is not None and c.edge.measured):  # it was tried: more than a look
            helps, surely = _gain(c) > 0, _helps_surely(c)
        if c.measured is not None:
            from_scratch = c.measured.scratch_score.mean
        if name in controls and not surely:
            nothing[name] = "its model is hardly better than chance on its own task"
        rows.append(
            AdviceRow(source=name, strategy=method.name, expected=expected, evidence=evidence, screened=looked,
                      untrained=fresh, scratch=from_scratch, helps=helps, shared=shared,
                      setting="" if expected is None else _setting(c, tried.get(name), target, budget))
        )  # fmt: skip
    mixed = any(row.source not in tried and row.expected is not None and not _useless(row) for row in rows)
    # Where no features were looked at, nothing else tells them apart
    near = {c.source.task_id: _nearness(c, target) for c in known if screened.get(c.source.task_id) is None}
    rows.sort(
        key=lambda row: (row.source not in nothing, *_rank(row, tried, mixed), near.get(row.source, ())), reverse=True
    )
    best = rows[0] if rows else None
    hurt = {c.source.task_id: "transfer from it was measured to hurt" for c in known if c.edge is not None and
            c.edge.measured and c.edge.hurts}  # fmt: skip
    worse = {
        row.source: "its features tell less about the target than untrained ones"
        for row in rows[1:]
        if row.helps is False and row.scratch is None and _clearly_less(row.screened, row.untrained, samples)
    }
    worse |= {
        row.source: f"trained from scratch its architecture came to more on the same folds, {row.scratch:.3f}"
        for row in rows[1:]
        if row.helps is False and row.source in plainly
    }
    unfit = best is not None and (best.helps is False or best.source in {*hurt, *nothing})
    if unfit and all(r.helps is False or r.source in nothing for r in rows):
        best = None
    advice = Advice(
        target=target.task_id,
        source=None if best is None else best.source,
        strategy=method.name,
        metric=metric.told,
        expected=None if best is None else best.expected,
        rows=tuple(rows),
        avoid={**worse, **nothing, **hurt, **avoid},
        cost=seeds * budget.steps,
        spent=spent / whole,
        samples=samples,
    )
    return attrs.evolve(advice, text=paragraph(advice))


def _gain(candidate: _Candidate) -> float:
    """What a measured transfer gained in the metric. Its coefficient, where no gain was kept: near the best score that
    weighs seeds that gained more than those that lost, and its mean may be above zero where the score's is below.
    """
    if candidate.measured is not None:
        return candidate.measured.performance_gain.mean
    gain: float | None = candidate.edge.accuracy_gain
    return float(candidate.edge.transfer_coefficient) if gain is None else gain


def _helps_surely(candidate: _Candidate) -> bool:
    """Whether the whole 95 % interval of what a measured transfer gained lies above zero."""
    if candidate.measured is not None:
        return candidate.measured.performance_gain.low > 0
    low = candidate.edge.low if candidate.edge.accuracy_gain_low is None else candidate.edge.accuracy_gain_low
    return low is not None and low > 0


def _nearness(candidate: _Candidate, target: Task) -> tuple[float, ...]:
    """How similar a source is to the target without its data: what the graph estimates, then what the descriptors have
    in common.
    """
    ours, theirs = candidate.source.descriptor, target.descriptor
    estimated = 0.0 if candidate.edge is None else float(candidate.edge.transfer_coefficient)
    pairs = [(getattr(ours, name), getattr(theirs, name)) for name in ("task_type", "input_shape", "domain")]
    alike = sum(one == other for one, other in pairs)
    return estimated, float(len(set(ours.classes) & set(theirs.classes))), float(alike)


def _useless(row: AdviceRow) -> bool:
    """Whether a transfer was measured, and was not worth it."""
    return row.evidence.startswith("measured") and not row.helps


def _clearly_less(screened: float | None, untrained: float | None, samples: int) -> bool:
    """Whether a score is below another by more than a standard error of a share of so many samples."""
    if screened is None or untrained is None or not 0 <= untrained <= 1:
        return screened is not None and untrained is not None and screened < untrained
    return bool(untrained - screened > math.sqrt(untrained * (1 - untrained) / max(1, samples)))


def _more(score: float | None, other: float | None, samples: int) -> bool | None:
    """Whether a score is above another; None where one is not known, or they are as good as alike: less than a standard
    error of a share of so many samples apart. That one came out first then tells nothing.
    """
    if score == other:
        return None
    return True if _clearly_less(other, score, samples) else False if _clearly_less(score, other, samples) else None


def _mean(scores: Sequence[float] | None) -> float | None:
    return sum(scores) / len(scores) if scores else None


def _of_both(folds: Sequence[float], looked: float | None) -> float:
    """What finalists are ranked by: the mean over folds, and that with the look at features where there is one."""
    found = sum(folds) / len(folds)
    return found if looked is None else (found + looked) / 2


def _rank(row: AdviceRow, tried: Mapping[str, Sequence[float]], mixed: bool) -> tuple[int, float]:
    """What was measured or tried before what was only looked at (of the others the finalists were the best), and that
    before what was measured not to help. Beside scores that were measured (`mixed`) those of folds stand as they are: a
    look is no score of a transfer.
    """
    looked = -1e9 if row.screened is None else row.screened
    if row.source in tried:
        return 1, _of_both(tried[row.source], None if mixed else row.screened)
    score = looked if row.expected is None else row.expected.mean
    if _useless(row):
        return -1, score
    return (0 if row.expected is None else 1), score


def _expected(
    candidate: _Candidate,
    screened: float | None,
    folds: Sequence[float] | None,
    method: Transfer,
    metric: Metric,
    samples: int,
) -> tuple[Interval | None, str]:
    """(the score to expect, from what)."""
    if candidate.measured is not None:
        result = candidate.measured
        return result.score, f"measured on the {result.split} split, {result.seeds} seeds"
    if (by_edge := _of_edge(candidate, method)) is not None:
        return by_edge, "measured by discovery"
    if folds:
        told = f"tried on {len(folds)} folds of the target's samples"
        return _of_folds(folds, metric, samples), told
    edge = candidate.edge
    if edge is not None and edge.measured:
        by = "" if _by(edge, method) else f" with {edge.best_strategy}"
        return None, f"measured by discovery{by}: coefficient {edge.transfer_coefficient:+.2f}"
    if screened is not None:
        return None, "only looked at: a linear model on its features"
    if edge is not None:
        return None, f"{edge.evidence.value}: coefficient {edge.transfer_coefficient:+.2f}"
    return None, NOTHING


def _setting(candidate: _Candidate, folds: Sequence[float] | None, target: Task, budget: Budget) -> str:
    """In what setting the score to expect was found: the spread of others is not in its interval."""
    if candidate.measured is not None:
        spent = candidate.measured.budget or budget
        samples = "all samples" if spent.samples is None else f"{spent.samples} samples"
        return f"{spent.steps} steps on {samples}, {candidate.measured.seeds} seeds"
    if not folds:
        return "the budget of discovery, which may be another"
    count = len(target.data("train").head(budget.samples))
    return f"{budget.steps} steps on {count - count // len(folds)} samples, one seed for each of {len(folds)} folds"


def _of_folds(folds: Sequence[float], metric: Metric, samples: int) -> Interval:
    """The mean over folds. Of the share that is right the interval is that of a share of so many samples: few folds say
    less of their own spread than the samples in them. Other scores are no shares of samples, whatever their range.
    """
    if metric.told != "accuracy" or metric.range != (0.0, 1.0):
        return confidence_interval(list(folds), metric.range)
    mean = sum(folds) / len(folds)
    center = (mean * samples + 2) / (samples + 4)  # Agresti and Coull 1998
    half = 1.96 * (center * (1 - center) / (samples + 4)) ** 0.5
    return Interval(mean=mean, low=max(0.0, min(mean, center - half)), high=min(1.0, max(mean, center + half)),
                    values=tuple(folds))  # fmt: skip


def _of_edge(candidate: _Candidate, method: Transfer) -> Interval | None:
    """The score that discovery measured with this method; None if it did not, or keeps no score."""
    edge = candidate.edge
    if (
        edge is None
        or not edge.measured
        or edge.score is None
        or edge.best_strategy not in (None, method.name, method.origin)
    ):
        return None
    low, high = (edge.score if end is None else end for end in (edge.score_low, edge.score_high))
    return Interval(mean=edge.score, low=low, high=high)


def _by(edge: Any, method: Transfer) -> bool:
    """Whether an edge was measured with this method, as far as it says."""
    return edge.best_strategy in (None, method.name, method.origin)


# Looking at features --------------------------------------------------------------------------------------------------


def _samples(target: Task, budget: Budget) -> TensorData:
    """The samples of the target that may be looked at: those that the budget lets it learn from."""
    return target.data("train").head(min(MOST, budget.samples or MOST))


def _shared(source: Task, target: Task, budget: Budget) -> int:
    """How many of the target's samples that it may learn from have the inputs of one that the source has learned from,
    to the bit; of a source with more than `ROWS` samples the first so many are looked at. 0 where a side has no data.
    """
    if not (source.has_data("train") and target.has_data("train")):
        return 0
    own, theirs = target.data("train").head(budget.samples), source.data("train").head(ROWS)
    one, other = _parts(own.inputs), _parts(theirs.inputs)
    if [(p.shape[1:], p.dtype) for p in one] != [(p.shape[1:], p.dtype) for p in other]:
        return 0
    ours = list(_digests(one))
    seen = set(ours).intersection(_digests(other))
    return sum(each in seen for each in ours)


def _parts(inputs: Any) -> list[Tensor]:
    return list(inputs.parts.values()) if isinstance(inputs, MultiInput) else [inputs]


def _digests(parts: Sequence[Tensor]) -> Iterator[bytes]:
    """A digest of each sample of inputs in parts [N, ...]."""
    for each in zip(*(torch.split(part.detach(), 1024) for part in parts), strict=True):
        rows = [part.reshape(len(part), -1).cpu().contiguous().view(torch.uint8).numpy() for part in each]
        for row in zip(*rows, strict=True):
            yield hashlib.blake2b(b"".join(each.tobytes() for each in row), digest_size=16).digest()


def _screened(model: nn.Module | None, target: Task, metric: Metric, budget: Budget) -> float | None:
    """The metric of ridge regression on a model's features, left one out; None where there are no features."""
    assert model is not None
    data = _samples(target, budget)
    if target.descriptor.task_type not in ("classification", "multilabel", "regression") or len(data) < ENOUGH:
        return None
    try:
        features = predict(Headless(model).to(device_of(model)), data.inputs)
    except Exception:  # a trunk that gives no features: it is ranked by what else is known
        return None
    try:
        return float(metric(left_one_out(features.flatten(1), data.targets, target), data.targets))
    except Exception:  # a metric of the user's own may take no such outputs
        return None


def left_one_out(features: Tensor, targets: Tensor, task: Task) -> Tensor:
    """Outputs [N, K] of ridge regression from features [N, F] to what the targets say (classes as 0 and 1), each sample
    by the others: y - (y - ŷ)/(1 - h), with h the diagonal of the hat matrix. The ridge is that of the least error.
    """
    width, kind = task.descriptor.output_dim or 1, task.descriptor.task_type
    x = features.double()
    spread = x.std(0)
    x = (x - x.mean(0))[:, spread > 0] / spread[spread > 0]
    if kind == "classification":
        wanted = nn.functional.one_hot(targets.long(), max(2, width)).double()
    else:
        wanted = targets.reshape(len(targets), -1).double()
        wanted = torch.where(torch.isnan(wanted), wanted.nanmean(0).nan_to_num(0.0), wanted)  # a column may have none
    mean = wanted.mean(0)
    values, vectors = torch.linalg.eigh(x @ x.T / max(1, x.shape[1]))
    values = values.clamp_min(0)
    best, found = float("inf"), wanted
    for ridge in RIDGES:
        hat = (vectors * (values / (values + ridge))) @ vectors.T
        left = 1 - hat.diagonal() - 1 / len(x)
        error = (wanted - mean - hat @ (wanted - mean)) / left.clamp_min(1e-6)[:, None]
        if float(error.square().mean()) < best:
            best, found = float(error.square().mean()), wanted - error
    if kind == "classification" and width == 1:
        return (found[:, 1:] - found[:, :1]).float()
    return (found - 0.5 if kind == "multilabel" else found).float()


def _untrained(candidate: _Candidate, target: Task, metric: Metric, context: Context, budget: Budget) -> float | None:
    """The best of the same look at untrained networks of the source's architecture: what features are worth that know
    nothing.
    """
    found = []
    for number in range(UNTRAINED):
        assert candidate.source.model is not None
        try:
            seed = context.seed_for("advise", target.task_id, "untrained", number)
            score = _screened(fresh_model(candidate.source.model, target, seed), target, metric, budget)
        except Exception:  # of the user's own class; whether it fits has been asked before
            return None
        if score is not None:
            found.append(score)
    return max(found, default=None)


# Trying the best ------------------------------------------------------------------------------------------------------


def _tried(
    context: Context,
    method: Transfer,
    target: Task,
    candidates: Sequence[_Candidate],
    screened: Mapping[str, float | None],
    budget: Budget,
    allowance: int,
) -> tuple[dict[str, list[float]], int]:
    """(scores on folds of the finalists, steps spent)."""
    if not target.has_data("train") or len(target.data("train")) < 8:
        return {}, 0
    looked = [c for c in candidates if screened.get(c.source.task_id) is not None]
    order = sorted(looked, key=lambda c: -(screened[c.source.task_id] or 0.0)) or list(candidates)
    finalists = order[: min(FINALISTS, max(0, allowance // (2 * budget.steps)))]
    if not finalists:
        return {}, 0
    folds = min(FOLDS, allowance // (len(finalists) * budget.steps))
    jobs = []
    light = _light(target, budget)
    for c in finalists:
        model = _model(c)
        keep, made = same_classes(c.source.descriptor, target.descriptor), source_digest(model)
        for fold in range(folds):
            key = key_of("fold", method.identity(), made, target.fingerprint(), budget, folds, fold,
                         keep, context.seed, *context.wrapping())  # fmt: skip
            seed = context.seed_for("advise", target.task_id, fold)
            args = (method, model, light, budget, seed, keep, folds, fold)
            jobs.append(Job(_fold_job, args, label=c.source.task_id, key=("transfers", key)))
    scores, new = _run(context, target, jobs)
    found = {c.source.task_id: scores[n * folds : (n + 1) * folds] for n, c in enumerate(finalists)}
    return found, new * budget.steps


def _from_scratch(
    context: Context,
    target: Task,
    finalists: Sequence[_Candidate],
    built: Mapping[str, str],
    budget: Budget,
    folds: int,
    allowance: int,
) -> tuple[dict[str, list[float]], int]:
    """(by finalist, scores of its architecture trained from scratch on the first of the same folds, as many as the
    allowance has steps for; steps spent). The best finalist's come first; those of one architecture have them together.
    """
    jobs: list[Job] = []
    places: dict[str, slice] = {}
    light = _light(target, budget)
    for c in finalists:
        text = built[c.source.task_id]
        if text in places:
            continue
        count = max(0, min(folds, allowance // budget.steps - len(jobs)))
        places[text] = slice(len(jobs), len(jobs) + count)
        for fold in range(count):
            key = key_of("fold from scratch", text, target.fingerprint(), budget, folds, fold, context.seed,
                         *context.wrapping())  # fmt: skip
            seed = context.seed_for("advise", target.task_id, fold)
            args = (None, _model(c), light, budget, seed, False, folds, fold)
            jobs.append(Job(_fold_job, args, label="from scratch", key=("transfers", key)))
    scores, new = _run(context, target, jobs)
    found = {c.source.task_id: scores[places[built[c.source.task_id]]] for c in finalists}
    return {name: each for name, each in found.items() if each}, new * budget.steps


def _model(candidate: _Candidate) -> nn.Module:
    assert candidate.source.model is not None
    return candidate.source.model


def _light(target: Task, budget: Budget) -> Task:
    """The target as a job takes it; patience looks at the validation data, as in a transfer."""
    return without_model(target, ("train", *(("validation",) if budget.patience is not None else ())))


def _run(context: Context, target: Task, jobs: Sequence[Job]) -> tuple[list[float], int]:
    """(scores of trainings on folds, in the order of the jobs; how many were trained now). Each is remembered."""
    scores, waiting = [0.0] * len(jobs), []
    for number, job in enumerate(jobs):
        assert job.key is not None
        known = context.recall(*job.key, claim=False)
        if known is None:
            waiting.append(number)
        else:
            scores[number] = float(known.payload["score"])
    for index, got in context.jobs([jobs[number] for number in waiting]):
        job = jobs[waiting[index]]
        if isinstance(got, Remembered):  # another run of this store has tried it meanwhile
            scores[waiting[index]] = float(got.payload["score"])
            continue
        scores[waiting[index]] = got
        assert job.key is not None
        made = {"what": "fold", "target": target.task_id, "source": job.label, "score": got}
        context.remember(*job.key, made)
        context.tell("stage_progress", stage="advise", detail=job.label)
    return scores, len(waiting)


def _fold_job(
    method: Transfer | None,
    source: nn.Module,
    target: Task,
    budget: Budget,
    seed: int,
    keep: bool,
    folds: int,
    fold: int,
) -> float:
    """The score of a transfer on one fold of the target's samples, learned from the others; without a method, of the
    source's architecture trained from scratch.
    """
    data = target.data("train").head(budget.samples)
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(folds))
    if target.descriptor.task_type == "classification":
        order = order[torch.argsort(data.targets[order], stable=True)]  # every fold has its share of each class
    held = order[fold::folds]
    rest = torch.ones(len(data), dtype=torch.bool)
    rest[held] = False
    own = {"validation": target.data("validation")} if target.has_data("validation") else {}
    task = target.over(train=data.take(rest.nonzero()[:, 0]), test=data.take(held), **own)
    generator = torch.Generator().manual_seed(seed)
    if method is None:
        learner = fresh_model(source, task, seed)
        fit(learner, task, budget, generator)
    else:
        learner, _, _ = receive(source, task, seed, keep)
        method.learn(learner, source, task, budget, generator)
    return evaluate(learner, task, "test")


# In words -------------------------------------------------------------------------------------------------------------


def paragraph(advice: Advice) -> str:
    """The advice in a few sentences."""
    if not advice.rows:
        reasons = "; ".join(f"{name}: {why}" for name, why in list(advice.avoid.items())[:3])
        return f"No source fits {advice.target!r}: train from scratch." + (f" ({reasons})" if reasons else "")
    best = advice.rows[0]
    if advice.source is None:
        said = [f"No source is known to help {advice.target!r}: train from scratch."]
        if best.source in advice.avoid and not _useless(best):
            said.append(f"{best.source!r} is not to be used: {advice.avoid[best.source]}.")
        elif not _useless(best) and best.scratch is not None and best.expected is not None:
            said.append(
                f"The best tried, {best.source!r}, came to {advice.metric} {best.expected.mean:.3f} on folds of its "
                f"samples, training from scratch to {best.scratch:.3f}."
            )
        elif not _useless(best):
            said.append(
                f"The best features found, those of {best.source!r}, tell no more about it than untrained ones."
            )
        if (bad := next((row for row in advice.rows if _useless(row)), None)) is not None:
            score = "" if bad.expected is None else f"{advice.metric} {bad.expected.mean:.3f}, "
            said.append(f"A transfer from {bad.source!r} gained nothing over that ({score}{bad.evidence}).")
        return " ".join(said)
    if best.evidence == NOTHING:
        few = f"too few samples to tell ({advice.samples})"
        why = few if advice.samples < ENOUGH else "its features could not be looked at, and no transfer was tried"
        said = [
            f"A guess, no more: learn {advice.target!r} from {best.source!r} by {best.strategy}, by its description "
            f"the most similar; {why}."
        ]
    else:
        said = [f"Learn {advice.target!r} from {best.source!r} by {best.strategy}."]
    if best.expected is not None:
        low, high = best.expected.low, best.expected.high
        ends = f" (95 % interval {low:.3f} to {high:.3f} for {best.setting})" if high > low else ""
        said.append(f"Expected {advice.metric}: {best.expected.mean:.3f}{ends}; {best.evidence}.")
        if best.shared:
            said.append(
                f"{best.shared} of the target's training samples are also the source's: the expected score is too good."
            )
    elif best.screened is not None and not best.evidence.startswith("measured"):
        said.append(
            f"No transfer was tried: a linear model on its features scores {best.screened:.3f} on samples left out, "
            f"which is no {best.strategy} yet."
        )
    elif best.evidence != NOTHING:
        said.append(f"Evidence: {best.evidence}.")
    if best.scratch is not None:
        more = ", which is more" if best.helps is False else ""
        said.append(f"Training from scratch: {best.scratch:.3f} in the same setting{more}.")
    if best.helps is None and best.screened is not None and best.untrained is not None:
        alike = "the two are as good as alike" if best.scratch is not None else (
            f"a linear model on untrained features scores {best.untrained:.3f}, and none was trained from scratch"
        )  # fmt: skip
        said.append(f"Whether it helps is not known: {alike}.")
    others = (row for row in advice.rows[1:] if row.source not in advice.avoid and not _useless(row))
    if (second := next(others, None)) is not None:
        beside = "" if second.expected is None else f" ({second.expected.mean:.3f}, {second.evidence})"
        said.append(f"Next best: {second.source!r}{beside}.")
        said += _why_in_this_order(best, second)
    spent = "under 1 %" if advice.spent < 0.005 else f"{advice.spent:.0%}"
    took = f"{spent} of the training that trying all takes" if advice.spent else "no training"
    said.append(f"That takes {advice.cost} steps over all seeds; this advice took {took}.")
    if advice.avoid:
        name, why = next(iter(advice.avoid.items()))
        more = f", and {len(advice.avoid) - 1} more" if len(advice.avoid) > 1 else ""
        said.append(f"Do not use {name!r} ({why}){more}.")
    return " ".join(said)


def _why_in_this_order(best: AdviceRow, second: AdviceRow) -> list[str]:
    """A sentence where the scores beside two sources do not say why the one comes before the other."""
    if best.expected is None or second.expected is None:
        return []
    if best.evidence.startswith("tried") != second.evidence.startswith("tried"):
        return ["The one was measured, the other tried on folds, which are other samples: their order is rough."]
    if second.expected.mean <= best.expected.mean or best.screened is None or second.screened is None:
        return []
    one, other = (_of_both([row.expected.mean], row.screened) for row in (best, second) if row.expected is not None)
    return [f"It comes after by the mean of folds and of the linear model on features, {other:.3f} and {one:.3f}."]
