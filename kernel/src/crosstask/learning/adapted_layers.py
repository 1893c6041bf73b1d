"""Layers that adapters sit on: the machinery for adapters that work layer by layer.

An adapter is a `LayerAdapter` per adapted layer, held together by a `LayersHandle`. The layer keeps its place, its name
and its parameters; only its class changes to one that asks the adapters on it. So the base's `state_dict` keys stay,
deep copies work, and whoever reads `layer.weight` instead of calling the layer (attention does, and the fused path of
`nn.TransformerEncoderLayer`) reads the adapted weight.
"""

from __future__ import annotations

import contextlib
import fnmatch
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, cast

import attrs
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from crosstask.errors import DataError, nearest
from crosstask.points.adapter import AdapterHandle

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@attrs.define(eq=False)
class Switch:
    """Whether an adapter acts; shared by all its layers, so that switching costs the same for any model."""

    on: bool = True
    merged: bool = False
    live: bool = True
    """On and not merged: what a layer asks."""
    fusable: bool = True
    """Whether weights say it all, so that a fused kernel may read them."""

    def set(self, *, on: bool | None = None, merged: bool | None = None) -> None:
        self.on = self.on if on is None else on
        self.merged = self.merged if merged is None else merged
        self.live = self.on and not self.merged


class NotPerSampleError(DataError):
    """A layer's first dimension is not that of the samples: it cannot choose an adapter for each."""


@attrs.define(eq=False)
class Host:
    """What the adapters of one model share. Kept in the model itself, so that copies of it have their own."""

    switches: list[Switch] = attrs.field(factory=list)
    mixing: tuple[dict[Switch, int], Tensor] | None = None
    kept: dict[nn.Parameter, Tensor] = attrs.field(factory=dict)
    """The base tensors of merged weights."""
    frozen: list[nn.Parameter] = attrs.field(factory=list)
    """What was trainable before."""
    attached: int = 0
    """How many adapters are being trained or could be: all but those that have become a part of the model."""

    @property
    def unfused(self) -> bool:
        """Whether fused kernels, which know weights only, would get it wrong now."""
        return self.mixing is not None or any(s.live and not s.fusable for s in self.switches)


