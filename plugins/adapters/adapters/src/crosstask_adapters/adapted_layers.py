"""Layers that adapters sit on.

The layer keeps its place, its name and its parameters; only its class changes to one that asks the adapters on it. So
the base's `state_dict` keys stay, deep copies work, and whoever reads `layer.weight` instead of calling the layer
(attention does, and the fused path of `nn.TransformerEncoderLayer`) reads the adapted weight.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.utils import parametrizations, parametrize
from torch.nn.utils.spectral_norm import SpectralNorm

from crosstask.errors import DataError
from crosstask_adapters.layer_adapter import LayerAdapter
from crosstask_adapters.switches import Host, NotPerSampleError

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""Layers whose weights are [out, in / groups, *kernel]."""


def is_transposed(layer: nn.Module) -> bool:
    """Whether a layer is transformers' `Conv1D` (GPT-2): a linear layer whose weight is [in, out]."""
    return isinstance(layer, _transposed_kinds())


def _transposed_kinds() -> tuple[type[nn.Module], ...]:
    """transformers is not imported for it: nobody has such a layer who has not."""
    kind = getattr(sys.modules.get("transformers.pytorch_utils"), "Conv1D", None)
    return () if kind is None else (kind,)


def computed_names(layer: nn.Module) -> tuple[str, ...]:
    """Tensors of a layer that are no parameters of it: computed from others by a parametrization (weight_norm,
    spectral_norm, orthogonal, …) or a property of its class, computed by a hook before each call (the older forms, and
    pruning), or kept as a buffer.
    """
    plain = getattr(layer, "_plain_class", type(layer))
    made = (*layer._modules.get("parametrizations", ()),)  # type: ignore[misc]
    others = (n for n in ("weight", "bias") if n in layer._buffers or isinstance(getattr(plain, n, None), property))
    return tuple(dict.fromkeys((*made, *others, *hooked_names(layer))))


def hooked_names(layer: nn.Module) -> tuple[str, ...]:
    """Those of `computed_names` that are up to date only after the hooks of a call."""
    own = layer._parameters
    return tuple(
        name for name, value in layer.__dict__.items()
        if isinstance(value, Tensor) and (f"{name}_orig" in own or f"{name}_g" in own)
    )  # fmt: skip


def own_tensor(layer: nn.Module, name: str) -> Tensor | None:
    """A layer's tensor without the adapters on it: a parameter, or one of `computed_names`. None if it has none by this
    name.
    """
    if name in layer._parameters:
        return layer._parameters[name]
    made = getattr(getattr(layer, "_plain_class", type(layer)), name, None)
    if isinstance(made, property) and made.fget:
        with contextlib.nullcontext() if isinstance(layer, AdaptedLayer) else _looked_at(layer):
            found = made.fget(layer)
    else:
        found = layer.__dict__.get(name)
    found = layer._buffers.get(name) if found is None else found
    return found if isinstance(found, Tensor) else None


def own_weight(layer: nn.Module, name: str) -> Tensor:
    """As `own_tensor`, for one that is there; without its gradient."""
    found = own_tensor(layer, name)
    assert found is not None
    return found.detach()


@contextlib.contextmanager
def _looked_at(layer: nn.Module) -> Iterator[None]:
    """Inside, a weight can be computed without a step of training (spectral_norm's power iteration)."""
    training = [module for module in layer.modules() if module.training]
    try:
        for module in training:
            module.training = False
        yield
    finally:
        for module in training:
            module.training = True


