"""What learns badly of a task as it was given: answers that are probabilities already, values far from 0 or 1, labels
that are all the same.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from crosstask.descriptors import TensorData
from crosstask.errors import DataError
from crosstask.learning.functional import kept_buffers
from crosstask.learning.modules import evaluating, forward, last_layer, seeded, uncompiled
from crosstask.learning.objectives import METRICS, bce_with_logits, cross_entropy, loss_of
from crosstask.tasks import Task

FARTHEST, SPREADS = 3.0, (0.1, 10.0)
"""How many standard deviations the mean of values may lie from 0, and between which bounds their standard deviation
itself: beyond them 200 steps of Adam at 1e-3 come to less than three quarters of what they learn of standardised ones.
"""
A_FEW, NUMBERS = 16, 1 << 20
"""How many samples show through what a model's answers go at the end: exact as it is, more of them would say no more.
And how many numbers of targets are looked at, of as many samples as the first at least.
"""
COARSE = 1e-4
"""What half precision rounds by more than, and every other type by less."""
BY_SIGN = frozenset(METRICS) - {"auroc", "average_precision", "pearson", "spearman", "ndcg", "hit_rate"}
"""Metrics for which an answer above 0 means yes."""


# Values ---------------------------------------------------------------------------------------------------------------


def raw_values(task: Task, fresh: Callable[[], nn.Module] | None = None) -> str | None:
    """A sentence where the training targets of a regression are so far from mean 0 and variance 1 that a short training
    learns hardly anything of them, with their figures. None where they are not, or the loss is the user's own.

    Columns are judged together, as R² does: by how far their means lie, of what all of them vary, and by the spread of
    those in which half of it lies. `fresh` makes a network of the task's own; it is asked for where a usual one would
    learn hardly anything, and then counts what this one answers first. What it raises is raised.
    """
    if task.descriptor.task_type != "regression" or not task.has_data():
        return None
    if not (task.loss is None or isinstance(task.loss, str) or _of_torch(task.loss)):
        return None
    means, spreads = _columns(task.data("train").targets)
    told = _too_far(means, spreads, torch.zeros_like(means), torch.ones_like(means))
    if told is None or fresh is None:
        return told
    return _too_far(means, spreads, *_first_answers(fresh(), task.data("train").take(slice(A_FEW))))


def _columns(targets: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of what is known of each column of targets, [K] each; 0 and 0 of one without two
    finite values. Of many numbers a part is looked at, of few columns all.
    """
    rows = targets.reshape(len(targets), -1)
    count = max(A_FEW, NUMBERS // max(1, rows.shape[1]))
    if len(rows) > count:
        rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:count]]
    rows = rows.cpu().double()
    known = ~rows.isnan()
    counts = known.sum(0)
    means = rows.nansum(0) / counts.clamp_min(1)
    spreads = (torch.where(known, rows - means, 0.0).square().sum(0) / (counts - 1).clamp_min(1)).sqrt()
    usable = (counts > 1) & spreads.isfinite()
    means, spreads = torch.where(usable, means, 0.0), torch.where(usable, spreads, 0.0)
    rounded = spreads <= means.abs() * torch.finfo(torch.float32).eps  # a constant, of which sums are inexact
    return means, torch.where(rounded, 0.0, spreads)


def _too_far(means: Tensor, spreads: Tensor, around: Tensor, about: Tensor) -> str | None:
    """What is said of columns with these means and spreads if a network begins with answers of about `about` around
    `around`; all [K].
    """
    varies = spreads.square()
    if not varies.sum() > 0:
        return None  # there is nothing to learn
    away = means - around
    ratio, spread = _half(spreads / about, varies), _half(spreads, varies)
    shift = float((away.square().sum() / varies.sum()).sqrt())
    if max(shift / FARTHEST, ratio / SPREADS[1], SPREADS[0] / ratio) <= 1:
        return None
    most = int((away.square() + varies).argmax())
    mean, own, first, unit = (float(each[most]) for each in (means, spreads, around, about))
    mean = mean if abs(mean) > own / 1000 else 0.0
    many = len(means) > 1
    where = f" in the column that weighs most (column {most} of {len(means)})" if many else ""
    figures = f"its targets have mean {mean:.3g} and standard deviation {own:.3g}{where}, and"
    if abs(first) > 1 or not 0.5 <= unit <= 2:
        middle = "the mean of each column" if many else f"{mean:.3g}"
        return (
            f"{figures} its own network begins with answers of about {unit:.3g} around {first:.3g}: a short training "
            f"learns hardly anything. Let the network come to answers of about {spread:.3g} around {middle}"
        )
    if many:
        less, more = "(y - mean of its column)", "+ mean of its column"
        same = "with the figures of the training split in every split (one spread for all columns: each counts as now)"
    else:
        less = f"(y - {mean:.3g})" if mean >= 0 else f"(y + {-mean:.3g})"
        more = f"{'+' if mean >= 0 else '-'} {abs(mean):.3g}"
        same = "with these figures in every split"
    return (
        f"{figures} a network begins with answers of about 1 around 0: a short training learns hardly anything. Give "
        f"standardised targets, y = {less} / {spread:.3g} {same}, and turn answers back by y * {spread:.3g} {more}"
    )


