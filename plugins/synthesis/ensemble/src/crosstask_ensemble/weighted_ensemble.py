"""The `weighted_ensemble` synthesizer."""

from __future__ import annotations

import math
from collections.abc import Callable

import attrs
import torch
from torch import Tensor, nn
from torch.nn import functional

from crosstask.descriptors import MultiInput, TaskDescriptor
from crosstask.graph import TransferGraph
from crosstask.learning.training import device_of, fit, predict
from crosstask.learning.transferring import receive
from crosstask.options import component, option
from crosstask.points.synthesis import Synthesizer
from crosstask.records import Budget, Interval, Provenance
from crosstask.tasks import Task
from crosstask_ensemble.module import Ensemble
from crosstask_synthesis.expectation import Make, expected_score
from crosstask_synthesis.known import known_samples
from crosstask_synthesis.outputs import CLASSES, class_dim, is_single, outputs_wanted, two_sided
from crosstask_synthesis.owners import ByOutputs, Owners, lacks_outputs, owners_of, strange_inputs, unfit

Inputs = Tensor | MultiInput


@component
class WeightedEnsemble(ByOutputs, Synthesizer):
    """Related models as one, each with a weight that follows from its transfer coefficient to the new task.

    Classification: a class of the new task gets the weighted average of its raw logits over the models that own a
    class of that name. The logits of each model are centred and divided by their root mean square, measured on the
    unlabelled inputs if there are any, else on the source's own training data. A class is taken from models of the
    new task's own domain if one has it, and from others only if none does. A single logit counts as those of two
    classes. Segmentation and token classification: the same at every place. Regression, several labels at once: the
    weighted average of the outputs as they are, of all models with as many outputs or with labels of these names.

    Weights are exp(coefficient / temperature), summing to one for each class. Left out, and named in the provenance's
    notes: models for another input shape or type, without any of the classes, or with a coefficient of `minimum` or
    less. DataError names a class that no model knows, and says why each source was left out if none is left.

    The module says of every input how sure it is (`Ensemble.confidence`, regression: `spread`); the factor that makes
    its softmax a probability is fitted to held-out samples that sources of the domain have of the classes.

    With inputs and `distill_steps`, one network of the most important member's architecture is trained to give the
    ensemble's answers, and returned instead: as cheap to run as a single model.
    """

    temperature: float = option(0.1, gt=0, help="small: the best model decides; large: all count the same")
    top: int | None = option(None, ge=1, help="for each class, use only the best so many models")
    minimum: float = option(0.0, ge=-1, lt=1, help="leave out models with a transfer coefficient up to this")
    same_domain: bool = option(True, help="use models of other domains only for classes that no other model has")
    distill_steps: int = option(0, ge=0, help="optimiser steps of distillation into one model (0: none)")
    distill_rate: float = option(1e-3, gt=0, help="learning rate of the distillation")

    def synthesize(
        self, new_task: TaskDescriptor, sources: list[Task], graph: TransferGraph, inputs: Inputs | None
    ) -> nn.Module:
        strange_inputs(new_task, inputs)
        known = {t.task_id: _coefficient(graph, t.task_id, new_task.task_id) for t in sources}
        left_out = {
            t.task_id: reason for t in sources if (reason := self._unfit(new_task, t, known[t.task_id], inputs))
        }
        fitting = [t for t in sources if t.task_id not in left_out]
        owners = self._owners(new_task, fitting, left_out, known)
        used = [t for t in fitting if any(t is owner for group in owners for owner, _ in group)]
        left_out |= {t.task_id: "others are nearer" for t in fitting if t not in used}
        weights = [self._weights([known[t.task_id] or 0.0 for t, _ in group]) for group in owners]
        ensemble = _assemble(new_task, used, owners, weights, inputs)
        how_sure = _sharpened(ensemble, new_task, sources)
        importance = {t.task_id: 0.0 for t in used}
        for group, own in zip(owners, weights, strict=True):
            for (task, _), weight in zip(group, own, strict=True):
                importance[task.task_id] += weight / len(owners)
        ensemble.provenance = Provenance(
            strategy="weighted_ensemble",
            new_task=new_task.task_id,
            sources=importance,
            notes=(
                *_far(new_task, owners),
                *how_sure,
                *(f"{t} left out: {why}" for t, why in sorted(left_out.items())),
            ),
            confidence=_confidence(new_task, owners, known),
        )
        if self.distill_steps and inputs is not None:
            first = max(used, key=lambda t: importance[t.task_id])
            return self._distilled(new_task, ensemble, first, inputs)
        return ensemble

    def expect(
        self, make: Make, model: nn.Module, new_task: TaskDescriptor, sources: list[Task], graph: TransferGraph,
        inputs: Inputs | None,
    ) -> tuple[Interval | None, str]:  # fmt: skip
        return expected_score(make, model, new_task, sources, graph, inputs)

    def _unfit(
        self, new_task: TaskDescriptor, source: Task, coefficient: float | None, inputs: Inputs | None
    ) -> str | None:
        if reason := unfit(new_task, source, inputs) or lacks_outputs(new_task, source):
            return reason
        if coefficient is not None and coefficient <= self.minimum:
            return f"is not expected to help ({coefficient:+.2f})"
        return None

    def _owners(
        self,
        new_task: TaskDescriptor,
        fitting: list[Task],
        left_out: dict[str, str],
        known: dict[str, float | None],
    ) -> list[Owners]:
        """For each output of the new task, the models that have it, best first, and its place in them."""
        found = owners_of(new_task, fitting, left_out)
        if self.same_domain:
            found = [[o for o in group if o[0].descriptor.domain == new_task.domain] or group for group in found]
        ranked = [sorted(group, key=lambda o: (-(known[o[0].task_id] or 0.0), o[0].task_id)) for group in found]
        return [group[: self.top] for group in ranked]

    def _weights(self, coefficients: list[float]) -> list[float]:
        best = max(coefficients)
        powers = [math.exp((c - best) / self.temperature) for c in coefficients]
        return [power / sum(powers) for power in powers]

    def _distilled(self, new_task: TaskDescriptor, ensemble: Ensemble, first: Task, inputs: Inputs) -> nn.Module:
        assert first.model is not None
        seed = self.context.seed_for("distill", new_task.task_id)
        lesson = Task(
            descriptor=attrs.evolve(new_task, task_type="imitation", classes=(), output_dim=ensemble.outputs),
            train=(inputs, predict(ensemble, inputs)),
            loss=_imitation(new_task),
            metric=lambda outputs, targets: -functional.mse_loss(outputs, targets),
        )
        student, _, _ = receive(first.model, lesson, seed, keep_head=False)
        budget = Budget(steps=self.distill_steps, learning_rate=self.distill_rate)
        fit(student, lesson, budget, torch.Generator().manual_seed(seed), curve_split=None)
        note = f"distilled into the architecture of {first.task_id} on {len(inputs)} unlabelled inputs"
        made = ensemble.provenance
        student.provenance = attrs.evolve(made, notes=(note, *made.notes))  # type: ignore[assignment]
        return student


