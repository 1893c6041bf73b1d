"""A run described in TOML: which components with which options do what. Recipes inherit (`extends`) and override."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from crosstask.errors import OptionError, PluginError, RecipeError, nearest
from crosstask.learning.models import ModelSpec
from crosstask.learning.spaces import ModelSpace
from crosstask.options import build, option, record, unstructure
from crosstask.parts import Choice
from crosstask.records import Budget

if TYPE_CHECKING:
    from crosstask.registry import Registry


@record
class CurriculumPart:
    """The curriculum stage: a planner, the task to reach, and how many tasks the path may have."""

    target: str
    planner: Choice = attrs.field(factory=lambda: Choice(use="transfer_potential"))
    max_tasks: int = option(4, ge=1, help="tasks on the path, the target among them")
    explain: bool = option(False, help="which layers carry the transfer from the best single source")


@record
class SynthesisPart:
    """The synthesis stage: a synthesizer and the unseen task to make a model for."""

    task: str
    synthesizer: Choice = attrs.field(factory=lambda: Choice(use="weighted_ensemble"))


@record
class MultitaskPart:
    """The joint training stage: tasks (if none are named, those compatible), balancer, sharing, sampler, budget."""

    tasks: tuple[str, ...] = ()
    balancer: Choice = attrs.field(factory=lambda: Choice(use="equal"))
    sharing: Choice = attrs.field(factory=lambda: Choice(use="hard_parameter_sharing"))
    sampler: Choice | None = None
    budget: Budget = attrs.field(factory=Budget)


@record
class DistillationPart:
    """The distillation stage: what tasks (all that are learned from, if none are named) have in common."""

    tasks: tuple[str, ...] = ()
    distiller: Choice = attrs.field(factory=lambda: Choice(use="representation"))


@record
class FewShotPart:
    """The few-shot stage: a meta-learner trained on episodes of some classes (of one task) or of some tasks, and judged
    on episodes of those held out.
    """

    learner: Choice = attrs.field(factory=lambda: Choice(use="prototypical"))
    tasks: tuple[str, ...] = option((), help="one task, whose classes are split, or several; all tasks by default")
    held_out: tuple[str, ...] = option((), help="classes or tasks of the test; drawn if none are named")
    ways: int = option(5, ge=2, help="classes of an episode")
    shots: int = option(1, ge=1, help="support samples of each class")
    queries: int = option(5, ge=1, help="queries of each class")
    steps: int = option(300, ge=1, help="meta-steps")
    meta_batch: int = option(8, ge=1, help="episodes of a meta-step")
    test_episodes: int = option(200, ge=2, help="episodes of the test")


@record
class ContinualPart:
    """The continual stage: tasks learned one after another, with strategies that keep the model from forgetting."""

    strategies: tuple[Choice, ...] = ()
    tasks: tuple[str, ...] = option((), help="in this order; all tasks by default")
    parts: int | None = option(None, ge=2, help="split the one task named into so many, by its classes")
    scenario: str = option("task", choices=("task", "domain", "class"), help="what is known and asked for in the test")
    epochs: int = option(1, ge=1, help="of each task")
    batch_size: int = option(128, ge=1, help="samples per step")
    learning_rate: float = option(1e-3, gt=0, help="step size")
    optimizer: str = option("adam", choices=("adam", "adamw", "sgd"), help="torch.optim optimiser")
    grow: bool = option(False, help="let the head grow with the classes seen, instead of masking it")


@record
class SearchPart:
    """The search stage: the network, and what `models.tune` names of the budget, for one task."""

    task: str
    search: Choice = attrs.field(factory=lambda: Choice(use="bayesian"))
    models: ModelSpace = attrs.field(factory=ModelSpace)
    evaluations: int = option(30, ge=1, help="trainings that the search may ask for")
    budget: Budget | None = option(None, help="of each training; the recipe's train by default")


@record
class Recipe:
    """Everything a run needs to know. A stage whose table is absent is left out.

    `train` is what each task's own model may spend, `budget` what a transfer into a target may.
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
    discovery: tuple[Choice, ...] = ()
    transfer: Choice = attrs.field(factory=lambda: Choice(use="lp_ft"))
    curriculum: CurriculumPart | None = None
    synthesis: SynthesisPart | None = None
    multitask: MultitaskPart | None = None
    distillation: DistillationPart | None = None
    few_shot: FewShotPart | None = None
    continual: ContinualPart | None = None
    search: SearchPart | None = None
    executor: Choice = attrs.field(factory=lambda: Choice(use="serial"))
    observers: tuple[Choice, ...] = ()
    wrappers: tuple[Choice, ...] = ()


@attrs.frozen
class Resolved:
    """A recipe with where each of its values came from: dotted key -> file or command line."""

    recipe: Recipe
    values: dict[str, Any]
    origins: dict[str, str]

    def table(self) -> dict[str, tuple[Any, str]]:
        """Dotted key -> (value, origin) of every value, those left at their defaults too."""
        own = {key: value for key, value in self.values.items() if key != "extends"}
        found = {key: (value, self.origins.get(key, "recipe")) for key, value in _leaves(own)}
        given = list(found)
        for long_key, value in _leaves(unstructure(self.recipe)):
            key = long_key.replace(".options", "")  # as it is written in TOML
            if not long_key.endswith(".options") and not any(
                key == g or key.startswith(f"{g}.") or g.startswith(f"{key}.") for g in given
            ):
                found[key] = (value, "default")
        return found


def _leaves(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def load_recipe(reference: str | Path, registry: Registry, overrides: Sequence[str] = ()) -> Resolved:
    """Read a recipe by path, or by the name under which an installed plugin ships it.

    `overrides` are `dotted.key=value` with TOML values (a bare word is a string). RecipeError says which file, and
    for a syntax error shows the line.
    """
    values, origins = _chain(reference, registry, [])
    for text in overrides:
        key, sign, value = text.partition("=")
        if not sign or not key.strip():
            raise RecipeError(f"an override must look like key.sub=value, got {text!r}")
        try:
            parsed = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            parsed = value.strip()
        nested: Any = parsed
        for part in reversed(key.strip().split(".")):
            nested = {part: nested}
        _merge(values, nested, origins, "command line")
    return Resolved(recipe_from(values, str(reference)), values, origins)


def recipe_from(values: Mapping[str, Any], where: str = "recipe") -> Recipe:
    """A checked recipe from plain data (TOML's or a stored run's). RecipeError names the place and the nearest name."""
    plain = dict(values)
    plain.pop("extends", None)
    try:
        for key in ("discovery", "observers", "wrappers"):
            if not isinstance(plain.get(key, []), list | tuple):
                raise OptionError(f"{key} must be a list of tables ([[{key}]]), got {plain[key]!r}")
        return build(Recipe, plain, "recipe")
    except OptionError as error:
        raise RecipeError(f"{where}: {str(error).removeprefix('recipe: ')}") from None


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
        if not path.is_file():
            raise RecipeError(f"no recipe file {path}")
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
    except tomllib.TOMLDecodeError as error:
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
    for key, value in new.items():
        dotted = f"{prefix}{key}"
        old = into.get(key)
        if (
            isinstance(value, Mapping)
            and isinstance(old, dict)
            and ("use" not in value or value["use"] == old.get("use"))
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
