"""The `representation` distiller."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import attrs
import torch
from torch import Tensor, nn
from torch.nn import functional

from crosstask.errors import DataError
from crosstask.learning.architecture import architecture
from crosstask.learning.data import batches
from crosstask.learning.inputs import kind_of, shape_of
from crosstask.learning.modules import Headless, copy_of, head_keys, redraw, seeded, trainable
from crosstask.learning.own_models import copied
from crosstask.learning.training import device_of, dtype_of, predict
from crosstask.options import component, option
from crosstask.points.distillation import Distilled
from crosstask.records import Budget, MetaKnowledge
from crosstask.tasks import Task
from crosstask_distillation.encoders import EncoderDistiller
from crosstask_distillation.given import check_rate, conditions, inputs_of, with_models
from crosstask_distillation.left_out import generalization
from crosstask_distillers.universal import Inputs, Reversed, Universal

CRITIC_STEPS = 3


@component
class Representation(EncoderDistiller):
    """One universal encoder, trained to reproduce what every task model sees in its inputs.

    Every domain has an encoder of its own, an affine map that starts as the identity (and stays it for the domain with
    the most tasks), into the universal encoder, which has the trunk's architecture that most task models share. Inputs
    of other shapes have one, too. Ids of tokens, and several inputs of a sample, cannot be mapped so: where the most
    common models take those, only tasks with inputs of that kind take part, else only tasks whose inputs are numbers.
    For each task it is trained so that a linear map of its features gives the task model's (standardised) features, and
    so that its features lie as far from one another as the task model's do (Park et al. 2019, equation 6). A critic
    tries to tell the domain from the features; its gradient is reversed (Ganin et al. 2016, equation 10), growing as
    training goes on.

    The knowledge's tensors are `universal.<name>` and `domain.<name>.down` / `.up`; its embedding is the mean feature.
    Applied, the trunk's weights go over into the universal ones by name and shape; the head is left alone.
    `generalization_score`: see `crosstask_distillation.generalization`.
    """

    steps: int = option(1000, ge=1, help="optimiser steps; each sees a batch of every task")
    batch_size: int = option(32, ge=4, help="samples of each task per step")
    learning_rate: float = option(3e-3, gt=0, help="step size of Adam, decayed to zero along a cosine")
    relation: float = option(0.5, ge=0, help="weight of the relation loss beside the feature loss")
    adversary: float = option(0.1, ge=0, help="weight of the reversed gradient of the domain critic")
    rank: int = option(64, ge=1, help="rank of a domain encoder's change of its inputs")
    samples: int = option(1024, ge=4, help="inputs of each task at most")
    held_out: int = option(4, ge=0, help="tasks left out in turn to measure the generalization score (0: not measured)")
    budget: Budget = option(
        factory=lambda: Budget(steps=60, samples=40), help="training of a left-out task, with the knowledge and without"
    )

    def distill(self, tasks: list[Task], samples: Inputs | None) -> Distilled:
        known = with_models(tasks)
        found = self._distilled(known, samples)
        score = None
        if self.held_out:
            score = generalization(
                lambda others: self._distilled(others, samples),
                self.apply,
                known,
                self.context,
                self.budget,
                self.held_out,
            )
        told, took = found.knowledge, found.knowledge.source_tasks
        reasons = dict(told.applicability_conditions)
        left_out = reasons.pop("left_out", None)
        where = conditions([t for t in known if t.task_id in took], left_out) | reasons
        return Distilled(
            attrs.evolve(
                told,
                generalization_score=score,
                applicability_conditions=where,
                seed=self.context.seed,
                options=self.options(),
            ),
            found.tensors,
        )

    def _distilled(self, tasks: Sequence[Task], samples: Inputs | None) -> Distilled:
        """The knowledge of these tasks, without its generalization score."""
        teachers, left_out = self._teachers(tasks, samples)
        if not teachers:
            told = "; ".join(f"{task} {reason}" for task, reason in left_out.items())
            raise DataError(
                f"distillation of a representation needs inputs: tasks with training data, or samples ({told})"
            )
        reference = _commonest([t.task for t in teachers])
        kind = next(kind_of(t.inputs) for t in teachers if t.task is reference)
        plain = _is_plain(next(t for t in teachers if t.task is reference))
        for teacher in list(teachers):
            if kind_of(teacher.inputs) != kind and not (plain and _is_plain(teacher)):
                teachers.remove(teacher)
                left_out[teacher.task.task_id] = f"its inputs are of another kind than those of {reference.task_id!r}"
        seed = self.context.seed_for("representation", *(t.task.task_id for t in teachers))
        universal = self._trained(reference, teachers, seed)
        features = [universal(t.inputs).detach().mean(0) for t in teachers if universal.serves(t.inputs)]
        embedding = torch.stack(features).mean(0) if features else torch.zeros(0)
        names = sorted({t.task.descriptor.domain for t in teachers})
        made = architecture(reference.model) if reference.model is not None else ""
        knowledge = MetaKnowledge(
            kind="representation",
            source_tasks=tuple(t.task.task_id for t in teachers),
            domains=tuple(names),
            embedding=tuple(embedding.double().tolist()),
            applicability_conditions={"architecture": made} | ({"left_out": left_out} if left_out else {}),
        )
        return Distilled(knowledge, universal.tensors())

    def _teachers(self, tasks: Sequence[Task], samples: Inputs | None) -> tuple[list[Teacher], dict[str, str]]:
        """(views of the tasks whose models see inputs, why the others have none)."""
        teachers: list[Teacher] = []
        left_out: dict[str, str] = {}
        for task in tasks:
            inputs = inputs_of(task, samples)
            if inputs is None:
                left_out[task.task_id] = "has no inputs"
                continue
            assert task.model is not None
            seen = inputs[: self.samples].to(device_of(task.model))
            if isinstance(seen, Tensor) and not seen.is_floating_point() and not _has_tokens(task):
                seen = seen.to(dtype_of(task.model))
            try:
                features = predict(Headless(task.model), seen)
            except DataError as error:
                left_out[task.task_id] = str(error)
                continue
            if features.is_complex():
                left_out[task.task_id] = "gives features of complex numbers, which no linear map of real ones gives"
                continue
            teachers.append(Teacher(task, seen, _standard(features)))
        return teachers, left_out

    def _trained(self, reference: Task, teachers: Sequence[Teacher], seed: int) -> Universal:
        assert reference.model is not None
        names = sorted({t.task.descriptor.domain for t in teachers})
        groups = _groups(teachers)
        own = next(t for t in teachers if t.task is reference)
        kind = kind_of(own.inputs)
        alike = [groups[t.task.task_id] for t in teachers if kind_of(t.inputs) == kind]
        straight = max(sorted(set(alike)), key=alike.count)  # the others are mapped to what these inputs are
        mapped = {groups[t.task.task_id]: t for t in teachers if groups[t.task.task_id] != straight and _is_plain(t)}
        trunk = copied(reference.model)
        redraw(trunk, seed)
        model = Headless(trunk)
        with seeded(seed):
            shapes = {name: tuple(mapped[name].inputs.shape[1:]) for name in sorted(mapped)} if _is_plain(own) else {}
            universal = Universal(model, kind, shapes, self.rank)
            universal.to(device_of(reference.model)).encoders.to(dtype=dtype_of(reference.model))
            with torch.no_grad():
                width = universal.eval()(own.inputs[:2]).shape[1]
            heads = nn.ModuleList(nn.Linear(width, t.features.shape[1]) for t in teachers)
            # Normalised first: otherwise the encoder escapes by making its features small or large.
            critic = nn.Sequential(
                nn.BatchNorm1d(width, affine=False), nn.Linear(width, 64), nn.ReLU(), nn.Linear(64, len(names))
            )
        for module in (heads, critic):
            module.to(device_of(reference.model), dtype=dtype_of(reference.model))
        optimizer = torch.optim.Adam([*universal.parameters(), *heads.parameters()], lr=self.learning_rate)
        judge = torch.optim.Adam(critic.parameters(), lr=self.learning_rate)
        generator = torch.Generator().manual_seed(seed)
        streams = [batches(len(t.inputs), self.batch_size, generator) for t in teachers]
        universal.train()
        for step in range(self.steps):
            progress = step / self.steps
            optimizer.param_groups[0]["lr"] = self.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))
            strength = self.adversary * (2 / (1 + math.exp(-10 * progress)) - 1)
            losses, seen, places = [], [], []
            for teacher, stream, head in zip(teachers, streams, heads, strict=True):
                index = next(stream).to(teacher.inputs.device)
                domain = teacher.task.descriptor.domain
                features = universal(teacher.inputs[index], groups[teacher.task.task_id])
                wanted = teacher.features[index]
                loss = functional.mse_loss(head(features), wanted)
                losses.append(loss + self.relation * relation_loss(features, wanted))
                seen.append(features)
                places.append(torch.full((len(index),), names.index(domain), device=features.device))
            total = torch.stack(losses).mean()
            if len(names) > 1 and self.adversary:
                domains_of, all_features = torch.cat(places), torch.cat(seen)
                for _ in range(CRITIC_STEPS):  # the gradient of a critic that lags behind says nothing
                    judge.zero_grad(set_to_none=True)
                    functional.cross_entropy(critic(all_features.detach()), domains_of).backward()
                    judge.step()
                total = total + functional.cross_entropy(critic(Reversed.apply(all_features, strength)), domains_of)
            optimizer.zero_grad(set_to_none=True)
            total.backward()
            optimizer.step()
        return universal.eval()

    def apply(self, model: nn.Module, knowledge: Distilled, rate: float) -> nn.Module:
        check_rate(rate)
        mine = _universal(knowledge)
        changed = copy_of(model)
        head = head_keys(model)
        state = changed.state_dict()
        fits = [k for k, v in mine.items() if k in state and state[k].shape == v.shape and k not in head]
        if not fits:
            raise DataError(
                f"no weight of the {type(model).__name__} fits the universal encoder by name and shape; it has "
                f"{', '.join(sorted(mine)[:4])} …"
            )
        with torch.no_grad():
            for name in fits:
                if state[name].is_floating_point() or state[name].is_complex():
                    state[name].lerp_(mine[name].to(state[name]), rate)
        return changed

    def encoder(self, knowledge: Distilled, tasks: Sequence[Task]) -> nn.Module:
        """The universal encoder without those of the domains: inputs go straight into it, as they do where the
        knowledge is applied.
        """
        wanted = knowledge.knowledge.applicability_conditions.get("architecture")
        model = next((t.model for t in tasks if t.model is not None and architecture(t.model) == wanted), None)
        if model is None:
            named = ", ".join(t.task_id for t in tasks) or "none were given"
            raise DataError(f"no task has a model with the layers of the universal encoder; the tasks: {named}")
        trunk = trainable(Headless(model))
        trunk.load_state_dict({f"model.{name}": tensor for name, tensor in _universal(knowledge).items()})
        return Encoder(trunk, nn.Flatten()).eval()


class Encoder(nn.Sequential):
    """A trunk, whose features are flattened. Several inputs come as one `MultiInput`."""

    whole_inputs = True


class Teacher:
    """A task model's view of its inputs: `features` [N, F], standardised."""

    def __init__(self, task: Task, inputs: Any, features: Tensor) -> None:
        self.task, self.inputs, self.features = task, inputs, features


