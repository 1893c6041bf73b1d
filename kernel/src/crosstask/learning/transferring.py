"""Measuring a transfer method: the same budget and seeds with and without the source, and what came of it."""

from __future__ import annotations

import hashlib
import json
import math
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import attrs
import torch
from torch import nn

from crosstask.components import Context
from crosstask.descriptors import TaskDescriptor
from crosstask.errors import DataError, StoreError, told
from crosstask.identity import UnidentifiedError, identity_of
from crosstask.learning.architecture import architecture, layers, shape_text, tensor_bytes, tensor_text, value_text
from crosstask.learning.data import draw
from crosstask.learning.fleets import Member, Phase, Trained, phases_of
from crosstask.learning.metrics import confidence_interval, relative_gain
from crosstask.learning.modules import (
    BARE,
    copy_of,
    head_found,
    head_keys,
    head_of,
    load_matching,
    origin_of,
    quantised,
    real_parts,
    redraw,
    replace_head,
    trainable,
)
from crosstask.learning.objectives import chance, metric_of
from crosstask.learning.together import every
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
            digest.update(f"{name}{value_text(tensor)}".encode())
            continue
        digest.update(f"{name}{tensor.dtype}{shape_text(tensor)}".encode())
        for part in tensor_bytes(tensor):
            digest.update(part)
    return digest.hexdigest()


def source_digest(model: nn.Module) -> str:
    """Identity of a trained model as a source of transfers: its weights (`weights_digest`), and what determines the
    fresh models, of its architecture, that take them over (`fresh_text`). Where nobody can say what its factory does it
    is another at every call: for several keys of one piece of work it is asked for once.
    """
    return key_of(weights_digest(model), fresh_text(model))


def fresh_model(source: nn.Module, task: Task, seed: int) -> nn.Module:
    """A model of the source's architecture with a head for `task`, all weights drawn anew from `seed`, all trainable;
    `crosstask.learning.modules.redraw` says how weights are drawn. DataError for a model that cannot be copied.
    """
    if reason := quantised(source):
        raise DataError(f"task {task.task_id!r}: {reason}")
    try:
        model = trainable(copy_of(source))
    except Exception as error:  # of the user's own class
        raise DataError(f"task {task.task_id!r}: a {type(source).__name__} cannot be copied: {told(error)}") from error
    _fit_head(model, task, seed)
    redraw(model, seed)
    return model


def fresh_text(model: nn.Module) -> str:
    """What determines the models that `fresh_model` makes of a model, as text: of models of which it is the same, the
    same ones are made.

    Its architecture; its head, but for the number of outputs; its factory, if it has one, which is like no other where
    nobody can say what it does; and what `redraw` takes from the model itself, where its layers cannot draw all that
    they hold. The weights of ordinary layers do not matter.
    """
    said = [architecture(model), _head_text(model)]
    build = origin_of(model).build
    if build is not None:
        try:
            said.append(key_of("factory", identity_of(build)))
        except UnidentifiedError:
            said.append(uuid.uuid4().hex)
    elif not all(map(_drawn_whole, model.modules())):
        said += _taken(model)
    return "\n".join(said)


def _head_text(model: nn.Module) -> str:
    """A head, but for the number of its outputs."""
    try:
        found = head_found(model)
    except DataError:  # it gets no fresh model, either
        return ""
    if found.module is None:
        return f"head {found.weights}"
    head = model.get_submodule(found.module)
    try:
        replaced = head_of(nn.Sequential(head))  # the last layer of it
    except DataError:
        return ""
    return f"head {found.module} {layers(head, replaced)}"


def _drawn_whole(module: nn.Module) -> bool:
    """Whether it is a layer of torch that draws, or resets, whatever it holds of its own."""
    if hasattr(type(module), "_from_config"):  # of transformers: its own initialisation may leave something
        return False
    if all(tensor is None for tensor in (*module._parameters.values(), *module._buffers.values())):
        return True
    resets = any(hasattr(module, name) for name in ("reset_parameters", "_reset_parameters"))
    changed = module._forward_pre_hooks or "reset_parameters" in vars(module)
    return type(module).__module__.startswith("torch.nn.modules.") and resets and not changed


