"""Losses and metrics by name, and what a task's type means. Every score is higher-is-better."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import attrs
import torch
from torch import Tensor
from torch.nn import functional

from crosstask.descriptors import TaskDescriptor
from crosstask.errors import CrosstaskError, DataError, nearest, told
from crosstask.options import structure
from crosstask.tasks import Task

Objective = Callable[[Tensor, Tensor], Tensor]
"""A loss: (outputs, targets) to a scalar."""


# Losses ---------------------------------------------------------------------------------------------------------------


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Of labels [N] under logits [N, C]; with a single logit [N, 1] of two classes; of dense labels [N, …] under
    logits [N, C, …] or, of sequences, [N, L, C], where the label -100 is not counted.
    """
    if targets.ndim == 1 and outputs.ndim == 2 and outputs.shape[1] == 1:
        return functional.binary_cross_entropy_with_logits(outputs[:, 0], targets.to(outputs.dtype))
    return functional.cross_entropy(_classes_second(outputs, targets), targets)


def _classes_second(outputs: Tensor, targets: Tensor) -> Tensor:
    """Logits [N, C, …] for targets [N, …]: those of sequences [N, L, C] are turned."""
    return outputs.transpose(1, 2) if targets.ndim == 2 and outputs.ndim == 3 else outputs


