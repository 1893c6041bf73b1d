"""The layers of a model as text: what models have in common that can be compared, and be trained together."""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import re
import types
import weakref
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from crosstask.errors import DataError
from crosstask.identity import identity_of
from crosstask.learning.modules import head_of
from crosstask.learning.side_effects import CALLED, foreign


def architecture(model: nn.Module) -> str:
    """The layers of a model as text, without its head: what scratch and transfer have in common. It is the same for a
    copy, for a model made in another process, and whatever the weights are.

    Every layer counts with its class, the shapes of its parameters and all that it holds besides weights (options,
    functions, tensors that are not saved with a model); classes that are not torch's with their code. Of a weight or a
    layer that stands at several places it is said which one it is. Attributes that change with use and change
    nothing (a cache, a counter) are left out where a class names them in `_crosstask_aside`.
    """
    try:
        return _Reading(head_of(model)).of(model)
    except (DataError, RuntimeError):  # nobody knows its head, or it is torch.jit's: all of it is looked at
        return layers(model)


def layers(module: nn.Module, resized: nn.Module | None = None) -> str:
    """What `architecture` says, of all of a module: of a head, say. Of the layer `resized` in it, without how many
    outputs it has.
    """
    return _Reading(resized=resized).of(module)


def value_text(value: Any) -> str:
    """Any value as text that is the same for values that do the same, in every process; of what nobody can tell apart,
    the class.
    """
    return _Reading()._identity(value)


