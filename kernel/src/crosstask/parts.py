"""Components made of components, and stages that use what another stage found: options declared with `part` and
`reference`.

    @component
    class Chain(Discoverer):
        parts: tuple[Part, ...] = part("discovery", required=True, help="in this order")

In TOML a part is a name (`"skills"`) or a table with `use` and the component's options; in Python it may also be an
object. `Component.made_of("parts")` makes them when they are first needed, through the registry of the run.

    @component
    class FewShot(Stage):
        encoder: nn.Module | None = reference(nn.Module, help="the network to start from")

In TOML a reference is a table `{ from = "distillation", take = "encoder" }`: what that stage of the same recipe
provides under that name. `Component.referred("encoder")` gives the object.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import attrs

from crosstask.errors import OptionError, nearest
from crosstask.manifest import DEFAULT
from crosstask.options import record, structure


@record
class Choice:
    """A component by name with its options. In TOML: its name, or a table with `use`, every other key an option.

    The name `default` stands for the component that a manifest marks.
    """

    use: str
    options: dict[str, Any] = attrs.field(factory=dict)

    @classmethod
    def __structure__(cls, value: Any, where: str) -> Choice:
        if isinstance(value, str):
            return cls(use=value)
        if not isinstance(value, Mapping) or not isinstance(value.get("use"), str):
            raise OptionError(
                f'{where} must be a name, or a table with use = "name" and the component\'s options, got {value!r}'
            )
        if set(value) == {"use", "options"} and isinstance(value["options"], Mapping):
            return cls(use=value["use"], options=dict(value["options"]))
        return cls(use=value["use"], options={k: v for k, v in value.items() if k != "use"})


Part = Any
"""What a part option accepts: a name, a table with `use`, a `Choice`, or a component object."""


def part(point: str, default: Any = DEFAULT, *, help: str, required: bool = False) -> Any:
    """An option that names components of `point`: one (`Part`), one or none (`Part | None`), or a tuple of them.

    Without a `default` it is the one that a manifest marks as the default of the point; `required`: it must be given.
    """

    def read(value: Any, instance: Any, field: attrs.Attribute[Any]) -> Any:
        where = f"{type(instance).__name__}: {field.name}"
        if isinstance(value, list | tuple):
            if not _SEVERAL.search(str(field.type)):
                raise OptionError(f"{where} is a single component of {point!r}, got a list of {len(value)}")
            return tuple(_one(item, point, f"{where}[{number}]") for number, item in enumerate(value))
        return None if value is None and field.default is None else _one(value, point, where)

    converter = attrs.Converter(read, takes_self=True, takes_field=True)
    given = attrs.NOTHING if required else default
    return attrs.field(default=given, converter=converter, metadata={"help": help, "part": point})


_SEVERAL = re.compile(r"\b(tuple|list|Sequence)\b")  # in the annotation of a part


def _one(value: Any, point: str, where: str) -> Any:
    at = getattr(type(value), "point", None)
    if at == point:
        return value
    if at is not None:
        raise OptionError(f"{where} must be a component of {point!r}, got {value.origin}")
    return value if isinstance(value, Choice) else Choice.__structure__(value, where)


@attrs.frozen
class Reference:
    """What another stage of the recipe provides: `{ from = "search", take = "model" }`."""

    stage: str
    take: str

    def __unstructure__(self) -> dict[str, str]:
        return {"from": self.stage, "take": self.take}


def reference(kind: Any, default: Any = None, *, help: str) -> Any:
    """An option that takes a value of `kind`, or a table that says which stage of the recipe provides one.

    `take` may be left out where it has the option's own name. What a stage provides is checked against `kind` when the
    recipe is loaded, and is there when `Stage.work` is called.
    """

    def read(value: Any, instance: Any, field: attrs.Attribute[Any]) -> Any:
        where = f"{type(instance).__name__}: {field.name}"
        if value is None or isinstance(value, Reference):
            return value
        if isinstance(value, Mapping) and "from" in value:
            return _reference(value, field.name, where)
        return structure(value, kind, where)

    converter = attrs.Converter(read, takes_self=True, takes_field=True)
    return attrs.field(default=default, converter=converter, metadata={"help": help, "reference": kind})


def _reference(value: Mapping[str, Any], own: str, where: str) -> Reference:
    for key in value:
        if key not in ("from", "take"):
            raise OptionError(f"{where}: a reference has no {key!r}{nearest(key, ('from', 'take'))}")
    named = {"from": value["from"], "take": value.get("take", own)}
    for key, name in named.items():
        if not isinstance(name, str):
            raise OptionError(f"{where}: {key} must be a name, got {name!r}")
    return Reference(named["from"], named["take"])
