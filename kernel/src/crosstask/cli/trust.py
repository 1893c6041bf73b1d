"""A recipe is data, but it can name code: a function that makes its tasks, one that builds its networks. Code that no
installed plugin brings is imported only if whoever runs the recipe says so.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import attrs
import click

from crosstask.errors import CrosstaskError, RecipeError, printable
from crosstask.manifest import RECIPE
from crosstask.registry import KERNEL, Registry, Status

_TEXTS = ("name", "description", "requires", "prefer")
"""Tables and keys of a recipe that nothing is imported from."""


@attrs.frozen
class NamedCode:
    """An import string in a recipe: under which key, in which file."""

    key: str
    target: str
    origin: str


def approval(registry: Registry, trust: bool) -> Callable[[Mapping[str, Any], Mapping[str, str]], None]:
    """What `load_recipe` and `run_recipe` ask before they use values: RecipeError unless all code that they name comes
    from plugins, was typed on the command line, is trusted with --trust or, in a terminal, after a question.
    """

    def approve(values: Mapping[str, Any], origins: Mapping[str, str]) -> None:
        if trust:
            return
        named = foreign_code(values, origins, registry)
        if not named:
            return
        told = "; ".join(printable(f"{each.key} = {each.target!r} ({each.origin})", lines=False) for each in named)
        what = f"the recipe names code that no installed plugin brings, and running it imports that code: {told}"
        if sys.stdin.isatty() and sys.stderr.isatty():
            if click.confirm(f"{what}. Do you trust it?", err=True):
                return
            raise RecipeError("not run: the code that the recipe names is not trusted")
        raise RecipeError(f"{what}. If you trust it: --trust")

    return approve


def foreign_code(values: Mapping[str, Any], origins: Mapping[str, str], registry: Registry) -> list[NamedCode]:
    """The import strings of a recipe that name code of no usable plugin, in its order. Not those of recipes that
    plugins ship, which are as trusted as their code, and not those of the command line.
    """
    trusted = {"command line", *_shipped(registry)}
    tops = _packages(registry)
    found = []
    named = {key: value for key, value in values.items() if key not in _TEXTS}
    for key, text, origin in _strings(named, origins, "", "run.json"):
        module, colon, name = text.partition(":")  # as whatever imports it reads it
        if colon and origin not in trusted and not _brought(module, name, tops):
            found.append(NamedCode(key.replace(".options.", "."), text, origin))  # a stored recipe spells them out
    return found


def _strings(value: Any, origins: Mapping[str, str], key: str, origin: str) -> Iterator[tuple[str, str, str]]:
    origin = origins.get(key, origin)
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _strings(item, origins, f"{key}.{name}" if key else str(name), origin)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _strings(item, origins, key, origin)
    elif isinstance(value, str):
        yield key, value, origin


def _shipped(registry: Registry) -> Iterator[str]:
    for name in registry.names(RECIPE):
        try:
            path = registry.recipe_path(name)
        except CrosstaskError:  # whoever runs that recipe is told
            continue
        yield from {str(path), str(path.resolve())}


def _packages(registry: Registry) -> set[str]:
    """The top-level packages of usable plugins. Not the kernel's: it has functions that import what they are told."""
    return {
        record.entry_point.partition(":")[0].partition(".")[0]
        for record in registry.plugins()
        if record.status is Status.OK and record.entry_point and record.distribution != KERNEL
    }


def _brought(module: str, name: str, tops: set[str]) -> bool:
    """Whether an import string names what a plugin defines, or nothing that could be imported.

    Being found in a plugin's module is not enough: a module has what it imports itself, `os.system` perhaps.
    """
    top = module.partition(".")[0]
    if top not in tops:
        words = top in sys.stdlib_module_names and not name.replace(".", "").isidentifier()  # `math: a description`
        return words or not _is_there(top)
    if not name.isidentifier():
        return False
    try:
        value = getattr(importlib.import_module(module), name, None)
    except BaseException:  # it cannot be imported: whoever needs it says so
        return True
    defined = getattr(value, "__module__", None)
    return value is None or (isinstance(defined, str) and defined.partition(".")[0] in tops)


def _is_there(top: str) -> bool:
    """Whether a top-level module could be imported; looked up, not imported."""
    try:
        return top in sys.modules or importlib.util.find_spec(top) is not None
    except (ImportError, ValueError, AttributeError):
        return True  # something odd of that name is there
