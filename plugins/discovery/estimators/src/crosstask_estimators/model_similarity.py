"""Transfer estimated from the models alone: how alike their layers are, in what they answer and in their weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, cast

import attrs
import numpy as np
import torch
from torch import Tensor, nn

from crosstask.descriptors import MultiInput
from crosstask.errors import DataError
from crosstask.graph import Evidence, TransferEdge, TransferGraph
from crosstask.learning.inputs import joined, kind_of
from crosstask.learning.modules import copy_of, forward, head_found, plain_name, seeded, uncompiled
from crosstask.learning.training import device_of
from crosstask.options import component, option, state
from crosstask.points.discovery import Discoverer
from crosstask.tasks import Portfolio, Task
from crosstask_discovery.arrays import Matrix
from crosstask_discovery.pairs import LeftOut, edge_between, tell_left_out

Kind = tuple[Any, Any]
"""The kind of a model's inputs; see `kind_of`."""
Layers = dict[str, Matrix]
"""By the layer's name, in the order of a forward pass: a kernel of unit length [N, N], flattened, or zeros."""


@component
class ModelSimilarity(Discoverer):
    """Estimates transfer between tasks from their models; needs no data.

    Models for one input shape see the same `probes` inputs: some of each task's training data, or where no task of that
    shape has any, standard normal numbers. Two layers are as alike as the unbiased linear CKA of their features
    (Kornblith et al. 2019, equation 4; Song et al. 2012, equation 5); the head counts for nothing, as it holds a task's
    own classes. Where models cannot see the same inputs, layers of equal input size are compared by the CKA of their
    weights over their inputs' coordinates, which needs no common numbering of their own units and is near 0 where the
    inputs' numbering is not shared, either.

    `shared_representations` holds for each of the source's layers the most alike one of the target's. Any two networks
    keep something of the same inputs: the raw estimate is by how much that mean likeness is above that of the same
    models with the entries of their weights shuffled, as a share of what is possible. The coefficient is `highest`
    times it: likeness shows no direction and no harm, so it is the same both ways and not negative. Measurements in the
    graph do not calibrate it; `gnn` does that with the raw estimate.

    A model that cannot be compared is left out, with its reason in `skipped`; nothing is refused.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset()

    probes: int = option(128, ge=8, help="inputs that the models are compared on")
    highest: float = option(0.8, gt=0, le=1, help="coefficient of a task whose model is the same")
    spread: float = option(0.3, gt=0, help="standard error by features; by weights alone it is half as much again")
    keep: int = option(20, ge=0, help="so many shared representations are listed on an edge, the most alike")
    skipped: list[LeftOut] = state(factory=list)

    def discover(self, portfolio: Portfolio, graph: TransferGraph) -> list[TransferEdge]:
        pairs = list(portfolio.pairs())
        tasks = {task.task_id: task for pair in pairs for task in pair if task.task_id in portfolio}
        looked = {name: self._look(task, portfolio) for name, task in tasks.items()}
        self.skipped, edges = [], []
        for source, target in pairs:
            found = self._compare(source, target, looked)
            if isinstance(found, str):
                self.skipped.append((source.task_id, target.task_id, found))
                continue
            edge = edge_between(
                source.descriptor, target.descriptor, self.highest * found.share,
                self.spread if found.features else 1.5 * self.spread, evidence=Evidence.ESTIMATED,
                found_by="model_similarity", estimates={"model_similarity": found.share},
            )  # fmt: skip
            edges.append(attrs.evolve(edge, shared_representations=dict(list(found.layers.items())[: self.keep])))
        tell_left_out(self, self.skipped)
        return edges

    def _look(self, task: Task, portfolio: Portfolio) -> _Look:
        """What can be compared of a task's model; each failure is its reason, and no other model's."""
        if task.model is None:
            return _Look(f"task {task.task_id!r} has no trained model")
        try:
            model = copy_of(task.model).eval()
            blank = _shuffled(model, self.context.seed_for("model_similarity", task.task_id) % 2**31)
            look = _Look("", weights=weight_kernels(model), blank_weights=weight_kernels(blank))
        except Exception as error:  # foreign code: whatever it raises
            return _Look(f"the model of {task.task_id!r} cannot be looked at: {type(error).__name__}: {error}")
        shape = inputs_like(task)
        if shape is None:
            look.unseen = f"task {task.task_id!r} does not say its input_shape"
            return look
        look.shape = shape
        try:
            inputs = self._inputs(shape, portfolio)
            look.features, look.blank_features = feature_kernels(model, inputs), feature_kernels(blank, inputs)
        except Exception as error:
            told = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            look.unseen = f"the model of {task.task_id!r} does not take inputs {_shown(shape)}: {told}"
        return look

    def _inputs(self, shape: Kind, portfolio: Portfolio) -> Tensor | MultiInput:
        """[probes, …], the same for all models of this kind of inputs."""
        own = [
            task.data("train").inputs
            for task in portfolio
            if task.has_data() and inputs_like(task) == shape and kind_of(task.data("train").inputs) == shape
        ]
        sizes, _ = shape
        single = not own or isinstance(own[0], Tensor)
        generator = self.context.generator("model_similarity", *(sizes if single else (shape,)))
        if sum(map(len, own)) < 4:
            if not single or not all(isinstance(size, int) for size in sizes):
                raise DataError("there are fewer than four samples of such inputs")
            return torch.randn(self.probes, *sizes, generator=generator)
        each = math.ceil(self.probes / len(own))
        pool = joined([rows[torch.randperm(len(rows), generator=generator)[:each]].cpu() for rows in own])
        return pool[torch.randperm(len(pool), generator=generator)[: self.probes]]

    def _compare(self, source: Task, target: Task, looked: Mapping[str, _Look]) -> _Likeness | str:
        nothing = _Look(f"task {target.task_id!r} is held back as unseen")
        ours, theirs = looked.get(source.task_id, nothing), looked.get(target.task_id, nothing)
        if reason := ours.reason or theirs.reason:
            return reason
        if ours.shape == theirs.shape and ours.features and theirs.features:
            blank = ours.blank_features, theirs.blank_features
            return _likeness(ours.features, theirs.features, *blank, features=True)
        found = _likeness(ours.weights, theirs.weights, ours.blank_weights, theirs.blank_weights, features=False)
        if found.layers:
            return found
        told = f"the models of {source.task_id!r} and {target.task_id!r} have no layers of one input size"
        return "; ".join([told, *filter(None, (ours.unseen, theirs.unseen))])


@attrs.define(eq=False)
class _Look:
    """What can be compared of a model, or why nothing (`reason`), or no features (`unseen`)."""

    reason: str
    unseen: str = ""
    shape: Kind | None = None
    features: Layers = attrs.field(factory=dict)
    blank_features: Layers = attrs.field(factory=dict)
    weights: Layers = attrs.field(factory=dict)
    blank_weights: Layers = attrs.field(factory=dict)


@attrs.frozen(eq=False)
class _Likeness:
    """`layers`: how alike, most alike first; `share`: above that of shuffled weights, 0 to 1."""

    layers: dict[str, float]
    share: float
    features: bool


def _likeness(ours: Layers, theirs: Layers, ours_blank: Layers, theirs_blank: Layers, *, features: bool) -> _Likeness:
    names, found = list(theirs), {}
    shares = []
    for name, kernel in ours.items():
        alike = {other: max(0.0, float(kernel @ theirs[other])) for other in names if len(theirs[other]) == len(kernel)}
        if not alike:
            continue
        # Of equally alike ones the layer of the same name: two copies of one model are compared layer by layer.
        best = max(alike, key=lambda other: (round(alike[other], 9), other == name))
        chance = [kernel @ theirs_blank[best], ours_blank[name] @ theirs[best]]
        least = min(max(0.0, float(np.mean(chance))), 1 - 1e-6)
        shares.append(min(1.0, max(0.0, (alike[best] - least) / (1 - least))))
        found[name if best == name else f"{name} -> {best}"] = min(1.0, alike[best])
    ranked = dict(sorted(found.items(), key=lambda item: -item[1]))
    return _Likeness(ranked, float(np.mean(shares)) if shares else 0.0, features)


def inputs_like(task: Task) -> Kind | None:
    """The kind of inputs (`kind_of`) of the data; else floating-point numbers of the shape that the descriptor says, or
    of the first layer if it is linear; None if nothing does.
    """
    if task.has_data():
        return cast(Kind, kind_of(task.data("train").inputs))
    if task.descriptor.input_shape:
        return task.descriptor.input_shape, True
    layers = [] if task.model is None else [m for m in task.model.modules() if any(True for _ in m.parameters(False))]
    return ((layers[0].in_features,), True) if layers and isinstance(layers[0], nn.Linear) else None


def _shown(shape: Kind) -> str:
    """A kind of inputs for a message: its shape, or those of several by name."""
    sizes, rest = shape
    return str(sizes) if isinstance(sizes, tuple) else str({name: kind[0] for name, kind in rest})


@torch.no_grad()
def feature_kernels(model: nn.Module, inputs: Tensor | MultiInput) -> Layers:
    """Of what each layer with weights answers to `inputs` [N, …], in the order of its last call; without the head and
    what comes after it, or the last, if there are others. DataError if no layer answers with floating-point numbers
    per input.
    """
    answers: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        def hook(module: nn.Module, given: Any, answer: Any) -> None:
            first = answer[0] if isinstance(answer, Sequence) and len(answer) else answer
            if isinstance(first, Tensor) and first.is_floating_point() and first.ndim > 1 and len(first) == len(inputs):
                answers.pop(name, None)
                answers[name] = first.detach().flatten(1)

        return hook

    handles = [
        module.register_forward_hook(keep(name))
        for name, module in model.named_modules()
        if any(True for _ in module.parameters(recurse=False))
    ]
    try:
        with uncompiled():
            forward(model, inputs.to(device_of(model)))
    finally:
        for handle in handles:
            handle.remove()
    names = _before(list(answers), _head_of(model))
    if not names:
        raise DataError("no layer with weights answers with a row of numbers per input")
    return {plain_name(name) or "model": unit_kernel(answers[name].double().cpu().numpy()) for name in names}


def weight_kernels(model: nn.Module) -> Layers:
    """Of each weight matrix [out, in …], over its inputs' coordinates; without the head, or the last one, if there are
    others. Layers of fewer than 4 or more than 4096 inputs are left out.
    """
    found = {}
    matrices = [(n, p) for n, p in model.named_parameters() if p.ndim >= 2 and p.is_floating_point()]
    head = _head_of(model)
    trunk = [(n, p) for n, p in matrices if not _inside(n, head)]
    if len(trunk) == len(matrices):  # no head is known
        trunk = matrices[:-1]
    for name, parameter in trunk or matrices:
        rows = parameter.detach().double().cpu().flatten(1).numpy().T
        if 4 <= len(rows) <= 4096 and np.isfinite(rows).all():
            found[plain_name(name).removesuffix(".weight") or "model"] = unit_kernel(rows)
    return found


def _head_of(model: nn.Module) -> frozenset[str]:
    """The head's module, or its parameters where they are no module; nothing where there is no head."""
    try:
        found = head_found(model)
    except DataError:
        return frozenset()
    return frozenset([found.module] if found.module is not None else [name for name, _ in found.weights])


