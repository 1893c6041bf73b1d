"""Measuring a transfer method: the same budget and seeds with and without the source, and what came of it."""

from __future__ import annotations

import copy
import functools
import hashlib
import inspect
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, cast

import attrs
import torch
from torch import nn

from crosstask.components import Context
from crosstask.descriptors import TaskDescriptor
from crosstask.errors import DataError, StoreError
from crosstask.identity import UnidentifiedError, identity_of
from crosstask.learning.data import draw
from crosstask.learning.metrics import confidence_interval, relative_gain
from crosstask.learning.modules import head_found, head_keys, head_of, load_matching, redraw, replace_head
from crosstask.learning.objectives import chance, metric_of
from crosstask.learning.training import History, evaluate, fit, misfit
from crosstask.options import structure, unstructure
from crosstask.records import Budget, Interval, LearningCurve, TransferResult
from crosstask.tasks import SPLITS, Portfolio, Task


class Learns(Protocol):
    """What measuring a transfer asks of a transfer method."""

    @property
    def origin(self) -> str: ...

    @property
    def context(self) -> Context: ...

    def options(self) -> dict[str, Any]: ...

    def identity(self) -> dict[str, Any]: ...

    def learn(
        self, model: nn.Module, source: nn.Module, task: Task, budget: Budget, generator: torch.Generator
    ) -> History: ...


def key_of(*parts: object) -> str:
    """The store key of a result: a digest of everything that determines it.

    Something with a method `__key__` (a `ModelSpec`, whose function may be edited) is what that says.
    """
    return hashlib.sha256(json.dumps(unstructure(_keyed(parts)), sort_keys=True).encode()).hexdigest()[:32]


def _keyed(value: Any) -> Any:
    if hasattr(value, "__key__"):
        return value.__key__()
    if isinstance(value, list | tuple):
        return [_keyed(item) for item in value]
    if isinstance(value, dict):
        return {key: _keyed(item) for key, item in value.items()}
    return value


def weights_digest(model: nn.Module | Mapping[str, torch.Tensor]) -> str:
    """Identity of a trained model: its weights, by name, and what it does with them (`architecture`)."""
    digest = hashlib.sha256()
    if isinstance(model, nn.Module):
        digest.update(architecture(model).encode())
    for name, tensor in (model.state_dict() if isinstance(model, nn.Module) else model).items():
        if not isinstance(tensor, torch.Tensor):  # a module's extra state
            digest.update(f"{name}{tensor!r}".encode())
            continue
        digest.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
        plain = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(plain.view(torch.uint8).numpy().tobytes() if plain.numel() else b"")
    return digest.hexdigest()


def fresh_model(source: nn.Module, task: Task, seed: int) -> nn.Module:
    """A model of the source's architecture with a head for `task`, all weights drawn anew from `seed`, all trainable;
    `crosstask.learning.modules.redraw` says how weights are drawn.
    """
    model = copy.deepcopy(source).requires_grad_(True)
    _fit_head(model, task, seed)
    redraw(model, seed)
    return model


def _fit_head(model: nn.Module, task: Task, seed: int) -> None:
    """Give a copy of a source a head for `task`. A head of the right size is kept as it is built."""
    count = task.descriptor.output_dim
    if count is None:
        raise DataError(f"task {task.task_id!r}: output_dim is needed to give it a head")
    replace_head(model, count, seed)


def unfit_model(source: nn.Module, task: Task) -> str | None:
    """Why a copy of a source model cannot be given a head for `task`, and its inputs; None if it can."""
    try:
        model = copy.deepcopy(source)
        _fit_head(model, task, 0)
    except Exception as error:  # of the user's own class
        return str(error) or type(error).__name__
    split = next((each for each in SPLITS if task.has_data(each)), None)
    return None if split is None else misfit(model, task, split)


