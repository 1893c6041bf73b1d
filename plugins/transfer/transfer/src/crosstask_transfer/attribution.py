"""Which layers carried a transfer: the same transfer again with parts of the source's weights taken away.

For each block of layers, with the budget, the seeds and the samples of the transfer itself:

- *without* it: its weights are drawn anew, all others are the source's. What is lost is what only this block brought.
- *alone*: only its weights are the source's. What is gained is what this block brings by itself.
- *frozen*: all weights are the source's, and this block's stay as they are. What is lost is what it had to learn.

The two shares differ where layers stand in for one another (each can be missed, and each helps alone) or work only
together (neither helps alone). They are ablations, not a decomposition: they need not sum to one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import attrs
import torch
from torch import nn

from crosstask.components import Job
from crosstask.learning.metrics import confidence_interval, student_quantile
from crosstask.learning.modules import copy_of, head_keys, head_label
from crosstask.learning.objectives import metric_of
from crosstask.learning.training import evaluate
from crosstask.learning.transferring import (
    drawn,
    fresh_model,
    key_of,
    receive,
    same_classes,
    scratch_seeds,
    source_digest,
    without_model,
)
from crosstask.points.transfer import Transfer
from crosstask.records import Budget, Interval, TransferResult
from crosstask.tasks import Task
from crosstask_transfer.records import BlockAttribution, LayerAttribution

MOST_BLOCKS = 8
"""Deep models are cut into so many blocks of neighbouring layers: an ablation costs a transfer for each."""


def blocks_of(model: nn.Module, head: bool = False, most: int = MOST_BLOCKS) -> dict[str, tuple[str, ...]]:
    """Blocks of layers of the trunk, in order: name -> names of their weights and buffers in the state dict.

    A layer is a module with weights of its own; one that only scales and shifts (a normalisation) belongs to the layer
    before it. More than `most` are joined with their neighbours. With `head`, the head is the last block.
    """
    top, inside = head_label(model), head_keys(model)
    layers: list[tuple[str, list[str]]] = []
    for name, module in model.named_modules():
        own = [key for key in model.state_dict() if key.rpartition(".")[0] == name and key not in inside]
        if not own:
            continue
        if layers and all(p.ndim < 2 for p in module.parameters(recurse=False)):
            layers[-1][1].extend(own)
        else:
            layers.append((name, own))
    room = most - 1 if head else most
    groups = [layers[start : start + math.ceil(len(layers) / room)]
              for start in range(0, len(layers), math.ceil(len(layers) / room) or 1)]  # fmt: skip
    found = {}
    for group in groups:
        name = group[0][0] if len(group) == 1 else f"{group[0][0]} to {group[-1][0]}"
        found[name or type(model).__name__] = tuple(key for _, own in group for key in own)
    if head:
        found[top] = tuple(key for key in model.state_dict() if key in inside)
    return found


def attribute_layers(method: Transfer, source: Task, target: Task, result: TransferResult) -> LayerAttribution:
    """Which layers of `source.model` carried a measured transfer (`result`, by `method`, between these tasks).

    Ablations run as jobs, and each is remembered as soon as it is done.
    """
    context, model = method.context, source.model
    assert model is not None
    keep_head = same_classes(source.descriptor, target.descriptor)
    blocks = blocks_of(model, head=keep_head)
    seeds = scratch_seeds(context, target, result.seeds)
    # A frozen head could not be fitted, which is what most methods begin with.
    wanted = [(block, how) for block in blocks for how in ("without", "alone", "frozen")
              if not (how == "frozen" and block == head_label(model))]  # fmt: skip
    made, light = source_digest(model), without_model(target, ("train", "validation", result.split))
    scores: dict[tuple[str, str, int], float] = {}
    jobs, waiting = [], []
    for block, how in wanted:
        for seed in seeds:
            what = (method.identity(), made, target.fingerprint(), result.budget, result.split, keep_head)
            key = key_of("ablation", *what, blocks[block], how, seed)
            known = context.recall("transfers", key)
            if known is not None:
                scores[block, how, seed] = float(known.payload["score"])
                continue
            args = (method, model, light, result.budget, seed, result.split, keep_head, blocks, block, how)
            jobs.append(Job(ablated_score, args, label=f"{block} {how}"))
            waiting.append((block, how, seed, key))
    context.tell("stage_started", stage="explain", total=len(jobs))
    for index, score in context.jobs(jobs):
        block, how, seed, key = waiting[index]
        context.remember("transfers", key, {"what": "ablation", "block": block, "how": how, "score": score})
        scores[block, how, seed] = score
        context.tell("stage_progress", stage="explain", detail=f"{block} {how}")
    full, plain, metric = result.score.values, result.scratch_score.values, metric_of(target)
    sizes = {name: tensor.numel() for name, tensor in model.named_parameters()}
    found = []
    for block, names in blocks.items():
        by_how = {how: [scores[block, how, seed] for seed in seeds] for b, how in wanted if b == block}
        lost = [a - b for a, b in zip(full, by_how["without"], strict=True)]
        alone = [a - b for a, b in zip(by_how["alone"], plain, strict=True)]
        gain = [a - b for a, b in zip(full, plain, strict=True)]
        adapted = [a - b for a, b in zip(full, by_how["frozen"], strict=True)] if "frozen" in by_how else None
        found.append(
            BlockAttribution(
                block=block,
                weights=sum(sizes.get(name, 0) for name in names),
                without=confidence_interval(by_how["without"], metric.range),
                alone=confidence_interval(by_how["alone"], metric.range),
                lost_without=confidence_interval(lost, metric.gains),
                gained_alone=confidence_interval(alone, metric.gains),
                lost_frozen=None if adapted is None else confidence_interval(adapted, metric.gains),
                share_lost=share(lost, gain),
                share_alone=share(alone, gain),
            )
        )
    done = LayerAttribution(
        source=source.task_id,
        target=target.task_id,
        strategy=result.strategy,
        metric=result.metric,
        split=result.split,
        gain=result.performance_gain,
        blocks=tuple(found),
        seed=context.seed,
        seeds=len(seeds),
        budget=result.budget,
        options=method.options(),
    )
    context.tell("stage_finished", stage="explain", result=done)
    return done


def ablated_score(
    method: Transfer,
    model: nn.Module,
    target: Task,
    budget: Budget,
    seed: int,
    split: str,
    keep_head: bool,
    blocks: Mapping[str, Sequence[str]],
    block: str,
    how: str,
) -> float:
    """The score of a transfer with one block `without`, `alone` or `frozen`, as a job.

    Weights are taken away from the source itself: a method that looks at it again (decay towards it, its features)
    sees the same source that the receiver came from.
    """
    task = drawn(target, budget.samples, seed)
    budget = attrs.evolve(budget, evaluate_every=budget.steps)  # nobody looks at the curve
    renewed = {
        "without": set(blocks[block]),
        "alone": {name for other, names in blocks.items() if other != block for name in names},
        "frozen": set(),
    }[how]
    source = copy_of(model)
    fresh = fresh_model(model, task, seed).state_dict()
    source.load_state_dict({k: fresh[k] if k in renewed else v for k, v in model.state_dict().items()})
    receiver, _, _ = receive(source, task, seed, keep_head)
    if how == "frozen":
        for name, parameter in receiver.named_parameters():
            parameter.requires_grad_(name not in blocks[block])
    method.learn(receiver, source, task, budget, torch.Generator().manual_seed(seed))
    return evaluate(receiver, task, split)


def share(parts: Sequence[float], wholes: Sequence[float]) -> Interval | None:
    """The ratio of two means over the same seeds with its 95 % interval by Fieller (1954); None where the whole's own
    interval holds 0, since a share of nothing has no value.
    """
    count = len(parts)
    if count < 2:
        return None
    part, whole = sum(parts) / count, sum(wholes) / count

    def covariance(a: Sequence[float], b: Sequence[float], mean_a: float, mean_b: float) -> float:
        return sum((x - mean_a) * (y - mean_b) for x, y in zip(a, b, strict=True)) / (count - 1) / count

    t2 = student_quantile(count - 1) ** 2
    # The interval is the ratios r with (part - r whole)² <= t² var(part - r whole): a quadratic in r.
    a = whole**2 - t2 * covariance(wholes, wholes, whole, whole)
    b = part * whole - t2 * covariance(parts, wholes, part, whole)
    c = part**2 - t2 * covariance(parts, parts, part, part)
    if a <= 0:
        return None
    half = math.sqrt(max(0.0, b * b - a * c))
    return Interval(mean=part / whole, low=(b - half) / a, high=(b + half) / a)