class LayerAdapter(nn.Module):
    """What an adapter does at one layer. Give `around`, or `change`, or both.

    With `weight_space` the adapter is a change of the layer's parameters: `change` says of which, and it can be merged.
    `around`, if also given, must do the same at a call of the layer, and is used where that is possible. Without
    `weight_space`, `around` says it all.
    """

    weight_space: ClassVar[bool] = False
    additive: ClassVar[bool] = False
    """Whether `change` adds something that does not depend on the value: such adapters merge in any order."""
    replaces: ClassVar[bool] = False
    """Whether it puts values in place of the layer's own: it then acts before those that change them."""
    joint: ClassVar[bool] = False
    """Whether `jointly` is given instead of `around`: the adapters of this kind on a layer act as one, innermost."""
    plainly: ClassVar[bool] = False
    """Whether `around` is given and says it all."""
    switch: Switch

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.plainly = cls.around is not LayerAdapter.around and not cls.joint

    def change(self, layer: nn.Module, name: str, value: Tensor) -> Tensor:
        """The adapted value of the layer's parameter `name`; `value` itself where nothing changes."""
        return value

    def around(self, layer: nn.Module, inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The layer's answer to these arguments, where `inner(*args, **kwargs)` is the answer without this adapter."""
        return inner(*args, **kwargs)

    @classmethod
    def jointly(
        cls, parts: Sequence[Any], layer: nn.Module, inner: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        """As `around`, for all these adapters of one kind at once."""
        raise NotImplementedError(f"{cls.__name__} has `joint` but no `jointly`")

    @classmethod
    def mixed(cls, parts: Sequence[Any], choice: Tensor, inner: Callable[..., Any], x: Tensor) -> Tensor | None:
        """The layer's answer to x [N, ...] with `parts[choice[i]]` for sample i, without any where choice [N] is -1:
        all at once. None if this can only be done one adapter after the other.
        """
        return None


class AdaptedLayer:
    """Mixed into the class of an adapted layer."""

    _parts: tuple[LayerAdapter, ...]
    _host: Host
    _parameters: dict[str, nn.Parameter | None]
    _plain_class: ClassVar[type[nn.Module]]
    _direct: ClassVar[Callable[..., Any] | None]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
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


def _adapt(layer: nn.Module, host: Host) -> None:
    """Give a layer the class that asks its adapters."""
    if isinstance(layer, AdaptedLayer):
        if layer._host is not host:
            raise DataError("a part of the model already has adapters of its own: detach them first")
        return
    layer.__dict__.update(_parts=(), _host=host)
    layer.__class__ = _adapted_class(type(layer), tuple(layer._parameters))


def _restore(layer: nn.Module) -> None:
    assert isinstance(layer, AdaptedLayer)
    layer.__class__ = layer._plain_class  # type: ignore[assignment]
    del layer.__dict__["_parts"], layer.__dict__["_host"]


def _put(layer: Any, parts: Sequence[LayerAdapter]) -> None:
    """These are the layer's adapters now: submodules, so that they move, train and are found with the model."""
    layer.__dict__["_parts"] = tuple(parts)
    layer._modules.pop("_adapters", None)
    if parts:
        layer._modules["_adapters"] = nn.ModuleList(parts)


def adapter_parts(model: nn.Module) -> set[int]:
    """Identities of the modules that belong to adapters of a model."""
    layers = [m for m in model.modules() if isinstance(m, AdaptedLayer)]
    return {id(inside) for layer in layers for part in layer._parts for inside in part.modules()} | {
        id(layer._modules["_adapters"]) for layer in layers if "_adapters" in layer._modules
    }


def base_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """(name, module) of everything in a model that belongs to no adapter."""
    inside = adapter_parts(model)
    return ((name, module) for name, module in model.named_modules() if id(module) not in inside)


def base_state(model: nn.Module) -> dict[str, Tensor]:
    """The weights and buffers of a model as they are without any adapter, merged ones included."""
    host = model.__dict__.get("_adapter_host", Host())
    found: dict[str, Tensor] = {}
    for name, module in base_modules(model):
        own: dict[str, Any] = {n: p for n, p in module._parameters.items() if p is not None}
        own |= {
            n: b for n, b in module._buffers.items() if b is not None and n not in module._non_persistent_buffers_set
        }
        for key, tensor in own.items():
            value = host.kept[tensor] if isinstance(tensor, nn.Parameter) and tensor in host.kept else tensor
            found[f"{name}.{key}" if name else key] = value.detach()
    return found


def match_targets(
    model: nn.Module,
    targets: Sequence[str],
    fits: Callable[[str, nn.Module], bool],
    what: str,
    choose: Callable[[list[str]], list[str]] = list,
) -> list[str]:
    """Names of the modules that `targets` mean (see `Adapter.attach`) and that `fits` accepts, in the model's order.

    Without targets, `choose` picks among all that fit. DataError if nothing is left, or a target matches nothing;
    `what` says in it what could be adapted.
    """
    modules = {name: module for name, module in base_modules(model) if name}
    fit = [name for name, module in modules.items() if fits(name, module)]
    wanted = [t for t in targets if not t.startswith("!")]
    out = [t[1:] for t in targets if t.startswith("!")]
    matched = {
        target: [name for name in modules if _matches(target, name, target in modules)] for target in wanted + out
    }
    for target, names in matched.items():
        if not names:
            raise DataError(f"target {target!r} matches no module of {type(model).__name__}{nearest(target, fit)}")
        if target in wanted and not set(names) & set(fit):
            kind = type(modules[names[0]]).__name__
            raise DataError(f"target {target!r} is a {kind}; this adapter works on {what}{nearest(target, fit)}")
    taken = {name for target in wanted for name in matched[target]}
    left = {name for target in out for name in matched[target]}
    chosen = [name for name in (fit if wanted else choose(fit)) if name not in left and (not wanted or name in taken)]
    if not chosen:
        outside = f" outside {', '.join(out[:4])}" if out else ""
        raise DataError(f"{type(model).__name__} has no {what}{outside} to adapt{nearest('', fit)}")
    return chosen


def _matches(target: str, name: str, exact: bool) -> bool:
    """Whether a target means a module. The whole name of one is exact: it does not mean others that end like it."""
    if name == target or name.startswith(f"{target}."):
        return True
    return not exact and (f".{target}." in f".{name}." or ("*" in target and fnmatch.fnmatchcase(name, target)))


def draw(shape: Sequence[int], bound: float, like: Tensor, generator: torch.Generator) -> nn.Parameter:
    """A parameter with entries uniform in [-bound, bound], on the device and in the dtype of `like`."""
    value = torch.empty(*shape).uniform_(-bound, bound, generator=generator)  # drawn the same for any device
    return nn.Parameter(value.to(like.device, like.dtype))


def is_bare(inner: Callable[..., Any]) -> bool:
    """Whether `inner` of `LayerAdapter.around` is the layer itself: nothing else holds its answer."""
    return getattr(inner, "__func__", None) is AdaptedLayer._bare


def is_floating(module: nn.Module) -> bool:
    """Whether a layer's own parameters are floating-point numbers, which can be adapted."""
    return all(p.is_floating_point() for p in module.parameters(recurse=False))


class LayersHandle(AdapterHandle):
    """An adapter made of one `LayerAdapter` per adapted layer, by the layer's name.

    The same object may stand under several names: the places where a tied weight is used. DataError on `merge` if an
    adapter changes a weight that is tied to a layer without it.
    """

    def __init__(self, model: nn.Module, parts: Mapping[str, LayerAdapter]) -> None:
        self.model, self.parts = model, dict(parts)
        self.switch = Switch(fusable=all(part.weight_space for part in parts.values()))
        host: Host = model.__dict__.setdefault("_adapter_host", Host())
        self._host = host
        own = [(name, m) for name, m in base_modules(model)]
        for module in (m for _, m in own if isinstance(m, (_BatchNorm, *_FUSED))):
            _adapt(module, host)
        for _, module in own:
            for p in module.parameters(recurse=False):
                if p.requires_grad:
                    host.frozen.append(p)
                    p.requires_grad_(False)
        for name, part in self.parts.items():
            part.switch = self.switch
            part.train(model.training)
            layer: Any = model.get_submodule(name)
            _adapt(layer, host)
            _put(layer, sorted((*layer._parts, part), key=lambda p: not p.replaces))
        host.switches.append(self.switch)
        host.attached += 1

    def named_parameters(self) -> dict[str, nn.Parameter]:
        """What is trained, by layer and name, what is shared once."""
        found: dict[int, tuple[str, nn.Parameter]] = {}
        for where, part in self.parts.items():
            for name, parameter in part.named_parameters():
                found.setdefault(id(parameter), (f"{where}.{name}", parameter))
        return dict(found.values())

    def parameters(self) -> list[nn.Parameter]:
        return list(self.named_parameters().values())

    def enable(self) -> None:
        self.switch.set(on=True)

    def disable(self) -> None:
        if self.switch.merged:
            self.unmerge()
        self.switch.set(on=False)

    def state(self) -> dict[str, Tensor]:
        return {name: p.detach() for name, p in self.named_parameters().items()}

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Tensor]) -> None:
        own = self.named_parameters()
        check_names(own, state, "the adapter")
        for name, parameter in own.items():
            parameter.copy_(state[name])
        if self.switch.merged:
            self._write()

    def merge(self) -> None:
        fixed = next((name for name, part in self.parts.items() if not part.weight_space), None)
        if fixed is not None:
            kind = type(self.parts[fixed]).__name__
            raise DataError(f"a {kind} is no change of the weights of {fixed!r}: it cannot be merged")
        self._refuse_ties()
        for name, part in self.parts.items():
            for other in self.model.get_submodule(name)._parts:  # type: ignore[union-attr]
                if other is part:
                    break
                if other.switch.live and not (part.additive and other.additive):
                    raise DataError(f"the other adapter on {name!r} acts before this one: merge that first")
        self.switch.set(merged=True, on=True)
        self._write()

    def unmerge(self) -> None:
        self.switch.set(merged=False)
        self._write()

    def absorb(self) -> None:
        if all(part.weight_space for part in self.parts.values()):
            self.merge()
            for layer in self._layers():
                for p in layer._parameters.values():
                    if p is not None:
                        self._host.kept.pop(p, None)
            self._remove()
            return
        self._close()

    def detach(self) -> None:
        self.unmerge()
        self._remove()

    def without_gradient(self) -> list[str]:
        silent = []
        for name, part in self.parts.items():
            if not any(p.grad is not None and bool(p.grad.any()) for p in part.parameters()):
                silent.append(name)
        return silent

    def mix(self, handles: Sequence[AdapterHandle], choice: Tensor) -> contextlib.AbstractContextManager[None] | None:
        ours = [h for h in handles if isinstance(h, LayersHandle) and h._host is self._host and not h.switch.merged]
        if len(ours) < len(handles) or any(getattr(m, "batch_first", True) is False for m in self.model.modules()):
            return None
        for layer, part in (place for h in ours for place in h._places()):
            if part.weight_space and (layer._direct is None or type(part).around is LayerAdapter.around):
                return None
        if not all(called(h.model, name) for h in ours for name in h.parts):
            return None
        return _mixing(self._host, {h.switch: k for k, h in enumerate(ours)}, choice)

    def _layers(self) -> list[Any]:
        return [self.model.get_submodule(name) for name in self.parts]

    def _places(self) -> list[tuple[Any, LayerAdapter]]:
        return list(zip(self._layers(), self.parts.values(), strict=True))

    def _refuse_ties(self) -> None:
        changed: dict[nn.Parameter, str] = {}
        for name, (layer, part) in zip(self.parts, self._places(), strict=True):
            for key, p in layer._parameters.items():
                if p is not None and part.change(layer, key, p) is not p:
                    changed[p] = name
        for where, module in base_modules(self.model):
            for p in module._parameters.values():
                if p is not None and p in changed and where not in self.parts:
                    raise DataError(
                        f"the weight of {changed[p]!r} is also that of {where!r}, which the adapter leaves alone: "
                        "merging would change both; adapt both or neither"
                    )

    @torch.no_grad()
    def _write(self) -> None:
        """Put into the weights what is merged, always from the base tensors."""
        kept, done = self._host.kept, set()
        for layer in self._layers():
            for name, p in layer._parameters.items():
                if p is None or p in done:
                    continue
                done.add(p)
                base = kept.get(p, p.data)
                value = base
                for part in layer._parts:
                    if part.weight_space and part.switch.merged:
                        mode = part.training
                        part.eval()
                        value = part.change(layer, name, value)
                        part.train(mode)
                if value is not base:
                    kept[p] = base
                    p.data = value.detach()
                elif p in kept:
                    p.data = kept.pop(p).to(p.device, p.dtype)

    def _remove(self) -> None:
        host = self._host
        if self.switch not in host.switches:
            return
        host.switches.remove(self.switch)
        self._close()
        for layer, part in self._places():
            _put(layer, [p for p in layer._parts if p is not part])
            if not layer._parts and not isinstance(layer, (_BatchNorm, *_FUSED)):
                _restore(layer)
        if not host.switches:
            for _, module in base_modules(self.model):
                if isinstance(module, AdaptedLayer):
                    _restore(module)
            self.model.__dict__.pop("_adapter_host", None)

    def _close(self) -> None:
        """The base is trainable again once no adapter is being trained."""
        self._host.attached -= 1
        if not self._host.attached:
            for p in self._host.frozen:
                p.requires_grad_(True)
            self._host.frozen.clear()


