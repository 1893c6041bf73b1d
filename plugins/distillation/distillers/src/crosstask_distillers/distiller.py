"""`MetaKnowledgeDistiller`: distillation without an engine, from models and samples."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any, cast

import attrs
import torch
from torch import Tensor, nn

from crosstask.descriptors import MultiInput, TaskDescriptor
from crosstask.errors import DataError, OptionError, nearest
from crosstask.learning.own_models import prepare_model
from crosstask.options import build
from crosstask.points.distillation import Distilled, Distiller
from crosstask.tasks import Task
from crosstask_distillers.plugin import PLUGIN

Inputs = Tensor | MultiInput
Samples = Inputs | tuple[Inputs, Tensor]


class MetaKnowledgeDistiller:
    """Distils with one of the plugin's distillers (`representation`, `strategy`, `prior`; options as keywords)."""

    def __init__(self, kind: str = "representation", **options: Any) -> None:
        known = {extension.name: extension.target for extension in PLUGIN.extensions}
        if kind not in known:
            raise OptionError(f"unknown kind of knowledge {kind!r}{nearest(kind, known)}")
        module, _, name = known[kind].partition(":")
        self.distiller = cast(Distiller, build(getattr(importlib.import_module(module), name), options, kind))

    def distill_from_tasks(
        self,
        task_models: Mapping[str, nn.Module],
        task_descriptors: Mapping[str, TaskDescriptor] | Sequence[TaskDescriptor],
        distillation_samples: Inputs | Mapping[str, Samples] | None = None,
    ) -> Distilled:
        """What the tasks have in common.

        `distillation_samples`: inputs [N, …] for all tasks, or for each task's id inputs or (inputs, targets). Of
        labelled samples the last fifth is held back, so that the generalization score can be measured. DataError for a
        model without a descriptor.
        """
        given = task_descriptors
        described = dict(given) if isinstance(given, Mapping) else {d.task_id: d for d in given}
        tasks = []
        for task_id, model in task_models.items():
            if task_id not in described:
                raise DataError(f"no descriptor of task {task_id!r}{nearest(task_id, described)}")
            task = Task(descriptor=described[task_id], model=model)
            own = distillation_samples.get(task_id) if isinstance(distillation_samples, Mapping) else None
            if isinstance(own, tuple):
                held = max(1, len(own[1]) // 5)
                task.train = (own[0][:-held], own[1][:-held])
                task.validation = (own[0][-held:], own[1][-held:])
            elif own is not None:  # a split is a pair, so the targets are there, and nobody reads them
                task.descriptor = attrs.evolve(task.descriptor, task_type="unlabelled")
                task.train = (own, torch.zeros(len(own)))
            prepare_model(task)
            tasks.append(task)
        shared = distillation_samples if isinstance(distillation_samples, Tensor | MultiInput) else None
        return self.distiller.distill(tasks, shared)

    def apply_meta_knowledge(
        self, target_model: nn.Module, knowledge: Distilled, adaptation_rate: float = 0.1
    ) -> nn.Module:
        """A copy of the model that went so far towards the knowledge; its attribute `knowledge` is the record, with
        one more application counted.
        """
        changed = self.distiller.apply(target_model, knowledge, adaptation_rate)
        told = knowledge.knowledge
        changed.knowledge = attrs.evolve(told, applicability_count=told.applicability_count + 1)  # type: ignore[assignment]
        return changed
