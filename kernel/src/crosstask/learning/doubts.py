"""What learns badly of a task as it was given: answers that are probabilities already, values far from 0 or 1, labels
that are all the same.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

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
BY_SIGN = frozenset(METRICS) - {"auroc", "average_precision", "pearson", "spearman", "ndcg", "hit_rate"}
"""Metrics for which an answer above 0 means yes."""


# Values ---------------------------------------------------------------------------------------------------------------


def raw_values(task: Task) -> str | None:
    """A sentence where the training targets of a regression are so far from mean 0 and variance 1 that a short training
    learns hardly anything of them, with their figures; of several columns of the farthest. None where they are not, or
    the loss is the user's own.
    """
    if task.descriptor.task_type != "regression" or not task.has_data():
        return None
    if not (task.loss is None or isinstance(task.loss, str) or _of_torch(task.loss)):
        return None
    rows = task.data("train").targets
    rows = rows.reshape(len(rows), -1).double()
    worst, told = 1.0, None
    for column, values in enumerate(rows.T):
        known = values[~torch.isnan(values)]
        spread = float(known.std()) if len(known) > 1 else 0.0
        if not spread > 0:
            continue
        mean = float(known.mean())
        mean = mean if abs(mean) > spread / 1000 else 0.0
        far = max(abs(mean) / (FARTHEST * spread), spread / SPREADS[1], SPREADS[0] / spread)
        if far > worst:
            where = f" (column {column} of {rows.shape[1]})" if rows.shape[1] > 1 else ""
            shift = f"(y - {mean:.3g})" if mean >= 0 else f"(y + {-mean:.3g})"
            worst = far
            told = (
                f"its targets have mean {mean:.3g} and standard deviation {spread:.3g}{where}, and a network begins "
                "with answers of about 1 around 0: a short training learns hardly anything. Give standardised targets, "
                f"y = {shift} / {spread:.3g} with these figures in every split, and turn answers back by "
                f"y * {spread:.3g} {'+' if mean >= 0 else '-'} {abs(mean):.3g}"
            )
    return told


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
    eps = torch.finfo(answers.dtype).eps
    exact, many = answers.double(), answers.shape[-1] > 1
    near = eps * (4 + answers.shape[-1] ** 0.5)
    within = bool(((exact >= 0) & (exact <= 1)).all())
    if many and within and bool(((exact.sum(-1) - 1).abs() <= near).all()):
        return "softmax"
    if many and labels and bool((exact <= 0).all()) and bool((exact.logsumexp(-1).abs() <= near).all()):
        return "log-softmax"
    if logits is not None:
        for name, function in (("sigmoid", torch.sigmoid), ("log-sigmoid", functional.logsigmoid)):
            if (labels or name == "sigmoid") and torch.allclose(function(logits.double()), exact, 100 * eps, 10 * eps):
                return name
    return None


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