class AdaptedLayer:
    """Mixed into the class of an adapted layer."""

    _parts: tuple[LayerAdapter, ...]
    _host: Host
    _parameters: dict[str, nn.Parameter | None]
    _plain_class: ClassVar[type[nn.Module]]
    _direct: ClassVar[Callable[..., Any] | None]
    _computed: ClassVar[tuple[str, ...]]
    _first: ClassVar[str]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The layer's answer with its live adapters."""
        if not args and self._first in kwargs:  # adapters find the input first, however the layer is called
            args = (kwargs.pop(self._first),)
        if self._host.mixing is not None:
            return self._mixed(*args, **kwargs)
        live = [part for part in self._parts if part.switch.live]
        if not live:
            return self._bare(*args, **kwargs)
        if len(live) == 1 and self._direct is not None and live[0].plainly:  # as below, without its detours
            return live[0].around(self, self._bare, *args, **kwargs)  # type: ignore[arg-type]
        return self._through(live, *args, **kwargs)

    def _bare(self, *args: Any, **kwargs: Any) -> Any:
        """The layer on its base weights."""
        if self._direct is not None:
            return self._direct(self, self._own(), *args, **kwargs)
        return super().forward(*args, **kwargs)  # type: ignore[misc]

    def _own(self) -> dict[str, Any]:
        """The layer's own tensors by name, without the adapters on it."""
        if not self._computed:
            return self._parameters
        return self._parameters | {name: own_tensor(self, name) for name in self._computed}  # type: ignore[arg-type]

    def _through(self, parts: list[LayerAdapter], *args: Any, **kwargs: Any) -> Any:
        inner: Callable[..., Any]
        if self._direct is not None and all(type(part).around is not LayerAdapter.around for part in parts):
            inner, outside = self._bare, parts
        else:  # the layer's own code reads the adapted weights
            inner, outside = super().forward, [part for part in parts if not part.weight_space]  # type: ignore[misc]
        layer = cast(nn.Module, self)
        joint = [part for part in outside if type(part).joint]
        if joint:
            inner = functools.partial(joint[0].jointly, joint, layer, inner)
            outside = [part for part in outside if part not in joint]
        for part in outside[:-1]:
            inner = functools.partial(part.around, layer, inner)
        if not outside:
            return inner(*args, **kwargs)
        return outside[-1].around(layer, inner, *args, **kwargs)

    def _mixed(self, *args: Any, **kwargs: Any) -> Any:
        assert self._host.mixing is not None
        index, choice = self._host.mixing
        mine = [part for part in self._parts if part.switch in index and not part.switch.merged]
        if not mine:
            return self._bare(*args, **kwargs)
        x = args[0] if args else None
        if not isinstance(x, Tensor) or len(x) != len(choice) or len(args) > 1 or kwargs:
            raise NotPerSampleError("a layer was called with something else than one tensor with a row per sample")
        of: dict[int, list[LayerAdapter]] = {}
        for part in mine:
            of.setdefault(index[part.switch], []).append(part)
        if all(len(parts) == 1 and type(parts[0]) is type(mine[0]) for parts in of.values()):
            place = torch.full((max(index.values()) + 2,), -1, device=choice.device)  # the last one is for -1
            for number, k in enumerate(of):
                place[k] = number
            answer = type(mine[0]).mixed([parts[0] for parts in of.values()], place[choice], self._bare, x)
            if answer is not None:
                return answer
        out: Tensor | None = None
        for k in set(choice.tolist()):
            rows = (choice == k).nonzero().squeeze(1)
            parts = of.get(k, [])
            got = self._through(parts, x[rows]) if parts else self._bare(x[rows])
            out = got.new_empty(len(x), *got.shape[1:]) if out is None else out
            out = out.index_copy(0, rows, got)
        return out

    def __reduce_ex__(self, protocol: object) -> Any:
        """Classes made at run time are found again by the class that they were made from."""
        if "parametrizations" in self.__dict__["_modules"]:
            raise DataError(
                f"a parametrized {self._plain_class.__bases__[0].__name__} cannot be pickled, as torch says of it "
                "without adapters, too: keep its state_dict"
            )
        return _rebuild, (self._plain_class, self._names, self._computed, self._holds), self.__dict__

    _names: ClassVar[tuple[str, ...]]
    _holds: ClassVar[bool]

    def __delattr__(self, name: str) -> None:
        if name in self._names:
            raise _fixed(self, name)
        super().__delattr__(name)

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        """As of any module; a weight that is read through adapters cannot be replaced by one."""
        if param is not None and not isinstance(param, nn.Parameter):  # of something that was read through adapters
            raise _fixed(self, name.partition("_")[0])
        super().register_parameter(name, param)  # type: ignore[misc]

    def _load_from_state_dict(self, *args: Any) -> None:
        if any(p in self._host.kept for p in self._parameters.values() if p is not None):
            raise DataError("weights cannot be loaded while adapters are merged into them: unmerge them first")
        super()._load_from_state_dict(*args)  # type: ignore[misc]


