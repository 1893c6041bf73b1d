"""Typed, validated attrs classes from what a user writes: keyword arguments, a dict from TOML, JSON read back.

`component` and `record` are the two decorators: both convert and check every field by its annotation, so that
`RGB(mu="x")`, `{mu = "x"}` in a recipe and a hand-edited JSON file give the same clear `OptionError`.
"""

from __future__ import annotations

import datetime
import enum
import functools
import math
import sys
import types
import typing
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, dataclass_transform, get_args, get_origin

import attrs

from crosstask.errors import OptionError, nearest

T = TypeVar("T")
Bounds = Callable[[Any, "attrs.Attribute[Any]", Any], None]


def option(
    default: Any = attrs.NOTHING,
    *,
    help: str,
    factory: Callable[[], Any] | None = None,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
    choices: Sequence[object] | None = None,
    aliases: Sequence[str] = (),
) -> Any:
    """An attrs field that is an option: documented, and checked against its bounds (None passes every bound).

    `aliases` are names that it had before: recipes and stored options that use one are read, with a FutureWarning.
    """
    limits = {">=": ge, ">": gt, "<=": le, "<": lt}
    rules = " and ".join(f"{sign} {limit:g}" for sign, limit in limits.items() if limit is not None)

    def check(instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        where = f"{type(instance).__name__}: {attribute.name}"
        if choices is not None and value not in choices:
            raise OptionError(f"{where} cannot be {value!r}{nearest(value, map(str, choices))}")
        items = value.values() if isinstance(value, Mapping) else value
        for number in items if isinstance(value, tuple | list | Mapping) else (value,):
            if number is None or isinstance(number, str) or not rules:
                continue
            inside = (
                (ge is None or number >= ge)
                and (gt is None or number > gt)
                and (le is None or number <= le)
                and (lt is None or number < lt)
            )
            if not inside or number != number:  # not `isnan`: an integer may be too large for it
                raise OptionError(f"{where} must be {rules}, got {_shown(value)}")

    metadata = {"help": help, "bounds": rules, "choices": choices, "aliases": tuple(aliases)}
    if factory is not None:
        return attrs.field(factory=factory, validator=check, metadata=metadata)
    return attrs.field(default=default, validator=check, metadata=metadata)


def state(default: Any = None, *, factory: Callable[[], Any] | None = None) -> Any:
    """An attrs field that is not an option: what a component remembers between calls."""
    if factory is not None:
        return attrs.field(factory=factory, init=False, repr=False, metadata={"state": True})
    return attrs.field(default=default, init=False, repr=False, metadata={"state": True})


def _typed(cls: type, fields: list[attrs.Attribute[Any]]) -> list[attrs.Attribute[Any]]:
    """attrs field transformer: each init field is converted and checked by its annotation."""

    def convert(value: Any, instance: Any, field: attrs.Attribute[Any]) -> Any:
        cls: type = type(instance)
        if type(value) in _as_they_are(cls)[field.name]:
            return value
        return structure(value, hints(cls)[field.name], f"{cls.__name__}: {field.name}")

    checked = attrs.Converter(convert, takes_self=True, takes_field=True)
    return [f.evolve(converter=checked) if f.init and f.converter is None else f for f in fields]


@dataclass_transform(kw_only_default=True, field_specifiers=(option, state, attrs.field))
def component(cls: type[T]) -> type[T]:
    """Make a contract's implementation an attrs class whose fields are its options (keyword-only, checked)."""
    return attrs.define(cls, slots=False, eq=False, kw_only=True, field_transformer=_typed)


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(option, attrs.field))
def record(cls: type[T]) -> type[T]:
    """An immutable, checked value with a JSON round trip (`structure`, `unstructure`)."""
    return attrs.frozen(cls, slots=False, kw_only=True, field_transformer=_typed)


@functools.cache
def hints(cls: type) -> dict[str, Any]:
    """Resolved annotations of a class's options, computed once. Types that only type checkers import go unchecked."""
    found: dict[str, Any] = {}
    for field in attrs.fields(cls):
        owner = next((c for c in cls.__mro__ if field.name in vars(c).get("__annotations__", ())), cls)
        annotation = field.type
        if isinstance(annotation, str):
            try:
                annotation = eval(annotation, vars(sys.modules[owner.__module__]), dict(vars(owner)))  # noqa: S307 -- source text, not input
            except NameError:
                annotation = Any
        found[field.name] = annotation
    return found


@functools.cache
def _as_they_are(cls: type) -> dict[str, frozenset[type]]:
    """By option, the types of which every value is right as it is, so that a record of many options is made quickly."""
    found = {}
    for name, kind in hints(cls).items():
        members = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
        found[name] = frozenset(m for m in members if m in _SCALARS or m is type(None) or _is_enum(m))
    return found