def _inside(name: str, head: frozenset[str]) -> bool:
    return any(name == top or name.startswith(f"{top}.") for top in head if top)


def _before(names: list[str], head: frozenset[str]) -> list[str]:
    """The layers, in the order of their calls, that come before the head; all but the last where it is none of them."""
    place = next((n for n, name in enumerate(names) if _inside(name, head)), len(names) - 1)
    return names[:place] or names[: max(1, len(names) - 1)]


def unit_kernel(rows: Matrix) -> Matrix:
    """[N * N] of rows [N, D], N >= 4: the product of two such is the unbiased linear CKA of the rows.

    U-centred as in Szekely and Rizzo (2014), equation 2.1: the inner product of two U-centred matrices is Song et al.'s
    unbiased HSIC, but for a factor that cancels. Zeros for rows that do not vary. DataError for what is not finite.
    """
    if not np.isfinite(rows).all():
        raise DataError("a layer answers with NaN or infinite values")
    largest = np.abs(rows).max(initial=0.0)
    moved = rows / largest if largest > 0 else rows
    moved = moved - moved.mean(axis=0)
    n = len(moved)
    kernel = moved @ moved.T
    np.fill_diagonal(kernel, 0.0)
    sums = kernel.sum(axis=0) / (n - 2)
    centred = kernel - sums[:, None] - sums + sums.sum() / (n - 1)
    np.fill_diagonal(centred, 0.0)
    length = np.linalg.norm(centred)
    return (centred / length if length > 1e-12 * n else np.zeros_like(centred)).ravel()


def _shuffled(model: nn.Module, seed: int) -> nn.Module:
    """A copy in which the entries of every weight matrix have changed places: what it has learned is gone, the sizes of
    its weights are the same.
    """
    blank = copy_of(model)
    with seeded(seed), torch.no_grad():
        for parameter in blank.parameters():
            if parameter.ndim >= 2:
                order = torch.randperm(parameter.numel()).to(parameter.device)
                parameter.copy_(parameter.flatten()[order].reshape(parameter.shape))
    return blank
