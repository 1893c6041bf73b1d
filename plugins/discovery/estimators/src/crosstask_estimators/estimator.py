"""What all estimators share: which pairs can be estimated, one forward pass for each, and edges from the values."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import attrs
import torch
from torch import Tensor, nn

from crosstask.errors import DataError
from crosstask.graph import Evidence, TransferEdge, TransferGraph, relation_type
from crosstask.learning.modules import head_of
from crosstask.learning.training import device_of
from crosstask.learning.transferring import drawn, key_of, unfit_pair, weights_digest
from crosstask.logs import logger
from crosstask.options import component, option, state
from crosstask.points.discovery import Discoverer
from crosstask.tasks import Portfolio, Task
from crosstask_estimators.calibration import Calibrated, calibrated, with_known

Scores = dict[tuple[str, str], float]
"""Raw estimates by (source id, target id)."""


@attrs.frozen
class Seen:
    """What an estimator sees of a pair: what the source's head receives [N, D] and answers [N, C] for N samples of the
    target, and their targets [N] or [N, K].
    """

    source: Task
    target: Task
    features: Tensor
    outputs: Tensor
    targets: Tensor


@component
class Estimator(Discoverer):
    """Estimates each pair from one forward pass of the source's model over training samples of the target.

    The raw value is in the edge's `estimates` under the estimator's name; the kept features are shared with every
    other estimator. Raw values cannot be compared across targets: the coefficient is made of their z-scores inside each
    target (see `crosstask_estimators.calibration`), which measured edges in the graph calibrate. What was left out, and
    why, is in `skipped`. DataError if no pair can be estimated.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset()

    name: ClassVar[str]
    """Of the estimator, in `found_by` and `estimates`."""

    regression: ClassVar[bool] = False
    """Whether targets of a regression can be estimated, too."""

    source_classes: ClassVar[bool] = False
    """Whether the source must be a classification task."""

    samples: int | None = option(250, ge=2, help="training samples of the target that are looked at (all, if none)")
    shots: int | None = option(
        None, ge=1, help="samples per class of a classification target, on average; instead of samples"
    )
    scale: float = option(
        0.15, gt=0, le=1, help="coefficient that one standard deviation stands for, if none is measured"
    )
    keep: bool = option(True, help="keep the features in the store, for other estimators and later runs")
    skipped: list[tuple[str, str, str]] = state(factory=list)
    _digests: dict[int, str] = state(factory=dict)

    def discover(self, portfolio: Portfolio, graph: TransferGraph) -> list[TransferEdge]:
        raw: Scores = {}
        self.skipped, self._digests = [], {}
        tasks: dict[str, Task] = {}
        for source, target in portfolio.pairs():
            reason = self._unfit(source, target, portfolio)
            if reason is None:
                try:
                    raw[source.task_id, target.task_id] = self._value(source, target)
                    tasks |= {source.task_id: source, target.task_id: target}
                except DataError as error:
                    reason = str(error)
            if reason is not None:
                self.skipped.append((source.task_id, target.task_id, reason))
        check_left_out(self, portfolio, raw, self.skipped)
        values = with_known(raw, graph, self.name)
        told = calibrated(values, graph, self.scale)
        return [edge_of(self.name, tasks[s], tasks[t], told[s, t], {self.name: raw[s, t]}) for s, t in raw]

    @abstractmethod
    def _estimate(self, seen: Seen) -> float:
        """The raw value, higher for better transfer. DataError for what cannot be estimated."""

    def _value(self, source: Task, target: Task) -> float:
        return self._estimate(self._passed(source, target))

    def _unfit(self, source: Task, target: Task, portfolio: Portfolio) -> str | None:
        if reason := unfit_pair(source, target, portfolio):
            return reason
        kind = target.descriptor.task_type
        if kind != "classification" and not (self.regression and kind == "regression"):
            allowed = "classification or regression" if self.regression else "classification"
            return f"task {target.task_id!r} is of type {kind!r}, {self.name!r} needs {allowed}"
        if self.source_classes and source.descriptor.task_type != "classification":
            return f"task {source.task_id!r} is of type {source.descriptor.task_type!r}, not classification"
        return None

    def _sample(self, target: Task) -> Task:
        """The target with the training samples that are looked at, the same for all its sources and all estimators."""
        count, classes = self.samples, target.descriptor.output_dim
        if self.shots is not None and target.descriptor.task_type == "classification" and classes is not None:
            count = self.shots * classes
        return drawn(target, count, self.context.seed_for("estimators", target.task_id))

    def _passed(self, source: Task, target: Task) -> Seen:
        """One forward pass; kept in the store, and read from there if it was done before."""
        model, sample = source.model, self._sample(target).data("train")
        assert model is not None  # `_unfit` leaves out the others
        if id(source) not in self._digests:
            self._digests[id(source)] = weights_digest(model)
        seed = self.context.seed_for("estimators", target.task_id)
        key = key_of("features", self._digests[id(source)], target.fingerprint(), len(sample), seed)
        known = self.context.recall("features", key) if self.keep else None
        if known is not None:
            found = known.tensors["features"], known.tensors["outputs"]
        else:
            found = features_and_outputs(model, sample.inputs)
            if self.keep:
                made = {"source": source.task_id, "target": target.task_id, "samples": len(sample)}
                self.context.remember("features", key, made, dict(zip(("features", "outputs"), found, strict=True)))
        return Seen(source, target, *found, sample.targets)


@torch.no_grad()
def features_and_outputs(model: nn.Module, inputs: Tensor, batch_size: int = 1024) -> tuple[Tensor, Tensor]:
    """What the head receives [N, D], flattened, and what it answers [N, C], in evaluation mode, on the CPU."""
    received: list[Tensor] = []
    handle = head_of(model).register_forward_pre_hook(lambda _, given: received.append(given[0].flatten(1).cpu()))
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        parts = torch.split(inputs.to(device_of(model)), batch_size)
        outputs = [model(part).flatten(1).cpu() for part in parts]
    finally:
        handle.remove()
        for module, mode in modes:
            module.training = mode
    return torch.cat(received), torch.cat(outputs)


def check_left_out(
    discoverer: Discoverer, portfolio: Portfolio, raw: Scores, skipped: list[tuple[str, str, str]]
) -> None:
    """Say which pairs were left out; DataError if that are all."""
    if not skipped:
        return
    reasons = list(dict.fromkeys(reason for *_, reason in skipped))
    if not raw:
        raise DataError(f"no pair of portfolio {portfolio.name!r} can be estimated: {'; '.join(reasons)}")
    logger().info("pairs left out", discoverer=discoverer.origin, count=len(skipped), reasons=sorted(reasons))


def edge_of(name: str, source: Task, target: Task, told: Calibrated, estimates: dict[str, float]) -> TransferEdge:
    """An estimated edge with its 95 % interval."""
    half = 1.96 * told.uncertainty
    return TransferEdge(
        source=source.task_id,
        target=target.task_id,
        transfer_coefficient=told.coefficient,
        evidence=Evidence.ESTIMATED,
        found_by=name,
        relation=relation_type(told.coefficient, source.descriptor, target.descriptor),
        uncertainty=told.uncertainty,
        low=max(-1.0, told.coefficient - half),
        high=min(1.0, told.coefficient + half),
        estimates=estimates,
    )
