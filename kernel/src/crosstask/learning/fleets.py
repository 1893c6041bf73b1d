"""Fleets: many small networks of one architecture trained as one, each on its own data, with a seed of its own.

A step of a small network is mostly overhead. `train_fleet` stacks the weights of its members and takes their steps
together (`crosstask.learning.batched`): each sees the batches, and takes the steps, that `fit` would give it alone,
with a learning rate and a number of samples of its own, and with patience for as long as it learns.
Figures are those of `fit` up to rounding, and do not depend on who else is in the fleet.

`muster` says which trainings can go together, and why others go alone.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import attrs
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _NormBase

from crosstask.errors import CrosstaskError, DataError, told
from crosstask.learning.architecture import architecture, layers
from crosstask.learning.batched import Batched, scattered
from crosstask.learning.data import batch_table
from crosstask.learning.features import inseparable
from crosstask.learning.fleet_optimizer import FleetOptimizer, Learner, State
from crosstask.learning.modules import Headless, copy_of, evaluating, forward, head_name, uncompiled
from crosstask.learning.objectives import LOSSES, Objective, called, loss_of, metric_of
from crosstask.learning.side_effects import Watched, effect_of, foreign, hooks_of, saves_otherwise, unmoved
from crosstask.learning.training import (
    History,
    check_loss,
    device_of,
    finite_losses,
    judged,
    looked_at,
    misfit,
    noise_of,
)
from crosstask.records import Budget
from crosstask.steps import listener
from crosstask.tasks import Task

AT_ONCE = 36
"""Members of a fleet: beyond it their weights, and what an optimiser keeps of them, leave the cache."""
ACTIVATIONS = 2**20
"""Numbers in the largest layer's answers to a batch of every member, likewise."""
WEIGHTS = 2**24
"""Numbers in the weights of all members."""
TRIED = 8
"""Samples with which a step is tried before many are taken together."""
TOO_FEW = "too few of its kind, or too large: they would gain nothing"


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


