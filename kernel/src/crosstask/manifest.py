"""What a plugin says about itself. Importing a manifest costs next to nothing: it names code and imports none."""

from __future__ import annotations

import re
from collections.abc import Iterable

import attrs

from crosstask.errors import PluginError, nearest

API_VERSION = (1, 1)
"""(major, minor) of the contracts, the version that a plugin states in `Plugin.api`.

The rule: a plugin works with every kernel of the same major number whose minor number is not below its own. So

- the minor number is raised by what a plugin written before does not notice: a new extension point, a new hook or
  public method with a default (an optional one), a new capability;
- the major number is raised, and the minor set to 0, by everything else: a hook or method renamed or removed, its
  parameters, its *first* or *each*, the type of its answer changed, something made abstract, a public field gone.

`kernel/tests/test_api_version.py` compares the contracts with `kernel/tests/contracts.json`: it says which is due.
"""

ENTRY_POINT_GROUP = "crosstask.plugins"

POINTS: dict[str, str] = {
    "adapter": "crosstask.points.adapter:Adapter",
    "balancer": "crosstask.points.balancer:Balancer",
    "continual": "crosstask.points.continual:ContinualStrategy",
    "curriculum": "crosstask.points.curriculum:CurriculumPlanner",
    "discovery": "crosstask.points.discovery:Discoverer",
    "distillation": "crosstask.points.distillation:Distiller",
    "executor": "crosstask.points.executor:Executor",
    "meta_learner": "crosstask.points.meta_learner:MetaLearner",
    "observer": "crosstask.points.observer:Observer",
    "sampler": "crosstask.points.sampler:Sampler",
    "search": "crosstask.points.search:Search",
    "sharing": "crosstask.points.sharing:Sharing",
    "source": "crosstask.points.source:Source",
    "store": "crosstask.points.store:StoreOpener",
    "synthesis": "crosstask.points.synthesis:Synthesizer",
    "transfer": "crosstask.points.transfer:Transfer",
    "wrapper": "crosstask.points.wrapper:Wrapper",
}
"""Every extension point and where its contract is. `recipe` beside these names a data file, not a class."""

RECIPE = "recipe"

_NAME = re.compile(r"[a-z0-9][a-z0-9_+-]*")
_TARGET = re.compile(r"[A-Za-z_][\w.]*:[\w./-]+")


def _check_name(instance: object, attribute: attrs.Attribute[str], value: object) -> None:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise PluginError(
            f"{type(instance).__name__}: {attribute.name} must be lower-case letters, digits, '_', '+' or '-', "
            f"got {value!r}"
        )


def _check_text(instance: object, attribute: attrs.Attribute[str], value: object) -> None:
    if not isinstance(value, str):
        raise PluginError(f"{type(instance).__name__}: {attribute.name} must be a string, got {value!r}")


def _check_point(instance: Extension, attribute: attrs.Attribute[str], value: object) -> None:
    if value not in POINTS and value != RECIPE:
        raise PluginError(f"Extension: unknown extension point {value!r}{nearest(value, [*POINTS, RECIPE])}")


def _check_target(instance: Extension, attribute: attrs.Attribute[str], value: object) -> None:
    if not isinstance(value, str) or not _TARGET.fullmatch(value):
        raise PluginError(f"Extension {instance.name!r}: target must look like 'package.module:Class', got {value!r}")


def _check_api(instance: Plugin, attribute: attrs.Attribute[tuple[int, int]], value: object) -> None:
    if not (isinstance(value, tuple) and len(value) == 2 and all(type(part) is int for part in value)):
        raise PluginError(
            f"Plugin {instance.name!r}: api must be a pair of integers such as {API_VERSION}, got {value!r}"
        )


def _check_extensions(instance: Plugin, attribute: attrs.Attribute[tuple[Extension, ...]], value: object) -> None:
    seen = set()
    for extension in instance.extensions:
        if not isinstance(extension, Extension):
            raise PluginError(f"Plugin {instance.name!r}: extensions must hold Extension objects, got {extension!r}")
        if (key := (extension.point, extension.name)) in seen:
            raise PluginError(f"Plugin {instance.name!r}: {key[0]} {key[1]!r} is declared twice")
        seen.add(key)


def _as_tuple(value: Iterable[Extension]) -> tuple[Extension, ...]:
    try:
        return tuple(value)
    except TypeError:
        raise PluginError(f"Plugin: extensions must be a list of Extension objects, got {value!r}") from None


@attrs.frozen
class Extension:
    """One component (or recipe) that a plugin offers.

    `target` is an import string `package.module:Class`; for the point `recipe` it is `package:path/inside.toml`.
    `source` cites where the algorithm comes from.
    """

    point: str = attrs.field(validator=_check_point)
    name: str = attrs.field(validator=_check_name)
    target: str = attrs.field(validator=_check_target)
    summary: str = attrs.field(default="", kw_only=True, validator=_check_text)
    source: str = attrs.field(default="", kw_only=True, validator=_check_text)


@attrs.frozen
class Plugin:
    """The object an entry point of the group `crosstask.plugins` names."""

    name: str = attrs.field(validator=_check_name)
    extensions: tuple[Extension, ...] = attrs.field(converter=_as_tuple, validator=_check_extensions)
    api: tuple[int, int] = attrs.field(default=API_VERSION, kw_only=True, validator=_check_api)

    def compatible(self) -> bool:
        """Same major version, and no newer minor version than this kernel's."""
        return self.api[0] == API_VERSION[0] and self.api[1] <= API_VERSION[1]