def _half(values: Tensor, weights: Tensor) -> float:
    """The value up to which half of the weight lies."""
    order = values.argsort()
    below = weights[order].cumsum(0)
    return float(values[order[int((below < below[-1] / 2).sum())]])


def _first_answers(model: nn.Module, part: TensorData) -> tuple[Tensor, Tensor]:
    """Around what a network's answers to samples lie, and about how large they are, [K] each: as far as they go where
    what its last layer gives goes by 1 (a network may end in `y * 50 + 300`), or as far apart as they are, if that is
    more.
    """
    layer, inputs = last_layer(model), part.inputs.to(next((p.device for p in model.parameters()), "cpu"))

    def answers() -> Tensor:
        with seeded(0), evaluating(model), kept_buffers(model), torch.no_grad(), uncompiled():
            return forward(model, inputs).reshape(len(part), -1).double().cpu()

    def by_one(_: nn.Module, __: object, answer: Tensor) -> Tensor:
        signs = torch.rand(answer.shape, generator=torch.Generator().manual_seed(0)) < 0.5
        return answer + torch.where(signs, 1.0, -1.0).to(answer)

    plain = answers()
    far = torch.ones(plain.shape[1], dtype=plain.dtype)
    if layer is not None:
        handle = layer.register_forward_hook(by_one)
        try:
            gone = (answers() - plain).square().mean(0).sqrt()
        finally:
            handle.remove()
        far = torch.where(gone > 0, gone, far)  # where nothing comes of it nobody can say
    return plain.mean(0), torch.maximum(far, plain.std(0)) if len(part) > 1 else far


# Labels ---------------------------------------------------------------------------------------------------------------


def one_class(task: Task) -> str | None:
    """A sentence where the training samples of a classification have one label only, or are but one; else None."""
    if task.descriptor.task_type != "classification" or not task.has_data():
        return None
    labels = task.data("train").targets
    if len(torch.unique(labels)) > 1:
        return None
    label, names = int(labels[0]), task.descriptor.classes
    told = f"class {names[label]!r}" if label < len(names) else f"label {label}"
    who = "its training data are a single sample" if len(labels) == 1 else f"all {len(labels)} training samples are"
    return (
        f"{who} of {told}: nothing tells classes apart, and a model learns to answer always the same. Give samples of "
        "every class (is the table sorted by its labels? shuffle it before it is split)"
    )


# Answers --------------------------------------------------------------------------------------------------------------


def probabilities(task: Task, model: nn.Module, part: TensorData) -> str | None:
    """A sentence where a model answers the inputs of `part` with probabilities, or their logarithms, and the task's
    loss or metric takes logits; None where it does not. Whatever the model raises is raised.

    By its answers alone, and what its last layer made them of: a softmax gives rows that sum to 1, a sigmoid the
    sigmoid of what the last layer gives. The logarithm of a softmax is as good as logits to the cross-entropy of
    classes, which is the same of both. A model that answers otherwise in training mode is judged by that. Nothing stays
    of it: no mode, buffer or random number is another afterwards.
    """
    labels = by_labels(task)
    if labels is None or len(part) < 2:
        return None
    with seeded(0), evaluating(model), kept_buffers(model), torch.no_grad(), uncompiled():
        found = _ending(task, model, part, labels)
        if found is None:
            return None
        if not labels:
            model.train()
            with contextlib.suppress(Exception):  # it was made for answers only
                found = _ending(task, model, part, labels)
    if found is None:
        return None
    shown = {
        "softmax": "each of its rows sums to 1",
        "sigmoid": "all are between 0 and 1",
        "log-softmax": "the probabilities that they are logarithms of sum to 1",
        "log-sigmoid": "all are below 0",
    }[found]
    who = f"its model answers through a {found} ({shown}, on {len(part)} samples), and"
    if labels:
        answer = "no" if found.startswith("log") else "yes"
        return (
            f"{who} the usual loss and metric of such a task take logits, which mean yes above 0: here every answer is "
            f"{answer}. Leave the {found} out of the model (its weights stay as they are) and the loss as usual"
        )
    return (
        f"{who} cross-entropy takes logits: through a second softmax it learns slowly and never comes near certainty. "
        f"Leave the {found} out of the model (its weights and its choices stay as they are), or name a loss of "
        "probabilities: Task(loss=...)"
    )


