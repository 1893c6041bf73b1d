"""What a function (a loss, a metric, a builder of networks) is, for the keys of stored results.

Two functions are the same if they would do the same: module, qualified name, code, defaults and what they close over;
not if they happen to lie at one address, which is what their `repr` says.
"""

from __future__ import annotations

import functools
import hashlib
import types
from collections.abc import Mapping
from typing import Any


class UnidentifiedError(TypeError):
    """Something of which nobody can say whether it is the same in another process."""


def identity_of(value: Any) -> Any:
    """Plain data that is equal for values that do the same, in every process. UnidentifiedError if that cannot be said.

    Functions, partial functions, methods, callable objects and modules by what they hold; arrays and tensors by their
    values. What a function reads from its module is not looked at.
    """
    return _identity(value, ())


def _identity(value: Any, above: tuple[int, ...]) -> Any:
    if value is None or isinstance(value, bool | int | float | str | bytes):
        return repr(value) if isinstance(value, float | bytes) else value
    if id(value) in above:
        return "itself"
    inside = (*above, id(value))
    if isinstance(value, types.CodeType):
        constants = [_identity(each, inside) for each in value.co_consts]
        return [value.co_code.hex(), constants, list(value.co_names), list(value.co_varnames), value.co_flags]
    if isinstance(value, types.FunctionType):
        return _function(value, inside)
    if isinstance(value, types.MethodType):
        return ["method", _identity(value.__func__, inside), _identity(value.__self__, inside)]
    if isinstance(value, type | types.BuiltinFunctionType | types.ModuleType):
        return [getattr(value, "__module__", "") or "", getattr(value, "__qualname__", value.__name__)]
    if isinstance(value, functools.partial):
        parts = [_identity(each, inside) for each in (value.func, value.args, value.keywords)]
        return ["partial", *parts]
    if isinstance(value, tuple | list):
        return [_identity(item, inside) for item in value]
    if isinstance(value, set | frozenset):
        return sorted((_identity(item, inside) for item in value), key=repr)
    if isinstance(value, Mapping):
        return [[_identity(key, inside), _identity(item, inside)] for key, item in value.items()]
    if hasattr(value, "detach") and hasattr(value, "cpu"):  # a tensor, without importing torch
        value = _array(value)
    if hasattr(value, "tobytes") and hasattr(value, "dtype"):
        digest = hashlib.sha256(value.tobytes()).hexdigest()
        return ["array", str(value.dtype), list(value.shape), digest]
    return _object(value, inside)


def _array(tensor: Any) -> Any:
    """A tensor as numpy has it; one of a kind of number that numpy has not, widened, which loses nothing."""
    try:
        plain = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
        try:
            return plain.numpy()
        except TypeError:
            return plain.float().numpy()
    except (RuntimeError, TypeError) as error:  # on the meta device, sparse, quantised
        raise UnidentifiedError(f"a tensor without plain values cannot be told from another: {error}") from None


def _function(value: types.FunctionType, inside: tuple[int, ...]) -> Any:
    closure = [_identity(_content(cell), inside) for cell in value.__closure__ or ()]
    kept = [value.__code__, value.__defaults__, value.__kwdefaults__]
    wrapped = getattr(value, "__wrapped__", None)
    return [value.__module__, value.__qualname__, *(_identity(each, inside) for each in kept), closure,
            _identity(wrapped, inside)]  # fmt: skip


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not yet filled: a function that refers to itself
        return "empty"


def _object(value: Any, inside: tuple[int, ...]) -> Any:
    """An object by its class and what it holds."""
    held = getattr(value, "__dict__", None)
    if held is None:
        slots = [n for cls in type(value).__mro__ for n in vars(cls).get("__slots__", ()) if not n.startswith("__")]
        held = {name: getattr(value, name) for name in slots if hasattr(value, name)} or None
    if held is None or type(value).__module__ == "builtins":
        raise UnidentifiedError(f"a {type(value).__name__} cannot be told from another")
    called = (getattr(type(value), name, None) for name in ("__call__", "forward"))  # the latter by torch's modules
    code = [_identity(each, inside) if isinstance(each, types.FunctionType) else None for each in called]
    return [_identity(type(value), inside), code, _identity(dict(held), inside)]
