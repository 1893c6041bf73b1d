"""What a function (a loss, a metric, a builder of networks) is, for the keys of stored results.

Two functions are the same if they would do the same: module, qualified name, code, defaults and what they close over;
not if they happen to lie at one address, which is what their `repr` says.
"""

from __future__ import annotations

import contextlib
import copyreg
import functools
import hashlib
import types
from collections.abc import Callable, Mapping
from typing import Any


class UnidentifiedError(TypeError):
    """Something of which nobody can say whether it is the same in another process."""


class _Walk:
    """The values that one is inside of, and what the caller says of values (`identity_of`)."""

    def __init__(self, told: Callable[[Any], Any] | None, otherwise: Callable[[Any], Any] | None) -> None:
        self.above: set[int] = set()
        self.told, self.otherwise = told, otherwise


def identity_of(
    value: Any, told: Callable[[Any], Any] | None = None, otherwise: Callable[[Any], Any] | None = None
) -> Any:
    """Plain data that is equal for values that do the same, in every process. UnidentifiedError if that cannot be said.

    Functions, partial functions, methods, callable objects and modules by what they hold; arrays and tensors by their
    values; what holds nothing that can be looked at (a dtype, a deque) by what pickle would make it of. What a function
    reads from its module is not looked at. Every value that is no number and no text is shown to `told` first, whose
    answer counts unless it is None; what cannot be told from another is what `otherwise` says of it, where it is given.
    """
    return _identity(value, _Walk(told, otherwise))


def _identity(value: Any, inside: _Walk) -> Any:
    if value is None or isinstance(value, bool | int | float | str | bytes):
        return repr(value) if isinstance(value, float | bytes) else value
    if id(value) in inside.above:
        return "itself"
    if inside.told is not None and (said := inside.told(value)) is not None:
        return said
    inside.above.add(id(value))
    try:
        return _looked_at(value, inside)
    except UnidentifiedError:
        if inside.otherwise is None:
            raise
        return inside.otherwise(value)
    finally:
        inside.above.discard(id(value))


def _looked_at(value: Any, inside: _Walk) -> Any:
    if isinstance(value, types.CodeType):
        constants = [_identity(each, inside) for each in value.co_consts]
        return [value.co_code.hex(), constants, list(value.co_names), list(value.co_varnames), value.co_flags]
    if isinstance(value, types.FunctionType):
        return _function(value, inside)
    if isinstance(value, types.MethodType):
        return ["method", _identity(value.__func__, inside), _identity(value.__self__, inside)]
    if isinstance(value, type | types.BuiltinFunctionType | types.ModuleType):
        owner = getattr(value, "__self__", None)
        method = isinstance(value, types.BuiltinFunctionType) and not isinstance(owner, type | types.ModuleType)
        if method and hasattr(owner, value.__name__):  # not what C++ keeps a function in
            return ["method", value.__name__, _identity(owner, inside)]
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


def _function(value: types.FunctionType, inside: _Walk) -> Any:
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


def _object(value: Any, inside: _Walk) -> Any:
    """An object by its class and what it holds."""
    held = getattr(value, "__dict__", None)
    if held is None:
        slots = [n for cls in type(value).__mro__ for n in vars(cls).get("__slots__", ()) if not n.startswith("__")]
        held = {name: getattr(value, name) for name in slots if hasattr(value, name)} or None
    if held is None or type(value).__module__ == "builtins":
        return _reduced(value, inside)
    called = (getattr(type(value), name, None) for name in ("__call__", "forward"))  # the latter by torch's modules
    code = [_identity(each, inside) if isinstance(each, types.FunctionType) else None for each in called]
    return [_identity(type(value), inside), code, _identity(dict(held), inside)]


def _reduced(value: Any, inside: _Walk) -> Any:
    """What a class in C hides, as pickle sees it."""
    kind = type(value)
    known: Any = copyreg.dispatch_table.get(kind)
    made: Any = None
    with contextlib.suppress(Exception):  # of a lock, a generator
        made = known(value) if known else value.__reduce_ex__(4)
    if isinstance(made, str):  # the only one of its name
        return [_identity(kind, inside), made]
    if made is None or (made[0] is copyreg.__newobj__ and not any(part is not None for part in made[2:])):  # type: ignore[attr-defined]
        raise UnidentifiedError(f"a {kind.__name__} cannot be told from another")
    parts = [list(part) if hasattr(part, "__next__") else part for part in made[1:]]
    return [_identity(kind, inside), made[0].__qualname__, _identity(parts, inside)]
