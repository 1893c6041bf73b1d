"""The `prior` distiller."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from crosstask.descriptors import MultiInput
from crosstask.errors import DataError
from crosstask.learning.architecture import architecture
from crosstask.learning.modules import copy_of, head_keys
from crosstask.options import component, option
from crosstask.points.distillation import Distilled, Distiller
from crosstask.records import Budget, MetaKnowledge
from crosstask.tasks import Task
from crosstask_distillation.given import check_rate, conditions, with_models
from crosstask_distillation.left_out import generalization
from crosstask_distillers.alignment import align


@component
class WeightPrior(Distiller):
    """Mean and diagonal precision of the trunk's weights over the tasks, after each model's hidden units were brought
    into the order of the first one's.

    The precision is one over the variance between tasks, shrunk towards the tensor's mean variance (a few tasks give a
    poor variance of a single weight). Applied with rate r a weight goes r * agreement of the way to the mean, where the
    agreement, precision / (precision + the tensor's mean precision) * 2 and at most 1, is small for weights in which
    the tasks differ. `prior_penalty` gives the same as a penalty for training. Only models of the architecture that
    most tasks share take part; whether the alignment served is in the applicability conditions.
    """

    shrinkage: float = option(0.5, ge=0, le=1, help="how far the variances go to their mean (1: all the same)")
    held_out: int = option(4, ge=0, help="tasks left out in turn to measure the generalization score (0: not measured)")
    budget: Budget = option(
        factory=lambda: Budget(steps=60, samples=40), help="training of a left-out task, with the knowledge and without"
    )

    def distill(self, tasks: list[Task], samples: Tensor | MultiInput | None) -> Distilled:
        known = with_models(tasks)
        members, tensors, aligned = self._fitted(known)
        left_out = {t.task_id: "its model has another architecture" for t in known if t not in members}
        score = None
        if self.held_out:
            score = generalization(
                lambda others: Distilled(MetaKnowledge(kind="prior", source_tasks=("x",)), self._fitted(others)[1]),
                self.apply,
                members,
                self.context,
                self.budget,
                self.held_out,
            )
        knowledge = MetaKnowledge(
            kind="prior",
            source_tasks=tuple(t.task_id for t in members),
            domains=tuple(sorted({t.descriptor.domain for t in members})),
            embedding=tuple(float(v.double().mean()) for k, v in tensors.items() if k.startswith("mean.")),
            generalization_score=score,
            applicability_conditions=conditions(members, left_out) | {"aligned": aligned},
            seed=self.context.seed,
            options=self.options(),
        )
        return Distilled(knowledge, tensors)

    def _fitted(self, tasks: Sequence[Task]) -> tuple[list[Task], dict[str, Tensor], bool]:
        """(tasks that took part, tensors, whether all could be aligned)."""
        kinds = [architecture(t.model) for t in tasks if t.model is not None]
        common = max(kinds, key=kinds.count)
        members = [t for t, kind in zip(tasks, kinds, strict=True) if kind == common]
        models = [t.model for t in members if t.model is not None]
        moved = [align(model, models[0]) for model in models[1:]]
        states = [_trunk(models[0]), *(_trunk(model) for model, _ in moved)]
        tensors: dict[str, Tensor] = {}
        for name, first in states[0].items():
            if any(name not in s or s[name].shape != first.shape for s in states) or not first.is_floating_point():
                continue
            stack = torch.stack([state[name] for state in states])
            variance = stack.var(0, unbiased=len(stack) > 1)
            shrunk = (1 - self.shrinkage) * variance + self.shrinkage * variance.mean()
            tensors[f"mean.{name}"] = stack.mean(0)
            tensors[f"precision.{name}"] = 1 / shrunk.clamp_min(1e-8)
        if not tensors:
            raise DataError("the models share no weight outside their heads: there is nothing to fit a prior to")
        return members, tensors, all(done for _, done in moved)

    def apply(self, model: nn.Module, knowledge: Distilled, rate: float) -> nn.Module:
        check_rate(rate)
        changed = copy_of(model)
        state = changed.state_dict()
        pairs = _pairs(state, knowledge, head_keys(model))
        with torch.no_grad():
            for name, (mean, precision) in pairs.items():
                agreement = (2 * precision / (precision + precision.mean())).clamp(max=1.0)
                state[name].add_((mean - state[name]) * agreement, alpha=rate)
        return changed


def prior_penalty(model: nn.Module, knowledge: Distilled) -> Tensor:
    """½ Σ precision (weight - mean)², precisions divided by their mean: the prior's minus log density, up to scale."""
    pairs = _pairs(dict(model.named_parameters()), knowledge, head_keys(model))
    parameters = dict(model.named_parameters())
    terms = [
        0.5 * (precision / precision.mean() * (parameters[name] - mean).square()).sum()
        for name, (mean, precision) in pairs.items()
    ]
    return torch.stack(terms).sum()


def _pairs(
    state: dict[str, Tensor] | dict[str, nn.Parameter], knowledge: Distilled, head: frozenset[str]
) -> dict[str, tuple[Tensor, Tensor]]:
    """(mean, precision) of every weight that fits by name and shape. DataError if none does."""
    found = {}
    for name, own in state.items():
        mean = knowledge.tensors.get(f"mean.{name}")
        if mean is not None and mean.shape == own.shape and name not in head:
            found[name] = (mean.to(own), knowledge.tensors[f"precision.{name}"].to(own))
    if not found:
        known = [k.removeprefix("mean.") for k in knowledge.tensors if k.startswith("mean.")]
        raise DataError(f"no weight fits the prior by name and shape; it is over {', '.join(sorted(known)[:4])} …")
    return found


def _trunk(model: nn.Module) -> dict[str, Tensor]:
    head = head_keys(model)
    return {k: v.detach() for k, v in model.state_dict().items() if k not in head}