def _fixed(layer: Any, name: str) -> DataError:
    return DataError(
        f"{name!r} of a {layer._plain_class.__name__} cannot be taken away or replaced by a computed one while "
        "adapters sit on it: parametrize, prune or replace it before they are attached"
    )


def _rebuild(plain: type[nn.Module], names: tuple[str, ...], computed: tuple[str, ...], holds: bool) -> nn.Module:
    cls = _adapted_class(plain, names, computed, holds)
    return cls.__new__(cls)


class _Held:
    """Mixed into layers that change what is theirs in training (running statistics, the power iteration of
    spectral_norm): it is the base's, so under adapters they answer as in evaluation.
    """

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        with _evaluated(self):
            return super().forward(*args, **kwargs)  # type: ignore[misc]

    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
        with _evaluated(self):  # hooks, too
            return super().__call__(*args, **kwargs)  # type: ignore[misc]


@contextlib.contextmanager
def _evaluated(layer: Any) -> Iterator[None]:
    held = layer.training and layer._host.attached
    if held:
        layer.training = False
    try:
        yield
    finally:
        if held:
            layer.training = True


def _linear(layer: Any, own: dict[str, Tensor | None], x: Tensor) -> Tensor:
    return functional.linear(x, own["weight"], own["bias"])  # type: ignore[arg-type]


def _transposed(layer: Any, own: dict[str, Tensor], x: Tensor) -> Tensor:
    return functional.linear(x, own["weight"].t(), own["bias"])


def _convolution(layer: Any, own: dict[str, Tensor | None], x: Tensor) -> Tensor:
    return layer._conv_forward(x, own["weight"], own["bias"])  # type: ignore[no-any-return]


def _embedding(layer: Any, own: dict[str, Tensor | None], x: Tensor) -> Tensor:
    weight = own["weight"]
    assert weight is not None
    return functional.embedding(x, weight, layer.padding_idx, scale_grad_by_freq=layer.scale_grad_by_freq)


_DIRECT: dict[Any, Callable[..., Any]] = {
    nn.Linear.forward: _linear,
    nn.Embedding.forward: _embedding,
    **{kind.forward: _convolution for kind in CONVOLUTIONS},
}
"""How a layer answers on given weights, by its `forward`; a class with another forward runs its own code."""

_FUSED = {nn.TransformerEncoder: "use_nested_tensor", nn.TransformerEncoderLayer: "activation_relu_or_gelu"}
"""What turns off the fused path, which knows no layers but only their weights, when it is false."""

_RNN = "_flat_weights"
"""Where recurrent layers list the parameters that they use."""


def holds_state(layer: nn.Module) -> bool:
    """Whether training changes what is the layer's own and no parameter: statistics, or a power iteration."""
    if isinstance(layer, _NormBase):
        return layer.track_running_stats
    old = any(isinstance(hook, SpectralNorm) for hook in layer._forward_pre_hooks.values())
    return old or isinstance(layer, parametrizations._SpectralNorm)


def minds_any(layer: nn.Module) -> bool:
    """Whether a layer must know of every adapter on its model: it holds state, or reads weights of others."""
    return isinstance(layer, tuple(_FUSED)) or holds_state(layer)


_CLASSES: dict[tuple[Any, ...], type[nn.Module]] = {}


def _adapted_class(
    plain: type[nn.Module], names: tuple[str, ...], computed: tuple[str, ...], holds: bool
) -> type[nn.Module]:
    """The class of a layer of class `plain` under adapters, with parameters and computed tensors of these names."""
    key = (plain, names, computed, holds)
    if key not in _CLASSES:
        _CLASSES[key] = _make_class(*key)
    return _CLASSES[key]