class _Reading:
    """How a model is put into words; what belongs to its head is left out.

    `known` says what modules, parameters and buffers are called that something may refer to. With `values`, tensors
    count with their values: a module that is held by a model without being one of its own is never trained with it.
    """

    def __init__(
        self,
        head: nn.Module | None = None,
        known: Mapping[int, str] | None = None,
        *,
        values: bool = False,
        resized: nn.Module | None = None,
    ) -> None:
        self.left = {id(module) for module in head.modules()} if head is not None else set[int]()
        self.loose = {id(p) for p in head.parameters()} if head is not None else set[int]()
        self.known = dict(known or {})
        self.values, self.open = values, resized
        self.lines: list[str] = []
        self.modules: list[tuple[str, nn.Module]] = []
        self.classes: dict[type, str] = {}

    def of(self, model: nn.Module) -> str:
        self._enter("", model)
        for name, module in self.modules:
            self._read(name, module)
        return "\n".join(self.lines)

    def _enter(self, name: str, module: nn.Module) -> None:
        """Give names to all that a module has, and note what stands at a second place."""
        self.known[id(module)] = name
        out = id(module) in self.left
        if not out:
            self.modules.append((name, module))
        for kind in (module._parameters, module._buffers):
            for key, tensor in kind.items():
                if tensor is not None:
                    whole = f"{name}.{key}"
                    first = self.known.setdefault(id(tensor), whole)
                    if first is not whole and not out:
                        self.lines.append(f"{whole} is {first}")
        for key, child in module._modules.items():
            if child is None:
                continue
            whole = f"{name}.{key}"
            if id(child) not in self.known:
                self._enter(whole, child)
            elif not out:
                self.lines.append(f"{whole} is {self.known[id(child)]}")

    def _read(self, name: str, module: nn.Module) -> None:
        kind = type(module)
        said = [f"{name}:{kind.__qualname__}"]
        own = {key: p for key, p in module._parameters.items() if p is not None and id(p) not in self.loose}
        if own and module is self.open:
            said.append(" ".join(f"{key} {p.dtype}" for key, p in own.items()))
        elif own:
            said.append(" ".join(f"{key}{shape_text(p)}{_numbers(p)}" for key, p in own.items()))
        if kind.__module__.startswith(WRITTEN):  # torch.jit, torch.fx: the class is made for this model alone
            said.append(self._written(module))
        elif not kind.__module__.startswith("torch._dynamo."):  # torch.compile adds nothing but speed
            if foreign(module):
                said.append(self._code(kind))
            said += self._held(module)
        for hooks in (getattr(module, name) for name in CALLED):
            said += [_called(hook) for hook in hooks.values()]
        for key, buffer in module._buffers.items():
            if buffer is not None and (self.values or key in module._non_persistent_buffers_set):
                said.append(f"{key} {tensor_text(buffer)}")
        if self.values:
            said += [f"{k} {tensor_text(p)}" for k, p in module._parameters.items() if p is not None]
        self.lines.append(" ".join(filter(None, said)))

    def _written(self, module: Any) -> str:
        """Of a module that was made from others: its code, and the constants and attributes that stand in it."""
        code, constants = getattr(module, "code_with_constants", None) or (getattr(module, "code", ""), None)
        read = {name: getattr(module, name, None) for name in sorted(set(re.findall(r"\.(\w+)", code)) - {"training"})}
        held = {name: value for name, value in read.items() if isinstance(value, bool | int | float | str | Tensor)}
        return self._identity([code, dict(getattr(constants, "const_mapping", {})), held])

    def _held(self, module: nn.Module) -> Iterator[str]:
        """What a module holds besides weights and other modules: numbers, functions, options."""
        own = vars(module)
        out = _OF_EVERY | _OUTPUTS if module is self.open else _OF_EVERY
        if hasattr(type(module), "_crosstask_aside"):
            out = out.union(*(vars(base).get("_crosstask_aside", ()) for base in type(module).__mro__))
        for name in sorted(own.keys() - out):
            value = own[name]
            if type(value) in _SIMPLE or (type(value) is tuple and all(type(each) in _SIMPLE for each in value)):
                yield f"{name}={value!r}"
            elif isinstance(value, Tensor) and any(f"{name}{end}" in module._parameters for end in ("_orig", "_g")):
                continue  # made of weights before every pass: by old normalisations of weights, by pruning
            else:
                yield f"{name}={self._identity(value)}"

    def _identity(self, value: Any) -> str:
        try:
            return _short(json.dumps(identity_of(value, self._told, _kind)))
        except Exception:  # of the user's own class, or too deep
            return _kind(value)

    def _told(self, value: Any) -> Any:
        """What is known better of a value than by all that it holds."""
        if (name := self.known.get(id(value))) is not None:
            return f"its own {name}"
        if isinstance(value, Tensor):
            return tensor_text(value)
        if isinstance(value, nn.Module):
            return _Reading(known=self.known, values=True).of(value)
        if isinstance(value, torch.Generator):
            return f"drawn from {value.initial_seed()}"
        if isinstance(value, RemovableHandle):
            return "a handle"
        if hasattr(value, "to_json_string") and not isinstance(value, type):  # a config of transformers
            self.known[id(value)] = f"config {_digest(value.to_json_string())}"
            return f"its own {self.known[id(value)]}"
        return None

    def _code(self, cls: Any) -> str:
        """Of a class and of those that it is made from, as far as they are nobody else's: the code and what they hold.

        What they hold may be set later on; the code of a function stays.
        """
        if cls not in self.classes:
            said = []
            for base in cls.__mro__:
                if base.__module__.split(".")[0] in ("torch", "transformers", "builtins", "crosstask"):
                    continue
                for name, value in vars(base).items():
                    if (name.startswith("__") and not inspect.isfunction(value)) or name == "_crosstask_aside":
                        continue
                    said += [f"{name}={self._member(each)}" for each in _functions(value)]
            self.classes[cls] = _digest("\n".join(said)) if said else ""
        return self.classes[cls]

    def _member(self, value: Any) -> str:
        if not inspect.isfunction(value):
            return self._identity(value)
        if value not in _CODES:
            _CODES[value] = value_text(value)
        return _CODES[value]


WRITTEN = ("torch.jit.", "torch.fx.")
_SIMPLE = frozenset({bool, int, float, str, type(None)})
_OF_EVERY = frozenset(vars(nn.Module())) | {
    "training", "_crosstask_origin", "_is_torch_compile", "_compiled_call_impl", "_flat_weight_refs",
    "_is_hf_initialized", "_compile_kwargs",
}  # fmt: skip
_OUTPUTS = frozenset({"out_features", "out_channels", "nf"})
_CODES: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()


