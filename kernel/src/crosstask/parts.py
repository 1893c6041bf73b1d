"""Components made of components: an option that names other components, declared with `part`.

    @component
    class Chain(Discoverer):
        parts: tuple[Part, ...] = part("discovery", help="in this order")

In TOML such an option is a name (`"skills"`) or a table with `use` and the component's options; in Python it may also
be an object. `Component.made_of("parts")` makes them when they are first needed, through the registry of the run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from crosstask.errors import OptionError
from crosstask.options import record


@record
class Choice:
    """A component by name with its options. In TOML: its name, or a table with `use`, every other key an option."""

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


def part(point: str, default: Any = attrs.NOTHING, *, help: str) -> Any:
    """An option that names components of `point`: one (`Part`), one or none (`Part | None`), or a tuple of them."""

    def read(value: Any, instance: Any, field: attrs.Attribute[Any]) -> Any:
        where = f"{type(instance).__name__}: {field.name}"
        if isinstance(value, list | tuple):
            return tuple(_one(item, point, f"{where}[{number}]") for number, item in enumerate(value))
        return None if value is None and field.default is None else _one(value, point, where)

    converter = attrs.Converter(read, takes_self=True, takes_field=True)
    return attrs.field(default=default, converter=converter, metadata={"help": help, "part": point})


def _one(value: Any, point: str, where: str) -> Any:
    at = getattr(type(value), "point", None)
    if at == point:
        return value
    if at is not None:
        raise OptionError(f"{where} must be a component of {point!r}, got {value.origin}")
    return value if isinstance(value, Choice) else Choice.__structure__(value, where)
