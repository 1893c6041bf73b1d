"""Layers that adapters sit on.

The layer keeps its place, its name and its parameters; only its class changes to one that asks the adapters on it. So
the base's `state_dict` keys stay, deep copies work, and whoever reads `layer.weight` instead of calling the layer
(attention does, and the fused path of `nn.TransformerEncoderLayer`) reads the adapted weight.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from crosstask.errors import DataError
from crosstask_adapters.layer_adapter import LayerAdapter
from crosstask_adapters.switches import Host, NotPerSampleError

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""Layers whose weights are [out, in / groups, *kernel]."""


class AdaptedLayer:
    """Mixed into the class of an adapted layer."""

    _parts: tuple[LayerAdapter, ...]
    _host: Host
    _parameters: dict[str, nn.Parameter | None]
    _plain_class: ClassVar[type[nn.Module]]
    _direct: ClassVar[Callable[..., Any] | None]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The layer's answer with its live adapters."""
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
            return self._direct(self, self._parameters, *args, **kwargs)
        return super().forward(*args, **kwargs)  # type: ignore[misc]

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
        names = tuple(name for name, value in vars(type(self)).items() if isinstance(value, property))
        return _rebuild, (self._plain_class, names), self.__dict__


def _rebuild(plain: type[nn.Module], names: tuple[str, ...]) -> nn.Module:
    cls = _adapted_class(plain, tuple(n for n in names if n not in _FUSED.values()))
    return cls.__new__(cls)


class _HeldStatistics:
    """Mixed into BatchNorm under adapters: its running statistics are the base's, and training keeps them."""

    def forward(self: Any, x: Tensor) -> Tensor:
        if not self.training or self.running_mean is None or not self._host.attached:
            return super().forward(x)  # type: ignore[misc,no-any-return]
        self._check_input_dim(x)
        return functional.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
        )


def _linear(layer: Any, own: dict[str, Tensor | None], x: Tensor) -> Tensor:
    return functional.linear(x, own["weight"], own["bias"])  # type: ignore[arg-type]


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

ADAPTED_WITH_ANY = (_BatchNorm, *_FUSED)
"""Layers that must know of every adapter on their model: they keep statistics, or read weights of others."""

_CLASSES: dict[tuple[type[nn.Module], tuple[str, ...]], type[nn.Module]] = {}


def _adapted_class(plain: type[nn.Module], names: tuple[str, ...]) -> type[nn.Module]:
    """The class of a layer of class `plain` under adapters, whose parameters have these names."""
    if (plain, names) not in _CLASSES:
        _CLASSES[plain, names] = _make_class(plain, names)
    return _CLASSES[plain, names]


def _make_class(plain: type[nn.Module], names: tuple[str, ...]) -> type[nn.Module]:
    members: dict[str, Any] = {name: property(functools.partial(_read, name=name)) for name in names}
    members |= {
        name: property(functools.partial(_fused, name=name)) for kind, name in _FUSED.items() if issubclass(plain, kind)
    }
    direct = _DIRECT.get(plain.forward)
    members |= {"_plain_class": plain, "_direct": staticmethod(direct) if direct else None}
    middle = (_HeldStatistics,) if issubclass(plain, _BatchNorm) else ()
    return type(f"Adapted{plain.__name__}", (AdaptedLayer, *middle, plain), members)


def _read(layer: Any, name: str) -> Tensor | None:
    value = layer._parameters[name]
    for part in layer._parts:
        if part.weight_space and part.switch.live and value is not None:
            value = part.change(layer, name, value)
    return value  # type: ignore[no-any-return]


def _fused(layer: Any, name: str) -> Any:
    return False if layer._host.unfused else layer.__dict__[name]


def adapt(layer: nn.Module, host: Host) -> None:
    """Give a layer the class that asks its adapters."""
    if isinstance(layer, AdaptedLayer):
        if layer._host is not host:
            raise DataError("a part of the model already has adapters of its own: detach them first")
        return
    layer.__dict__.update(_parts=(), _host=host)
    layer.__class__ = _adapted_class(type(layer), tuple(layer._parameters))


def restore(layer: nn.Module) -> None:
    """Give a layer its own class back."""
    assert isinstance(layer, AdaptedLayer)
    layer.__class__ = layer._plain_class  # type: ignore[assignment]
    del layer.__dict__["_parts"], layer.__dict__["_host"]


def put(layer: Any, parts: Sequence[LayerAdapter]) -> None:
    """These are the layer's adapters now: submodules, so that they move, train and are found with the model."""
    layer.__dict__["_parts"] = tuple(parts)
    layer._modules.pop("_adapters", None)
    if parts:
        layer._modules["_adapters"] = nn.ModuleList(parts)


def is_bare(inner: Callable[..., Any]) -> bool:
    """Whether `inner` of `LayerAdapter.around` is the layer itself: nothing else holds its answer."""
    return getattr(inner, "__func__", None) is AdaptedLayer._bare
