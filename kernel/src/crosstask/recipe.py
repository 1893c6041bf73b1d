"""A run described in TOML: which stages, made of which components with which options. Recipes inherit (`extends`).

A recipe is read in two phases: the kernel's own tables are typed here; every other table is a stage's, and is bound to
the stage of that name in the registry.
"""

from __future__ import annotations

import datetime
import math
import tomllib
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Union, cast, get_args, get_origin

import attrs

from crosstask.errors import CrosstaskError, OptionError, PluginError, RecipeError, UnknownComponentError, nearest
from crosstask.learning.models import ModelSpec
from crosstask.manifest import DEFAULT, RESERVED
from crosstask.options import build, option, options_of, record, structure, unstructure
from crosstask.parts import Choice, Reference
from crosstask.points.stage import Stage
from crosstask.records import Budget
from crosstask.registry import Registry

_KERNEL = RESERVED["stage"]


@attrs.frozen
class StageTable:
    """A table of a recipe that is a stage's: which stage, and its options as they were written."""

    use: str
    options: dict[str, Any]


@record
class Recipe:
    """Everything a run needs to know: the kernel's own tables, and in `stages`, in order, every other one.

    `train` is what each task's own model may spend, `budget` what a transfer into a target may. Wherever a component is
    not named, it is the one that a manifest marks as the default.
    """

    source: Choice
    name: str = "run"
    description: str = ""
    seed: int = option(0, ge=0, help="everything random follows from it")
    seeds: int = option(3, ge=1, help="repeats of a transfer, for its confidence interval")
    requires: dict[str, str] = attrs.field(factory=dict)
    prefer: dict[str, str] = attrs.field(factory=dict)
    model: ModelSpec = attrs.field(factory=ModelSpec)
    train: Budget = attrs.field(factory=lambda: Budget(steps=400))
    budget: Budget = attrs.field(factory=lambda: Budget(steps=100, samples=50))
    transfer: Choice = attrs.field(factory=lambda: Choice(use=DEFAULT))
    executor: Choice = attrs.field(factory=lambda: Choice(use=DEFAULT))
    device: str = option("cpu", help="where networks are trained: cpu, cuda, cuda:1, …, or auto: cuda where it is")
    observers: tuple[Choice, ...] = ()
    wrappers: tuple[Choice, ...] = ()
    stages: dict[str, StageTable] = attrs.field(factory=dict)

    def __unstructure__(self) -> dict[str, Any]:
        """As it is written in TOML: a table for each stage beside the kernel's own."""
        own = {key: value for key, value in options_of(self).items() if key != "stages"}
        return own | {name: _written(name, table) for name, table in self.stages.items()}


def _written(name: str, table: StageTable) -> dict[str, Any]:
    use = {} if table.use == name else {"use": table.use}
    return {**use, **unstructure(table.options)}


@attrs.frozen
class Resolved:
    """A recipe with where each of its values came from: dotted key -> file or command line."""

    recipe: Recipe
    values: dict[str, Any]
    origins: dict[str, str]
    defaults: dict[str, dict[str, Any]]
    """Every option of each stage, with its value."""

    def table(self) -> dict[str, tuple[Any, str]]:
        """Dotted key -> (value, origin) of every value, those left at their defaults too."""
        own = {key: value for key, value in self.values.items() if key != "extends"}
        found = {key: (value, self.origins.get(key, "recipe")) for key, value in _leaves(own)}
        given = [key for key, (value, _) in found.items() if value != {}]  # an empty table says nothing of its options
        full = unstructure(self.recipe) | {name: unstructure(values) for name, values in self.defaults.items()}
        for long_key, value in _leaves(full):
            key = long_key.replace(".options", "")  # as it is written in TOML
            if not long_key.endswith(".options") and not any(
                key == g or key.startswith(f"{g}.") or g.startswith(f"{key}.") for g in given
            ):
                found[key] = (value, "default")
        return {
            key: told
            for key, told in found.items()
            if told[0] != {} or not any(other.startswith(f"{key}.") for other in found)
        }