def unfit_pair(source: Task, target: Task, portfolio: Portfolio, splits: Sequence[str] = ("train",)) -> str | None:
    """Why transfer from `source` to `target` cannot be looked at, which takes the target's `splits`; None if it can."""
    ours, theirs = source.descriptor.input_shape, target.descriptor.input_shape
    if source.model is None:
        return f"task {source.task_id!r} has no trained model"
    if target.task_id not in portfolio:
        return f"task {target.task_id!r} is held back as unseen"
    for split in splits:
        if not target.has_data(split):
            return f"task {target.task_id!r} has no {split} data"
    try:
        head_found(source.model)
    except DataError as error:
        return f"of the model of {source.task_id!r} {error}"
    alike = source.descriptor.task_type == target.descriptor.task_type and bool(ours) and ours == theirs
    if ours and theirs and ours != theirs and not any(target.has_data(split) for split in SPLITS):
        return f"the model of {source.task_id!r} takes inputs {ours}, {target.task_id!r} has {theirs}"
    if not alike and (reason := unfit_model(source.model, target)):
        if ours and theirs and ours != theirs:
            return f"the model of {source.task_id!r} takes inputs {ours}, {target.task_id!r} has {theirs}"
        return f"the model of {source.task_id!r} does not fit {target.task_id!r}: {reason}"
    return None


def same_classes(source: TaskDescriptor, target: TaskDescriptor) -> bool:
    """Whether a head carries over: both tasks name the same classes in the same order."""
    return bool(source.classes) and source.classes == target.classes


def receive(source: nn.Module, task: Task, seed: int, keep_head: bool) -> tuple[nn.Module, list[str], list[str]]:
    """(a copy of `source` for `task`, names of the weights it kept, names of those drawn anew)."""
    model = fresh_model(source, task, seed)
    head = head_keys(model)
    state = {k: v for k, v in source.state_dict().items() if keep_head or k not in head}
    copied, left = load_matching(model, state)
    if not copied:
        raise DataError(f"task {task.task_id!r}: no weight of the source model fits by name and shape")
    return model, copied, left


def received(
    source: nn.Module, fresh: nn.Module, task: Task, keep_head: bool
) -> tuple[dict[str, torch.Tensor], list[str], list[str]]:
    """As `receive`, without a copy: (the weights with which `fresh`, a fresh model, would begin, names, names)."""
    head, own = head_keys(fresh), fresh.state_dict()
    given = {k: v for k, v in source.state_dict().items() if keep_head or k not in head}
    fits = {k: v for k, v in given.items() if k in own and isinstance(v, torch.Tensor) and own[k].shape == v.shape}
    if not fits:
        raise DataError(f"task {task.task_id!r}: no weight of the source model fits by name and shape")
    begun = {**dict(fresh.named_parameters()), **dict(fresh.named_buffers()), **fits}
    return begun, sorted(fits), sorted(set(own) - set(fits))


def drawn(task: Task, samples: int | None, seed: int) -> Task:
    """The task with only `samples` of its training data, drawn by `seed`, stratified by class; itself where it has no
    more. Every measurement with this seed learns from this draw, with transfer and without.
    """
    data = task.data("train")
    if samples is None or samples >= len(data):
        return task
    # The seed's own generator draws heads and batches; another stream chooses the samples.
    generator = torch.Generator().manual_seed(int(key_of("samples", seed)[:15], 16))
    chosen = draw(data, samples, generator, classes=task.descriptor.task_type == "classification")
    return task.over(train=chosen, **{s: task.data(s) for s in ("validation", "test") if task.has_data(s)})


def scratch(model: nn.Module, task: Task, budget: Budget, seed: int, split: str) -> tuple[float, LearningCurve]:
    """Train `model`'s architecture from scratch: (score on `split`, learning curve)."""
    task = drawn(task, budget.samples, seed)
    fresh = fresh_model(model, task, seed)
    history = fit(fresh, task, budget, torch.Generator().manual_seed(seed))
    return evaluate(fresh, task, split), history.curve()


def measure_transfer(
    method: Learns, source: Task, target: Task, budget: Budget, seeds: int, split: str
) -> TransferResult:
    """`method` from `source.model` to `target` against scratch, once per seed; scratch runs are remembered."""
    context = method.context
    model = source.model
    assert model is not None
    controls = scratch_scores(context, model, target, budget, seeds, split)
    keep_head = same_classes(source.descriptor, target.descriptor)
    chosen = scratch_seeds(context, target, seeds)
    runs, copied, left = transfer_scores(method, model, target, budget, chosen, split, keep_head)
    result = summarise(method, source.task_id, target, budget, split, runs, controls, copied, left, context.seed)
    return attrs.evolve(result, drawn_by=redraw(copy.deepcopy(model), 0))


