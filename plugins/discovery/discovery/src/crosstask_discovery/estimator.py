"""What transferability estimators share: which pairs can be estimated, a forward pass for each, edges from the values.

Any model will do, and any task type whose targets an estimator can be told as rows: labels, values, several labels at
once, or a label for every place of a sample (the places are then the rows).

A new estimator is a function of features and labels, and a class that hands them to it: see the README.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import attrs
import torch
from torch import Tensor, nn

from crosstask.descriptors import MultiInput, TensorData
from crosstask.errors import DataError
from crosstask.graph import Evidence, TransferEdge, TransferGraph
from crosstask.learning.features import received
from crosstask.learning.transferring import drawn, key_of, unfit_pair, weights_digest
from crosstask.options import component, option, state
from crosstask.points.discovery import Discoverer
from crosstask.reading import DENSE, UNKNOWN
from crosstask.tasks import Portfolio, Task
from crosstask_discovery.calibration import Scores, calibrated, with_known
from crosstask_discovery.pairs import (
    LeftOut,
    UnusableModelError,
    edge_between,
    refuse_none,
    rule_out,
    samples_of,
    tell_left_out,
    using_model,
)

MOST_PLACES = 2000
"""Places of samples that are looked at where the target labels each, at most."""


@attrs.frozen(eq=False)
class Seen:
    """What an estimator sees of a pair, for N training samples of the target; where the target labels every place of a
    sample (segmentation, token classification), for N of their places, and `inputs` are the samples.
    """

    source: Task
    target: Task
    inputs: Tensor | MultiInput
    """[N, …]"""
    features: Tensor
    """[N, D]: what the head of the source's model receives, flattened."""
    outputs: Tensor
    """[N, C]: what the head answers."""
    targets: Tensor
    """[N] labels, [N, K] values of a regression, or 0 and 1 of several labels."""
    weights: str
    """The identity of the source's weights, for keys of what is made of them."""

    @property
    def logits(self) -> Tensor:
        """[N, C] of the source's classes: a single logit [N, 1] stands for two, of which the first has logit 0."""
        if self.outputs.shape[1] > 1:
            return self.outputs
        return torch.cat([torch.zeros_like(self.outputs), self.outputs], dim=1)


@component
class Estimator(Discoverer):
    """Estimates each pair from one forward pass of the source's model over training samples of the target.

    The raw value is in the edge's `estimates` under the estimator's name; the kept features are shared with every
    other estimator. Raw values cannot be compared across targets: the coefficient is made of their z-scores inside each
    target (see `crosstask_discovery.calibration`), which measured edges in the graph calibrate. What was left out, and
    why, is in `skipped`. DataError if no pair can be estimated.

    A subclass says `known_as` and `estimate`. It is decorated with `@component` like any other, and its own options
    stand beside these.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset()

    known_as: ClassVar[str]
    """Its name in `found_by` and `estimates` of edges."""

    regression: ClassVar[bool] = False
    """Whether targets of a regression, or of several labels at once, can be estimated, too."""

    places: ClassVar[bool] = True
    """Whether a target that labels every place of a sample can be estimated, its places being the rows."""

    source_classes: ClassVar[bool] = False
    """Whether the source must be a classification task (of samples or of places)."""

    samples: int | None = option(250, ge=2, help="training samples of the target that are looked at (all, if none)")
    shots: int | None = option(
        None, ge=1, help="samples per class of a classification target, on average; instead of samples"
    )
    scale: float = option(
        0.15, gt=0, le=1, help="coefficient that one standard deviation stands for, if none is measured"
    )
    keep: bool = option(True, help="keep the features in the store, for other estimators and later runs")
    skipped: list[LeftOut] = state(factory=list)
    _digests: dict[int, str] = attrs.field(factory=dict, init=False, repr=False)

    @abstractmethod
    def estimate(self, seen: Seen) -> float:
        """The raw value, higher for better transfer. DataError for what cannot be estimated."""

    def discover(self, portfolio: Portfolio, graph: TransferGraph) -> list[TransferEdge]:
        raw: Scores = {}
        self.skipped, self._digests = [], {}
        tasks: dict[str, Task] = {}
        for source, target in portfolio.pairs():
            reason = self._unfit(source, target, portfolio)
            if reason is None:
                try:
                    raw[source.task_id, target.task_id] = self._estimated(self.see(source, target))
                    tasks |= {source.task_id: source, target.task_id: target}
                except UnusableModelError as error:
                    reason = str(error)
                    rule_out(graph, source, target, reason)
                except DataError as error:
                    reason = str(error)
            if reason is not None:
                self.skipped.append((source.task_id, target.task_id, reason))
        if self.skipped and not raw:
            refuse_none(portfolio, self.skipped, "estimated")
        tell_left_out(self, self.skipped)
        told = calibrated(with_known(raw, graph, self.known_as), graph, self.scale)
        return [
            edge_between(
                tasks[s].descriptor, tasks[t].descriptor, told[s, t].coefficient, told[s, t].uncertainty,
                evidence=Evidence.ESTIMATED, found_by=self.known_as, estimates={self.known_as: raw[s, t]},
            )
            for s, t in raw
        ]  # fmt: skip

    def _estimated(self, seen: Seen) -> float:
        """The estimate; where values are not known (NaN), the mean of those of each column's known rows."""
        missing = torch.isnan(seen.targets) if seen.targets.is_floating_point() else None
        if missing is None or not bool(missing.any()):
            return self.estimate(seen)
        rows, known = seen.targets.reshape(len(seen.targets), -1), ~missing.reshape(len(missing), -1)
        values = []
        for column in range(rows.shape[1]):
            chosen = known[:, column].nonzero()[:, 0].cpu()
            if len(chosen):
                own = rows[chosen.to(rows.device), column : column + 1]
                inputs = seen.inputs[chosen.to(seen.inputs.device)]
                some = attrs.evolve(
                    seen, inputs=inputs, features=seen.features[chosen], outputs=seen.outputs[chosen], targets=own
                )
                values.append(self.estimate(some))
        if not values:
            raise DataError(f"task {seen.target.task_id!r}: no target of the samples that are looked at is known")
        return sum(values) / len(values)

    def see(self, source: Task, target: Task, samples: int | None = None) -> Seen:
        """What the source's model makes of training samples of the target: of as many as the options say, or `samples`.

        One forward pass; kept in the store, and read from there if it was done before. DataError without a model,
        UnusableModelError for one that cannot take these inputs.
        """
        if source.model is None:
            raise DataError(f"task {source.task_id!r} has no trained model")
        sample = self._sample(target, samples).data("train")
        if id(source) not in self._digests:
            self._digests[id(source)] = weights_digest(source.model)
        seed = self.context.seed_for("estimators", target.task_id)
        dense = target.descriptor.task_type in DENSE
        how = ("places", MOST_PLACES) if dense else ()
        key = key_of("features", *how, self._digests[id(source)], target.fingerprint(), len(sample), seed)
        known = self.context.recall("features", key) if self.keep else None
        if known is not None:
            found = dict(known.tensors)
        else:
            with using_model(source, target):
                if dense:
                    found = features_of_places(source.model, sample, target, torch.Generator().manual_seed(seed))
                else:
                    features, outputs = features_and_outputs(source.model, sample.inputs)
                    found = {"features": features, "outputs": outputs}
            if self.keep:
                made = {"source": source.task_id, "target": target.task_id, "samples": len(sample)}
                self.context.remember("features", key, made, found)
        labels = found.get("targets", sample.targets)
        weights = self._digests[id(source)]
        return Seen(source, target, sample.inputs, found["features"], found["outputs"], labels, weights)

    def _sample(self, target: Task, samples: int | None = None) -> Task:
        """The target with the training samples that are looked at, the same for all its sources and all estimators."""
        count = samples_of(target.descriptor, self.samples, self.shots) if samples is None else samples
        return drawn(target, count, self.context.seed_for("estimators", target.task_id))

    def _unfit(self, source: Task, target: Task, portfolio: Portfolio) -> str | None:
        if reason := unfit_pair(source, target, portfolio):
            return reason
        kind = target.descriptor.task_type
        allowed = ["classification"]
        if self.regression:
            allowed += ["regression", "multilabel"]
        if self.places:
            allowed += DENSE
        if kind not in allowed:
            told = f"{', '.join(allowed[:-1])} or {allowed[-1]}" if len(allowed) > 1 else allowed[0]
            return f"task {target.task_id!r} is of type {kind!r}, {self.known_as!r} needs {told}"
        if self.source_classes and source.descriptor.task_type not in ("classification", *DENSE):
            return f"task {source.task_id!r} is of type {source.descriptor.task_type!r}, not classification"
        return None


