"""Fleets: many small networks of one architecture trained as one, each on its own data, with a seed of its own.

A step of a small network is mostly overhead. `train_fleet` stacks the weights of its members and takes their steps
together (`crosstask.learning.batched`): each sees the batches, and takes the steps, that `fit` would give it alone.
Figures are those of `fit` up to rounding, and do not depend on who else is in the fleet.

`muster` says which trainings can go together, and why others go alone.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import attrs
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

from crosstask.errors import CrosstaskError
from crosstask.learning.batched import Batched
from crosstask.learning.data import batch_table
from crosstask.learning.features import inseparable
from crosstask.learning.models import optimizer_for
from crosstask.learning.modules import Headless, evaluating, forward, head_name, head_of
from crosstask.learning.objectives import LOSSES, Objective, called, loss_of
from crosstask.learning.training import (
    History,
    check_loss,
    device_of,
    finite_losses,
    judged,
    noise_of,
    schedule_for,
)
from crosstask.learning.transferring import architecture
from crosstask.records import Budget
from crosstask.steps import listener
from crosstask.tasks import Task

AT_ONCE = 36
"""Members of a fleet: beyond it their weights, and what an optimiser keeps of them, leave the cache."""
ACTIVATIONS = 2**20
"""Numbers in the largest layer's answers to a batch of every member, likewise."""
WEIGHTS = 2**24
"""Numbers in the weights of all members."""
LANE = 64
"""Each tensor begins at a multiple of it: what is left of the last lane is rounded by other instructions."""


@attrs.frozen
class Phase:
    """A part of a training: so many steps, of the `head` alone over the features of a trunk that stays as it is (in
    evaluation mode), or of all weights, with `rate` times the budget's learning rate and an optimiser of its own.

    A transfer method whose `learn` consists of such parts can say so in a method `phases(budget)`: it is then measured
    in fleets, and `learn` where a training goes alone.
    """

    steps: int
    head: bool = False
    rate: float = 1.0


@attrs.frozen(eq=False)
class Member:
    """A model that is trained in place, from batches that `seed` draws.

    With a `state`, its weights by name, training begins from these; `model` is then left as it is, and may be another
    member's, too.
    """

    model: nn.Module
    task: Task
    budget: Budget
    phases: tuple[Phase, ...]
    seed: int = 0
    state: Mapping[str, Tensor] | None = None


@attrs.frozen
class Trained:
    """How a training went; the score on the split that was asked for."""

    history: History
    score: float | None = None


def phases_of(method: object, budget: Budget) -> tuple[Phase, ...] | None:
    """The phases of a transfer method. None where it does not say, or has another `learn` than the class that says."""
    for cls in type(method).__mro__:
        if "phases" in vars(cls):
            told: tuple[Phase, ...] = cast(Any, method).phases(budget)
            return told
        if "learn" in vars(cls):
            return None
    return None


# Who goes together ----------------------------------------------------------------------------------------------------