def _universal(knowledge: Distilled) -> dict[str, Tensor]:
    """The weights of the universal encoder by their names in a task's model."""
    found = {k: v for k, v in knowledge.tensors.items() if k.startswith("universal.")}
    return {k.removeprefix("universal."): v for k, v in found.items()}


def relation_loss(features: Tensor, wanted: Tensor) -> Tensor:
    """Huber loss between the distances within two batches of features, each divided by its mean."""
    return functional.smooth_l1_loss(_distances(features), _distances(wanted))


def _distances(features: Tensor) -> Tensor:
    found = functional.pdist(features.flatten(1))
    return found / found.mean().clamp_min(torch.finfo(found.dtype).eps)


def _standard(features: Tensor) -> Tensor:
    flat = features.flatten(1)
    return (flat - flat.mean(0)) / flat.std(0, unbiased=False).clamp_min(1e-6)


def _commonest(tasks: Sequence[Task]) -> Task:
    """A task whose trunk most of the others share."""
    kinds = [architecture(t.model) for t in tasks if t.model is not None]
    return tasks[kinds.index(max(kinds, key=kinds.count))]


def _is_plain(teacher: Teacher) -> bool:
    """Whether the inputs are one tensor of numbers, which can be mapped to another shape: no ids of tokens."""
    return isinstance(teacher.inputs, Tensor) and not _has_tokens(teacher.task)


def _has_tokens(task: Task) -> bool:
    return task.model is not None and any(isinstance(m, nn.Embedding | nn.EmbeddingBag) for m in task.model.modules())


def _groups(teachers: Sequence[Teacher]) -> dict[str, str]:
    """For each task the group that shares an encoder of inputs: its domain, by shape where a domain has several."""
    kinds: dict[str, list[Any]] = {}
    for teacher in teachers:
        known = kinds.setdefault(teacher.task.descriptor.domain, [])
        if (shape := shape_of(teacher.inputs)) not in known:
            known.append(shape)
    found = {}
    for teacher in teachers:
        domain, shape = teacher.task.descriptor.domain, shape_of(teacher.inputs)
        several = len(kinds[domain]) > 1
        found[teacher.task.task_id] = f"{domain} {shape}".replace(".", "_") if several else domain
    return found