def _functions(value: Any) -> list[Any]:
    """What a member of a class is made of."""
    if isinstance(value, staticmethod | classmethod):
        return [value.__func__]
    if isinstance(value, property):
        return [each for each in (value.fget, value.fset) if each is not None]
    return [value.func] if isinstance(value, functools.cached_property) else [value]


def _called(hook: Any) -> str:
    """A hook by its code and the numbers and words it was made with: what else it holds is mostly what it has seen.
    Those of crosstask come and go.
    """
    while isinstance(hook, functools.partial):
        hook = hook.func
    function = inspect.unwrap(getattr(hook, "__func__", hook))
    code = getattr(function, "__code__", None)
    whose = type(hook) if code is None else function
    if str(whose.__module__).startswith("crosstask"):
        return ""
    filled = [cell for cell in getattr(function, "__closure__", None) or () if cell != types.CellType()]
    cells = [cell.cell_contents for cell in filled]
    held = [each for each in (*cells, *(getattr(function, "__defaults__", None) or ())) if type(each) in _SIMPLE]
    return f"hook {whose.__module__}.{whose.__qualname__} {_short(json.dumps(identity_of([code, held])))}"


def _kind(value: Any) -> str:
    """What stands for something of which nobody can say more."""
    return value.__qualname__ if inspect.isroutine(value) or isinstance(value, type) else type(value).__qualname__


def _numbers(tensor: Tensor) -> str:
    return "" if tensor.dtype is torch.float32 else str(tensor.dtype)


def _short(text: str) -> str:
    return text if len(text) < 64 else _digest(text)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


# Tensors --------------------------------------------------------------------------------------------------------------


def tensor_text(tensor: Tensor) -> str:
    """The type, the shape and a digest of the values of any tensor: dense, sparse, quantised, conjugate or without
    values (on the meta device).
    """
    digest = hashlib.sha256()
    for part in tensor_bytes(tensor):
        digest.update(part)
    return f"{tensor.dtype} {shape_text(tensor)} {digest.hexdigest()}"


def shape_text(tensor: Tensor) -> str:
    """The shape of any tensor; of one that has none yet, or several, the class."""
    try:
        return str(tuple(tensor.shape))
    except RuntimeError:  # lazy, nested
        return type(tensor).__qualname__


def tensor_bytes(tensor: Tensor) -> Iterator[Any]:
    """The values of a tensor, as buffers of bytes; those of which nobody can say them, by their class."""
    try:
        yield from _plain(tensor.detach())
    except (RuntimeError, NotImplementedError, TypeError, ValueError):  # of a kind that somebody else has made
        yield type(tensor).__qualname__.encode()


def _plain(tensor: Tensor) -> Iterator[Any]:
    if tensor.is_meta:
        return
    if tensor.is_nested:
        parts = list(tensor.unbind())
        yield str([tuple(part.shape) for part in parts]).encode()
    elif tensor.layout is torch.sparse_coo:
        whole = tensor.coalesce()
        parts = [whole.indices(), whole.values()]
    elif tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        parts = [tensor.crow_indices(), tensor.col_indices(), tensor.values()]
    elif tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        parts = [tensor.ccol_indices(), tensor.row_indices(), tensor.values()]
    elif tensor.is_quantized:
        each = tensor.qscheme() in (torch.per_tensor_affine, torch.per_tensor_symmetric)
        yield str(tensor.qscheme()).encode()
        if each:
            yield f"{tensor.q_scale()!r} {tensor.q_zero_point()!r}".encode()
        else:
            yield str(tensor.q_per_channel_axis()).encode()
        scales = [] if each else [tensor.q_per_channel_scales(), tensor.q_per_channel_zero_points()]
        parts = [*scales, tensor.int_repr()]
    else:
        dense = tensor if tensor.layout is torch.strided else tensor.to_dense()
        plain = dense.cpu().resolve_conj().resolve_neg().contiguous().reshape(-1)
        if plain.numel():
            yield plain.view(torch.uint8).numpy()
        return
    yield str(tensor.layout).encode()
    for part in parts:
        yield from _plain(part)
