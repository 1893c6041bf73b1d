"""One module with many parameter sets at once: the forward pass of B tasks, each with weights of its own.

`Batched(module)(parameters, inputs)` maps inputs [B, N, …] to outputs [B, N, …], where every tensor of `parameters`
has a leading dimension of tasks; parameters that are not among them are the module's own, shared by all tasks. All of
it stays in one autograd graph, so gradients of any order are those of a loop over tasks.

Three paths give the same numbers:

- `layers`: a module made of layers in a row (nested `nn.Sequential`, the network of a `ModelSpec`) is walked by hand.
  Linear layers become a batched matrix product, convolutions a grouped one, batch normalisation takes each task's
  channels for channels of its own; a layer of another kind (a block, a layer with an adapter on it) goes through
  torch.func.vmap by itself.
- `vmap`: any other module whose code torch.func.vmap can follow, as a whole.
- `loop`: one task after the other. Always works; the reference of the other two, and taken where vmap cannot follow.

Batch normalisation always uses the statistics of the batch, of each task separately, and instance normalisation those
of the instance; see `batch_statistics`. Where a task has running statistics of its own (its `parameters` hold these
buffers), they are kept and used as the module's mode says.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _NormBase
from torch.overrides import TorchFunctionMode

from crosstask.errors import OptionError, nearest
from crosstask.learning.functional import as_taken, call, kept_buffers
from crosstask.learning.models import Network
from crosstask.learning.normalisation import batch_normalised

PATHS = ("auto", "layers", "vmap", "loop")
"""How models of several tasks can be run at once, see `Batched`."""

ELEMENTWISE: set[type[nn.Module]] = {
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Tanh, nn.Sigmoid,
    nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.Softplus, nn.Softsign, nn.LogSigmoid, nn.Identity, nn.Dropout,
}  # fmt: skip
"""Modules without weights that treat every number by itself, whatever the shape."""

POOLS: set[type[nn.Module]] = {
    nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d,
    nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d,
}  # fmt: skip

SEPARATE: set[type[nn.Module]] = {
    *ELEMENTWISE, *POOLS, nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d,
    nn.Embedding, nn.LayerNorm, nn.GroupNorm, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d,
    nn.LocalResponseNorm, nn.PReLU, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.ZeroPad2d,
}  # fmt: skip
"""Modules that treat each sample by itself (not batch normalisation)."""

MAX_POOLS = {nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d}
MEANS = {nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d}

IMAGES = 20
"""Support images of all tasks in one pass: beyond it the activations of a usual network leave the cache."""

ALIGNED = 16
"""Widths of which it takes as many numbers to fill what a processor loads at once: see `Batched.noise`."""

CONVOLUTIONS: dict[type[nn.Module], Callable[..., Tensor]] = {
    nn.Conv1d: functional.conv1d,
    nn.Conv2d: functional.conv2d,
    nn.Conv3d: functional.conv3d,
}


@contextlib.contextmanager
def batch_statistics(module: nn.Module) -> Iterator[None]:
    """Inside, batch normalisation uses the statistics of the batch, in any mode, and leaves the running ones alone;
    instance normalisation those of the instance.
    """
    layers = [m for m in module.modules() if isinstance(m, _NormBase)]
    kept = [(m.running_mean, m.running_var, m.num_batches_tracked, m.track_running_stats) for m in layers]
    try:
        for layer in layers:
            forget_statistics(layer)
        yield
    finally:
        for layer, (mean, variance, count, tracked) in zip(layers, kept, strict=True):
            layer.running_mean, layer.running_var, layer.num_batches_tracked = mean, variance, count
            layer.track_running_stats = tracked


def forget_statistics(module: nn.Module) -> None:
    """Take the running statistics out of a module for good: its normalisation goes by what it is given from then on."""
    for layer in module.modules():
        if isinstance(layer, _NormBase):
            layer.running_mean = layer.running_var = layer.num_batches_tracked = None
            layer.track_running_stats = False


@attrs.frozen
class _Leaf:
    """One layer of a row: `names` says how the whole module calls its parameters (local name -> name)."""

    module: nn.Module
    names: dict[str, str]


@attrs.frozen
class _Rows:
    """Activations of B tasks: [B, N, …], or `grouped`, [N, B * C, …] for layers that mix channels of one task only."""

    value: Tensor
    tasks: int
    grouped: bool = False
    noise: Sequence[torch.Generator] | None = None
    apart: bool = False

    def rows(self) -> Tensor:
        if not self.grouped:
            return self.value
        count, channels = self.value.shape[:2]
        return self.value.reshape(count, self.tasks, channels // self.tasks, *self.value.shape[2:]).transpose(0, 1)

    def groups(self) -> Tensor:
        return self.value if self.grouped else _quick(self.value.transpose(0, 1).flatten(1, 2))

    def like(self, value: Tensor, grouped: bool) -> _Rows:
        return _Rows(value, self.tasks, grouped, self.noise, self.apart)


def _quick(images: Tensor) -> Tensor:
    """Images [N, C, H, W] in the memory format that the CPU's convolutions, poolings and normalisations prefer: they
    take half the time with channels last.
    """
    if images.ndim != 4 or images.device.type != "cpu":
        return images
    return images.contiguous(memory_format=torch.channels_last)


class Batched:
    """The forward pass of `module` for many tasks at once. `path`: see the top of this file; `auto` chooses.

    The module may be changed and trained between calls, but not rebuilt from other layers. `noise`, a generator for
    each task, is where dropout draws from in place of torch's global numbers, in a block of one's own, too: then what a
    task draws is what it would draw alone (paths `layers` and `vmap`; RuntimeError for chance of another kind).
    `apart`: a task's numbers are rounded alike whoever is with it. A matrix product is not, on the CPU, where rows of
    the tasks begin at places of different kinds; so widths are filled up with zeros.
    """

    noise: Sequence[torch.Generator] | None = None
    """Where dropout draws from, one generator for each task."""

    def __init__(self, module: nn.Module, path: str = "auto", apart: bool = False) -> None:
        if path not in PATHS:
            raise OptionError(f"path cannot be {path!r}{nearest(path, PATHS)}")
        self.module, self._path, self._apart = module, path, apart
        self._plans: dict[Any, list[_Drawn]] = {}
        row = _row_of(module)
        self._separate = row is not None and all(_separate(leaf.module) for leaf in row)
        self._row = row if path in ("auto", "layers") else None
        if path == "layers" and row is None:
            raise OptionError(
                f"path 'layers' needs a module made of layers in a row (nn.Sequential), not {type(module).__name__}"
            )

    def __call__(self, parameters: Mapping[str, Tensor], inputs: Tensor, start: int = 0) -> Tensor:
        """Outputs [B, N, …]. Parameters by name, each [B, …]; `inputs` [B, N, …], or what `head_start` made of them."""
        path = self.path(parameters, inputs)
        if path == "layers":
            return self._walk(parameters, as_taken(self.module, inputs), start)
        if path == "vmap":
            return self._vmapped(self.module, dict(parameters), inputs)
        return self._loop(parameters, inputs)

    def path(self, names: Collection[str], inputs: Tensor) -> str:
        """The path that a call with parameters of these names takes. Whether vmap can follow is tried once."""
        if self._path == "auto":
            if self._row is not None and (
                all(_by_hand(leaf.module) for leaf in self._row)
                or self._follows(self._walk, names, as_taken(self.module, inputs))
            ):
                self._path = "layers"
            elif self._follows(functools.partial(_vmapped, self.module), names, inputs):
                self._path = "vmap"
            else:
                self._path = "loop"
        return self._path

    def _follows(self, walk: Callable[[Any, Tensor], Tensor], names: Collection[str], inputs: Tensor) -> bool:
        """Whether vmap can follow a call, without falling back to a loop of its own."""
        held = (*self.module.named_parameters(), *self.module.named_buffers())
        one = {name: tensor.detach().clone()[None] for name, tensor in held if name in names}
        devices = [inputs.device] if inputs.is_cuda else []
        noise, self.noise = self.noise, None  # whose it is draws nothing here
        try:
            with warnings.catch_warnings(), torch.no_grad(), torch.random.fork_rng(devices), kept_buffers(self.module):
                warnings.simplefilter("error")
                walk(one, inputs[:1, :2])
        except Exception:  # whatever stands in vmap's way; what is wrong with the module itself, the loop will say
            return False
        finally:
            self.noise = noise
        return True

    def filled(self, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The same parameters, each [B, …], with the zeros that `apart` asks for, so that no call has to add them: no
        step of an optimiser moves these. They begin as they were in every dimension.
        """
        made = dict(parameters)
        row = (self._row or []) if self._apart and self.walked else []
        others = {name for leaf in row if type(leaf.module) is not nn.Linear for name in leaf.names.values()}
        for leaf in row:
            if type(leaf.module) is not nn.Linear:
                continue
            given, answered = leaf.module.in_features, leaf.module.out_features
            sizes = {"weight": (answered, given), "bias": (answered,)}
            for local, name in leaf.names.items():
                if name in made and name not in others and made[name] is parameters[name]:  # once, where it is tied
                    room = [end for size in reversed(sizes[local]) for end in (0, -size % ALIGNED)]
                    tensor = made[name]
                    made[name] = functional.pad(tensor.detach(), room).requires_grad_(tensor.requires_grad)
        return made

    @property
    def walked(self) -> bool:
        """Whether it is made of layers in a row that are all walked by hand."""
        return self._row is not None and all(_by_hand(leaf.module) for leaf in self._row)

    @property
    def separate(self) -> bool:
        """Whether every layer is known to treat each sample by itself, so that padding changes nothing."""
        return self._separate

    def tasks_at_once(self, names: Collection[str], inputs: Tensor, first_order: bool) -> int:
        """How many tasks one pass should take so that it is no slower than one after the other, on the CPU.

        Without convolutions: all. Convolutions on large batches of images are bound by arithmetic, and activations of
        many tasks leave the cache: with them it is so many tasks that a pass has at most `IMAGES` images.
        """
        tasks, samples = inputs.shape[:2]
        convolves = any(isinstance(m, tuple(CONVOLUTIONS)) for m in self.module.modules())
        if self.path(names, inputs) == "loop":
            return 1
        if not convolves or inputs.device.type != "cpu":
            return tasks
        return min(tasks, max(1, IMAGES // samples))

    def head_start(self, names: Collection[str], *inputs: Tensor) -> tuple[int, tuple[Tensor, ...]]:
        """(how many layers come before the first that holds a parameter of these names, what they make of each of the
        inputs).

        Those layers are the same for every task: a caller that goes on from there need not repeat them.
        """
        own = set(names)
        if own >= {name for name, _ in self.module.named_parameters()} or self.path(own, inputs[0]) != "layers":
            return 0, inputs
        assert self._row is not None
        first = next((n for n, leaf in enumerate(self._row) if own & set(leaf.names.values())), 0)
        return first, tuple(self._walk({}, as_taken(self.module, part), 0, first) for part in inputs)

    def _walk(self, parameters: Mapping[str, Tensor], inputs: Tensor, start: int = 0, end: int | None = None) -> Tensor:
        assert self._row is not None
        state = _Rows(inputs, len(inputs), noise=self.noise, apart=self._apart)
        for leaf in self._row[start:end]:
            own = {local: parameters[name] for local, name in leaf.names.items() if name in parameters}
            layer = _by_hand(leaf.module)
            if layer is None:
                state = state.like(self._vmapped(leaf.module, own, state.rows()), False)
            else:
                state = layer(leaf.module, own, state)
        return state.rows()

    def _vmapped(self, module: nn.Module, parameters: dict[str, Tensor], inputs: Tensor) -> Tensor:
        """A module that is not walked by hand, with what its dropout draws from the tasks' own generators."""
        if self.noise is None:
            return _vmapped(module, parameters, inputs)
        key = id(module), inputs.shape[1:], inputs.dtype, tuple(part.training for part in module.modules())
        if key not in self._plans:
            self._plans[key] = _plan(module, {n: t[0] for n, t in parameters.items()}, inputs[0])
        masks = []
        for drawn in self._plans[key]:
            like = inputs.new_empty(drawn.shape, dtype=drawn.dtype)
            masks.append(torch.stack([_mask(like, drawn.share, noise) for noise in self.noise]))
        return _vmapped(module, parameters, inputs, masks)

    def _loop(self, parameters: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        with _statistics(self.module, parameters), _followable():
            return self._one_by_one(parameters, inputs)

    def _one_by_one(self, parameters: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        if len(inputs) == 1:  # squeezing is a view, indexing would fill gradients with zeros
            own = {name: tensor.squeeze(0) for name, tensor in parameters.items()}
            return call(self.module, own, inputs.squeeze(0)).unsqueeze(0)
        split = {name: tensor.unbind(0) for name, tensor in parameters.items()}
        found = []
        for number, part in enumerate(inputs.unbind(0)):
            found.append(call(self.module, {name: own[number] for name, own in split.items()}, part))
        return torch.stack(found)


def _row_of(module: nn.Module) -> list[_Leaf] | None:
    """The layers of nested `nn.Sequential`s; None for a module of another kind, or with hooks of its own."""
    if not _in_a_row(module):
        return None
    names = {id(p): name for name, p in (*module.named_parameters(), *module.named_buffers())}

    def layers(part: nn.Module) -> Iterator[_Leaf]:
        if _in_a_row(part) and not _hooked(part):
            for child in part.children():
                yield from layers(child)
        else:
            held = (*part.named_parameters(), *part.named_buffers())
            yield _Leaf(part, {local: names[id(tensor)] for local, tensor in held})

    if _hooked(module):
        return None
    # children() leaves out what it has seen: a layer that stands twice in a row must be met twice
    if any(len(m._modules) != len(list(m.children())) for m in module.modules()):
        return None
    row = list(layers(module))
    for place, (one, other) in enumerate(itertools.pairwise(row)):
        # The largest of what ReLU leaves is what ReLU leaves of the largest, to the gradient: pooled first, it has less
        if type(one.module) is nn.ReLU and type(other.module) in MAX_POOLS and not _hooked(one.module):
            row[place], row[place + 1] = other, one
    return row


def _in_a_row(module: nn.Module) -> bool:
    """Whether a module calls its children one after the other. A `Network` does, but for whole numbers before them."""
    return type(module).forward in (nn.Sequential.forward, Network.forward)


def _hooked(module: nn.Module) -> bool:
    """Whether calling a module is more than its class says."""
    hooks = module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    return bool(hooks) or "forward" in vars(module)


def _by_hand(layer: nn.Module) -> Callable[[Any, dict[str, Tensor], _Rows], _Rows] | None:
    """How a layer maps rows with each task's own weights; None for one that is left to vmap."""
    kind = type(layer)
    if _hooked(layer):
        return None
    if kind is nn.Dropout:
        return _dropped
    if kind in ELEMENTWISE:
        return _elementwise
    if kind in POOLS and not getattr(layer, "return_indices", False):
        return _pooled
    if isinstance(layer, nn.Flatten) and kind is nn.Flatten and (layer.start_dim, layer.end_dim) == (1, -1):
        return _flat
    if kind is nn.Linear:
        return _linear
    if kind in CONVOLUTIONS and layer.padding_mode == "zeros":
        return _convolution
    if kind in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d):
        return _normalised
    return None


def _separate(layer: nn.Module) -> bool:
    """Whether a layer of a row treats each sample by itself."""
    if _hooked(layer):
        return False
    flat = isinstance(layer, nn.Flatten | nn.Unflatten) and (
        layer.dim if isinstance(layer, nn.Unflatten) else layer.start_dim
    ) in range(1, 9)
    return flat or type(layer) in SEPARATE


def _elementwise(layer: nn.Module, own: dict[str, Tensor], state: _Rows) -> _Rows:
    return state.like(layer(state.value), state.grouped)


def _dropped(layer: Any, own: dict[str, Tensor], state: _Rows) -> _Rows:
    if state.noise is None or not layer.training or not layer.p:
        return _elementwise(layer, own, state)
    rows = state.rows()
    kept = torch.stack([_mask(part, layer.p, noise) for part, noise in zip(rows, state.noise, strict=True)])
    return state.like(rows * kept, False)


def _mask(rows: Tensor, share: float, noise: torch.Generator) -> Tensor:
    """What dropout multiplies with, drawn as torch draws it."""
    if share == 1:
        return torch.zeros_like(rows)
    return (
        torch.empty(rows.shape, dtype=rows.dtype, device=rows.device)
        .bernoulli_(1 - share, generator=noise)
        .div_(1 - share)
    )


@attrs.frozen
class _Drawn:
    """What one call of dropout draws: a mask of this shape. `dense`: its input lies in memory row by row, or its mask
    does whatever the input.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    share: float
    dense: bool


def _dropping(
    input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False, train: bool | None = None
) -> tuple[Tensor, float, bool, bool]:
    """The arguments of torch's several functions called dropout."""
    return input, p, training if train is None else train, inplace


WHOLE = (functional.dropout, torch.dropout)
CHANNELS = {functional.dropout1d: 3, functional.dropout2d: 4, functional.dropout3d: 5}


def _embedded(
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    """`functional.embedding` of each task: torch.func.vmap keeps the gradient from the padding of the first alone, and
    counts, or scatters, over all. RuntimeError for these.
    """
    if scale_grad_by_freq or sparse:
        raise RuntimeError("torch.func.vmap takes all tasks for one where a gradient is sparse, or goes by frequency")
    if padding_idx is not None:
        padding = torch.arange(len(weight), device=weight.device) == padding_idx % len(weight)
        weight = torch.where(padding[:, None], weight.detach(), weight)
    return functional.embedding(input, weight, None, max_norm, norm_type)


class _EachItsOwn(TorchFunctionMode):
    """Inside, torch.func.vmap computes of every task what it would be alone, or raises."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is functional.embedding:
            func = _embedded
        return func(*args, **(kwargs or {}))


class _Chance(_EachItsOwn):
    """Inside, dropout draws nothing: it multiplies with the masks that are given, in their order, or, without any,
    notes in `asked` what it would have drawn, and leaves its input as it is.
    """

    def __init__(self, masks: Sequence[Tensor] | None = None) -> None:
        super().__init__()
        self.asked: list[_Drawn] = []
        self._masks = None if masks is None else iter(masks)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        whole = func in WHOLE
        if whole or func in CHANNELS:
            inputs, share, drops, inplace = _dropping(*args, **(kwargs or {}))
            if drops and share > 0 and (whole or inputs.ndim == CHANNELS[func]):
                shape = tuple(inputs.shape) if whole else (*inputs.shape[:2], *[1] * (inputs.ndim - 2))
                if self._masks is None:
                    self.asked.append(_Drawn(shape, inputs.dtype, share, not whole or inputs.is_contiguous()))
                    return inputs
                mask = next(self._masks)
                return inputs.mul_(mask) if inplace else inputs * mask
        return super().__torch_function__(func, types, args, kwargs)


@torch.no_grad()
def _plan(module: nn.Module, own: Mapping[str, Tensor], inputs: Tensor) -> list[_Drawn]:
    """What dropout in a module draws in one call, in order."""
    own = {name: tensor.clone() for name, tensor in own.items()}  # statistics may move
    devices = [inputs.device] if inputs.is_cuda else []
    chance = _Chance()
    with chance, torch.random.fork_rng(devices), kept_buffers(module), _statistics(module, own):
        call(module, own, inputs.clone())
    return chance.asked


def scattered(model: nn.Module, inputs: Tensor) -> bool:
    """Whether what dropout receives in training does not lie in memory row by row (channels last, say)."""
    modes = [(part, part.training) for part in model.modules()]
    model.train()
    try:
        return not all(drawn.dense for drawn in _plan(model, {}, inputs))
    finally:
        for part, training in modes:
            part.training = training


def _pooled(layer: nn.Module, own: dict[str, Tensor], state: _Rows) -> _Rows:
    dims = int(type(layer).__name__[-2])
    if state.value.ndim - (not state.grouped) == dims + 1:  # torch takes a batch [N, F] for one sample's N channels
        rows = state.rows()
        return state.like(layer(rows.flatten(0, 1)).unflatten(0, rows.shape[:2]), False)
    if state.apart and type(layer) in MEANS and _to_one(layer):
        # The mean of a row: what torch does with many channels side by side is rounded by how many there are
        rows = state.rows().contiguous().flatten(3)
        return state.like(rows.mean(3).view(*rows.shape[:3], *(1,) * dims), False)
    return state.like(layer(state.groups()), True)


def _to_one(layer: Any) -> bool:
    """Whether a pool leaves one number of each channel."""
    return {layer.output_size} == {1} if isinstance(layer.output_size, int) else set(layer.output_size) == {1}


def _flat(layer: nn.Module, own: dict[str, Tensor], state: _Rows) -> _Rows:
    return state.like(state.rows().flatten(2), False)


def _normalised(layer: Any, own: dict[str, Tensor], state: _Rows) -> _Rows:
    weight, bias = (_every(layer, own, name, state.tasks) for name in ("weight", "bias"))
    if "running_mean" in own:
        return state.like(_tracked(layer, own, state.groups(), weight, bias), True)
    return state.like(batch_normalised(state.groups(), weight, bias, layer.eps), True)


def _tracked(layer: Any, own: dict[str, Tensor], inputs: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """Batch normalisation with running statistics of each task's own, which training moves in place."""
    mean, variance = own["running_mean"].view(-1), own["running_var"].view(-1)
    if layer.training:
        own["num_batches_tracked"].add_(1)
    return functional.batch_norm(inputs, mean, variance, weight, bias, layer.training, layer.momentum, layer.eps)


def _every(layer: nn.Module, own: dict[str, Tensor], name: str, tasks: int) -> Tensor | None:
    """A vector per channel for all tasks in a row: the task's own, or the shared one repeated."""
    if name in own:
        return own[name].flatten()
    shared: Tensor | None = getattr(layer, name)
    return None if shared is None else shared.repeat(tasks)


def _linear(layer: Any, own: dict[str, Tensor], state: _Rows) -> _Rows:
    rows = state.rows()
    if not own:
        return state.like(functional.linear(rows, layer.weight, layer.bias), False)
    tasks = len(rows)
    weight = own.get("weight")
    weight = layer.weight.expand(tasks, -1, -1) if weight is None else weight
    bias: Tensor | None = own["bias"] if "bias" in own else layer._parameters["bias"]
    flat = rows.reshape(tasks, -1, rows.shape[-1])
    weight = weight.transpose(1, 2)
    before, after = (-layer.in_features % ALIGNED, -layer.out_features % ALIGNED) if state.apart else (0, 0)
    if before:
        flat = functional.pad(flat, (0, before))
    if (before or after) and weight.shape[1:] == (layer.in_features, layer.out_features):  # not `filled` already
        weight = functional.pad(weight, (0, after, 0, before))
    if after and bias is not None and bias.shape[-1] == layer.out_features:
        bias = functional.pad(bias, (0, after))
    if bias is None:
        found = torch.bmm(flat, weight)
    else:
        found = torch.baddbmm(bias.expand(tasks, -1).unsqueeze(1), flat, weight)
    if after:
        found = found[..., : layer.out_features]
    return state.like(found.reshape(*rows.shape[:-1], layer.out_features), False)


def _convolution(layer: Any, own: dict[str, Tensor], state: _Rows) -> _Rows:
    tasks = state.tasks
    if not own:
        rows = state.rows()
        found = layer(_quick(rows.flatten(0, 1)))
        return state.like(found.reshape(tasks, -1, *found.shape[1:]), False)
    weight = own["weight"] if "weight" in own else layer.weight.expand(tasks, *layer.weight.shape)
    bias = _every(layer, own, "bias", tasks)
    made = CONVOLUTIONS[type(layer)](
        state.groups(), weight.flatten(0, 1), bias, layer.stride, layer.padding, layer.dilation, tasks * layer.groups
    )
    return state.like(made, True)


@contextlib.contextmanager
def _followable() -> Iterator[None]:
    """Inside, attention takes no quick form: they have no second derivative, and vmap cannot follow them."""
    quick = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(quick)


@contextlib.contextmanager
def _statistics(module: nn.Module, parameters: Mapping[str, Tensor]) -> Iterator[None]:
    """`batch_statistics`, unless the tasks bring running statistics of their own."""
    if any(name.rpartition(".")[2] == "running_mean" for name in parameters):
        yield
        return
    with batch_statistics(module):
        yield


def _vmapped(
    module: nn.Module, parameters: dict[str, Tensor], inputs: Tensor, masks: Sequence[Tensor] | None = None
) -> Tensor:
    """With `masks`, what dropout multiplies with for each task: nothing else may draw then."""

    def one(own: dict[str, Tensor], part: Tensor, *given: Tensor) -> Tensor:
        with _Chance(given) if given else _EachItsOwn():
            return call(module, own, part)

    with _statistics(module, parameters), _followable():
        found: Tensor = vmap(one, randomness="different" if masks is None else "error")(
            parameters, inputs, *(masks or ())
        )
    return found