@unmoved()
def muster(members: Sequence[Member], workers: int = 1, each: int = 1) -> tuple[list[list[int]], dict[int, str]]:
    """(fleets, as numbers of members; why each of the others goes alone).

    Budgets may differ in learning rate and samples; those of one rate stand together. A member stands for `each`
    trainings that differ in nothing but seed and samples. There are as many fleets as `workers` where there are enough
    members.
    """
    kinds: dict[Any, list[int]] = {}
    reasons: dict[int, str] = {}
    models: dict[int, Any] = {}
    effects: dict[Any, str | None] = {}
    for number, member in enumerate(members):
        try:
            if id(member.model) not in models:
                models[id(member.model)] = _build(member.model)
            judges = id(member.task.loss), id(member.task.metric)
            if judges not in effects:
                effects[judges] = _effects(member)
            kinds.setdefault((models[id(member.model)], effects[judges], *_terms(member)), []).append(number)
        except CrosstaskError as error:  # the training itself will say so
            reasons[number] = str(error)
    fleets: list[list[int]] = []
    for every in kinds.values():
        numbers = sorted(every, key=lambda number: members[number].budget.learning_rate)
        reason: str | None = None
        while numbers:
            first = members[numbers[0]]
            try:
                reason = alone(first)
                break
            except Exception as error:  # of its own samples: the others may be all right
                reasons[numbers.pop(0)] = told(error)
        if not numbers:
            continue
        size = 0 if reason else min(room(first) // each, -(-len(numbers) // max(1, workers)))
        if size * each < 2:
            reasons |= dict.fromkeys(numbers, reason or TOO_FEW)
        else:
            fleets += [numbers[start : start + size] for start in range(0, len(numbers), size)]
    return fleets, reasons


def _build(model: nn.Module) -> Any:
    """What the models of a fleet have in common: all but the head, as far as it is known what that does."""
    state = tuple((n, tuple(t.shape), t.dtype, t.requires_grad) for n, t in _of_trunk(model).items())
    head = model.get_submodule(head_name(model))
    known = Batched(nn.Sequential(head)).walked
    return architecture(model), state, device_of(model), hooks_of(model), saves_otherwise(model), known or layers(head)


def _terms(member: Member) -> Any:
    """What their trainings have in common. Heads, tasks and losses may differ."""
    inputs: object = member.task.data("train").inputs
    shape = (tuple(inputs.shape[1:]), inputs.dtype) if isinstance(inputs, Tensor) else None
    return shape, attrs.evolve(member.budget, learning_rate=1.0, samples=None), member.phases, _batch(member)


def _batch(member: Member) -> int:
    """How many samples a step sees."""
    count, budget = len(member.task.data("train")), member.budget
    return min(count, budget.samples or count, budget.batch_size)


def alone(member: Member) -> str | None:
    """Why a training cannot go in a fleet; None if it can. Some samples go through its model."""
    model, budget = member.model, member.budget
    if listener() is not None:
        return "an observer listens to every step"
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
    if reason := hooks_of(model) or (budget.patience and saves_otherwise(model)) or _effects(member):
        return reason
    if 2 * sum(p.numel() for p in model.parameters()) > WEIGHTS:
        return TOO_FEW
    if not any(p.requires_grad for p in model.parameters()):
        return f"nothing in {type(model).__name__} learns"
    if reason := inseparable(model, inputs):
        return reason
    trunk = _trunk_of(model)
    if trunk.path(_of_trunk(model), inputs[None, :2].to(device_of(model))) == "loop":
        return f"torch.func.vmap cannot follow {type(model).__name__}"
    if scattered(model, inputs[:2].to(device_of(model))):
        return "its Dropout draws in the order of a memory format of the model's own"
    return _unforeseen(member)


def _unforeseen(member: Member) -> str | None:
    """Why a step in a fleet would not be what it is alone; None if it is. Both are taken, with a few samples, unless
    there are only layers in a row that are walked by hand.
    """
    given, model = attrs.evolve(member, state=None), member.model
    fleet = _Fleet([given, given], [_alike(given)] * 2, fill=False)
    if fleet.walked and not any(foreign(layer) or getattr(layer, "inplace", False) for layer in model.modules()):
        return None
    who, inputs = type(model).__name__, fleet.inputs[: min(_batch(member), TRIED)]
    alone = copy_of(model).train()
    held = {**dict(alone.named_parameters()), **dict(alone.named_buffers())}
    learns = [name for name, tensor in held.items() if tensor.requires_grad]
    if learns != [name for name, weight in model.named_parameters() if weight.requires_grad]:
        return f"{who} says in train() what of it learns"
    with Watched(alone) as watched:
        try:
            outputs = forward(alone, inputs.clone())
            weights = torch.linspace(-1, 1, outputs.numel(), dtype=outputs.dtype, device=fleet.device)
            weights = weights.view(outputs.shape)
            given_ones = [weight for weight in model.parameters() if weight.requires_grad]
            every = _slopes((outputs * weights).sum(), [*(held[name] for name in learns), *given_ones])
        except Exception as error:  # alone, it will say so
            return f"{who} cannot be trained: {told(error)}"
    if watched.effect:
        return f"{who} {watched.effect}"
    slopes = every[: len(learns)]
    if any(slope is not None for slope in every[len(learns) :]):  # a function that holds it, say
        return f"a copy of {who} computes with weights of the model that it is a copy of"
    fleet.mode(trunk=True, heads=True)
    together = torch.stack([inputs, inputs])
    if fleet.trunk.path(fleet.state, together) == "loop":
        return f"torch.func.vmap cannot follow {who} in training"
    fleet.drawing_from([torch.Generator(fleet.device).manual_seed(0) for _ in fleet.members])
    head = fleet.heads[0]
    state = fleet.state | {f"{head_name(model)}{name[1:]}": tensor for name, tensor in head.state.items()}
    try:
        found = head.net(head.state, fleet.trunk(fleet.state, together))
        changed = _slopes((found * weights).sum(), [state[name] for name in learns])
    except Exception as error:
        if "random" in str(error):
            return f"{who} draws at random where it cannot be drawn for each alone"
        return f"torch.func.vmap cannot follow {who} in training: {told(error)}"
    drawn_alike = fleet.device.type == "cpu" or not watched.drew  # elsewhere dropout draws in an order of its own
    size = max([float(slope.abs().max()) for slope in slopes if slope is not None], default=1.0)
    pairs: list[tuple[Tensor | None, Tensor | None, float]] = [(held[name], state[name], 1e-5) for name in held]
    pairs += [(outputs, found, 1e-5), *((a, b, 1e-3 * size) for a, b in zip(slopes, changed, strict=True))]
    if drawn_alike and not all(_near(one, other, most) for one, other, most in pairs):
        return f"a step of {who} in a fleet is not what it is alone"
    return None


def _slopes(loss: Tensor, tensors: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
    return torch.autograd.grad(loss, list(tensors), allow_unused=True)


def _near(one: Tensor | None, every: Tensor | None, most: float) -> bool:
    """Whether each member has what it has alone, or has nothing, as alone."""
    if one is None or every is None:
        return one is every
    kind = torch.complex128 if one.is_complex() else torch.float64
    return torch.allclose(every.to(kind), one.to(kind).expand_as(every), rtol=1e-3, atol=most)


def _effects(member: Member) -> str | None:
    """What a loss or a metric of the user's own does besides answering; None if nothing."""
    task, model = member.task, member.model
    own: dict[str, tuple[object, Callable[[Task], Any]]] = {
        "loss": (task.loss, loss_of),
        "metric": (task.metric, metric_of),
    }
    for what, (given, made) in own.items():
        if given is None or isinstance(given, str):
            continue
        few = task.data("train").take(slice(2)).to(device_of(model))
        try:
            with torch.no_grad(), evaluating(model):
                outputs = forward(model, few.inputs)
        except Exception:  # of the user's own class: the training will say so
            return None
        if effect := effect_of(made(task), outputs.requires_grad_(what == "loss"), few.targets):
            return f"the {what} of task {task.task_id!r} {effect}"
    return None


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
        with torch.no_grad(), evaluating(model), uncompiled():
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
    return Batched(Headless(model).model, apart=True)


# Training -------------------------------------------------------------------------------------------------------------


def train_fleet(
    members: Sequence[Member], *, curve_split: str | None = None, score_split: str | None = None
) -> list[Trained | CrosstaskError]:
    """Train members that `muster` put together, in place; for each, how it went or why it failed, in their order. One
    that fails, whatever it is that fails, leaves the others as they are.

    Learning curves and scores as in `fit` and `evaluate`, where a split is named for them.
    """
    given = list(members)
    results: dict[int, Trained | CrosstaskError] = {}
    for number, member in enumerate(given):
        try:
            looked_at(member.task, member.budget, curve_split)
        except CrosstaskError as error:
            results[number] = error
    able = [number for number in range(len(given)) if number not in results]
    found = _trained([given[number] for number in able], curve_split, score_split)
    results.update(zip(able, found, strict=True))
    return [results[number] for number in range(len(given))]


def _trained(members: list[Member], curve_split: str | None, score_split: str | None) -> list[Trained | CrosstaskError]:
    """`train_fleet`; where all fail because of one, by halves until it is found."""
    if not members:
        return []
    try:
        return _together(members, curve_split, score_split)
    except Exception as error:  # of somebody's data, model or loss
        if len(members) > 1:
            half = len(members) // 2
            parts = (members[:half], members[half:])
            return [result for part in parts for result in _trained(part, curve_split, score_split)]
        if isinstance(error, MemoryError | torch.OutOfMemoryError):
            raise
        return [error if isinstance(error, CrosstaskError) else _fault(members[0], error)]


def _fault(member: Member, error: Exception) -> DataError:
    """What is wrong with a member that cannot be trained by itself either."""
    made = DataError(f"task {member.task.task_id!r}: {misfit(member.model, member.task) or told(error)}")
    made.__cause__ = error
    return made


def _together(
    members: list[Member], curve_split: str | None, score_split: str | None
) -> list[Trained | CrosstaskError]:
    """One fleet. The models are as they were if it raises."""
    each = {(id(member.model), id(member.task)): member for member in members}
    alike = {which: _alike(member) for which, member in each.items()}
    said = [alike[id(member.model), id(member.task)] for member in members]
    order = sorted(range(len(members)), key=lambda n: (said[n], members[n].budget.learning_rate, n))
    placed = [members[number] for number in order]
    if len(placed) == 1:  # torch works a single set of weights by other means, and rounds otherwise
        placed = [members[0], attrs.evolve(members[0], model=copy_of(members[0].model))]
    fleet = _Fleet(placed, [said[number] for number in order])
    histories, failed = [History() for _ in placed], dict[int, CrosstaskError]()
    for phase in placed[0].phases:
        for number, found in enumerate(_Run(fleet, phase, curve_split).go()):
            if isinstance(found, CrosstaskError):
                failed.setdefault(number, found)
            else:
                histories[number].extend(found)
    scores: Sequence[float | CrosstaskError | None] = [None] * len(placed)
    if score_split is not None:
        scores = fleet.scores(score_split)
    failed |= fleet.hand_back()
    results: dict[int, Trained | CrosstaskError] = {}
    for place, number in enumerate(order):
        score = scores[place]
        wrong = failed.get(place) or (score if isinstance(score, CrosstaskError) else None)
        results[number] = wrong or Trained(histories[place], score)  # type: ignore[arg-type]
    return [results[number] for number in range(len(members))]


def _alike(member: Member) -> str:
    """What members have in common whose heads and losses are computed as one; in a fleet they stand side by side."""
    shapes = [(name, tuple(t.shape), t.requires_grad) for name, t in _of_head(member.model).items()]
    head, targets = member.model.get_submodule(head_name(member.model)), member.task.data("train").targets
    return f"{shapes} {layers(head)} {_loss_kind(member.task)} {targets.dtype} {tuple(targets.shape[1:])}"


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
    state: State
    losses: list[Objective]
    targets: Tensor
    offsets: Tensor

    def only(self, rows: list[int], start: int) -> _Heads:
        """Some of them, which begin at `start`."""
        at = torch.tensor(rows, device=self.targets.device)
        losses = [self.losses[row] for row in rows]
        return attrs.evolve(
            self, start=start, stop=start + len(rows), state=_chosen(self.state, at), losses=losses,
            offsets=self.offsets[at],
        )  # fmt: skip


class _Fleet:
    """The weights of all members, stacked, in the order in which they are given."""

    def __init__(self, members: Sequence[Member], alike: Sequence[str], fill: bool = True) -> None:
        self.members, first, self.fill = list(members), members[0], fill
        self.budget, self.device = first.budget, device_of(first.model)
        self.trunk = _trunk_of(first.model)
        self.largest = _largest(first)
        self.state = self._filled(self.trunk, _stacked(members, _of_trunk(first.model)))
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
            net = Batched(nn.Sequential(head), apart=True)
            yield _Heads(
                start, stop, _loss_kind(own[0].task), net,
                self._filled(net, {f"0{key.removeprefix(name)}": tensor for key, tensor in state.items()}),
                [loss_of(m.task) for m in own], targets, offsets,
            )  # fmt: skip
            start = stop

    def _filled(self, net: Batched, state: State) -> State:
        return net.filled(state) if self.fill else state

    @property
    def walked(self) -> bool:
        """Whether every layer is one that is known, and walked by hand."""
        return self.trunk.walked and all(head.net.walked for head in self.heads)

    def only(self, rows: list[int]) -> _Fleet:
        """Some of the members, by rising numbers, with copies of the weights that they have now."""
        made, at = copy.copy(self), torch.tensor(rows, device=self.device)
        made.members, made.data = [self.members[row] for row in rows], [self.data[row] for row in rows]
        made.generators = [self.generators[row] for row in rows]
        made.state, made.offsets, made.heads = _chosen(self.state, at), self.offsets[at], []
        for head in self.heads:
            if own := [row - head.start for row in rows if head.start <= row < head.stop]:
                made.heads.append(head.only(own, made.heads[-1].stop if made.heads else 0))
        return made

    @torch.no_grad()
    def held(self, row: int) -> tuple[State, State]:
        """Copies of what a member has now: outside its head, and in it."""
        head = next(head for head in self.heads if row < head.stop)
        trunk = {name: tensor[row].clone() for name, tensor in self.state.items()}
        return trunk, {name: tensor[row - head.start].clone() for name, tensor in head.state.items()}

    @torch.no_grad()
    def put(self, row: int, held: tuple[State, State]) -> None:
        """Give a member what it, or another of the same kind, had."""
        head = next(head for head in self.heads if row < head.stop)
        for name, tensor in held[0].items():
            self.state[name][row].copy_(tensor)
        for name, tensor in held[1].items():
            head.state[name][row - head.start].copy_(tensor)

    def kept(self, row: int) -> tuple[State, State]:
        """Of what a member holds what its `state_dict` would."""
        model = self.members[row].model
        names, prefix = model.state_dict().keys(), head_name(model)
        trunk, head = self.held(row)
        return (
            {name: tensor for name, tensor in trunk.items() if name in names},
            {name: tensor for name, tensor in head.items() if f"{prefix}{name[1:]}" in names},
        )

    def drawing_from(self, noise: Sequence[torch.Generator]) -> None:
        """What dropout draws from, for each member."""
        self.trunk.noise = noise
        for head in self.heads:
            head.net.noise = noise[head.start : head.stop]

    def mode(self, *, trunk: bool, heads: bool) -> None:
        """Training mode, or evaluation mode."""
        self.trunk.module.train(trunk)
        for head in self.heads:
            head.net.module.train(heads)

    def losses(self, features: Tensor, index: Tensor) -> Tensor:
        """The losses of all members [K] for features [K, B, …] and the places of the samples [K, B] in their data."""
        sizes = [head.stop - head.start for head in self.heads]
        parts = zip(self.heads, torch.split(features, sizes), torch.split(index, sizes), strict=True)
        return torch.cat([self._losses(head, part, own) for head, part, own in parts])

    def _losses(self, head: _Heads, features: Tensor, index: Tensor) -> Tensor:
        """The losses of some members [k] for their features [k, B, …] and the places of their samples [k, B]."""
        outputs = head.net(head.state, features)
        targets = _rows(head.targets, index + head.offsets)
        if head.kind != "own":
            return _row_losses(head.kind, outputs, targets)
        found = []
        for number, loss in enumerate(head.losses):
            task = self.members[head.start + number].task
            found.append(called("loss", loss, task, outputs[number], targets[number]))
            check_loss(found[-1], task, self.device)
        return torch.stack([value.reshape(()) for value in found])

    @torch.no_grad()
    def features(self, table: Tensor) -> tuple[Tensor, Tensor]:
        """(what the heads receive of all samples in a table [K, steps, B], row by row; their rows [K, steps, B])."""
        self.mode(trunk=False, heads=False)
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
        self.mode(trunk=False, heads=False)
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

    @torch.no_grad()
    def hand_back(self) -> dict[int, CrosstaskError]:
        """Put what was learned into the members' models; why one did not take it."""
        failed: dict[int, CrosstaskError] = {}
        for head in self.heads:
            for number in range(head.start, head.stop):
                member = self.members[number]
                if member.state is not None:
                    continue
                prefix = head_name(member.model)
                pairs = [(tensor, self.state[name][number]) for name, tensor in _of_trunk(member.model).items()]
                for name, tensor in _of_head(member.model).items():
                    pairs.append((tensor, head.state[f"0{name.removeprefix(prefix)}"][number - head.start]))
                try:
                    for tensor, own in pairs:
                        tensor.copy_(_part(own, tensor))
                except Exception as error:  # numbers that lie in the same place, say
                    failed[number] = _fault(member, error)
        return failed


class _Run:
    """One phase of a fleet under way: who still learns, and how it goes for each."""

    def __init__(self, fleet: _Fleet, phase: Phase, curve_split: str | None) -> None:
        self.whole = self.fleet = fleet
        self.budget, self.phase = fleet.budget, phase
        self.split = "validation" if curve_split is None and self.budget.patience is not None else curve_split
        self.places = list(range(len(fleet.members)))
        """Which member of the whole each row is that is trained; below zero: one that has ended, for company."""
        self.before = [generator.get_state() for generator in fleet.generators]
        self.noise = [torch.Generator(fleet.device).manual_seed(noise_of(each)) for each in fleet.generators]
        fleet.drawing_from(self.noise)
        self.table = torch.stack([
            batch_table(len(data), self.budget.batch_size, phase.steps, generator)
            for data, generator in zip(fleet.data, fleet.generators, strict=True)
        ]).to(fleet.device)  # fmt: skip
        self.learning = FleetOptimizer(*self._learns(fleet), self.budget, phase.steps, fleet.device)
        self.kept = fleet.features(self.table) if phase.head else None
        self.found = [History() for _ in fleet.members]
        self.failed: dict[int, CrosstaskError] = {}
        self.losses: list[Tensor] = []
        self.best = [_Best() for _ in fleet.members]

    def _learns(self, fleet: _Fleet) -> tuple[list[Learner], list[float]]:
        """What an optimiser is told: the states of a fleet that may learn, and the learning rate of each member."""
        rates = [self.phase.rate * member.budget.learning_rate for member in fleet.members]
        heads = [(head.start, head.stop, head.state) for head in fleet.heads]
        return (heads if self.phase.head else [*heads, (0, len(fleet.members), fleet.state)]), rates

    def go(self) -> list[History | CrosstaskError]:
        """For each member how it went, or its failure. A failed one does not disturb the others."""
        steps, every = self.phase.steps, self.budget.evaluate_every
        if self.split is not None:
            self._measure(0)
        self.fleet.mode(trunk=not self.phase.head, heads=True)
        for step in range(1, steps + 1):
            self._step(step)
            if step == steps or (self.split is not None and step % every == 0):
                self._look(step)
                if not self.places:
                    break
                self.fleet.mode(trunk=not self.phase.head, heads=True)
        if self.budget.patience is not None:
            self._settle()
        return [self.failed.get(number, history) for number, history in enumerate(self.found)]

    def _step(self, step: int) -> None:
        fleet, index = self.fleet, self.table[:, step - 1]
        if self.kept is None:
            features = fleet.trunk(fleet.state, _rows(fleet.inputs, index + fleet.offsets))
        else:
            features = _rows(self.kept[0], self.kept[1][:, step - 1])
        each = fleet.losses(features, index)
        self.learning.step(each.sum(), step)
        self.losses.append(each.detach())

    def _look(self, step: int) -> None:
        """What the losses since the last time were, what the members reach, and who ends."""
        for place, own in zip(self.places, torch.stack(self.losses, 1).cpu(), strict=True):
            if place >= 0 and place not in self.failed:
                try:
                    self.found[place].losses += finite_losses(own, self.whole.members[place].task, step)
                except CrosstaskError as error:
                    self.failed[place] = error
        self.losses = []
        if self.split is not None:
            self._measure(step)
        if self.budget.patience is not None:
            self._part()

    def _measure(self, step: int) -> None:
        assert self.split is not None
        for place, value in zip(self.places, self.fleet.scores(self.split), strict=True):
            if place < 0 or value is None:
                continue
            if isinstance(value, CrosstaskError):
                self.failed.setdefault(place, value)
            else:
                self.found[place].steps.append(step)
                self.found[place].values.append(value)

    def _part(self) -> None:
        """Members for whom patience has run out end here, and those that failed; the others go on without them."""
        going = []
        for row, place in enumerate(self.places):
            if place < 0 or place in self.failed:
                continue
            history, best = self.found[place], self.best[place]
            if history.values[-1] > best.value:
                best.value, best.since, best.held = history.values[-1], 0, self.fleet.kept(row)
            else:
                best.since += 1
            if best.since >= (self.budget.patience or 0):
                history.stopped = f"nothing better since step {history.steps[-1 - best.since]}"
                self.whole.put(place, self.fleet.held(row))
            else:
                going.append(row)
        if len(going) == len(self.places):
            return
        if not going:
            self.places = []
            return
        rows = going
        if len(going) == 1:  # torch works a single set of weights by other means, and rounds otherwise
            rows = sorted([*going, 1 if going == [0] else 0])
        if len(rows) < len(self.places) or self.fleet is self.whole:  # which keeps what has ended as it is
            self._only(rows)
        self.places = [self.places[row] if row in going else -1 for row in rows]

    def _only(self, rows: list[int]) -> None:
        at = torch.tensor(rows, device=self.table.device)
        self.fleet = self.fleet.only(rows)
        self.learning = self.learning.only(rows, *self._learns(self.fleet))
        self.table, self.noise = self.table[at], [self.noise[row] for row in rows]
        self.fleet.drawing_from(self.noise)
        if self.kept is not None:
            self.kept = self.kept[0], self.kept[1][at]

    def _settle(self) -> None:
        """Each member has its best state, and its generator has drawn what it would have drawn alone."""
        for row, place in enumerate(self.places):
            if place >= 0 and self.fleet is not self.whole:
                self.whole.put(place, self.fleet.held(row))
        for place, (history, best) in enumerate(zip(self.found, self.best, strict=True)):
            if best.held is not None and history.values[-1] < best.value:
                self.whole.put(place, best.held)
            generator = self.whole.generators[place]
            generator.set_state(self.before[place])
            batch_table(len(self.whole.data[place]), self.budget.batch_size, len(history.losses), generator)
        self.whole.drawing_from(())


@attrs.define(eq=False)
class _Best:
    """The best point of a member's curve, how many came since, and what it held then."""

    value: float = -math.inf
    since: int = 0
    held: tuple[State, State] | None = None


def _part(filled: Tensor, like: Tensor) -> Tensor:
    """What a tensor holds without the zeros that fill it up."""
    return filled[tuple(slice(size) for size in like.shape)]


def _chosen(state: State, at: Tensor) -> State:
    """Some rows of a state."""
    return {name: tensor.detach()[at].requires_grad_(tensor.requires_grad) for name, tensor in state.items()}


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