def _is_enum(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, enum.Enum)


def build(cls: type[T], options: Mapping[str, Any] | None, where: str) -> T:
    """`cls(**options)`; unknown and missing keys are refused with what would be right. `where` starts the message."""
    known, before, required = _known(cls)  # type: ignore[arg-type]
    given = {known.get(key, key): value for key, value in (options or {}).items()}
    for key in list(given):
        if key not in known and before.get(key, key) not in {key, *given}:
            warnings.warn(f"{where}: option {key!r} is now called {before[key]!r}", FutureWarning, stacklevel=2)
            given[before[key]] = given.pop(key)
    for key in given:
        if key not in known:
            raise OptionError(f"{where}: unknown option {key!r}{nearest(key, known)}")
    if missing := [name for name in required if name not in given]:
        raise OptionError(f"{where}: missing option {', '.join(map(repr, missing))}")
    try:
        return cls(**given)
    except OptionError as error:
        raise type(error)(f"{where}: {str(error).removeprefix(f'{cls.__name__}: ')}") from None


@functools.cache
def _known(cls: type) -> tuple[dict[str, str], dict[str, str], tuple[str, ...]]:
    """The options of a class, their former names (former: now), and those without a default.

    The names as the class has them: Python finds an argument much quicker by the very object than by an equal one.
    """
    fields = [f for f in attrs.fields(cls) if f.init]
    before = {alias: f.name for f in fields for alias in f.metadata.get("aliases", ())}
    return {f.name: f.name for f in fields}, before, tuple(f.name for f in fields if f.default is attrs.NOTHING)


def describe(cls: type) -> list[dict[str, Any]]:
    """The options of a component or record: name, type, default, bounds, help."""
    if not attrs.has(cls):
        return []
    found = []
    for f in attrs.fields(cls):
        if f.init:
            default: Any = "required" if f.default is attrs.NOTHING else f.default
            if hasattr(default, "takes_self"):  # an attrs.Factory
                default = "computed" if default.takes_self else unstructure(default.factory())
            single = not isinstance(f.type, str) and not get_args(f.type)  # `tuple[str, ...]` calls itself `tuple`
            kind = getattr(f.type, "__name__", str(f.type)) if single else str(f.type)
            choices = f.metadata.get("choices")
            rules = f"one of {', '.join(map(str, choices))}" if choices else f.metadata.get("bounds", "")
            if "part" in f.metadata:
                rules = f"a component of {f.metadata['part']}"
            if "reference" in f.metadata:
                rules = 'or { from = "stage", take = "name" }'
            told = f.metadata.get("help", "")
            found.append({"name": f.name, "type": kind, "default": unstructure(default), "bounds": rules, "help": told})
    return found


def structure(value: Any, kind: Any, where: str = "value") -> Any:
    """`value` as an instance of the annotation `kind`; OptionError naming `where` if it is not one.

    Strict: a string is never a number, a float never an integer, a string never a sequence. Integers become floats
    where a float is asked for, lists become tuples, names become enum members, mappings become attrs classes.
    """
    if kind is bool or kind is str or kind is int or kind is float:
        return _structure_scalar(value, kind, where)
    if kind is Any or kind is object:
        return value
    origin, args = get_origin(kind), get_args(kind)
    if origin is typing.Annotated:
        return structure(value, args[0], where)
    if origin is Union or origin is types.UnionType:
        return _structure_union(value, args, where)
    if origin is Literal:
        if value in args:
            return value
        raise OptionError(f"{where} cannot be {value!r}{nearest(value, map(str, args))}")
    if kind is None or kind is type(None):
        if value is None:
            return None
        raise _wrong(value, "nothing", where)
    plain = origin or kind
    if plain in _SEQUENCES:
        return _structure_sequence(value, plain, args, where)
    if plain in _MAPPINGS:
        if not isinstance(value, Mapping):
            raise _wrong(value, "a table", where)
        key_kind, item_kind = args or (Any, Any)
        return {
            structure(k, key_kind, f"{where}: key"): structure(v, item_kind, f"{where}[{k!r}]")
            for k, v in value.items()
        }
    if not isinstance(kind, type):  # Callable, type variables, protocols: nothing to check
        return value
    if isinstance(value, kind):
        return value
    if hasattr(kind, "__structure__"):  # a class that reads more forms than a table
        return kind.__structure__(value, where)
    if issubclass(kind, enum.Enum):
        try:
            return kind(value)
        except ValueError:
            raise OptionError(f"{where} cannot be {value!r}{nearest(value, [str(m.value) for m in kind])}") from None
    if issubclass(kind, datetime.datetime) and isinstance(value, str):
        try:
            return datetime.datetime.fromisoformat(value)
        except ValueError:
            raise _wrong(value, "a date and time in ISO form", where) from None
    if issubclass(kind, Path) and isinstance(value, str):
        return Path(value)
    called = f"{'an' if kind.__name__[0] in 'AEIOUaeiou' else 'a'} {kind.__name__}"
    if not attrs.has(kind):
        raise _wrong(value, called, where)
    if isinstance(value, Mapping):
        return build(kind, value, where)
    names = [f.name for f in attrs.fields(kind) if f.init]
    shown = ", ".join(names[:4]) + (", …" if len(names) > 4 else "")
    raise _wrong(value, f"{called}, or a table of its options ({shown})", where)