def features_and_outputs(
    model: nn.Module, inputs: Tensor | MultiInput, batch_size: int = 1024
) -> tuple[Tensor, Tensor]:
    """What the head receives [N, D], flattened, and what it answers [N, C], in evaluation mode, on the CPU."""
    given, answered = [], []
    for features, outputs in received(model, inputs, batch_size):
        given.append(features.flatten(1).cpu())
        answered.append(outputs.flatten(1).cpu())
    return torch.cat(given), torch.cat(answered)


def features_of_places(
    model: nn.Module, data: TensorData, task: Task, generator: torch.Generator, batch_size: int = 64
) -> dict[str, Tensor]:
    """`features` [M, D], `outputs` [M, C] and `targets` [M] of places of the samples that have a label, evenly many of
    each sample, `MOST_PLACES` at most. DataError where the head does not receive one row for every place.
    """
    each = max(1, MOST_PLACES // len(data))
    rows: list[tuple[Tensor, Tensor, Tensor]] = []
    start = 0
    for features, outputs in received(model, data.inputs, batch_size):
        features, outputs = features.cpu(), outputs.cpu()
        labels = data.targets[start : start + len(features)].cpu()
        start += len(features)
        if task.descriptor.task_type == "segmentation":  # [N, D, H, W]
            features, outputs = features.movedim(1, -1), outputs.movedim(1, -1)
        if features.shape[:-1] != labels.shape or outputs.shape[:-1] != labels.shape:
            got = tuple(features.shape[1:-1])
            raise DataError(
                f"the head of {type(model).__name__} receives rows for places {got}, {task.task_id!r} has labels for "
                f"{tuple(labels.shape[1:])}: features of every place are needed"
            )
        order = torch.rand(labels.shape, generator=generator).masked_fill(labels == UNKNOWN, 2.0).flatten(1)
        count = min(each, order.shape[1])
        chosen = order.argsort(dim=1)[:, :count]
        known = order.gather(1, chosen) < 2
        rows.append(
            (
                features.flatten(1, -2)[torch.arange(len(chosen))[:, None], chosen][known],
                outputs.flatten(1, -2)[torch.arange(len(chosen))[:, None], chosen][known],
                labels.flatten(1).gather(1, chosen)[known],
            )
        )
    names = ("features", "outputs", "targets")
    return {name: torch.cat(parts)[:MOST_PLACES] for name, parts in zip(names, zip(*rows, strict=True), strict=True)}