def scratch_seeds(context: Context, target: Task, seeds: int) -> list[int]:
    """The seeds that a target's controls and every transfer into it share."""
    return [context.seed_for("transfer", target.task_id, number) for number in range(seeds)]


def scratch_scores(
    context: Context, model: nn.Module, target: Task, budget: Budget, seeds: int, split: str
) -> list[tuple[float, LearningCurve]]:
    """From-scratch controls of a target, one per seed, remembered by task, architecture, budget and seed."""
    found = []
    for seed in scratch_seeds(context, target, seeds):
        key = scratch_key(model, target, budget, seed, split)
        known = context.recall("transfers", key)
        if known is None:
            score, curve = scratch(model, target, budget, seed, split)
            context.remember("transfers", key, scratch_payload(target, budget, seed, split, score, curve))
        else:
            score, curve = read_scratch(known.payload)
        found.append((score, curve))
    return found


def scratch_key(model: nn.Module, target: Task, budget: Budget, seed: int, split: str) -> str:
    """The store key of training from scratch, with which a transfer is compared."""
    return key_of(
        "scratch", "samples by seed, in fleets", architecture(model), target.fingerprint(), budget, seed, split
    )


def scratch_payload(target: Task, budget: Budget, seed: int, split: str, score: float, curve: LearningCurve) -> object:
    """A training from scratch as it is stored; `read_scratch` reads it."""
    made = {"target": target.task_id, "budget": budget, "seed": seed, "split": split}
    return unstructure({"what": "scratch", **made, "score": score, "curve": curve})


def read_scratch(payload: dict[str, object]) -> tuple[float, LearningCurve]:
    """(score, learning curve) of a stored training from scratch. StoreError if it is damaged."""
    try:
        return float(payload["score"]), structure(payload["curve"], LearningCurve, "curve")  # type: ignore[arg-type]
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(f"a stored control cannot be read: {error}") from None


def architecture(model: nn.Module) -> str:
    """The layers of a model as text, without its head: what scratch and transfer have in common. Classes that are not
    torch's are told apart by their code, and modules of them by what they hold besides weights.
    """
    try:
        head: nn.Module = head_of(model)
    except DataError:  # nobody knows it: all of it is looked at
        head = nn.Module()
    inside = {id(module) for module in head.modules()}
    loose = {id(p) for p in head.parameters()}
    lines = []
    for name, module in model.named_modules():
        if id(module) in inside:
            continue
        lines.append(f"{name}:{type(module).__qualname__ if list(module.children()) else module}")
        own = {n: tuple(p.shape) for n, p in module.named_parameters(recurse=False) if id(p) not in loose}
        if not type(module).__module__.startswith(("torch.", "crosstask.")):
            lines.append(f"{own} {_code(cast(Any, type(module)))} {_held(module)}")
    return "\n".join(lines)


@functools.cache
def _code(cls: Any) -> str:
    """The code of a class and of those that it is made from, as far as they are nobody else's."""
    said = []
    for base in cls.__mro__:
        if base.__module__.split(".")[0] in ("torch", "transformers", "builtins", "crosstask"):
            continue
        for name, value in vars(base).items():
            if inspect.isfunction(value):
                try:
                    said.append([name, identity_of(value)])
                except UnidentifiedError:
                    said.append([name, value.__qualname__])
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16] if said else ""


def _held(module: nn.Module) -> str:
    """What a module holds besides weights and other modules: numbers, functions, options."""
    said = {}
    for name, value in vars(module).items():
        if name.startswith("_") or name == "training":
            continue
        if hasattr(value, "to_json_string"):  # a config of transformers
            said[name] = value.to_json_string()
            continue
        try:
            said[name] = json.dumps(identity_of(value))
        except (UnidentifiedError, TypeError, ValueError, RecursionError):
            said[name] = type(value).__qualname__
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16] if said else ""


def transfer_scores(
    method: Learns,
    model: nn.Module,
    target: Task,
    budget: Budget,
    seeds: Sequence[int],
    split: str,
    keep_head: bool,
) -> tuple[list[tuple[float, LearningCurve]], list[str], list[str]]:
    """Scores and curves with transfer, one per seed, and the names of the weights kept and drawn anew.

    Each seed has its own draw of `budget.samples` training samples, the same that its control has: the spread over the
    seeds is that of the training and of the choice of the samples.
    """
    runs = []
    copied: list[str] = []
    left: list[str] = []
    for seed in seeds:
        task = drawn(target, budget.samples, seed)
        receiver, copied, left = receive(model, task, seed, keep_head)
        history: History = method.learn(receiver, model, task, budget, torch.Generator().manual_seed(seed))
        runs.append((evaluate(receiver, task, split), history.curve()))
    return runs, copied, left


