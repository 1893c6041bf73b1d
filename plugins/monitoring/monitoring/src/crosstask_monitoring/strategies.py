"""Transfer strategies as fragments of recipes: what one run found, another reads."""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import attrs

from crosstask.errors import DataError, OptionError, nearest, of_kind
from crosstask.options import structure, unstructure
from crosstask.parts import Choice
from crosstask.points.stage import Engine
from crosstask.points.transfer import Transfer
from crosstask.records import Budget, TransferResult

TABLES = ("extends", "name", "description", "transfer", "budget", "train", "seeds", "seed")
"""What a fragment may say: how to transfer, and what it may spend."""


@runtime_checkable
class StrategyReceiver(Protocol):
    """Whatever takes a transfer strategy: ours is `MetaEngine`, a user's own object may do with it what it likes."""

    def apply_transfer_strategy(self, strategy: str) -> Any:
        """Use the strategy from now on: a name, or a fragment of a recipe as TOML."""


def strategy_fragment(engine: Engine, source: str, target: str, *, extends: str = "") -> str:
    """The best transfer strategy between two tasks as a fragment of a recipe, in TOML: the component with its options,
    and the budget that it was measured with.

    Another recipe reads it with `extends = "fragment.toml"`; or it extends one itself, and is run as it is. Strategies
    that were not measured yet are.
    """
    best = getattr(engine, "get_best_transfer_strategy", None)
    if best is None:
        raise DataError(f"a {type(engine).__name__} has no get_best_transfer_strategy to ask")
    name = best(source, target)
    method = engine.method(name)
    result = engine.transfer_knowledge(source, target, method)
    told = (
        f"{name} from {source} to {target}: {result.metric} {result.score.mean:.3f}, {result.scratch_score.mean:.3f} "
        f"from scratch, over {result.seeds} seeds"
    )
    values: dict[str, Any] = {"extends": extends} if extends else {}
    values |= {"description": told, "seeds": engine.seeds}
    values["transfer"] = {"use": name, **method.options()}
    values["budget"] = unstructure(engine.budget)
    return written(values)


def read_strategy(strategy: str | Mapping[str, Any]) -> dict[str, Any]:
    """A strategy as a table: of a name, the TOML of a fragment, or the table itself. OptionError for what is none."""
    if isinstance(strategy, Mapping):
        table = dict(strategy)
    elif isinstance(strategy, str) and strategy.isidentifier():
        table = {"transfer": {"use": strategy}}
    else:
        text = structure(strategy, str, "a transfer strategy")
        try:
            table = tomllib.loads(text)
        except (ValueError, RecursionError) as error:
            raise OptionError(f"a transfer strategy is a name, or a fragment of a recipe in TOML: {error}") from None
    for key in table:
        if key not in TABLES:
            raise OptionError(f"a transfer strategy: unknown table or key {key!r}{nearest(key, TABLES)}")
    if "transfer" not in table:
        raise OptionError("a transfer strategy: [transfer] is missing, which says what to use")
    return table


def written(values: Mapping[str, Any]) -> str:
    """Plain data as TOML, tables last. What is None is left out: it is what a reader takes by default."""
    lines = [f"{_key(key)} = {_value(value)}" for key, value in values.items()
             if value is not None and not isinstance(value, Mapping)]  # fmt: skip
    for key, value in values.items():
        if isinstance(value, Mapping):
            own = [f"{_key(name)} = {_value(item)}" for name, item in value.items() if item is not None]
            lines += ["", f"[{_key(key)}]", *own]
    return "\n".join(lines).lstrip("\n") + "\n"


def _key(name: str) -> str:
    plain = name.isascii() and name.replace("-", "_").isidentifier()
    return name if plain else json.dumps(name, ensure_ascii=False)


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        items = ", ".join(f"{_key(name)} = {_value(item)}" for name, item in value.items() if item is not None)
        return f"{{ {items} }}" if items else "{}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_value, value)) + "]"
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)  # TOML says nan, inf and -inf
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


@attrs.define(eq=False)
class MetaEngine:
    """An engine whose transfers follow a strategy that was found elsewhere."""

    engine: Engine
    method: Transfer | None = attrs.field(default=None, init=False)
    """How it transfers; the engine's own method until a strategy is applied."""
    strategy: dict[str, Any] = attrs.field(factory=dict, init=False)

    def __attrs_post_init__(self) -> None:
        of_kind(self.engine, Engine, "MetaEngine: engine")  # type: ignore[type-abstract]

    def apply_transfer_strategy(self, strategy: str | Mapping[str, Any]) -> Transfer:
        """Transfer like this from now on: a name, or a fragment of a recipe as TOML or as a table. Its budget, if it
        says one, is that of the transfers. The component that it comes to.
        """
        table = read_strategy(strategy)
        chosen = structure(table["transfer"], Choice, "a transfer strategy: transfer")
        budget = {**unstructure(self.engine.budget), **table["budget"]} if "budget" in table else None
        spent = None if budget is None else structure(budget, Budget, "a transfer strategy: budget")
        self.method = self.engine.method(chosen)
        if spent is not None:
            self.engine.budget = self.engine.run.budget = spent
        self.strategy = table
        return self.method

    def transfer_knowledge(self, source: str, target: str) -> TransferResult:
        """A transfer by the strategy, against training from scratch with the same budget."""
        return self.engine.transfer_knowledge(source, target, self.method)