def _leaves(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


MOST_DEPTH = 100
"""How deep the tables of a recipe may be nested."""

Approve = Callable[[Mapping[str, Any], Mapping[str, str]], None]
"""Is told the values of a recipe, and where each comes from (dotted key -> file or command line), before they are used;
raises if they must not be.
"""


def load_recipe(
    reference: str | Path, registry: Registry, overrides: Sequence[str] = (), stage: str = "",
    approve: Approve | None = None,
) -> Resolved:  # fmt: skip
    """Read a recipe by path, or by the name under which an installed plugin ships it.

    `overrides` are `dotted.key=value` with TOML values (a bare word is a string). RecipeError says which file, and
    for a syntax error shows the line. With `stage` it gets an empty table of that name if it has none.
    """
    structure(reference, str | Path, "the name or path of a recipe")
    overrides, stage = structure(overrides, tuple[str, ...], "overrides"), structure(stage, str, "stage")
    values, origins = _chain(reference, registry, [])
    if stage and stage not in values:
        try:
            registry.find("stage", stage)
        except UnknownComponentError:
            raise
        except PluginError:
            pass  # it is there: the recipe may decide a conflict, and what else is wrong is said below
        values[stage] = {}
    for text in overrides:
        key, sign, value = text.partition("=")
        if not sign or not key.strip():
            raise RecipeError(f"an override must look like key.sub=value, got {text!r}")
        if key.strip() == "extends":
            raise RecipeError("extends cannot be set: what a recipe extends stands in its file")
        try:
            parsed = tomllib.loads(f"value = {value}")["value"]
        except (ValueError, RecursionError):
            parsed = value.strip()
        nested: Any = parsed
        for part in reversed(key.strip().split(".")):
            nested = {part: nested}
        _merge(values, nested, origins, "command line")
    if approve is not None:
        approve(values, origins)
    recipe = recipe_from(values, registry, str(reference))
    options = {
        each.name: each.stage.options() for each in bind(recipe, registry.preferring(recipe.prefer), str(reference))
    }
    return Resolved(recipe, values, origins, options)


def recipe_from(values: Mapping[str, Any], registry: Registry, where: str = "recipe") -> Recipe:
    """A checked recipe from plain data (TOML's or a stored run's). RecipeError names the place and the nearest name.

    First the kernel's tables; what is left over is a stage's, as far as `registry` knows a stage of that name.
    """
    if not isinstance(values, Mapping):
        raise RecipeError(f"{where}: a recipe is a table, got a {type(values).__name__}")
    own = {key: value for key, value in values.items() if key in _KERNEL and key != "extends"}
    stages = {key: value for key, value in values.items() if key not in _KERNEL}
    try:
        _check_kept(values, "")
        for key in ("observers", "wrappers"):
            if not isinstance(own.get(key, []), list | tuple):
                raise OptionError(f"{key} must be a list of tables ([[{key}]]), got {own[key]!r}")
        prefer = structure(own.get("prefer", {}), dict[str, str], "prefer")
        return build(Recipe, {**own, "stages": _tables(stages, registry.preferring(prefer))}, "recipe")
    except OptionError as error:
        raise RecipeError(f"{where}: {str(error).removeprefix('recipe: ')}") from None


def _check_kept(value: Any, where: str) -> None:
    """OptionError for what a run's record, which is JSON, would not give back as it was."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            _check_kept(item, f"{where}.{key}" if where else str(key))
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            _check_kept(item, f"{where}[{number}]")
    elif isinstance(value, float) and not math.isfinite(value):
        raise OptionError(f"{where} must be a finite number, got {value}")
    elif isinstance(value, datetime.date | datetime.time) and not isinstance(value, datetime.datetime):
        raise OptionError(f"{where} must not be a date or a time alone, got {value}; write it as a string")


def _tables(given: Mapping[str, Any], registry: Registry) -> dict[str, StageTable]:
    """The stages' tables. A table without `use` is that of the stage whose name (or former name) it has."""
    found = {}
    for name, value in given.items():
        use = value.get("use", name) if isinstance(value, Mapping) else name
        if not isinstance(use, str):
            raise OptionError(f"{name}: use must be the name of a stage, got {use!r}")
        try:
            use = registry.find("stage", use)[1].name
        except UnknownComponentError as error:
            if use != name or registry.offered(f"stage/{name}"):
                raise OptionError(f"[{name}]: {error}") from None
            raise OptionError(
                f"unknown table or key {name!r}{nearest(name, [*_KERNEL, *registry.names('stage')])}"
            ) from None
        except PluginError as error:
            raise OptionError(f"[{name}]: {error}") from None
        if not isinstance(value, Mapping):
            raise OptionError(f"{name} is a stage: its options stand in a table [{name}], got {_short(value)}")
        found[name] = StageTable(use, {key: item for key, item in value.items() if key != "use"})
    return found


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 80 else text[:77] + "..."


@attrs.frozen
class BoundStage:
    """A stage of a recipe as a component, under the name of its table."""

    name: str
    stage: Stage


def bind(recipe: Recipe, registry: Registry, where: str = "recipe") -> list[BoundStage]:
    """The stages of a recipe as components, in the order in which they run; options and references are checked."""
    made = []
    for name, table in recipe.stages.items():
        try:
            made.append(BoundStage(name, cast(Stage, registry.create("stage", table.use, table.options))))
        except CrosstaskError as error:
            text = str(error).removeprefix(f"stage {table.use!r}: ")
            raise RecipeError(f"{where}: [{name}]: {text}") from None
    by_name = {each.name: each for each in made}
    for each in made:
        for option_name, (ref, kind) in each.stage.references().items():
            _check_reference(f"{where}: [{each.name}]: {option_name}", each, ref, kind, by_name)
    order = _ordered(made, where)
    for number, each in enumerate(order):
        each.stage.before = tuple(earlier.stage.name for earlier in order[:number])
        refs = [ref for later in made for ref, _ in later.stage.references().values()]
        each.stage.taken = frozenset(ref.take for ref in refs if ref.stage == each.name)
    return order


def _check_reference(where: str, each: BoundStage, ref: Reference, kind: Any, by_name: dict[str, BoundStage]) -> None:
    others = [name for name in by_name if name != each.name]
    if ref.stage not in others:
        raise RecipeError(f"{where}: the recipe has no stage {ref.stage!r} before it{nearest(ref.stage, others)}")
    provided = by_name[ref.stage].stage.provides
    if ref.take not in provided:
        raise RecipeError(f"{where}: stage {ref.stage!r} provides no {ref.take!r}{nearest(ref.take, provided)}")
    given = provided[ref.take]
    if not _suits(given, kind):
        told = ", ".join(name for name, each_kind in provided.items() if each_kind == kind) or "nothing of that kind"
        raise RecipeError(
            f"{where}: {ref.take!r} of stage {ref.stage!r} is a {_named(given)}, a {_named(kind)} is needed; "
            f"it provides {told}"
        )


def _suits(given: Any, kind: Any) -> bool:
    """Whether every value of the type `given` is one of `kind`."""
    if kind is Any or given == kind:
        return True
    if isinstance(kind, types.UnionType) or get_origin(kind) is Union:
        return any(_suits(given, member) for member in get_args(kind))
    return isinstance(given, type) and isinstance(kind, type) and issubclass(given, kind)


def _named(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) and kind is not tuple else str(kind)


def _ordered(made: list[BoundStage], where: str) -> list[BoundStage]:
    """The recipe's order, except where a stage says what comes first (`after`) or refers to another."""
    needs: dict[str, set[str]] = {}
    for each in made:
        earlier = {other.name for other in made if other.stage.name in each.stage.after and other is not each}
        needs[each.name] = earlier | {ref.stage for ref, _ in each.stage.references().values()}
    order: list[BoundStage] = []
    while len(order) < len(made):
        done = {each.name for each in order}
        following = next((e for e in made if e.name not in done and needs[e.name] <= done), None)
        if following is None:
            raise RecipeError(f"{where}: these stages wait for one another: {' -> '.join(_circle(needs, done))}")
        order.append(following)
    return order


def _circle(needs: Mapping[str, set[str]], done: set[str]) -> list[str]:
    """The members of one circle among the stages that wait, each followed by what it waits for, the recipe's first of
    them at both ends.
    """
    path = [next(name for name in needs if name not in done)]
    while path[-1] not in path[:-1]:
        path.append(min(needs[path[-1]] - done))
    circle = path[path.index(path[-1]) : -1]
    first = circle.index(next(name for name in needs if name in circle))
    return [*circle[first:], *circle[: first + 1]]


def _chain(reference: str | Path, registry: Registry, seen: list[Path]) -> tuple[dict[str, Any], dict[str, str]]:
    path = _find(reference, registry, seen[-1].parent if seen else None)
    if path in seen:
        raise RecipeError("recipes extend one another in a circle: " + " -> ".join(str(p) for p in [*seen, path]))
    own = _read(path)
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    if parent := own.get("extends"):
        if not isinstance(parent, str):
            raise RecipeError(f"{path}: extends must be a recipe's name or path, got {parent!r}")
        values, origins = _chain(parent, registry, [*seen, path])
    _merge(values, own, origins, str(path))
    return values, origins


def _find(reference: str | Path, registry: Registry, folder: Path | None) -> Path:
    text = str(reference)
    if text.endswith(".toml") or "/" in text:
        path = Path(text) if folder is None or Path(text).is_absolute() else folder / text
        try:
            there = path.is_file()
        except OSError as error:  # no name of a file
            raise RecipeError(f"no recipe file {path}: {error.strerror}") from None
        if not there:
            beside = [each.name for each in path.parent.glob("*.toml")]
            raise RecipeError(f"no recipe file {path}{nearest(path.name, beside) if beside else ''}")
        return path.resolve()
    try:
        return registry.recipe_path(text)
    except LookupError:
        raise RecipeError(
            f"no recipe named {text!r}{nearest(text, registry.names('recipe'))} (a file's name ends in .toml)"
        ) from None
    except PluginError as error:
        raise RecipeError(str(error)) from None


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: cannot be read: {error}") from None
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # not all of them a TOMLDecodeError
        raise RecipeError(f"{path}: {error}{_line_of(text, str(error))}") from None


def _line_of(text: str, message: str) -> str:
    digits = message.partition("at line ")[2].partition(",")[0]
    lines = text.splitlines()
    if not digits.isdigit() or not 0 < int(digits) <= len(lines):
        return ""
    return f"\n  {digits} | {lines[int(digits) - 1]}"


def _merge(
    into: dict[str, Any], new: Mapping[str, Any], origins: dict[str, str], origin: str, prefix: str = ""
) -> None:
    """Tables merge key by key, except that choosing another component drops the old options; lists are replaced."""
    if prefix.count(".") > MOST_DEPTH:
        raise RecipeError(f"{origin}: tables are nested more than {MOST_DEPTH} deep: {prefix[:40]}…")
    for key, value in new.items():
        dotted = f"{prefix}{key}"
        old = into.get(key)
        if (
            isinstance(value, Mapping)
            and isinstance(old, dict)
            and ("use" not in value or value["use"] == old.get("use"))
            and "from" not in {*value, *old}  # what refers to a stage is replaced whole
        ):
            _merge(old, value, origins, origin, f"{dotted}.")
            continue
        for known in [k for k in origins if k == dotted or k.startswith(f"{dotted}.")]:
            del origins[known]
        if isinstance(value, Mapping):
            into[key] = {}
            _merge(into[key], value, origins, origin, f"{dotted}.")
        else:
            into[key] = value
            origins[dotted] = origin