def muster(members: Sequence[Member], workers: int = 1, each: int = 1) -> tuple[list[list[int]], dict[int, str]]:
    """(fleets, as numbers of members; why each of the others goes alone).

    A member stands for `each` trainings that differ in nothing but seed and samples. There are as many fleets as
    `workers` where there are enough members.
    """
    kinds: dict[Any, list[int]] = {}
    reasons: dict[int, str] = {}
    models: dict[int, Any] = {}
    for number, member in enumerate(members):
        try:
            if id(member.model) not in models:
                models[id(member.model)] = _build(member.model)
            kinds.setdefault((models[id(member.model)], *_terms(member)), []).append(number)
        except CrosstaskError as error:  # the training itself will say so
            reasons[number] = str(error)
    fleets: list[list[int]] = []
    for numbers in kinds.values():
        first = members[numbers[0]]
        reason = alone(first)
        size = 0 if reason else min(room(first) // each, -(-len(numbers) // max(1, workers)))
        if size * each < 2:
            reasons |= dict.fromkeys(numbers, reason or "too few of its kind, or too large: they would gain nothing")
        else:
            fleets += [numbers[start : start + size] for start in range(0, len(numbers), size)]
    return fleets, reasons


def _build(model: nn.Module) -> Any:
    """What the models of a fleet have in common: all but the head."""
    state = tuple((n, tuple(t.shape), t.dtype, t.requires_grad) for n, t in _of_trunk(model).items())
    return architecture(model), state, device_of(model)


def _terms(member: Member) -> Any:
    """What their trainings have in common. Heads, tasks and losses may differ."""
    inputs: object = member.task.data("train").inputs
    shape = (tuple(inputs.shape[1:]), inputs.dtype) if isinstance(inputs, Tensor) else None
    return shape, member.budget, member.phases, _batch(member)


def _batch(member: Member) -> int:
    """How many samples a step sees."""
    count, budget = len(member.task.data("train")), member.budget
    return min(count, budget.samples or count, budget.batch_size)


def alone(member: Member) -> str | None:
    """Why a training cannot go in a fleet; None if it can. Some samples go through its model."""
    model, budget = member.model, member.budget
    if listener() is not None:
        return "an observer listens to every step"
    if budget.patience is not None:
        return "with patience each training ends at a time of its own"
    if budget.precision != "float32" or budget.accumulate > 1:
        return "its budget asks for another precision, or for gradients of several batches"
    inputs: object = member.task.data("train").inputs
    if not isinstance(inputs, Tensor):
        return "its samples have several inputs"
    for layer in model.modules():
        kind = type(layer).__name__
        if isinstance(layer, _NormBase) and _batch(member) == 1:
            return f"{kind} may have nothing to go by in a batch of one"
        if isinstance(layer, _NormBase) and layer.track_running_stats and layer.momentum is None:
            return f"{kind} keeps a mean over all batches that a model has seen"
        if layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks:
            return f"a {kind} has hooks"
    if reason := inseparable(model, inputs):
        return reason
    trunk = _trunk_of(model)
    if trunk.path(_of_trunk(model), inputs[None, :2].to(device_of(model))) == "loop":
        return f"torch.func.vmap cannot follow {type(model).__name__}"
    drawing = [m for m in (*trunk.module.modules(), *head_of(model).modules()) if isinstance(m, _DropoutNd) and m.p > 0]
    for layer in drawing:
        if layer not in trunk.by_hand:
            return f"{type(layer).__name__} draws at random where it cannot be drawn for each alone"
    if drawing and _scattered(model, inputs):
        return "its Dropout draws in the order of a memory format of the model's own"
    return None


def _scattered(model: nn.Module, inputs: Tensor) -> bool:
    """Whether what dropout receives does not lie in memory row by row (channels last, say)."""
    found: list[bool] = []
    layers = [layer for layer in model.modules() if isinstance(layer, _DropoutNd)]
    seen = [
        layer.register_forward_pre_hook(lambda _, given: found.append(given[0].is_contiguous())) for layer in layers
    ]
    try:
        with torch.no_grad(), evaluating(model):
            forward(model, inputs[:2].to(device_of(model)))
    finally:
        for handle in seen:
            handle.remove()
    return not all(found)


def room(member: Member) -> int:
    """How many such members one fleet should have."""
    weights = sum(p.numel() for p in member.model.parameters())
    return min(AT_ONCE, ACTIVATIONS // (_largest(member) * _batch(member)), WEIGHTS // max(1, weights))


def _largest(member: Member) -> int:
    """How many numbers the largest answer of a layer to one sample has."""
    sizes, model = [1], member.model
    inputs = member.task.data("train").inputs[:1].to(device_of(model))
    seen = [
        layer.register_forward_hook(lambda _, __, out: sizes.append(out.numel() if isinstance(out, Tensor) else 0))
        for layer in model.modules()
    ]
    try:
        with torch.no_grad(), evaluating(model):
            forward(model, inputs)
    finally:
        for handle in seen:
            handle.remove()
    return max(sizes)


def _of_trunk(model: nn.Module) -> dict[str, Tensor]:
    """The parameters and buffers outside the head, by name."""
    head = f"{head_name(model)}."
    held = [*model.named_parameters(), *model.named_buffers()]
    return {name: tensor for name, tensor in held if not name.startswith(head)}


def _of_head(model: nn.Module) -> dict[str, Tensor]:
    """Those of the head, likewise."""
    trunk = _of_trunk(model)
    held = (*model.named_parameters(), *model.named_buffers())
    return {name: tensor for name, tensor in held if name not in trunk}


def _trunk_of(model: nn.Module) -> Batched:
    """What comes before the head, computed with many sets of weights."""
    return Batched(Headless(model).model)


# Training -------------------------------------------------------------------------------------------------------------


def train_fleet(
    members: Sequence[Member], *, curve_split: str | None = None, score_split: str | None = None
) -> list[Trained | CrosstaskError]:
    """Train members that `muster` put together, in place; for each, how it went or why it failed, in their order.

    Learning curves and scores as in `fit` and `evaluate`, where a split is named for them.
    """
    given = list(members)
    said = [_alike(member) for member in given]
    order = sorted(range(len(given)), key=lambda number: (said[number], number))
    placed = [given[number] for number in order]
    if len(placed) == 1:  # torch works a single set of weights by other means, and rounds otherwise
        placed = [given[0], attrs.evolve(given[0], model=copy.deepcopy(given[0].model))]
    fleet = _Fleet(placed, [said[number] for number in order])
    histories, failed = [History() for _ in placed], dict[int, CrosstaskError]()
    for phase in placed[0].phases:
        for number, found in enumerate(fleet.run(phase, curve_split)):
            if isinstance(found, CrosstaskError):
                failed.setdefault(number, found)
            else:
                histories[number].extend(found)
    fleet.hand_back()
    scores: Sequence[float | CrosstaskError | None] = [None] * len(placed)
    if score_split is not None:
        scores = fleet.scores(score_split)
    results: dict[int, Trained | CrosstaskError] = {}
    for place, number in enumerate(order):
        score = scores[place]
        wrong = failed.get(place) or (score if isinstance(score, CrosstaskError) else None)
        results[number] = wrong or Trained(histories[place], score)  # type: ignore[arg-type]
    return [results[number] for number in range(len(given))]


def _alike(member: Member) -> str:
    """What members have in common whose heads and losses are computed as one; in a fleet they stand side by side."""
    shapes = [(name, tuple(t.shape), t.requires_grad) for name, t in _of_head(member.model).items()]
    head, targets = member.model.get_submodule(head_name(member.model)), member.task.data("train").targets
    return f"{shapes} {head} {_loss_kind(member.task)} {targets.dtype} {tuple(targets.shape[1:])}"


def _loss_kind(task: Task) -> str:
    """The loss that is computed for all rows at once, or `own`: task by task."""
    loss, targets = loss_of(task), task.data("train").targets
    if loss is LOSSES["cross_entropy"] and targets.ndim == 1 and not bool((targets == -100).any()):
        return "cross_entropy"
    values = targets.is_floating_point() and not bool(torch.isnan(targets).any())
    for name in ("mse", "bce_with_logits"):
        if loss is LOSSES[name] and values:
            return name
    return "own"


def _row_losses(kind: str, outputs: Tensor, targets: Tensor) -> Tensor:
    """The loss of each member [K] for outputs [K, B, …] and targets [K, B, …]."""
    if kind == "cross_entropy":
        if outputs.shape[-1] == 1:
            each = functional.binary_cross_entropy_with_logits(
                outputs[..., 0], targets.to(outputs.dtype), reduction="none"
            )
        else:
            each = functional.cross_entropy(outputs.flatten(0, 1), targets.flatten(), reduction="none")
    else:
        wanted = targets.reshape(outputs.shape).to(outputs.dtype)
        if kind == "mse":
            each = functional.mse_loss(outputs, wanted, reduction="none")
        else:
            each = functional.binary_cross_entropy_with_logits(outputs, wanted, reduction="none")
    return each.reshape(len(outputs), -1).mean(1)


@attrs.define(eq=False)
class _Heads:
    """Members from `start` to `stop`, whose heads have the same layers and whose losses are computed alike."""

    start: int
    stop: int
    kind: str
    net: Batched
    state: dict[str, Tensor]
    losses: list[Objective]
    targets: Tensor
    offsets: Tensor


class _Fleet:
    """The weights of all members, stacked, in the order in which they are given."""

    def __init__(self, members: Sequence[Member], alike: Sequence[str]) -> None:
        self.members, first = members, members[0]
        self.budget, self.device = first.budget, device_of(first.model)
        self.trunk = _trunk_of(first.model)
        self.largest = _largest(first)
        self.state = _stacked(members, _of_trunk(first.model))
        self.generators = [torch.Generator().manual_seed(m.seed) for m in members]
        self.data = [m.task.data("train").head(m.budget.samples) for m in members]
        self.inputs, self.offsets = _pooled([d.inputs for d in self.data], self.device)
        self.heads = list(self._heads(alike))

    def _heads(self, alike: Sequence[str]) -> Iterator[_Heads]:
        start = 0
        for stop in range(1, len(self.members) + 1):
            if stop < len(alike) and alike[stop] == alike[start]:
                continue
            own = self.members[start:stop]
            targets, offsets = _pooled([d.targets for d in self.data[start:stop]], self.device)
            name = head_name(own[0].model)
            head = copy.deepcopy(own[0].model.get_submodule(name))
            state = _stacked(own, _of_head(own[0].model))
            yield _Heads(
                start, stop, _loss_kind(own[0].task), Batched(nn.Sequential(head)),
                {f"0{key.removeprefix(name)}": tensor for key, tensor in state.items()},
                [loss_of(m.task) for m in own], targets, offsets,
            )  # fmt: skip
            start = stop

    def run(self, phase: Phase, curve_split: str | None) -> list[History | CrosstaskError]:
        """One phase: for each member how it went, or its failure. A failed one does not disturb the others."""
        budget, count = self.budget, phase.steps
        noise = [torch.Generator(self.device).manual_seed(noise_of(generator)) for generator in self.generators]
        self.trunk.noise = noise
        table = torch.stack([
            batch_table(len(data), budget.batch_size, count, generator)
            for data, generator in zip(self.data, self.generators, strict=True)
        ]).to(self.device)  # fmt: skip
        learning = _Learning([head.state for head in self.heads] + ([] if phase.head else [self.state]))
        rate, fused = phase.rate * budget.learning_rate, self.device.type in ("cpu", "cuda")
        optimizer: torch.optim.Optimizer | None = None
        kept = self._features(table) if phase.head else None
        found = [History() for _ in self.members]
        failed: dict[int, CrosstaskError] = {}
        losses: list[Tensor] = []

        def measure(step: int) -> None:
            if curve_split is None:
                return
            for number, value in enumerate(self.scores(curve_split)):
                if isinstance(value, CrosstaskError):
                    failed.setdefault(number, value)
                elif value is not None:
                    found[number].steps.append(step)
                    found[number].values.append(value)

        measure(0)
        self._mode(trunk=not phase.head, heads=True)
        for step in range(1, count + 1):
            learning.clear()
            index = table[:, step - 1]
            if kept is None:
                features = self.trunk(self.state, _rows(self.inputs, index + self.offsets))
            else:
                features = _rows(kept[0], kept[1][:, step - 1])
            each = torch.cat([self._losses(head, features, index) for head in self.heads])
            torch.autograd.backward(each.sum())
            if optimizer is None:
                flat = learning.flatten()
                optimizer = optimizer_for(budget.optimizer, flat, rate, budget.weight_decay, fused=fused)
                schedule = schedule_for(optimizer, budget, count)
            if budget.clip is not None:
                self._clip(phase, budget.clip)
            optimizer.step()
            if schedule is not None:
                schedule.step()
            losses.append(each.detach())
            if step % budget.evaluate_every == 0 or step == count:
                measure(step)
                self._mode(trunk=not phase.head, heads=True)
        for number, member in enumerate(self.members):
            try:
                own = torch.stack(losses)[:, number] if losses else torch.empty(0)
                found[number].losses = finite_losses(own, member.task, count)
            except CrosstaskError as error:
                failed[number] = error
        return [failed.get(number, history) for number, history in enumerate(found)]

    def _mode(self, *, trunk: bool, heads: bool) -> None:
        self.trunk.module.train(trunk)
        for head in self.heads:
            head.net.module.train(heads)

    def _losses(self, head: _Heads, features: Tensor, index: Tensor) -> Tensor:
        """The losses of some members [k] for features [K, B, …] and the places of the samples [K, B] in their data."""
        outputs = head.net(head.state, features[head.start : head.stop])
        targets = _rows(head.targets, index[head.start : head.stop] + head.offsets)
        if head.kind != "own":
            return _row_losses(head.kind, outputs, targets)
        found = []
        for number, loss in enumerate(head.losses):
            task = self.members[head.start + number].task
            found.append(called("loss", loss, task, outputs[number], targets[number]))
            check_loss(found[-1], task, self.device)
        return torch.stack([value.reshape(()) for value in found])

    @torch.no_grad()
    def _features(self, table: Tensor) -> tuple[Tensor, Tensor]:
        """(what the heads receive of all samples in a table [K, steps, B], row by row; their rows [K, steps, B])."""
        self._mode(trunk=False, heads=False)
        seen = [own.unique(return_inverse=True) for own in table]
        most = max(len(rows) for rows, _ in seen)
        rows = torch.stack([functional.pad(rows, (0, most - len(rows))) for rows, _ in seen])
        parts = torch.split(rows, self._at_once(len(rows)), dim=1)
        features = torch.cat([self.trunk(self.state, _rows(self.inputs, part + self.offsets)) for part in parts], dim=1)
        offsets = torch.arange(len(rows), device=self.device)[:, None, None] * most
        return features.flatten(0, 1), torch.stack([places for _, places in seen]) + offsets

    def _at_once(self, members: int) -> int:
        """How many samples of each of so many members one pass takes."""
        return max(1, ACTIVATIONS // (members * self.largest))

    @torch.no_grad()
    def scores(self, split: str) -> list[float | CrosstaskError | None]:
        """Each member's score on a split, or why it has none; None without data."""
        self._mode(trunk=False, heads=False)
        found: list[float | CrosstaskError | None] = [None] * len(self.members)
        for head in self.heads:
            sizes: dict[Any, list[int]] = {}
            for number in range(head.start, head.stop):
                if self.members[number].task.has_data(split):
                    sizes.setdefault(len(self.members[number].task.data(split)), []).append(number)
            for numbers in sizes.values():
                for number, outputs in zip(numbers, self._outputs(head, numbers, split), strict=True):
                    task = self.members[number].task
                    try:
                        found[number] = judged(outputs.to(task.data(split).inputs.device), task, split)
                    except CrosstaskError as error:
                        found[number] = error
        return found

    def _outputs(self, head: _Heads, numbers: list[int], split: str) -> Tensor:
        """What these members, whose heads these are, answer to as many samples each: [k, N, …]."""
        at = torch.tensor(numbers, device=self.device)
        trunk = {name: tensor[at] for name, tensor in self.state.items()}
        own = {name: tensor[at - head.start] for name, tensor in head.state.items()}
        inputs = [self.members[number].task.data(split).inputs for number in numbers]
        step, made = self._at_once(len(numbers)), []
        for start in range(0, len(inputs[0]), step):
            part = torch.stack([each[start : start + step] for each in inputs]).to(self.device)
            made.append(head.net(own, self.trunk(trunk, part)))
        return torch.cat(made, dim=1)

    def _clip(self, phase: Phase, most: float) -> None:
        """Shorten each member's gradient as `torch.nn.utils.clip_grad_norm_` would."""
        spans = [(slice(head.start, head.stop), t.grad) for head in self.heads for t in head.state.values()]
        spans += [] if phase.head else [(slice(None), t.grad) for t in self.state.values()]
        known = [(span, grad) for span, grad in spans if grad is not None]
        squares = torch.zeros(len(self.members), device=self.device, dtype=known[0][1].dtype)
        for span, grad in known:
            squares[span] += grad.flatten(1).square().sum(1)
        factor = (most / (squares.sqrt() + 1e-6)).clamp(max=1.0)
        for span, grad in known:
            grad *= factor[span].reshape(-1, *[1] * (grad.ndim - 1))

    @torch.no_grad()
    def hand_back(self) -> None:
        """Put what was learned into the members' models."""
        for head in self.heads:
            for number in range(head.start, head.stop):
                member = self.members[number]
                if member.state is not None:
                    continue
                for name, tensor in _of_trunk(member.model).items():
                    tensor.copy_(self.state[name][number])
                prefix = head_name(member.model)
                for name, tensor in _of_head(member.model).items():
                    tensor.copy_(head.state[f"0{name.removeprefix(prefix)}"][number - head.start])


class _Learning:
    """What learns, laid end to end: an optimiser takes one step over a vector, not one over each tensor.

    Only what the loss depends on does: the others have no gradient, and stay.
    """

    def __init__(self, states: Sequence[dict[str, Tensor]]) -> None:
        self.places = [(state, name) for state in states for name, t in state.items() if t.requires_grad]
        self.vectors: dict[torch.dtype, Tensor] = {}
        for state, name in self.places:
            state[name].grad = None

    def clear(self) -> None:
        """Gradients to zero."""
        for vector in self.vectors.values():
            assert vector.grad is not None
            vector.grad.zero_()

    def flatten(self) -> list[nn.Parameter]:
        """Once there are gradients: the vectors, of which the tensors are views from now on, and so their gradients."""
        used = [(state, name) for state, name in self.places if state[name].grad is not None]
        for kind in {state[name].dtype for state, name in used}:
            parts = [(state, name, state[name]) for state, name in used if state[name].dtype is kind]
            starts = list(itertools.accumulate((-(-t.numel() // LANE) * LANE for *_, t in parts), initial=0))
            vector = parts[0][2].new_zeros(starts[-1])
            vector.grad = torch.zeros_like(vector)
            for (state, name, old), start in zip(parts, starts, strict=False):
                span = slice(start, start + old.numel())
                assert old.grad is not None
                with torch.no_grad():
                    vector[span].copy_(old.flatten())
                    vector.grad[span].copy_(old.grad.flatten())
                state[name] = vector[span].view_as(old).requires_grad_()
                state[name].grad = vector.grad[span].view_as(old)
            self.vectors[kind] = vector
        return list(self.vectors.values())  # type: ignore[arg-type]


def _stacked(members: Sequence[Member], named: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What the members begin with under these names, one above the other; what needs a gradient of these learns."""
    states = [m.state or {**dict(m.model.named_parameters()), **dict(m.model.named_buffers())} for m in members]
    return {
        name: torch.stack([state[name].detach() for state in states]).requires_grad_(tensor.requires_grad)
        for name, tensor in named.items()
    }


def _pooled(parts: Sequence[Tensor], device: torch.device) -> tuple[Tensor, Tensor]:
    """(the rows of all parts, each part once; where each part begins [K, 1])."""
    places: dict[int, int] = {}
    kept: list[Tensor] = []
    count = 0
    for part in parts:
        if id(part) not in places:
            places[id(part)] = count
            kept.append(part)
            count += len(part)
    starts = [[places[id(part)]] for part in parts]
    return torch.cat(kept).to(device), torch.tensor(starts, device=device)


def _rows(pool: Tensor, index: Tensor) -> Tensor:
    """Rows of a pool in the shape of an index."""
    return pool.index_select(0, index.flatten()).reshape(*index.shape, *pool.shape[1:])