def by_labels(task: Task) -> bool | None:
    """What the logits of a task are of: labels that are each yes or no (True), classes one of which is right (False);
    None where neither loss nor metric takes logits.
    """
    try:
        loss = loss_of(task)
    except DataError:
        return None
    kind, single = task.descriptor.task_type, task.descriptor.output_dim == 1
    plain = task.metric is None or isinstance(task.metric, str)
    if kind == "multilabel" or (kind == "classification" and single):
        takes = loss in (cross_entropy, bce_with_logits, functional.binary_cross_entropy_with_logits)
        judged = plain and (task.metric or "accuracy") in BY_SIGN
        return True if takes or judged or isinstance(loss, nn.BCEWithLogitsLoss) else None
    if kind in ("classification", "segmentation", "token_classification"):
        takes = loss in (cross_entropy, functional.cross_entropy) or isinstance(loss, nn.CrossEntropyLoss)
        return False if takes else None
    return None


def _ending(task: Task, model: nn.Module, part: TensorData, labels: bool) -> str | None:
    """What the answers have gone through after the last layer, by what they are; None: nothing that is known."""
    with _last_given(model) as given:
        answers = _rows(forward(model, part.inputs.to(next((p.device for p in model.parameters()), "cpu"))), task)
    logits = _rows(given[-1], task) if given else None
    if logits is not None and logits.shape != answers.shape:
        logits = None
    if logits is not None and torch.equal(logits, answers):
        return None
    exact, many = answers.double(), answers.shape[-1] > 1
    eps = _rounding(answers)
    # Half precision rounds each answer once; of the finer ones the sum itself is as inexact
    near = eps * (2 + math.log(answers.shape[-1]) if eps > COARSE else 4 + answers.shape[-1] ** 0.5)
    within = bool(((exact >= 0) & (exact <= 1)).all())
    if many and within and bool(((exact.sum(-1) - 1).abs() <= near).all()):
        return "softmax"
    if many and labels and bool((exact <= 0).all()) and bool((exact.logsumexp(-1).abs() <= near).all()):
        return "log-softmax"
    if logits is not None:
        given_last = logits.double()
        if _is(torch.sigmoid, (torch.exp, functional.softplus), given_last, exact, eps):
            return "sigmoid"
        if labels and _is(functional.logsigmoid, (lambda z: z.clamp_max(0),), given_last, exact, eps):
            return "log-sigmoid"
    return None


def _rounding(answers: Tensor) -> float:
    """The relative distance of neighbours in the coarsest type that holds all answers as they are: probabilities of
    half precision stay as coarse as they are in a wider type.
    """
    kinds = (torch.bfloat16, torch.float16, torch.float32)
    held = (kind for kind in kinds if torch.equal(answers.to(kind).to(answers.dtype), answers))
    return torch.finfo(next(held, answers.dtype)).eps


def _is(
    function: Callable[[Tensor], Tensor],
    others: Sequence[Callable[[Tensor], Tensor]],
    logits: Tensor,
    answers: Tensor,
    eps: float,
) -> bool:
    """Whether answers are a function of logits, and plainly none of the others, nor the logits moved by a number, nor
    all one number; float64 throughout, `eps` of what the answers were rounded to.
    """
    wide, narrow = (2 * eps, eps / 2) if eps > COARSE else (100 * eps, 10 * eps)

    def fits(made: Tensor, slack: float = 1.0) -> bool:
        return torch.allclose(made, answers, slack * wide, slack * narrow)

    if not fits(function(logits)):
        return False
    alike = [other(logits) for other in others]
    alike += [logits + (answers - logits).mean(), answers.mean().expand_as(answers)]
    return not any(fits(made, 2.0) for made in alike)


@contextlib.contextmanager
def _last_given(model: nn.Module) -> Iterator[list[Tensor]]:
    """Inside, what the last linear or convolution layer answers is noted; nothing where the head is no module."""
    given: list[Tensor] = []
    layer = last_layer(model)

    def note(_: nn.Module, __: object, answer: object) -> None:
        if isinstance(answer, Tensor):
            given.append(answer)

    handle = None if layer is None else layer.register_forward_hook(note)
    try:
        yield given
    finally:
        if handle is not None:
            handle.remove()


def _rows(answers: Tensor, task: Task) -> Tensor:
    """Answers with the classes last."""
    return answers.movedim(1, -1) if task.descriptor.task_type == "segmentation" and answers.ndim > 2 else answers


def _of_torch(loss: object) -> bool:
    return str(getattr(loss, "__module__", "")).startswith("torch.")
