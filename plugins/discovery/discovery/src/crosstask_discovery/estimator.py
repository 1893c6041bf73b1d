"""What transferability estimators share: which pairs can be estimated, a forward pass for each, edges from the values.

Any model will do, and any task type whose targets an estimator can be told as rows: labels, values, several labels at
once, or a label for every place of a sample (the places are then the rows).

A new estimator is a function of features and labels, and a class that hands them to it: see the README.
"""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import attrs
import torch
from torch import Tensor, nn

from crosstask.components import Context
from crosstask.descriptors import MultiInput, TensorData
from crosstask.errors import DataError
from crosstask.graph import Evidence, TransferEdge, TransferGraph
from crosstask.learning.features import Passes, received
from crosstask.learning.transferring import drawn, key_of, unfit_pair, weights_digest
from crosstask.options import component, option, state
from crosstask.points.discovery import Discoverer
from crosstask.reading import DENSE, UNKNOWN
from crosstask.tasks import Portfolio, Task
from crosstask_discovery.arrays import View
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

    @functools.cached_property
    def view(self) -> View:
        """The features as the functions of estimators take them: what several of them need is computed once."""
        return View(self.features)

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
    _looks: Looks | None = attrs.field(default=None, init=False, repr=False)

    @abstractmethod
    def estimate(self, seen: Seen) -> float:
        """The raw value, higher for better transfer. DataError for what cannot be estimated."""

    def discover(self, portfolio: Portfolio, graph: TransferGraph) -> list[TransferEdge]:
        (raw,) = raw_estimates([self], portfolio, graph)
        if self.skipped and not raw:
            refuse_none(portfolio, self.skipped, "estimated")
        tell_left_out(self, self.skipped)
        told = calibrated(with_known(raw, graph, self.known_as), graph, self.scale)
        return [
            edge_between(
                portfolio[s].descriptor, portfolio[t].descriptor, told[s, t].coefficient, told[s, t].uncertainty,
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
        looks = self._looks or Looks(self.context, self.keep, together=False)
        return looks.see(source, target, self._count(target) if samples is None else samples)

    def _count(self, target: Task) -> int | None:
        return samples_of(target.descriptor, self.samples, self.shots)

    def _unfit(self, source: Task, target: Task) -> str | None:
        """Why a pair whose model fits the target cannot be estimated; None if it can."""
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


def raw_estimates(estimators: Sequence[Estimator], portfolio: Portfolio, graph: TransferGraph) -> list[Scores]:
    """The raw values of each estimator for the pairs of a portfolio, in their order. What one cannot estimate is in its
    `skipped`; where no model can be used, in the graph.

    Target by target and pair by pair, so that estimators share what they see (see `Looks`), and no more than a few
    pairs are held at a time.
    """
    pairs = list(portfolio.pairs())
    order = {(s.task_id, t.task_id): number for number, (s, t) in enumerate(pairs)}
    sources: dict[str, list[Task]] = {}
    for source, target in pairs:
        sources.setdefault(target.task_id, []).append(source)
    shared: dict[tuple[int, bool], Looks] = {}
    for each in estimators:
        key = id(each.context), each.keep
        each.skipped, each._looks = [], shared.setdefault(key, Looks(each.context, each.keep))
    found: list[Scores] = [{} for _ in estimators]
    try:
        for name, waiting in sources.items():
            target = portfolio[name]
            unfit = {source.task_id: unfit_pair(source, target, portfolio) for source in waiting}
            reasons = {
                (id(each), source.task_id): unfit[source.task_id] or each._unfit(source, target)
                for each in estimators
                for source in waiting
            }
            for looks in shared.values():
                own = [id(each) for each in estimators if each._looks is looks]
                asked = [source for source in waiting if any(reasons[each, source.task_id] is None for each in own)]
                looks.turn_to(target, asked)
            for source in waiting:
                for each, values in zip(estimators, found, strict=True):
                    reason = reasons[id(each), source.task_id]
                    if reason is None:
                        try:
                            values[source.task_id, name] = each._estimated(each.see(source, target))
                        except UnusableModelError as error:
                            reason = str(error)
                            rule_out(graph, source, target, reason)
                        except DataError as error:
                            reason = str(error)
                    if reason is not None:
                        each.skipped.append((source.task_id, name, reason))
                for looks in shared.values():
                    looks.done_with(source)
    finally:
        for each in estimators:
            each._looks = None
    for each in estimators:
        each.skipped.sort(key=lambda told: order[told[0], told[1]])
    return [dict(sorted(values.items(), key=lambda item: order[item[0]])) for values in found]


class Looks:
    """What several estimators see of pairs, each seen once: of one target after the other. Its samples are drawn once,
    and go through a source's model and those of its architecture that are still to come together, if so wanted.
    """

    def __init__(self, context: Context, keep: bool, together: bool = True) -> None:
        self.context, self.keep = context, keep
        self._passes = Passes() if together else None
        self._digests: dict[int, tuple[nn.Module, str]] = {}
        self._target: Task | None = None
        self._waiting: list[Task] = []
        self._samples: dict[tuple[str, int | None], TensorData] = {}
        self._seen: dict[tuple[str, str, int | None], Seen | DataError] = {}
        self._ahead: dict[tuple[str, int | None], tuple[Tensor, Tensor]] = {}

    def turn_to(self, target: Task, sources: Sequence[Task]) -> None:
        """Begin with another target, for which these sources will be asked in this order."""
        self._target, self._waiting = target, list(sources)
        self._samples.clear()
        self._seen.clear()
        self._ahead.clear()

    def done_with(self, source: Task) -> None:
        """Forget what was seen of a source: its pair with the present target is estimated."""
        self._waiting = [each for each in self._waiting if each is not source]
        self._seen = {key: found for key, found in self._seen.items() if key[0] != source.task_id}
        self._ahead = {key: found for key, found in self._ahead.items() if key[0] != source.task_id}

    def see(self, source: Task, target: Task, count: int | None) -> Seen:
        """What the source's model makes of so many training samples of the target; see `Estimator.see`."""
        key = source.task_id, target.task_id, count
        if key not in self._seen:
            try:
                self._seen[key] = self._look(source, target, count)
            except DataError as error:
                self._seen[key] = error
        found = self._seen[key]
        if isinstance(found, DataError):
            raise found
        return found

    def _look(self, source: Task, target: Task, count: int | None) -> Seen:
        if source.model is None:
            raise DataError(f"task {source.task_id!r} has no trained model")
        sample = self._sample(target, count)
        dense = target.descriptor.task_type in DENSE
        key = self._key(source, target, sample)
        known = self.context.recall("features", key) if self.keep else None
        if known is not None:
            found = dict(known.tensors)
        else:
            with using_model(source, target):
                if dense:
                    generator = torch.Generator().manual_seed(self._seed(target))
                    found = features_of_places(source.model, sample, target, generator)
                else:
                    features, outputs = self._passed(source, target, sample, count)
                    found = {"features": features, "outputs": outputs}
            if self.keep:
                made = {"source": source.task_id, "target": target.task_id, "samples": len(sample)}
                self.context.remember("features", key, made, found)
        labels = found.get("targets", sample.targets)
        return Seen(source, target, sample.inputs, found["features"], found["outputs"], labels, self._digest(source))

    def _passed(self, source: Task, target: Task, sample: TensorData, count: int | None) -> tuple[Tensor, Tensor]:
        """Features and outputs; of those that can go with it, too, if they are to come and not known yet."""
        if (source.task_id, count) in self._ahead and target is self._target:
            return self._ahead.pop((source.task_id, count))
        assert source.model is not None
        if self._passes is None:
            return features_and_outputs(source.model, sample.inputs)
        together = [source]
        room = self._passes.room(source.model, sample.inputs)
        for other in self._waiting if target is self._target else ():
            if len(together) >= room:
                break
            if (
                other is not source
                and other.model is not None
                and self._passes.alike(source.model, other.model, sample.inputs)
                and not (self.keep and self._known(other, target, sample))
            ):
                together.append(other)
        try:
            passed = self._passes.received([each.model for each in together if each.model is not None], sample.inputs)
        except Exception:  # of a model's own code, or memory: what is wrong is said of each alone
            return features_and_outputs(source.model, sample.inputs)
        own, *others = [(features.flatten(1).cpu(), outputs.flatten(1).cpu()) for features, outputs in passed]
        self._ahead |= {(each.task_id, count): found for each, found in zip(together[1:], others, strict=True)}
        return own

    def _known(self, source: Task, target: Task, sample: TensorData) -> bool:
        return self.context.recall("features", self._key(source, target, sample), claim=False) is not None

    def _key(self, source: Task, target: Task, sample: TensorData) -> str:
        how = ("places", MOST_PLACES) if target.descriptor.task_type in DENSE else ()
        seed = self._seed(target)
        return key_of("features", *how, self._digest(source), target.fingerprint(), len(sample), seed)

    def _seed(self, target: Task) -> int:
        return self.context.seed_for("estimators", target.task_id)

    def _digest(self, source: Task) -> str:
        model = source.model
        assert model is not None
        if id(model) not in self._digests:
            self._digests[id(model)] = model, weights_digest(model)
        return self._digests[id(model)][1]

    def _sample(self, target: Task, count: int | None) -> TensorData:
        """The training samples that are looked at, the same for all sources and all estimators."""
        key = target.task_id, count
        if key not in self._samples:
            self._samples[key] = drawn(target, count, self._seed(target)).data("train")
        return self._samples[key]


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
