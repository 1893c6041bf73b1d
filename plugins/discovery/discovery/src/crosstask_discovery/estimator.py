"""What transferability estimators share: which pairs can be estimated, a forward pass for each, edges from the values.

A new estimator is a function of features and labels, and a class that hands them to it: see the README.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import attrs
import torch
from torch import Tensor, nn

from crosstask.errors import DataError
from crosstask.graph import Evidence, TransferEdge, TransferGraph
from crosstask.learning.modules import head_of
from crosstask.learning.training import device_of
from crosstask.learning.transferring import drawn, key_of, unfit_pair, weights_digest
from crosstask.options import component, option, state
from crosstask.points.discovery import Discoverer
from crosstask.tasks import Portfolio, Task
from crosstask_discovery.calibration import Scores, calibrated, with_known
from crosstask_discovery.pairs import LeftOut, edge_between, refuse_none, samples_of, tell_left_out


@attrs.frozen(eq=False)
class Seen:
    """What an estimator sees of a pair, for N training samples of the target."""

    source: Task
    target: Task
    inputs: Tensor
    """[N, …]"""
    features: Tensor
    """[N, D]: what the head of the source's model receives, flattened."""
    outputs: Tensor
    """[N, C]: what the head answers."""
    targets: Tensor
    """[N] labels, or [N, K] values of a regression."""
    weights: str
    """The identity of the source's weights, for keys of what is made of them."""


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
                    raw[source.task_id, target.task_id] = self.estimate(self.see(source, target))
                    tasks |= {source.task_id: source, target.task_id: target}
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

    def see(self, source: Task, target: Task, samples: int | None = None) -> Seen:
        """What the source's model makes of training samples of the target: of as many as the options say, or `samples`.

        One forward pass; kept in the store, and read from there if it was done before. DataError without a model.
        """
        if source.model is None:
            raise DataError(f"task {source.task_id!r} has no trained model")
        sample = self._sample(target, samples).data("train")
        if id(source) not in self._digests:
            self._digests[id(source)] = weights_digest(source.model)
        seed = self.context.seed_for("estimators", target.task_id)
        key = key_of("features", self._digests[id(source)], target.fingerprint(), len(sample), seed)
        known = self.context.recall("features", key) if self.keep else None
        if known is not None:
            found = known.tensors["features"], known.tensors["outputs"]
        else:
            found = features_and_outputs(source.model, sample.inputs)
            if self.keep:
                made = {"source": source.task_id, "target": target.task_id, "samples": len(sample)}
                self.context.remember("features", key, made, dict(zip(("features", "outputs"), found, strict=True)))
        return Seen(source, target, sample.inputs, *found, sample.targets, self._digests[id(source)])

    def _sample(self, target: Task, samples: int | None = None) -> Task:
        """The target with the training samples that are looked at, the same for all its sources and all estimators."""
        count = samples_of(target.descriptor, self.samples, self.shots) if samples is None else samples
        return drawn(target, count, self.context.seed_for("estimators", target.task_id))

    def _unfit(self, source: Task, target: Task, portfolio: Portfolio) -> str | None:
        if reason := unfit_pair(source, target, portfolio):
            return reason
        kind = target.descriptor.task_type
        if kind != "classification" and not (self.regression and kind == "regression"):
            allowed = "classification or regression" if self.regression else "classification"
            return f"task {target.task_id!r} is of type {kind!r}, {self.known_as!r} needs {allowed}"
        if self.source_classes and source.descriptor.task_type != "classification":
            return f"task {source.task_id!r} is of type {source.descriptor.task_type!r}, not classification"
        return None


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