def _taken(model: nn.Module) -> list[str]:
    """What `redraw` takes from a model: the mean and the spread of parameters, or the values of what stays.

    It is what differs after two copies were drawn from one seed, of which one had been moved before.
    """
    try:
        one, other = copy_of(model), copy_of(model)
        unmoved = {name for name, tensor in _tensors(other).items() if not _move(tensor)}
        for made in (one, other):
            replace_head(made, 2, 0)
            redraw(made, 0)
        drawn_one, drawn_other, head = _tensors(one), _tensors(other), head_keys(one)
        said = []
        for name, tensor in _tensors(model).items():
            if name in head or (name not in unmoved and torch.equal(drawn_one[name], drawn_other[name])):
                continue
            own = tensor.detach()
            moved = own.clone()
            if _move(moved) and _by_spread((own, drawn_one[name]), (moved, drawn_other[name])):
                figures = [(float(part.mean()), float(part.std())) for part in real_parts(own)]
                said.append(" ".join([name, *(f"{mean!r} {spread!r}" for mean, spread in figures)]))
            else:
                said.append(f"{name} {tensor_text(own)}")
        return said
    except Exception:  # of the user's own class: nothing is made of it, or what it takes is not known
        return [weights_digest(model)]


def _tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


@torch.no_grad()
def _move(tensor: torch.Tensor) -> bool:
    """Whether a tensor could be given other values, all of them."""
    try:
        tensor.copy_(~tensor if tensor.dtype is torch.bool else tensor + 1 + tensor.abs())
    except (RuntimeError, NotImplementedError, TypeError):  # without values, or of a kind that cannot be changed
        return False
    return True


@torch.no_grad()
def _by_spread(*pairs: tuple[torch.Tensor, torch.Tensor]) -> bool:
    """Whether, of each pair, the second was drawn with the mean and the spread of the first, by the same numbers."""
    numbers = all(own.is_floating_point() or own.is_complex() for own, _ in pairs)
    if not numbers or not all(own.numel() > 1 and float(own.std()) > 0 for own, _ in pairs):
        return False
    each = []
    for whole in pairs:
        standard = []
        for own, new in zip(*map(real_parts, whole), strict=True):
            spread = float(own.std())
            standard.append((new - own.mean()) / (spread if spread > 0 else 1.0))
        each.append(torch.stack(standard))
    return torch.allclose(each[0], each[1], rtol=0.0, atol=1e-3)


def _fit_head(model: nn.Module, task: Task, seed: int) -> None:
    """Give a copy of a source a head for `task`. A head of the right size is kept as it is built."""
    count = task.descriptor.output_dim
    if count is None:
        raise DataError(f"task {task.task_id!r}: output_dim is needed to give it a head")
    replace_head(model, count, seed)


def unfit_model(source: nn.Module, task: Task) -> str | None:
    """Why a copy of a source model cannot be given a head for `task`, and its inputs; None if it can."""
    try:
        model = copy_of(source)
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
    if reason := quantised(source.model):
        return f"of the model of {source.task_id!r} {reason}"
    try:
        found = head_found(source.model)
    except DataError as error:
        return f"of the model of {source.task_id!r} {error}"
    keep = same_classes(source.descriptor, target.descriptor)
    if not keep and not _below_head(source.model):
        return f"the model of {source.task_id!r} is no source for {target.task_id!r}: {NO_TRUNK}"
    if found.module == "":
        return f"the model of {source.task_id!r} is no source: {BARE}"
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


NO_TRUNK = (
    "it is all head, a last layer with no weights before it, and the head is drawn anew for a target of other classes: "
    "nothing of it would be taken over"
)


def _below_head(model: nn.Module) -> frozenset[str]:
    """Names of the tensors that a transfer takes over where the head is drawn anew."""
    held = model.state_dict()
    return frozenset(name for name, each in held.items() if isinstance(each, torch.Tensor)) - head_keys(model)


def _nothing_fits(source: nn.Module, task: Task) -> DataError:
    reason = "no weight of it fits by name and shape" if _below_head(source) else NO_TRUNK
    return DataError(f"the source model, a {type(source).__name__}, is no source for task {task.task_id!r}: {reason}")


def receive(source: nn.Module, task: Task, seed: int, keep_head: bool) -> tuple[nn.Module, list[str], list[str]]:
    """(a copy of `source` for `task`, names of the weights it kept, names of those drawn anew)."""
    model = fresh_model(source, task, seed)
    head = head_keys(model)
    state = {k: v for k, v in source.state_dict().items() if keep_head or k not in head}
    copied, left = load_matching(model, state)
    if not copied:
        raise _nothing_fits(source, task)
    return model, copied, left


