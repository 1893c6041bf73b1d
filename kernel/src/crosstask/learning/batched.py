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

IMAGES = 20
"""Support images of all tasks in one pass: beyond it the activations of a usual network leave the cache."""

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

    def rows(self) -> Tensor:
        if not self.grouped:
            return self.value
        count, channels = self.value.shape[:2]
        return self.value.reshape(count, self.tasks, channels // self.tasks, *self.value.shape[2:]).transpose(0, 1)

    def groups(self) -> Tensor:
        return self.value if self.grouped else _quick(self.value.transpose(0, 1).flatten(1, 2))

    def like(self, value: Tensor, grouped: bool) -> _Rows:
        return _Rows(value, self.tasks, grouped, self.noise)


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
    each task, is where dropout draws from in place of torch's global numbers: then what a task draws is what it would
    draw alone (path `layers`).
    """

    noise: Sequence[torch.Generator] | None = None
    """Where dropout draws from, one generator for each task."""

    def __init__(self, module: nn.Module, path: str = "auto") -> None:
        if path not in PATHS:
            raise OptionError(f"path cannot be {path!r}{nearest(path, PATHS)}")
        self.module, self._path = module, path
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
            return _vmapped(self.module, dict(parameters), inputs)
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
        try:
            with warnings.catch_warnings(), torch.no_grad(), torch.random.fork_rng(devices), kept_buffers(self.module):
                warnings.simplefilter("error")
                walk(one, inputs[:1, :2])
        except Exception:  # whatever stands in vmap's way; what is wrong with the module itself, the loop will say
            return False
        return True

    @property
    def by_hand(self) -> set[nn.Module]:
        """The layers that the path `layers` walks by hand."""
        return {leaf.module for leaf in self._row or () if self._path == "layers" and _by_hand(leaf.module)}

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
        state = _Rows(inputs, len(inputs), noise=self.noise)
        for leaf in self._row[start:end]:
            own = {local: parameters[name] for local, name in leaf.names.items() if name in parameters}
            layer = _by_hand(leaf.module)
            if layer is None:
                state = state.like(_vmapped(leaf.module, own, state.rows()), False)
            else:
                state = layer(leaf.module, own, state)
        return state.rows()

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
    if any(len(list(m._modules)) != len(list(m.children())) for m in module.modules()):
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
    return bool(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks)


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
    if isinstance(layer, nn.Flatten) and (layer.start_dim, layer.end_dim) == (1, -1):
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


def _pooled(layer: nn.Module, own: dict[str, Tensor], state: _Rows) -> _Rows:
    return state.like(layer(state.groups()), True)


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
    if bias is None:
        found = torch.bmm(flat, weight.transpose(1, 2))
    else:
        found = torch.baddbmm(bias.expand(tasks, -1).unsqueeze(1), flat, weight.transpose(1, 2))
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


def _vmapped(module: nn.Module, parameters: dict[str, Tensor], inputs: Tensor) -> Tensor:
    def one(own: dict[str, Tensor], part: Tensor) -> Tensor:
        return call(module, own, part)

    with _statistics(module, parameters), _followable():
        found: Tensor = vmap(one, randomness="different")(parameters, inputs)
    return found