def unstructure(value: Any) -> Any:
    """Plain JSON-ready data. Fields marked `state` are left out, numbers that are not finite become null."""
    if hasattr(value, "__unstructure__"):
        return value.__unstructure__()
    if attrs.has(type(value)):
        return options_of(value)
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, bool | int | str | None):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(unstructure(k)): unstructure(v) for k, v in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(map(unstructure, value))
    if isinstance(value, Sequence):
        return [unstructure(item) for item in value]
    if isinstance(value, datetime.datetime):
        return value.isoformat()
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):  # numpy and torch values, without importing either
        return unstructure(value.tolist())
    named = value if hasattr(value, "__qualname__") and hasattr(value, "__module__") else type(value)
    return f"{named.__module__}.{named.__qualname__}"  # a module or callable: say what it was


def options_of(value: Any) -> dict[str, Any]:
    """The fields of a component or record that its maker may set, as plain data."""
    return {f.name: unstructure(getattr(value, f.name)) for f in attrs.fields(type(value)) if f.init}


_SEQUENCES = {tuple, list, set, frozenset, Sequence}
_MAPPINGS = {dict, Mapping}
_SCALARS = {bool: "true or false", str: "a string", int: "an integer", float: "a number"}


def _shown(value: Any) -> str:
    try:
        shown = repr(value)
    except Exception:  # of foreign code, or a number: Python writes no integer of more than 4300 digits
        shown = f"a value of type {type(value).__name__} that cannot be printed"
    return shown if len(shown) < 80 else shown[:77] + "..."


def _wrong(value: Any, expected: str, where: str) -> OptionError:
    return OptionError(f"{where} must be {expected}, got {_shown(value)}")


def _structure_scalar(value: Any, kind: type, where: str) -> Any:
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:  # a numpy or torch scalar
        try:
            value = value.item()
        except Exception:  # on torch's meta device nothing has a value
            raise _wrong(value, _SCALARS[kind], where) from None
    if isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return float(value) if isinstance(value, float) else value  # numpy's numbers are floats, too
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise _wrong(value, "a number between -1.8e+308 and 1.8e+308", where) from None
    raise _wrong(value, _SCALARS[kind], where)


def _structure_union(value: Any, args: tuple[Any, ...], where: str) -> Any:
    if value is None and type(None) in args:
        return None
    members = [a for a in args if a is not type(None)]
    errors = []
    for member in members:  # exact instances first, so that 1 stays an integer in `int | float`
        if isinstance(member, type) and type(value) is member:
            return structure(value, member, where)
    for member in members:
        try:
            return structure(value, member, where)
        except OptionError as error:
            errors.append(error)
    if len(errors) == 1:
        raise errors[0]
    wanted = " or ".join(_SCALARS.get(m, getattr(m, "__name__", str(m))) for m in members)
    raise _wrong(value, wanted, where)


def _structure_sequence(value: Any, kind: type, args: tuple[Any, ...], where: str) -> Any:
    if isinstance(value, str | bytes | Mapping) or not hasattr(value, "__iter__"):
        raise _wrong(value, "a list", where)
    try:
        items = list(value)
    except Exception:  # a tensor or array of no dimension, or of a layout without rows
        raise _wrong(value, "a list", where) from None
    if kind is tuple and args and args[-1] is not Ellipsis:
        if len(items) != len(args):
            raise _wrong(value, f"a list of {len(args)}", where)
        return tuple(structure(v, a, f"{where}[{i}]") for i, (v, a) in enumerate(zip(items, args, strict=True)))
    item_kind = args[0] if args else Any
    made = [structure(item, item_kind, f"{where}[{i}]") for i, item in enumerate(items)]
    return tuple(made) if kind in (tuple, Sequence) else kind(made)