def check_names(own: Mapping[str, Tensor], given: Mapping[str, Tensor], what: str) -> None:
    """DataError unless both have the same names and shapes."""
    if missing := sorted(set(own) - set(given)):
        raise DataError(f"{what} needs tensors that are not there: {', '.join(missing[:4])}{_more(missing)}")
    if extra := sorted(set(given) - set(own)):
        raise DataError(
            f"{what} has no place for tensor {extra[0]!r}{_more(extra[:1] + extra)}{nearest(extra[0], own)}"
        )
    for name, tensor in own.items():
        if given[name].shape != tensor.shape:
            raise DataError(f"{what}: {name!r} has shape {tuple(given[name].shape)}, expected {tuple(tensor.shape)}")


def _more(names: Sequence[str]) -> str:
    return f" and {len(names) - 4} more" if len(names) > 4 else ""


def called(model: nn.Module, name: str) -> bool:
    """Whether a layer is called in the forward pass, as far as can be known: attention only reads its `out_proj`."""
    parent, _, child = name.rpartition(".")
    return child != "out_proj" or not isinstance(model.get_submodule(parent), nn.MultiheadAttention)


@contextlib.contextmanager
def _mixing(host: Host, index: dict[Switch, int], choice: Tensor) -> Iterator[None]:
    before = host.mixing
    host.mixing = ({**(before[0] if before else {}), **index}, choice)
    try:
        yield
    finally:
        host.mixing = before