def _pairs(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs and targets of the same shape; where a target is NaN (not known), neither."""
    if outputs.numel() != targets.numel():
        raise DataError(f"outputs {tuple(outputs.shape)} for targets {tuple(targets.shape)}")
    targets = targets.reshape(outputs.shape).to(outputs.dtype)
    known = ~torch.isnan(targets)
    return (outputs, targets) if bool(known.all()) else (outputs[known], targets[known])


def mse(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean squared error; targets [N] are taken as [N, 1]. NaN targets are not counted, here and below."""
    return functional.mse_loss(*_pairs(outputs, targets))


def mae(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean absolute error."""
    return functional.l1_loss(*_pairs(outputs, targets))


def huber(outputs: Tensor, targets: Tensor) -> Tensor:
    """Squared for errors up to 1, absolute beyond (Huber 1964)."""
    return functional.huber_loss(*_pairs(outputs, targets))


def bce_with_logits(outputs: Tensor, targets: Tensor) -> Tensor:
    """Binary cross entropy of each logit; targets are 0 and 1."""
    return functional.binary_cross_entropy_with_logits(*_pairs(outputs, targets))


LOSSES: dict[str, Objective] = {
    "cross_entropy": cross_entropy,
    "mse": mse,
    "mae": mae,
    "huber": huber,
    "bce_with_logits": bce_with_logits,
}
"""Losses that a task may name."""


# Metrics --------------------------------------------------------------------------------------------------------------


@attrs.frozen(eq=False)
class Metric:
    """What a task is judged by: `function(outputs, targets)` to a number, its range, and which end is the better one.

    Scores are higher-is-better everywhere: one of a metric where less is better is negated, as in scikit-learn, and its
    name says so (`neg_rmse`).
    """

    function: Callable[..., Any]
    name: str = ""
    low: float = -math.inf
    high: float = math.inf
    higher_is_better: bool = True

    def __attrs_post_init__(self) -> None:
        if not callable(self.function):
            raise DataError(f"a metric's function must be one, got a {type(self.function).__name__}")
        low, high = (structure(end, float, f"metric: {name}") for name, end in (("low", self.low), ("high", self.high)))
        if not low < high:
            raise DataError(f"a metric's range must go from low to high, got {low} to {high}")

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor | float:
        """The score."""
        found: Tensor | float = self.function(outputs, targets)
        return found if self.higher_is_better else -found

    @property
    def range(self) -> tuple[float, float]:
        """What scores can be."""
        return (self.low, self.high) if self.higher_is_better else (-self.high, -self.low)

    @property
    def gains(self) -> tuple[float, float]:
        """What differences of scores can be."""
        return self.low - self.high, self.high - self.low

    @property
    def best(self) -> float:
        """The best score; infinite where there is none."""
        return self.range[1]

    @property
    def told(self) -> str:
        """The name for records and tables."""
        name = self.name or getattr(self.function, "__name__", "metric")
        return name if self.higher_is_better else f"neg_{name}"


def accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Share of samples whose largest logit [N, C] is the label's [N]; of a single logit, whose sign is; of several
    labels or places, the share of these.
    """
    if targets.is_floating_point():
        outputs, targets = _pairs(outputs, targets)
        return ((outputs > 0) == (targets > 0.5)).to(torch.get_default_dtype()).mean()
    found = _answers(outputs, targets)
    known = targets != -100
    return (found == targets)[known].to(torch.get_default_dtype()).mean()


def _answers(outputs: Tensor, targets: Tensor) -> Tensor:
    """The label that logits give, in the shape of the targets."""
    if targets.ndim == 1:
        return (outputs[:, 0] > 0).long() if outputs.ndim == 2 and outputs.shape[1] == 1 else outputs.argmax(dim=-1)
    return _classes_second(outputs, targets).argmax(dim=1)


def r2(outputs: Tensor, targets: Tensor) -> Tensor:
    """Coefficient of determination over all targets [N, K], clipped at 0 (no better than the mean)."""
    targets = targets.reshape(outputs.shape).to(outputs.dtype)
    known = ~torch.isnan(targets)
    targets, outputs = torch.where(known, targets, 0.0), torch.where(known, outputs, 0.0)
    mean = targets.sum(dim=0) / known.sum(dim=0).clamp_min(1)
    total = torch.where(known, (targets - mean) ** 2, 0.0).sum()
    return (1 - ((outputs - targets) ** 2).sum() / total.clamp_min(torch.finfo(outputs.dtype).tiny)).clamp_min(0.0)


def rmse(outputs: Tensor, targets: Tensor) -> Tensor:
    """Root of the mean squared error."""
    return mse(outputs, targets).sqrt()


def _torchmetrics(name: str, outputs: Tensor, targets: Tensor, *, average: str | None = None) -> Tensor:
    """A metric of torchmetrics for labels, by the form of outputs and targets."""
    function = _functional(name)
    more: dict[str, Any] = {} if average is None else {"average": average}
    if targets.is_floating_point():
        flat = [t.reshape(len(t), -1) for t in (outputs, targets)]
        whole = torch.where(torch.isnan(flat[1]), -1, flat[1]).long()
        if flat[0].shape[1] > 1:
            found = function(flat[0].sigmoid(), whole, task="multilabel", num_labels=flat[0].shape[1],
                             ignore_index=-1, **more)  # fmt: skip
        else:
            found = function(flat[0][:, 0].sigmoid(), whole[:, 0], task="binary", ignore_index=-1)
    elif targets.ndim == 1 and outputs.shape[-1] == 1:
        found = function(outputs[:, 0].sigmoid(), targets, task="binary")
    else:
        logits = _classes_second(outputs, targets)
        found = function(logits.softmax(1), targets, task="multiclass", num_classes=logits.shape[1],
                         ignore_index=-100 if bool((targets == -100).any()) else None, **more)  # fmt: skip
    return found  # type: ignore[no-any-return]


@functools.cache
def _functional(name: str) -> Callable[..., Any]:
    try:
        import torchmetrics.functional  # deferred: it takes a second
        import torchmetrics.functional.retrieval
    except ImportError:
        raise DataError(f"metric {name!r} needs torchmetrics: pip install 'crosstask-kernel[metrics]'") from None

    home = torchmetrics.functional.retrieval if name.startswith("retrieval") else torchmetrics.functional
    return getattr(home, name)  # type: ignore[no-any-return]


def f1(outputs: Tensor, targets: Tensor) -> Tensor:
    """F1, the mean over classes or labels (of a single logit: of class 1)."""
    return _torchmetrics("f1_score", outputs, targets, average="macro")


def _each_against_the_rest(name: str, outputs: Tensor, targets: Tensor) -> Tensor:
    """A metric of torchmetrics for two classes, of each class against the rest (of each label), the mean of those for
    which the targets have both sides. DataError where there is none.
    """
    if targets.is_floating_point():
        rows = targets.reshape(len(targets), -1)
        scores = outputs.reshape(rows.shape)
        pairs = [(scores[:, k], rows[:, k]) for k in range(rows.shape[1])]
    elif targets.ndim == 1 and outputs.shape[-1] == 1:
        pairs = [(outputs[:, 0], targets.to(outputs.dtype))]
    else:
        found = _classes_second(outputs, targets).movedim(1, -1).reshape(-1, _classes_second(outputs, targets).shape[1])
        flat = targets.reshape(-1)
        found, flat = found[flat != -100].softmax(1), flat[flat != -100]
        pairs = [(found[:, k], (flat == k).to(outputs.dtype)) for k in range(found.shape[1])]
    values = []
    for scores, wanted in pairs:
        known = ~torch.isnan(wanted)
        scores, wanted = scores[known], wanted[known]
        if len(wanted) and 0 < float(wanted.mean()) < 1:
            values.append(_functional(name)(scores, wanted.long(), task="binary"))
    if not values:
        raise DataError(f"{name} needs samples of two classes at least; the targets have but one")
    return torch.stack(values).mean()


def auroc(outputs: Tensor, targets: Tensor) -> Tensor:
    """Area under the ROC curve, the mean over classes (one against the rest) or labels that the targets have."""
    return _each_against_the_rest("auroc", outputs, targets)


def average_precision(outputs: Tensor, targets: Tensor) -> Tensor:
    """Area under the precision-recall curve, the mean over classes or labels that the targets have."""
    return _each_against_the_rest("average_precision", outputs, targets)


def balanced_accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    """The mean over the classes that the targets have of the share of their samples that are found; of several labels,
    the mean of this over the labels.
    """
    if targets.is_floating_point():
        rows = targets.reshape(len(targets), -1)
        chosen = outputs.reshape(rows.shape) > 0
        return torch.stack([_found(chosen[:, k].long(), rows[:, k]) for k in range(rows.shape[1])]).mean()
    return _found(_answers(outputs, targets).reshape(-1), targets.reshape(-1))


def _found(answers: Tensor, targets: Tensor) -> Tensor:
    """The mean over classes of the share of their samples whose answer is right."""
    known = ~torch.isnan(targets) if targets.is_floating_point() else targets != -100
    answers, targets = answers[known], targets[known].long()
    shares = [
        (answers[targets == label] == label).to(torch.get_default_dtype()).mean() for label in torch.unique(targets)
    ]
    return torch.stack(shares).mean()


def matthews(outputs: Tensor, targets: Tensor) -> Tensor:
    """Matthews' correlation coefficient, in [-1, 1]."""
    return _torchmetrics("matthews_corrcoef", outputs, targets)


def iou(outputs: Tensor, targets: Tensor) -> Tensor:
    """Intersection over union (Jaccard's index), the mean over classes."""
    return _torchmetrics("jaccard_index", outputs, targets, average="macro")


def _correlated(name: str, outputs: Tensor, targets: Tensor) -> Tensor:
    outputs, targets = outputs.reshape(len(outputs), -1), targets.reshape(len(targets), -1)
    each = [_functional(name)(*_pairs(o, t)) for o, t in zip(outputs.T, targets.T, strict=True)]
    return torch.stack(each).nan_to_num(0.0).mean()


def pearson(outputs: Tensor, targets: Tensor) -> Tensor:
    """Pearson's correlation, the mean over the targets' columns; 0 where one side is constant."""
    return _correlated("pearson_corrcoef", outputs, targets)


def spearman(outputs: Tensor, targets: Tensor) -> Tensor:
    """Spearman's correlation of ranks, likewise."""
    return _correlated("spearman_corrcoef", outputs, targets)


def _ranked(name: str, outputs: Tensor, targets: Tensor, top: int | None) -> Tensor:
    """A retrieval metric of torchmetrics: each sample [K] is a query over K items; those without a hit are no query."""
    relevant = targets.nan_to_num(0.0)
    queries = (relevant > 0).any(dim=1).nonzero()[:, 0].tolist()
    if not queries:
        raise DataError(f"{name}: no sample has a relevant item")
    function = _functional(name)
    found = [function(outputs[q], relevant[q] if "dcg" in name else relevant[q] > 0, top_k=top) for q in queries]
    return torch.stack(found).mean()


def ndcg(outputs: Tensor, targets: Tensor, top: int | None = None) -> Tensor:
    """Normalised discounted cumulative gain of scores [N, K] for relevances [N, K], the mean over samples."""
    return _ranked("retrieval_normalized_dcg", outputs, targets, top)


def hit_rate(outputs: Tensor, targets: Tensor, top: int | None = None) -> Tensor:
    """Share of samples with a relevant item among the `top` by score."""
    return _ranked("retrieval_hit_rate", outputs, targets, top)


METRICS: dict[str, Metric] = {
    "accuracy": Metric(accuracy, low=0, high=1),
    "balanced_accuracy": Metric(balanced_accuracy, low=0, high=1),
    "f1": Metric(f1, low=0, high=1),
    "auroc": Metric(auroc, low=0, high=1),
    "average_precision": Metric(average_precision, low=0, high=1),
    "matthews": Metric(matthews, low=-1, high=1),
    "iou": Metric(iou, low=0, high=1),
    "r2": Metric(r2, low=0, high=1),
    "pearson": Metric(pearson, low=-1, high=1),
    "spearman": Metric(spearman, low=-1, high=1),
    "rmse": Metric(rmse, low=0, higher_is_better=False),
    "mae": Metric(mae, low=0, higher_is_better=False),
    "mse": Metric(mse, low=0, higher_is_better=False),
    "ndcg": Metric(ndcg, low=0, high=1),
    "hit_rate": Metric(hit_rate, low=0, high=1),
}
"""Metrics that a task may name; `ndcg@10` and `hit_rate@10` look at the ten best."""

OF_VALUES = frozenset({"r2", "pearson", "spearman", "rmse", "mae", "mse"})
"""Metrics of values, which labels of classes are not."""

TASK_TYPES: dict[str, tuple[str, str]] = {
    "classification": ("cross_entropy", "accuracy"),
    "regression": ("mse", "r2"),
    "multilabel": ("bce_with_logits", "f1"),
    "segmentation": ("cross_entropy", "iou"),
    "token_classification": ("cross_entropy", "accuracy"),
}
"""Task type -> its usual loss and metric. `classification` with one output is of two classes by a single logit;
`multilabel` has targets [N, K] of 0 and 1; `segmentation` a label for every pixel [N, H, W]; `token_classification` one
for every place of a sequence [N, L]. A task of any other type names its own loss and metric.
"""


def loss_of(task: Task) -> Objective:
    """The task's loss function; by its type if it names none."""
    chosen = _chosen(task, task.loss, 0, "loss", LOSSES)
    if isinstance(chosen, str):
        if chosen not in LOSSES:
            raise DataError(f"task {task.task_id!r}: unknown loss {chosen!r}{nearest(chosen, LOSSES)}")
        return LOSSES[chosen]
    if not callable(chosen):
        raise DataError(f"task {task.task_id!r}: a loss is a name or a function, got a {type(chosen).__name__}")
    return chosen  # type: ignore[no-any-return]


def metric_of(task: Task) -> Metric:
    """The task's metric; by its type if it names none.

    A plain function is taken as higher-is-better and may give any number: `Metric` says more. torchmetrics' objects say
    it themselves.
    """
    chosen = _chosen(task, task.metric, 1, "metric", METRICS)
    if isinstance(chosen, Metric):
        return chosen
    if isinstance(chosen, str):
        name, _, top = chosen.partition("@")
        if name not in METRICS or (top and (name not in ("ndcg", "hit_rate") or not top.isdigit() or int(top) < 1)):
            raise DataError(f"task {task.task_id!r}: unknown metric {chosen!r}{nearest(chosen, METRICS)}")
        known = METRICS[name]
        if name in OF_VALUES and task.descriptor.task_type == "classification":
            raise DataError(
                f"task {task.task_id!r}: metric {name!r} is of values, the task is a classification: say "
                "task_type='regression' in its descriptor"
            )
        if not top:
            return known
        return attrs.evolve(known, name=chosen, function=functools.partial(known.function, top=int(top)))
    if hasattr(chosen, "compute") and hasattr(chosen, "higher_is_better"):
        return _of_torchmetrics(chosen)
    if not callable(chosen):
        raise DataError(f"task {task.task_id!r}: a metric is a name or a function, got a {type(chosen).__name__}")
    return Metric(chosen)


def _of_torchmetrics(chosen: Any) -> Metric:
    def function(outputs: Tensor, targets: Tensor) -> Tensor:
        fresh = chosen.clone().to(outputs.device)
        fresh.reset()
        if type(chosen).__name__.startswith("Binary") and outputs.ndim == 2 and outputs.shape[1] == 1:
            outputs = outputs[:, 0]
        fresh.update(outputs, targets)
        return fresh.compute()  # type: ignore[no-any-return]

    low, high = (getattr(chosen, f"plot_{end}_bound", None) for end in ("lower", "upper"))
    return Metric(
        function,
        name=type(chosen).__name__,
        low=-math.inf if low is None else float(low),
        high=math.inf if high is None else float(high),
        higher_is_better=chosen.higher_is_better is not False,
    )


def called(what: str, function: Callable[..., Any], task: Task, outputs: Tensor, targets: Tensor) -> Any:
    """`function(outputs, targets)` of a task's loss or metric (`what`). DataError says with what it failed; memory that
    ran out is told as it is.
    """
    try:
        return function(outputs, targets)
    except (CrosstaskError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # the user's own code, or torch's
        name = getattr(function, "told", None) or getattr(function, "__name__", type(function).__name__)
        shapes = f"outputs {tuple(outputs.shape)} and targets {tuple(targets.shape)}"
        raise DataError(f"task {task.task_id!r}: the {what} {name} fails for {shapes}: {told(error)}") from error


def metric_name(task: Task) -> str:
    """The metric's name, for records and tables."""
    if task.metric is None and task.descriptor.task_type not in TASK_TYPES:
        return "metric"
    return metric_of(task).told


def _chosen(task: Task, chosen: Any, place: int, what: str, known: dict[str, Any]) -> Any:
    if chosen is not None:
        return chosen
    kind = task.descriptor.task_type
    if kind not in TASK_TYPES:
        raise DataError(
            f"task {task.task_id!r} of type {kind!r} needs its own {what}: a function or one of {sorted(known)}"
        )
    return TASK_TYPES[kind][place]


def chance(task: Task, split: str = "test") -> float | None:
    """The score of always saying what is most frequent in the training data (its mean, for values) on a split: what a
    model that has learned nothing reaches. None where that cannot be said.
    """
    kind = task.descriptor.task_type
    if kind not in TASK_TYPES or not (task.has_data("train") and task.has_data(split)):
        return None
    train, test = task.data("train").targets, task.data(split).targets
    width = task.descriptor.output_dim or 1
    if kind == "regression":
        constant = train.reshape(len(train), -1).nanmean(0)
        outputs = constant.expand(len(test), -1)
    elif kind == "multilabel":
        outputs = (train.nanmean(0) - 0.5).expand(len(test), -1)
    else:
        counts = torch.bincount(train[train != -100].reshape(-1), minlength=max(2, width)).to(torch.get_default_dtype())
        if width == 1:
            outputs = (counts[1] - counts[0]).sign().expand(len(test), 1)
        else:
            outputs = counts.reshape(1, -1, *[1] * (test.ndim - 1)).expand(len(test), -1, *test.shape[1:])
    try:
        value = float(metric_of(task)(outputs, test))
    except (DataError, RuntimeError, ValueError, TypeError, IndexError):
        return None  # a metric of its own may not take constant answers
    return value if math.isfinite(value) else None


def outputs_of(descriptor: TaskDescriptor) -> str:
    """What the outputs of a model for such a task must be, for messages."""
    count, kind = descriptor.output_dim, descriptor.task_type
    form = {"segmentation": f"[N, {count}, H, W]", "token_classification": f"[N, L, {count}]"}
    return form.get(kind, f"[N, {count}]")