def summarise(
    method: Learns,
    source: str,
    target: Task,
    budget: Budget,
    split: str,
    runs: Sequence[tuple[float, LearningCurve]],
    controls: Sequence[tuple[float, LearningCurve]],
    copied: Sequence[str],
    left: Sequence[str],
    seed: int,
) -> TransferResult:
    """The record of a measured transfer from its paired runs and controls."""
    metric = metric_of(target)
    scores, plain = [s for s, _ in runs], [s for s, _ in controls]
    curve, scratch_curve = mean_curve([c for _, c in runs]), mean_curve([c for _, c in controls])
    return TransferResult(
        source=source,
        target=target.task_id,
        strategy=method.origin,
        metric=metric.told,
        split=split,
        score=confidence_interval(scores, metric.range),
        scratch_score=confidence_interval(plain, metric.range),
        coefficient=confidence_interval(
            [relative_gain(a, b, metric.best) for a, b in zip(scores, plain, strict=True)], (-1, 1)
        ),
        performance_gain=confidence_interval([a - b for a, b in zip(scores, plain, strict=True)], metric.gains),
        convergence_speed_gain=speed_gain(curve, scratch_curve),
        convergence_speed_interval=speed_interval([c for _, c in runs], [c for _, c in controls]),
        chance=chance(target, split),
        curve=curve,
        scratch_curve=scratch_curve,
        transferred=tuple(copied),
        not_transferred=tuple(left),
        seed=seed,
        seeds=len(runs),
        budget=budget,
        options=method.options(),
    )


def mean_curve(curves: Sequence[LearningCurve]) -> LearningCurve:
    """The mean of curves recorded at the same steps. One that ended before the others stays where it ended."""
    if not curves or not all(curve.steps for curve in curves):
        return LearningCurve()
    steps = tuple(sorted({step for curve in curves for step in curve.steps}))
    at = [[curve.values[max(n for n, s in enumerate(curve.steps) if s <= step or n == 0)] for curve in curves]
          for step in steps]  # fmt: skip
    return LearningCurve(steps=steps, values=tuple(sum(values) / len(values) for values in at))


def speed_gain(curve: LearningCurve, scratch_curve: LearningCurve) -> float | None:
    """Steps from scratch / steps with transfer to the level at which scratch ends; None if transfer never gets there.

    A curve that starts there counts as one step.
    """
    if not curve.steps or not scratch_curve.steps:
        return None
    level = scratch_curve.final
    with_transfer, without = curve.first_reaching(level), scratch_curve.first_reaching(level)
    if with_transfer is None or without is None:
        return None
    return max(1, without) / max(1, with_transfer)


def speed_interval(curves: Sequence[LearningCurve], scratch_curves: Sequence[LearningCurve]) -> Interval | None:
    """Geometric mean of each seed's `speed_gain`, with the 95 % interval of Student's t on the logarithms: a ratio and
    its inverse are as far from 1. None for fewer than two seeds, or where transfer does not get there in each.
    """
    gains = [speed_gain(own, scratch) for own, scratch in zip(curves, scratch_curves, strict=True)]
    known = [gain for gain in gains if gain is not None]
    if len(known) < max(2, len(gains)):
        return None
    found = confidence_interval([math.log(gain) for gain in known])
    low, mean, high = (math.exp(value) for value in (found.low, found.mean, found.high))
    return Interval(mean=mean, low=low, high=high, values=tuple(known))


def without_model(task: Task, splits: Sequence[str] = SPLITS) -> Task:
    """A copy of the task that is light to send to another process: no model, only these splits."""
    kept = {}
    for split in splits:
        if task.has_data(split):
            data = task.data(split)
            # Cloned, because pickling a view sends all that it looks at.
            kept[split] = attrs.evolve(data, inputs=data.inputs.clone(), targets=data.targets.clone())
    made = task.over(**kept)
    made.model = None
    return made
