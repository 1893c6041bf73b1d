"""What a model made without labels can be expected to score, with an interval: measured on tasks that are known.

Two cases, by what the sources know of the new task (classification):

- *Covered*: every class of the new task has held-out samples in a source of its own domain. They are labelled samples
  of the new task, and the model is scored on them; the interval is for a score on as many others. How far such a score
  is off because the same names mean something else in another task is seen on the sources themselves: each that the
  others cover is synthesised from the others, scored on one half of the held-out samples through the others and on the
  other half with its own labels.
- *Not covered*, or not classification: each known task is synthesised as if it were as strange as the new one (itself
  and every source of its domain that has one of its classes hidden) and scored on its own held-out data. The new score
  is expected to be one more draw from these: Student's prediction interval. With unlabelled inputs, and five tasks or
  more, the model's mean confidence enters as a regressor where leaving one out shows that it helps.

Scores are in the sources' metric, which the new task is taken to share: where they have several, that of most of them.
They are brought to the share of what lies between chance and perfect before they are averaged over tasks; those of a
metric without a best value (a negated error) are taken as they are.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from crosstask.descriptors import MultiInput, TaskDescriptor
from crosstask.errors import DataError
from crosstask.graph import Evidence, TransferGraph
from crosstask.learning.metrics import student_quantile
from crosstask.learning.objectives import Metric, metric_of
from crosstask.learning.training import evaluate, predict
from crosstask.records import Interval
from crosstask.tasks import Task
from crosstask_synthesis.intervals import one_more, share_variance, wilson
from crosstask_synthesis.known import Known, balanced, known_samples
from crosstask_synthesis.outputs import CLASSES, class_dim, outputs_wanted, two_sided

Inputs = Tensor | MultiInput
Make = Callable[[TaskDescriptor, list[Task], TransferGraph, Inputs | None], nn.Module]
"""How a model is made: (new task, sources, graph, unlabelled inputs) -> module. DataError where it cannot be."""


def expected_score(
    make: Make,
    model: nn.Module,
    new_task: TaskDescriptor,
    sources: Sequence[Task],
    graph: TransferGraph,
    inputs: Inputs | None = None,
    most: int = 12,
) -> tuple[Interval | None, str]:
    """(the expected score of `model` on `new_task` with its 95 % interval, how it was found).

    Only the sources' validation data are read. At most `most` known tasks are synthesised. None, with the reason,
    where no source has validation data or nothing comparable is known.
    """
    held = [s for s in sources if s.has_data("validation")]
    if not held:
        return None, "no expected score: no source has validation data"
    held, metric = _of_one_metric(held, new_task)
    own = known_samples(new_task, held) if metric is not None and metric.told in _SHARES else None
    if own is not None:
        return _covered(make, model, new_task, sources, held, own, graph, inputs, most)
    return _uncovered(make, model, new_task, sources, held, graph, inputs, most)


def _covered(
    make: Make,
    model: nn.Module,
    new_task: TaskDescriptor,
    sources: Sequence[Task],
    held: Sequence[Task],
    own: Known,
    graph: TransferGraph,
    inputs: Inputs | None,
    most: int,
) -> tuple[Interval | None, str]:
    score, count = balanced(model, own, len(new_task.classes))
    excess = []
    for task in held[:most]:
        others = [s for s in sources if s is not task]
        through = known_samples(task.descriptor, [s for s in held if s is not task])
        with_own_labels = known_samples(task.descriptor, [task])
        if through is None or with_own_labels is None:
            continue
        seen = through.inputs if inputs is not None else None
        try:
            made = make(task.descriptor, others, _as_unseen(graph, task.task_id, new_task.task_id), seen)
        except DataError:  # this way of making models does not serve that task
            continue
        classes = len(task.descriptor.classes)
        said = balanced(made, through.half(odd=False), classes)
        was = balanced(made, with_own_labels.half(odd=True), classes)
        excess.append((said[0] - was[0]) ** 2 - share_variance(*said) - share_variance(*was))
    between = max(0.0, sum(excess) / len(excess)) if excess else 0.0
    low, high = wilson(score, count)
    # What is judged later is a score on other samples, too: on as many, its own spread adds as much.
    more = 1.96 * math.sqrt(between + share_variance(score, count))
    low, high = score - math.hypot(score - low, more), score + math.hypot(high - score, more)
    how = f"expected score: on {len(own.labels)} held-out samples of its classes from tasks of its domain"
    checked = f"; such scores were checked on {len(excess)} known tasks" if excess else ""
    return Interval(mean=score, low=max(0.0, low), high=min(1.0, high)), how + checked


def _uncovered(
    make: Make,
    model: nn.Module,
    new_task: TaskDescriptor,
    sources: Sequence[Task],
    held: Sequence[Task],
    graph: TransferGraph,
    inputs: Inputs | None,
    most: int,
) -> tuple[Interval | None, str]:
    shares: list[float] = []
    metric: Metric | None = None
    confidences: list[float] = []
    names: list[str] = []
    for task in held:
        if len(shares) == most:
            break
        its = task.descriptor
        if its.task_type != new_task.task_type:
            continue
        others = [s for s in sources if s is not task and not _gives_away(s.descriptor, its)]
        data = task.data("validation")
        seen = data.inputs if inputs is not None else None
        try:
            made = make(its, others, _as_unseen(graph, task.task_id, new_task.task_id), seen)
        except DataError:
            continue
        metric = metric_of(task)
        least, scale = _from_chance(its, metric)
        shares.append((evaluate(made, task, "validation") - least) / scale)
        confidences.append(_confidence(made, data.inputs, its) if inputs is not None else 0.0)
        names.append(task.task_id)
    if not shares or metric is None:
        return None, "no expected score: no known task can be made from the others as the new one was"
    mine = _confidence(model, inputs, new_task) if inputs is not None else 0.0
    mean, spread, freedom, by_confidence = one_more(np.array(shares), np.array(confidences), mine)
    least, scale = _from_chance(new_task, metric)
    half = student_quantile(freedom) * spread if freedom else math.inf
    how = f"expected score: from {len(shares)} known tasks made as if they were as strange ({', '.join(names)})"
    if by_confidence:
        how += ", by the model's mean confidence"
    if metric.told != "accuracy":
        how += f", in {metric.told}"
    worst, best = metric.range
    low, middle, high = (max(worst, min(best, least + scale * (mean + part))) for part in (-half, 0.0, half))
    if not (math.isfinite(low) and math.isfinite(high)):
        return None, "no expected score: one known task says nothing of how far another may be from it"
    return Interval(mean=middle, low=low, high=high), how


_SHARES = ("accuracy", "balanced_accuracy")


def _of_one_metric(held: Sequence[Task], new_task: TaskDescriptor) -> tuple[list[Task], Metric | None]:
    """(the tasks whose metric most of those of the new task's type have, that metric)."""
    alike = []
    for task in held:
        if task.descriptor.task_type == new_task.task_type:
            with contextlib.suppress(DataError):  # a type of its own that names no metric
                alike.append((task, metric_of(task)))
    names = [metric.told for _, metric in alike]
    if not names:
        return [], None
    common = max(names, key=names.count)
    return [task for task, metric in alike if metric.told == common], next(m for _, m in alike if m.told == common)


@torch.no_grad()
def _confidence(model: nn.Module, inputs: Inputs, task: TaskDescriptor) -> float:
    """Mean probability of the chosen class, as the share above that of guessing; 0 for what are no classes."""
    outputs = predict(model, inputs)
    if task.task_type not in CLASSES:
        return 0.0
    outputs, dim = two_sided(outputs), class_dim(task)
    if outputs.shape[dim] < 2:
        return 0.0
    chance = 1 / outputs.shape[dim]
    return (float(outputs.softmax(dim).amax(dim).mean()) - chance) / (1 - chance)


def _from_chance(task: TaskDescriptor, metric: Metric) -> tuple[float, float]:
    """(what guessing scores, how far that is from perfect): for accuracy among equally frequent classes, 0 for other
    metrics that reach it (r2 of the mean, a correlation). (0, 1) where nothing is perfect.
    """
    if not math.isfinite(metric.best):
        return 0.0, 1.0
    classes = outputs_wanted(task)
    share = task.task_type in CLASSES and metric.told in _SHARES and classes > 1
    least = 1 / classes if share else max(0.0, metric.range[0]) if metric.best > 0 else metric.range[0]
    return (least, metric.best - least) if math.isfinite(least) else (0.0, 1.0)


def _gives_away(source: TaskDescriptor, hidden: TaskDescriptor) -> bool:
    """Whether a source knows one of the hidden task's classes in its own domain."""
    return source.domain == hidden.domain and bool(set(source.classes) & set(hidden.classes))


def _as_unseen(graph: TransferGraph, task_id: str, new_id: str) -> TransferGraph:
    """The graph as if no more were known of a task than of the new one: without measurements into it if the new one
    has none.
    """
    if new_id in graph.task_ids and any(e.evidence is Evidence.MEASURED for e in graph.edges_into(new_id)):
        return graph
    copy = TransferGraph(graph.task(t) for t in graph.task_ids)
    for edge in graph.all_edges():
        if edge.target != task_id or edge.evidence is not Evidence.MEASURED:
            copy.add(edge)
    return copy
