"""Trunks made of pieces: blocks of several models joined by stitches, low-rank adapters added to weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.utils import skip_init

from crosstask.descriptors import MultiInput
from crosstask.errors import DataError
from crosstask.learning.architecture import architecture
from crosstask.learning.modules import Headless, copy_of, head_keys
from crosstask.learning.training import device_of, predict
from crosstask.tasks import Task
from crosstask_knowledge_composition.stitching import stitch
from crosstask_synthesis.batchnorm import is_statistic

PIXELS = 65536
"""Positions of feature maps that a stitch between convolutions is fitted to, at most."""


def blocks_of(task: Task) -> list[nn.Sequential]:
    """The trunk of a task's model, a copy cut before every layer with weights. DataError unless it is a chain."""
    assert task.model is not None
    layers = _flat(Headless(task.model).model)
    if layers is None:
        kind = type(task.model).__name__
        raise DataError(f"the {kind} of task {task.task_id!r} is no nn.Sequential: it cannot be cut into blocks")
    blocks: list[list[nn.Module]] = [[]]
    for layer in layers:
        starts = _has_weights(layer) and not isinstance(layer, _NormBase)
        if starts and any(_has_weights(done) for done in blocks[-1]):
            blocks.append([])
        blocks[-1].append(layer)
    return [nn.Sequential(*block) for block in blocks]


def _has_weights(layer: nn.Module) -> bool:
    return any(True for _ in layer.parameters())


def _flat(module: nn.Module) -> list[nn.Module] | None:
    """The layers of nested nn.Sequential, in order."""
    if not isinstance(module, nn.Sequential):
        return None
    found: list[nn.Module] = []
    for child in module:
        inner = _flat(child)
        found += inner if inner is not None else [] if isinstance(child, nn.Identity) else [child]
    return found


def joined(tasks: Sequence[Task], inputs: Tensor | MultiInput | None) -> tuple[nn.Module, list[str]]:
    """(a trunk whose k-th block is that of the k-th task, notes). Between blocks of different tasks lies a linear map
    (1 x 1 on feature maps) from what comes to what the next block's own model would give it, fitted on `inputs`.
    """
    cut = {t.task_id: blocks_of(t) for t in tasks}
    for name, blocks in cut.items():
        if len(blocks) != len(tasks):
            raise DataError(f"blocks names {len(tasks)} tasks, the trunk of {name!r} has {len(blocks)} blocks")
    made: list[nn.Module] = []
    notes = []
    for place, task in enumerate(tasks):
        if place and task is not tasks[place - 1]:
            if inputs is None:
                raise DataError("blocks of different tasks are joined by a stitch: that needs inputs")
            come = predict(nn.Sequential(*made), inputs)
            wanted = predict(nn.Sequential(*cut[task.task_id][:place]), inputs)
            between, carried = _between(come, wanted)
            made.append(between.to(device_of(cut[task.task_id][place])))
            before = tasks[place - 1].task_id
            notes.append(f"block {place + 1} from {task.task_id} after {before}: the stitch carries {carried:.0%}")
        made.append(cut[task.task_id][place])
    return nn.Sequential(*made, nn.Flatten()), notes


def _between(come: Tensor, wanted: Tensor) -> tuple[nn.Module, float]:
    """(the layer that maps one activation to another, the share of the variance that it carries)."""
    if come.shape[2:] != wanted.shape[2:] or come.ndim not in (2, 4):
        raise DataError(f"blocks that give {tuple(come.shape[1:])} and {tuple(wanted.shape[1:])} cannot be stitched")
    units, more = come.shape[1], wanted.shape[1]
    rows, targets = (t.movedim(1, -1).reshape(-1, t.shape[1]) for t in (come, wanted))
    every = max(1, len(rows) // PIXELS)
    found = stitch(rows[::every], targets[::every])
    if come.ndim == 2:
        layer = skip_init(nn.Linear, units, more, dtype=come.dtype)
    else:
        layer = skip_init(nn.Conv2d, units, more, 1, dtype=come.dtype)
    with torch.no_grad():
        layer.weight.copy_(found.weight.reshape(layer.weight.shape))
        layer.bias.copy_(found.bias)
    variance = targets.double().cpu().var(0)
    return layer, float((found.carried * variance).sum() / variance.sum().clamp_min(1e-12))


@torch.no_grad()
def adapted(base: Task, tasks: Sequence[Task], rank: int) -> tuple[nn.Module, list[str]]:
    """(the base's model with each task's change of its trunk added, notes). The change of a matrix (a convolution's is
    out x everything else) is cut to its largest `rank` singular values: what a low-rank adapter of that size can hold.

    DataError for a model of another architecture, or one that was not fine-tuned from the base: its weights are then as
    far from the base's as the base's are from zero.
    """
    assert base.model is not None
    model = copy_of(base.model)
    own = model.state_dict()
    head = head_keys(model)
    start = {k: v.clone() for k, v in own.items() if k not in head and not is_statistic(k)}
    start = {k: v for k, v in start.items() if v.is_floating_point()}
    notes = []
    for task in tasks:
        assert task.model is not None
        if architecture(task.model) != architecture(base.model):
            raise DataError(
                f"adapter of {task.task_id!r}: its model is of another architecture than {base.task_id!r}'s"
            )
        theirs = task.model.state_dict()
        changes = {k: theirs[k].to(v) - v for k, v in start.items()}
        whole = sum(float(c.double().square().sum()) for c in changes.values())
        if whole >= sum(float(v.double().square().sum()) for v in start.values()):
            raise DataError(
                f"adapter of {task.task_id!r}: its model was not fine-tuned from that of {base.task_id!r} (their "
                "weights have nothing in common)"
            )
        kept = 0.0
        for name, change in changes.items():
            if change.ndim > 1:
                left, values, right = torch.linalg.svd(change.flatten(1), full_matrices=False)
                change = ((left[:, :rank] * values[:rank]) @ right[:rank]).reshape(change.shape)
            kept += float(change.double().square().sum())
            own[name] += change
        share = kept / whole if whole else 1.0
        notes.append(f"adapter of {task.task_id}: rank {rank} holds {share:.0%} of its change of {base.task_id}")
    return model, notes