class Receiver:
    """A fresh model, which may begin as a copy of each of several sources without being one."""

    def __init__(self, fresh: nn.Module) -> None:
        self.model = fresh
        self._head, self._saved = head_keys(fresh), fresh.state_dict()
        self._buffers = dict(fresh.named_buffers())
        self._own = {**dict(fresh.named_parameters()), **self._buffers}

    def begun(
        self, source: nn.Module, task: Task, keep_head: bool
    ) -> tuple[dict[str, torch.Tensor], list[str], list[str]]:
        """As `receive`, without a copy: (the weights with which the model would begin, names, names)."""
        head, own = self._head, self._saved
        given = {k: v for k, v in source.state_dict().items() if keep_head or k not in head}
        fits = {k: v for k, v in given.items() if k in own and isinstance(v, torch.Tensor) and own[k].shape == v.shape}
        if not fits:
            raise _nothing_fits(source, task)
        unsaved = {k: v for k, v in source.named_buffers() if k in self._buffers and k not in own and k not in head}
        return {**self._own, **unsaved, **fits}, sorted(fits), sorted(set(own) - set(fits))


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
    return attrs.evolve(result, drawn_by=redraw(copy_of(model), 0))


def scratch_seeds(context: Context, target: Task, seeds: int) -> list[int]:
    """The seeds that a target's controls and every transfer into it share."""
    return [context.seed_for("transfer", target.task_id, number) for number in range(seeds)]


def scratch_scores(
    context: Context, model: nn.Module, target: Task, budget: Budget, seeds: int, split: str
) -> list[tuple[float, LearningCurve]]:
    """From-scratch controls of a target, one per seed, remembered by task, network, budget and seed."""
    return controls(context, [(model, target)], budget, seeds, split)[0]


def controls(
    context: Context, wanted: Sequence[tuple[nn.Module, Task]], budget: Budget, seeds: int, split: str
) -> list[list[tuple[float, LearningCurve]]]:
    """`scratch_scores` of several targets, each with a network of the architecture that it is learned by; those of one
    architecture go in fleets together.
    """
    each = [(model, target, seed) for model, target in wanted for seed in scratch_seeds(context, target, seeds)]
    built = {number: fresh_text(model) for number, model in {id(model): model for model, _ in wanted}.items()}
    keys = [scratch_key(built[id(model)], target, budget, seed, split) for model, target, seed in each]
    found: dict[str, tuple[float, LearningCurve]] = {}
    phases = (Phase(budget.steps),)
    try:
        for key in sorted(keys):  # in the order of the keys: two runs do not wait for each other
            if (known := context.recall("transfers", key)) is not None:
                found[key] = read_scratch(known.payload)
        waiting = {key: training for key, training in zip(keys, each, strict=True) if key not in found}
        names, trainings = list(waiting), list(waiting.values())

        def member(number: int) -> Member:
            model, target, seed = trainings[number]
            task = drawn(target, budget.samples, seed)
            return Member(fresh_model(model, task, seed), task, budget, phases, seed)

        def alone(number: int) -> tuple[float, LearningCurve]:
            model, target, seed = trainings[number]
            return scratch(model, target, budget, seed, split)

        planned = [Member(model, target, budget, phases, seed) for model, target, seed in trainings]
        for number, outcome in every(planned, member, alone, outcome_of, curve_split="validation", score_split=split):
            key, (_, target, seed) = names[number], trainings[number]
            context.remember("transfers", key, scratch_payload(target, budget, seed, split, *outcome))
            found[key] = outcome
    finally:
        for key in keys:
            if key not in found:
                context.forgo("transfers", key)
    results = iter([found[key] for key in keys])
    return [[next(results) for _ in range(seeds)] for _ in wanted]


def outcome_of(_: Member, trained: Trained) -> tuple[float, LearningCurve]:
    """(score, learning curve) of a member of a fleet that was judged."""
    assert trained.score is not None
    return trained.score, trained.history.curve()


def scratch_key(built: str, target: Task, budget: Budget, seed: int, split: str) -> str:
    """The store key of training from scratch, with which a transfer is compared; `built`: what determines the network
    (`fresh_text`).
    """
    return key_of("scratch", "samples by seed, in fleets", built, target.fingerprint(), budget, seed, split)


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
    seeds is that of the training and of the choice of the samples. The seeds go in a fleet where the method says its
    phases.
    """
    phases = phases_of(method, budget) or ()
    copied: list[str] = []
    left: list[str] = []

    def made(number: int) -> tuple[nn.Module, Task]:
        nonlocal copied, left
        task = drawn(target, budget.samples, seeds[number])
        receiver, copied, left = receive(model, task, seeds[number], keep_head)
        return receiver, task

    def member(number: int) -> Member:
        receiver, task = made(number)
        return Member(receiver, task, budget, phases, seeds[number])

    def alone(number: int) -> tuple[float, LearningCurve]:
        receiver, task = made(number)
        history = method.learn(receiver, model, task, budget, torch.Generator().manual_seed(seeds[number]))
        return evaluate(receiver, task, split), history.curve()

    planned = [Member(model, target, budget, phases, seed) for seed in seeds]
    runs = dict(every(planned, member, alone, outcome_of, curve_split="validation", score_split=split))
    return [runs[number] for number in range(len(seeds))], copied, left


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