def _make_class(
    plain: type[nn.Module], names: tuple[str, ...], computed: tuple[str, ...], holds: bool
) -> type[nn.Module]:
    members: dict[str, Any] = {
        name: property(functools.partial(_read, name=name), functools.partial(_assign, name=name))
        for name in (*names, *computed)
    }
    members |= {
        name: property(functools.partial(_fused, name=name)) for kind, name in _FUSED.items() if issubclass(plain, kind)
    }
    if issubclass(plain, nn.RNNBase):
        members[_RNN] = property(_flat_weights, lambda layer, value: None)
    direct = _direct_of(plain)
    members |= {"_plain_class": plain, "_direct": staticmethod(direct) if direct else None, "_first": _first_of(plain)}
    members |= {"_names": names, "_computed": computed, "_holds": holds}
    middle = (_Held,) if holds else ()
    return type(f"Adapted{plain.__name__}", (AdaptedLayer, *middle, plain), members)


def _direct_of(plain: type[nn.Module]) -> Callable[..., Any] | None:
    if any(plain.forward is kind.forward for kind in _transposed_kinds()):
        return _transposed
    return _DIRECT.get(plain.forward)


def _first_of(plain: type[nn.Module]) -> str:
    """The name of what a layer is called with."""
    try:
        _, first, *_ = inspect.signature(plain.forward).parameters.values()
    except ValueError:
        return ""
    return first.name if first.kind is first.POSITIONAL_OR_KEYWORD else ""


def _read(layer: Any, name: str) -> Tensor | None:
    value = own_tensor(layer, name)
    for part in layer._parts:
        if part.weight_space and part.switch.live and value is not None:
            value = part.change(layer, name, value)
    return value


def _assign(layer: Any, value: Any, name: str) -> None:
    """What is not a parameter: the hooks of a layer set what they compute."""
    if name not in layer._computed:
        raise _fixed(layer, name)
    made = getattr(layer._plain_class, name, None)
    if not isinstance(made, property):
        layer.__dict__[name] = value
    elif made.fset is None:
        raise _fixed(layer, name)
    else:
        made.fset(layer, value)


def _fused(layer: Any, name: str) -> Any:
    return False if layer._host.unfused else layer.__dict__[name]


def _flat_weights(layer: Any) -> list[Tensor]:
    """Recurrent layers keep a list of their parameters besides."""
    return [getattr(layer, name) for name in layer._flat_weights_names]


def adapt(layer: nn.Module, host: Host) -> None:
    """Give a layer the class that asks its adapters."""
    if isinstance(layer, AdaptedLayer):
        if layer._host is not host:
            raise DataError("a part of the model already has adapters of its own: detach them first")
        return
    # A parametrized layer has a class of its own, that goes with it.
    find = _make_class if parametrize.is_parametrized(layer) else _adapted_class
    cls = find(type(layer), tuple(layer._parameters), computed_names(layer), holds_state(layer))
    layer.__dict__.update(_parts=(), _host=host)
    layer.__class__ = cls


def restore(layer: nn.Module) -> None:
    """Give a layer its own class back."""
    assert isinstance(layer, AdaptedLayer)
    layer.__class__ = layer._plain_class  # type: ignore[assignment]
    del layer.__dict__["_parts"], layer.__dict__["_host"]
    if _RNN in layer.__dict__:
        layer.__dict__[_RNN] = [layer._parameters[name] for name in layer.__dict__["_flat_weights_names"]]


def put(layer: Any, parts: Sequence[LayerAdapter]) -> None:
    """These are the layer's adapters now: submodules, so that they move, train and are found with the model."""
    layer.__dict__["_parts"] = tuple(parts)
    layer._modules.pop("_adapters", None)
    if parts:
        layer._modules["_adapters"] = nn.ModuleList(parts)


def is_bare(inner: Callable[..., Any]) -> bool:
    """Whether `inner` of `LayerAdapter.around` is the layer itself: nothing else holds its answer."""
    return getattr(inner, "__func__", None) is AdaptedLayer._bare
