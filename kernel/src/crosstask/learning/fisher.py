"""How much each weight matters to a model's answers: moments of per-sample gradients, the Fisher diagonal above all.

The gradient of one sample on a linear layer is the outer product of its output gradient δ and its input a, so that the
sum of its squares over a batch is (δ²)ᵀ(a²): one product of the size of a backward pass, and exact. The square of the
batch's gradient, which is often taken instead, is another quantity (too large by about the size of the batch).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge
from torch.nn import functional

from crosstask.descriptors import MultiInput
from crosstask.errors import DataError, OptionError, nearest
from crosstask.learning.modules import evaluating, forward, quantised, uncompiled
from crosstask.learning.training import device_of
from crosstask.reading import UNKNOWN

Objectives = Callable[[Tensor, Tensor], Iterable[Tensor]]
"""(outputs of n samples, their places [n] in the data) -> tensors [n]: one value for each sample."""

LABELS = ("data", "sampled", "expected")

_BLOCK = 1 << 20
"""Numbers of per-sample gradients held at a time: about what stays in a cache."""


def fisher_diagonal(
    model: nn.Module,
    inputs: Tensor | MultiInput,
    targets: Tensor | None = None,
    *,
    labels: str = "data",
    multilabel: bool = False,
    select: Callable[[Tensor], Tensor] | None = None,
    parameters: Iterable[str] | None = None,
    batch_size: int = 128,
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """The diagonal of the Fisher information: for each parameter the mean over samples of E[(∂ log p(y|x) / ∂θ)²].

    `labels` says what y is: `data`: the targets (the empirical Fisher); `sampled`: drawn from the model with
    `generator`; `expected`: exactly the model's own distribution, with as many backward passes as there are outputs.
    Integer targets [N] (or none) mean classes, p = softmax(outputs [N, C]), of a single logit [N, 1] p = sigmoid for
    two; integer targets [N, …] a class for every place, independent given the sample, those that are -100 not counted;
    others are values with unit variance or, `multilabel`, each 0 or 1 with p = sigmoid(outputs). Values that are NaN
    are not counted. `select` is applied to the outputs first: the outputs of one task, say. `parameters`: names, by
    default of all that need a gradient. Taken in evaluation mode, modes are restored, `.grad` is left alone; see
    `gradient_moments`.

    DataError where there are no samples, or targets do not fit; OptionError for `sampled` without a generator.
    """
    if labels not in LABELS:
        raise OptionError(f"unknown labels {labels!r}{nearest(labels, LABELS)}")
    if labels == "sampled" and generator is None:
        raise OptionError("labels = 'sampled' needs a generator to draw them with")
    if labels == "data" and targets is None:
        raise DataError("the empirical Fisher needs targets; without them take labels='expected' or 'sampled'")
    if targets is not None and len(targets) != len(inputs):
        raise DataError(f"{len(inputs)} inputs but {len(targets)} targets")
    classes = not multilabel and (targets is None or not targets.is_floating_point())
    dense = classes and targets is not None and targets.ndim > 1 and targets.shape[1:].numel() != 1
    if dense and labels == "expected":
        raise OptionError("labels = 'expected' takes a backward pass for every place and class; take 'sampled'")

    def objectives(outputs: Tensor, index: Tensor) -> Iterable[Tensor]:
        chosen = outputs if select is None else select(outputs)
        given = None if targets is None else targets[index].to(outputs.device)
        if dense:
            assert given is not None
            return _place_objectives(chosen, given, labels, generator)
        told = given if labels == "data" else None
        kind = _class_objectives if classes else _label_objectives if multilabel else _value_objectives
        return kind(chosen, told, labels, generator)

    return gradient_moments(model, inputs, objectives, parameters=parameters, batch_size=batch_size)


def gradient_moments(
    model: nn.Module,
    inputs: Tensor | MultiInput,
    objectives: Objectives,
    *,
    power: int = 2,
    parameters: Iterable[str] | None = None,
    batch_size: int = 128,
) -> dict[str, Tensor]:
    """For each parameter the mean over samples of Σ |∂ objective / ∂θ|^power (1 or 2), the sum over the objectives.

    Exact. Linear, embedding, convolution and normalisation layers are seen by hooks: a forward pass, and a backward
    pass that makes no gradients of weights. On the first samples what the hooks see is compared with autograd;
    parameters that are used in another way (shared, several times, in another kind of layer) go sample by sample. Of
    complex parameters they are real numbers, too. DataError without samples, or where no parameter needs a gradient.
    """
    if len(inputs) == 0:
        raise DataError("importance of weights cannot be measured without samples")
    if power not in (1, 2):
        raise OptionError(f"power must be 1 or 2, got {power!r}")
    known = dict(model.named_parameters())
    names = [n for n, p in known.items() if p.requires_grad] if parameters is None else list(parameters)
    if parameters is None and not names:
        raise DataError(
            f"nothing says how much the weights of {type(model).__name__} matter: "
            + (quantised(model) or "none needs a gradient; model.requires_grad_(True) lets all learn")
        )
    if not names:
        return {}
    for name in names:
        if name not in known:
            raise OptionError(f"no parameter {name!r}{nearest(name, known)}")
    device = device_of(model)
    with evaluating(model), torch.enable_grad(), uncompiled():
        head = torch.arange(min(len(inputs), 4))
        layers = _layers(model, names)
        seen = _checked(model, inputs[head].to(device), head, objectives, layers, known, names)
        totals = {
            name: torch.zeros_like(p, requires_grad=False, dtype=p.dtype.to_real())
            for name, p in ((name, known[name]) for name in names)
        }
        for index in torch.split(torch.arange(len(inputs)), batch_size):
            if seen:
                _add(totals, model, inputs[index].to(device), index, objectives, layers, seen, power)
        if rest := [name for name in names if name not in seen]:
            _one_by_one(totals, model, inputs, objectives, rest, known, power)
    return {name: total / len(inputs) for name, total in totals.items()}


# --- What is differentiated


def _class_objectives(
    outputs: Tensor, targets: Tensor | None, labels: str, generator: torch.Generator | None
) -> Iterable[Tensor]:
    if outputs.ndim != 2:
        raise DataError(f"classes need outputs [N, C], got shape {tuple(outputs.shape)}")
    if outputs.shape[1] == 1:  # a single logit of two classes
        outputs = torch.cat([torch.zeros_like(outputs), outputs], dim=1)
    logs = functional.log_softmax(outputs, dim=1)
    if labels == "sampled":
        drawn = torch.multinomial(logs.detach().exp().cpu(), 1, generator=generator)
        targets = drawn[:, 0].to(outputs.device)
    if targets is None:  # p (∂ log p)² = (∂ (√p log p))² with √p held fixed
        roots = (logs.detach() / 2).exp()
        return ((roots * logs)[:, k] for k in range(logs.shape[1]))
    if int(targets.max()) >= outputs.shape[1] or int(targets.min()) < 0:
        raise DataError(f"label {int(targets.max())} in the targets, the model has {outputs.shape[1]} outputs")
    return (-logs.gather(1, targets.long().reshape(-1, 1))[:, 0],)


def _place_objectives(
    outputs: Tensor, targets: Tensor, labels: str, generator: torch.Generator | None
) -> Iterable[Tensor]:
    """Of outputs [N, C, …], or of sequences [N, L, C], for targets [N, …]: the sum over the places that are known."""
    if targets.ndim == 2 and outputs.ndim == 3:
        outputs = outputs.transpose(1, 2)
    if outputs.ndim != targets.ndim + 1 or outputs.shape[2:] != targets.shape[1:]:
        raise DataError(f"outputs {tuple(outputs.shape)} for a class at each of {tuple(targets.shape[1:])} places")
    logs, known = functional.log_softmax(outputs, dim=1), targets != UNKNOWN
    if labels == "sampled":
        chances = logs.detach().exp().movedim(1, -1)
        drawn = torch.multinomial(chances.reshape(-1, chances.shape[-1]).cpu(), 1, generator=generator)
        targets = drawn.reshape(targets.shape).to(outputs.device)
    targets = torch.where(known, targets, torch.zeros_like(targets))
    if int(targets.max()) >= outputs.shape[1] or int(targets.min()) < 0:
        raise DataError(f"label {int(targets.max())} in the targets, the model has {outputs.shape[1]} outputs")
    own = logs.gather(1, targets.long().unsqueeze(1)).squeeze(1)
    return (-torch.where(known, own, torch.zeros_like(own)).flatten(1).sum(1),)


def _label_objectives(
    outputs: Tensor, targets: Tensor | None, labels: str, generator: torch.Generator | None
) -> Iterable[Tensor]:
    flat = outputs.flatten(1)
    chances = flat.detach().sigmoid()
    if labels == "sampled":
        targets = torch.bernoulli(chances.cpu(), generator=generator).to(flat)
    if targets is None:  # p (1 - p) (∂ z)² for each label
        roots = (chances * (1 - chances)).sqrt()
        return ((roots * flat)[:, k] for k in range(flat.shape[1]))
    targets = targets.reshape(flat.shape).to(flat)
    known = ~torch.isnan(targets)
    each = functional.binary_cross_entropy_with_logits(flat, torch.where(known, targets, chances), reduction="none")
    return (torch.where(known, each, torch.zeros_like(each)).sum(1),)


def _value_objectives(
    outputs: Tensor, targets: Tensor | None, labels: str, generator: torch.Generator | None
) -> Iterable[Tensor]:
    flat = outputs.flatten(1)
    if labels == "sampled":
        noise = torch.randn(flat.shape, generator=generator, dtype=flat.dtype).to(flat)
        return ((flat * noise).sum(1),)
    if targets is None:
        return (flat[:, k] for k in range(flat.shape[1]))
    targets = targets.reshape(flat.shape)
    missed = torch.where(torch.isnan(targets), torch.zeros_like(flat), flat - targets)
    return ((missed**2).sum(1) / 2,)


# --- Layers: gradients of each sample from what goes in and what comes back

Moments = dict[str, Tensor]


def _raised(values: Tensor, power: int) -> Tensor:
    """|values|^power; power 0 stands for the values themselves, whose sum is the ordinary gradient."""
    if power == 0:
        return values
    sizes = values.abs() if power == 1 or values.is_complex() else values
    return sizes if power == 1 else sizes.square()


def _outer(left: Tensor, right: Tensor, power: int) -> Tensor:
    """Σ_n |Σ_l left[n, l]ᵀ right[n, l]|^power of left [N, L, O] and right [N, L, I]: [O, I]."""
    if left.shape[1] == 1:
        return _raised(left[:, 0], power).T @ _raised(right[:, 0], power)
    total = left.new_zeros(left.shape[2], right.shape[2])
    size = max(1, _BLOCK // total.numel())
    for some, others in zip(torch.split(left, size), torch.split(right, size), strict=True):
        total += _raised(torch.bmm(some.transpose(1, 2), others), power).sum(0)
    return total


def _linear(layer: nn.Linear, inputs: Tensor, output: Tensor, power: int) -> Moments:
    count = len(inputs)
    output = output.reshape(count, -1, layer.out_features)
    found = {"weight": _outer(output, inputs.reshape(count, -1, layer.in_features), power)}
    return found | {"bias": _raised(output.sum(1), power).sum(0)}


def _convolution(layer: nn.Conv1d | nn.Conv2d, inputs: Tensor, output: Tensor, power: int) -> Moments:
    count, groups = len(inputs), layer.groups
    flat = 1 if isinstance(layer, nn.Conv1d) else 0  # a row is an image of height 1
    kernel, dilation, stride = ((1,) * flat + tuple(v) for v in (layer.kernel_size, layer.dilation, layer.stride))
    padding = (0,) * flat + tuple(int(v) for v in layer.padding)
    images = inputs.unsqueeze(2) if flat else inputs
    patches = functional.unfold(images, kernel, dilation, padding, stride)  # [N, groups · I, L]
    patches = patches.reshape(count, groups, -1, patches.shape[2])
    output = output.reshape(count, groups, layer.out_channels // groups, -1)
    parts = [_outer(output[:, g].transpose(1, 2), patches[:, g].transpose(1, 2), power) for g in range(groups)]
    return {"weight": torch.cat(parts), "bias": _raised(output.sum(3), power).sum(0).flatten()}


def _embedding(layer: nn.Embedding, inputs: Tensor, output: Tensor, power: int) -> Moments:
    count, rows = len(inputs), layer.num_embeddings
    places = inputs.reshape(count, -1) + rows * torch.arange(count, device=inputs.device)[:, None]
    used, where = torch.unique(places, return_inverse=True)  # a row may come several times in one sample
    each = output.new_zeros(len(used), layer.embedding_dim)
    each.index_add_(0, where.flatten(), output.reshape(-1, layer.embedding_dim))
    total = output.new_zeros(rows, layer.embedding_dim).index_add_(0, used % rows, _raised(each, power))
    if layer.padding_idx is not None:
        total[layer.padding_idx] = 0
    return {"weight": total}


def _normalisation(layer: Any, inputs: Tensor, output: Tensor, power: int) -> Moments:
    if isinstance(layer, nn.LayerNorm):
        normal = functional.layer_norm(inputs, layer.normalized_shape, eps=layer.eps)
        shape = (len(inputs), -1, *layer.normalized_shape)
        by_sample = (output * normal).reshape(shape).sum(1), output.reshape(shape).sum(1)
    else:
        if isinstance(layer, nn.GroupNorm):
            normal = functional.group_norm(inputs, layer.num_groups, eps=layer.eps)
        else:
            normal = functional.batch_norm(inputs, layer.running_mean, layer.running_var, eps=layer.eps)
        shape = (*inputs.shape[:2], -1)
        by_sample = (output * normal).reshape(shape).sum(2), output.reshape(shape).sum(2)
    return {"weight": _raised(by_sample[0], power).sum(0), "bias": _raised(by_sample[1], power).sum(0)}


_RULES: dict[type[nn.Module], Callable[[Any, Tensor, Tensor, int], Moments]] = {
    nn.Linear: _linear,
    nn.Conv1d: _convolution,
    nn.Conv2d: _convolution,
    nn.Embedding: _embedding,
    nn.LayerNorm: _normalisation,
    nn.GroupNorm: _normalisation,
    nn.BatchNorm1d: _normalisation,
    nn.BatchNorm2d: _normalisation,
    nn.BatchNorm3d: _normalisation,
}


def _layers(model: nn.Module, names: list[str]) -> dict[str, nn.Module]:
    """Layers with a rule that own a parameter of these names, by their own name."""
    owners = {name.rpartition(".")[0] for name in names}
    found = {name: module for name, module in model.named_modules() if name in owners and type(module) in _RULES}
    return {name: module for name, module in found.items() if _plain(module)}


def _plain(module: Any) -> bool:
    if any(parameter.is_complex() for parameter in module.parameters()):
        return False
    if isinstance(module, nn.Conv1d | nn.Conv2d):
        return module.padding_mode == "zeros" and not isinstance(module.padding, str)
    if isinstance(module, nn.Embedding):
        return module.max_norm is None and not module.scale_grad_by_freq
    running = not hasattr(module, "track_running_stats") or module.running_mean is not None
    return running and not (isinstance(module, nn.LayerNorm | nn.GroupNorm) and module.weight is None)


# --- Passes

Seen = dict[str, list[tuple[Tensor, Any]]]


@contextlib.contextmanager
def _watching(layers: dict[str, nn.Module]) -> Iterator[Seen]:
    """What goes into each layer, and where in the graph its output is, at each of its uses."""
    uses: Seen = {name: [] for name in layers}

    def listener(name: str) -> Any:
        def note(_: nn.Module, given: tuple[Any, ...], output: Any) -> None:
            if given and isinstance(output, Tensor) and output.requires_grad:
                # The edge, not the tensor: an activation may overwrite it in place.
                uses[name].append((given[0].detach(), get_gradient_edge(output)))

        return note

    handles = [layer.register_forward_hook(listener(name)) for name, layer in layers.items()]
    try:
        yield uses
    finally:
        for handle in handles:
            handle.remove()


def _moments(
    model: nn.Module,
    inputs: Tensor | MultiInput,
    index: Tensor,
    objectives: Objectives,
    layers: dict[str, nn.Module],
    power: int,
    also: list[Tensor],
) -> tuple[dict[str, Tensor], list[Tensor | None]]:
    """Sums over the samples by layer and parameter, and the plain gradients on `also`."""
    with _watching(layers) as uses:
        outputs = forward(model, inputs)
    once = {n: u[0] for n, u in uses.items() if len(u) == 1 and u[0][0].ndim and len(u[0][0]) == len(inputs)}
    edges: list[Any] = [edge for _, edge in once.values()]
    totals: dict[str, Tensor] = {}
    plain: list[Tensor | None] = [None] * len(also)
    values = list(objectives(outputs, index))
    for number, value in enumerate(values):
        keep = number < len(values) - 1
        found = torch.autograd.grad(value.sum(), [*edges, *also], allow_unused=True, retain_graph=keep)
        for (name, (given, _)), gradient in zip(once.items(), found, strict=False):
            if gradient is not None:
                with torch.no_grad():
                    for key, moment in _RULES[type(layers[name])](layers[name], given, gradient, power).items():
                        full = f"{name}.{key}" if name else key
                        totals[full] = totals[full] + moment if full in totals else moment
        for place, gradient in enumerate(found[len(edges) :]):
            known = plain[place]
            plain[place] = gradient if known is None else known if gradient is None else known + gradient
    return totals, plain


def _checked(
    model: nn.Module,
    inputs: Tensor | MultiInput,
    index: Tensor,
    objectives: Objectives,
    layers: dict[str, nn.Module],
    known: dict[str, nn.Parameter],
    names: list[str],
) -> set[str]:
    """The parameters of which the hooks see the whole gradient."""
    found, plain = _moments(model, inputs, index, objectives, layers, 0, [known[n] for n in names])
    right = set()
    for name, gradient in zip(names, plain, strict=True):
        ours, layer = found.get(name), name.rpartition(".")[0]
        if gradient is None or ours is None:
            if gradient is None and ours is None and layer in layers:  # not used here: the hooks hear when it is
                right.add(name)
            continue
        dense = gradient.to_dense() if gradient.is_sparse else gradient
        near = 10 * math.sqrt(torch.finfo(dense.dtype).eps)
        if torch.allclose(ours.reshape(dense.shape), dense, rtol=near, atol=near * float(dense.abs().max())):
            right.add(name)
    return right


def _add(
    totals: dict[str, Tensor],
    model: nn.Module,
    inputs: Tensor | MultiInput,
    index: Tensor,
    objectives: Objectives,
    layers: dict[str, nn.Module],
    seen: set[str],
    power: int,
) -> None:
    for name, moment in _moments(model, inputs, index, objectives, layers, power, [])[0].items():
        if name in seen:
            totals[name] += moment.reshape(totals[name].shape)


def _one_by_one(
    totals: dict[str, Tensor],
    model: nn.Module,
    inputs: Tensor | MultiInput,
    objectives: Objectives,
    names: list[str],
    known: dict[str, nn.Parameter],
    power: int,
) -> None:
    """One forward pass for each sample: right for any model that does not look at other samples."""
    device, wanted = device_of(model), [known[name] for name in names]
    for number in range(len(inputs)):
        outputs = forward(model, inputs[number : number + 1].to(device))
        values = list(objectives(outputs, torch.tensor([number])))
        for place, value in enumerate(values):
            keep = place < len(values) - 1
            found = torch.autograd.grad(value.sum(), wanted, allow_unused=True, retain_graph=keep)
            for name, gradient in zip(names, found, strict=True):
                if gradient is not None:
                    dense = gradient.to_dense() if gradient.is_sparse else gradient
                    totals[name] += _raised(dense, power)