def _assemble(
    new_task: TaskDescriptor,
    used: list[Task],
    owners: list[Owners],
    weights: list[list[float]],
    inputs: Inputs | None,
) -> Ensemble:
    models, shares, scales = [], [], []
    centred, dim = new_task.task_type in CLASSES, class_dim(new_task)
    for task in used:
        model = task.model
        assert model is not None
        size = outputs_wanted(task.descriptor) or len(owners)
        share = torch.zeros(size, len(owners))
        for k, (group, own) in enumerate(zip(owners, weights, strict=True)):
            for (owner, j), weight in zip(group, own, strict=True):
                if owner is task:
                    share[j, k] = weight
        models.append(model)
        shares.append(share.to(device_of(model)))
        scales.append(_scale(task, model, inputs, dim) if centred else 1.0)
    return Ensemble(models, shares, scales, centred, dim, is_single(new_task))


def _sharpened(ensemble: Ensemble, new_task: TaskDescriptor, sources: list[Task]) -> list[str]:
    """Fit `sharpness` to held-out samples of the new task's classes that sources of its domain have (Guo et al. 2017,
    temperature scaling); notes on it. Which class is chosen does not depend on it.
    """
    known = known_samples(new_task, [t for t in sources if t.has_data("validation")])
    if known is None:
        return []
    outputs = two_sided(predict(ensemble, known.inputs))
    factors = torch.logspace(-1, 2, 121).to(outputs)
    losses = torch.stack([functional.cross_entropy(outputs * f, known.labels.to(outputs.device)) for f in factors])
    ensemble.sharpness.copy_(factors[losses.argmin()])
    return [f"its confidence in an input was fitted to {len(known.labels)} held-out samples of its classes"]


def _scale(task: Task, model: nn.Module, inputs: Inputs | None, dim: int) -> float:
    """Root mean square of a model's centred logits; 1 if there is nothing to measure it on."""
    if inputs is None and task.has_data("train"):
        inputs = task.data("train").inputs
    if inputs is None:
        return 1.0
    logits = two_sided(predict(model, inputs))
    return max(float((logits - logits.mean(dim=dim, keepdim=True)).square().mean().sqrt()), 1e-6)


def _imitation(task: TaskDescriptor) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss of one who is to give the ensemble's answers."""
    if is_single(task) or task.task_type == "multilabel":
        return _soft_labels
    if task.task_type == "token_classification":
        return _soft_tokens
    return _soft_loss if task.task_type in CLASSES else functional.mse_loss


def _soft_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(outputs, targets.softmax(dim=1))


def _soft_tokens(outputs: Tensor, targets: Tensor) -> Tensor:
    return _soft_loss(outputs.flatten(0, 1), targets.flatten(0, 1))


def _soft_labels(outputs: Tensor, targets: Tensor) -> Tensor:
    return functional.binary_cross_entropy_with_logits(outputs, targets.sigmoid())


def _coefficient(graph: TransferGraph, source: str, target: str) -> float | None:
    edge = graph.edge(source, target) if source in graph and target in graph else None
    return None if edge is None else edge.transfer_coefficient


def _far(new_task: TaskDescriptor, owners: list[Owners]) -> list[str]:
    """Notes on the classes that only models of another domain have."""
    names = new_task.classes or tuple(f"output {k}" for k in range(len(owners)))
    far = [n for n, group in zip(names, owners, strict=True) if not _near(new_task, group)]
    return [f"{', '.join(far)}: known from other domains only"] if far else []


def _near(new_task: TaskDescriptor, group: Owners) -> bool:
    return any(t.descriptor.domain == new_task.domain for t, _ in group)


def _confidence(new_task: TaskDescriptor, owners: list[Owners], known: dict[str, float | None]) -> float | None:
    """The weakest class counts: the best coefficient among its models, a quarter of it if all are of another domain
    (on digits such ensembles are hardly better than chance). None where the graph says nothing of one of them.
    """
    found = []
    for group in owners:
        coefficients = [c for t, _ in group if (c := known[t.task_id]) is not None]
        if not coefficients:
            return None
        found.append(max(coefficients) * (1.0 if _near(new_task, group) else 0.25))
    return max(0.0, min(found))
