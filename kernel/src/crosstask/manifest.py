"""What a plugin says about itself. Importing a manifest costs next to nothing: it names code and imports none.

The constructors never raise: what is wrong with a manifest is collected in `problems`, so that the registry can first
ask which API the plugin was made for, and then tell everything at once.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import attrs

from crosstask.errors import nearest

API_VERSION = (2, 0)
"""(major, minor) of the kernel's contracts, the version that a plugin states in `Plugin.api`.

The rule: a plugin works with every kernel of the same major number whose minor number is not below its own. So

- the minor number is raised by what a plugin written before does not notice: a new extension point, a new hook or
  public method with a default (an optional one), a new capability;
- the major number is raised, and the minor set to 0, by everything else: a hook or method renamed or removed, its
  parameters, its *first* or *each*, the type of its answer changed, something made abstract, a public field gone.

`kernel/tests/test_api_version.py` compares the contracts with `kernel/tests/contracts.json`: it says which is due.
A contributed point has a version of its own, `Point.version`, by the same rule; `Extension.api` states it.
"""

ENTRY_POINT_GROUP = "crosstask.plugins"

RECIPE = "recipe"
"""Stands beside the names of points: a recipe is a data file, not a class."""

COMMAND = "command"
"""Likewise: a command is a click command, not a class."""

DEFAULT = "default"
"""Instead of a component's name: the one of its point that a manifest marks as the default."""

_SEPARATORS = re.compile(r"[-_.]+")


def canonical(name: str) -> str:
    """A project's name as PEP 503 compares it: lower case, runs of `-`, `_` and `.` as one `-`."""
    return _SEPARATORS.sub("-", name).lower()


_NAME = re.compile(r"[a-z0-9][a-z0-9_+-]*")
_CODE = re.compile(r"[A-Za-z_][\w.]*:[\w./-]+")


def _is_version(value: object) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and all(type(part) is int for part in value)


def fits(wanted: tuple[int, int], offered: tuple[int, int]) -> bool:
    """Whether what was made for version `wanted` works with `offered`: the same major number, no newer minor one."""
    return wanted[0] == offered[0] and wanted[1] <= offered[1]


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) < 80 else text[:77] + "..."


class _Problems:
    """Collects what is wrong with one object of a manifest."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.found: list[str] = []

    def add(self, problem: str) -> None:
        self.found.append(f"{self.what}: {problem}")

    def name(self, field: str, value: object) -> str:
        """The name itself; as text if it is none, because what is wrong is listed by its name, too."""
        if not isinstance(value, str) or not _NAME.fullmatch(value):
            self.add(f"{field} must be lower-case letters, digits, '_', '+' or '-', got {_short(value)}")
        return value if isinstance(value, str) else repr(value)

    def text(self, **fields: object) -> None:
        for field, value in fields.items():
            if not isinstance(value, str):
                self.add(f"{field} must be a string, got {value!r}")

    def code(self, field: str, value: object, like: str) -> None:
        if not isinstance(value, str) or not _CODE.fullmatch(value):
            self.add(f"{field} must look like {like!r}, got {value!r}")

    def names(self, field: str, value: object) -> tuple[str, ...]:
        if isinstance(value, str) or not isinstance(value, Iterable):
            self.add(f"{field} must be a list of names, got {value!r}")
            return ()
        return tuple(self.name(field, each) for each in value)

    def unknown(self, given: dict[str, Any], known: Iterable[str]) -> None:
        for field in given:
            self.add(f"unknown field {field!r}{nearest(field, known)}")


@attrs.frozen(init=False)
class Point:
    """An extension point that a plugin brings: a contract that components of other plugins fulfil.

    `contract` is the import string of a class derived from `crosstask.components.Component` whose `point` is `name`;
    `kit` that of a `crosstask.testing.kit.Kit`; `template` is `package:folder` (package data), a whole example plugin
    for `crosstask plugins new`. `version` is (major, minor) of this contract alone.
    """

    name: str
    contract: str
    kit: str = ""
    template: str = ""
    summary: str = ""
    version: tuple[int, int] = (1, 0)
    problems: tuple[str, ...] = attrs.field(default=(), eq=False, repr=False)

    def __init__(
        self, name: str, contract: str, *, kit: str = "", template: str = "", summary: str = "",
        version: tuple[int, int] = (1, 0), **unknown: Any,
    ) -> None:  # fmt: skip
        found = _Problems(f"Point {_short(name)}")
        name = found.name("name", name)
        if name in (RECIPE, COMMAND, DEFAULT):
            found.add(f"{name!r} cannot be the name of a point")
        found.code("contract", contract, "package.module:Class")
        for field, value in (("kit", kit), ("template", template)):
            if value != "":
                found.code(field, value, "package.module:Class" if field == "kit" else "package:folder")
        found.text(summary=summary)
        if not _is_version(version):
            found.add(f"version must be a pair of integers such as (1, 0), got {version!r}")
        found.unknown(unknown, (f.name for f in attrs.fields(Point) if f.name != "problems"))
        self.__attrs_init__(name, contract, kit, template, summary, version, tuple(found.found))


@attrs.frozen(init=False)
class Extension:
    """One component, recipe or command that a plugin offers.

    `target` is an import string `package.module:Class`; for the point `recipe` it is `package:path/inside.toml`, for
    `command` that of a click command. `source` cites where the algorithm comes from. `default` marks the component that
    is used where none is named; for the point `discovery`, of which a run has several, all that are marked, by number.
    `api` is the version of a contributed point that it was made for; `aliases` are names that it had before.
    """

    point: str
    name: str
    target: str
    summary: str = ""
    source: str = ""
    default: int = 0
    api: tuple[int, int] | None = None
    aliases: tuple[str, ...] = ()
    problems: tuple[str, ...] = attrs.field(default=(), eq=False, repr=False)

    def __init__(
        self, point: str, name: str, target: str, *, summary: str = "", source: str = "", default: int = False,
        api: tuple[int, int] | None = None, aliases: Iterable[str] = (), **unknown: Any,
    ) -> None:  # fmt: skip
        found = _Problems(f"Extension {_short(name)}")
        point, name = found.name("point", point), found.name("name", name)
        if name == DEFAULT:
            found.add(f"a component cannot be called {DEFAULT!r}: that stands for the one that a manifest marks")
        found.code("target", target, "package:path/inside.toml" if point == RECIPE else "package.module:Class")
        found.text(summary=summary, source=source)
        if not isinstance(default, int) or default < 0:
            found.add(f"default must be True, False or a number from 1 on, got {default!r}")
        if api is not None and not _is_version(api):
            found.add(f"api must be a pair of integers such as (1, 0), got {api!r}")
        before = found.names("aliases", aliases)
        found.unknown(unknown, (f.name for f in attrs.fields(Extension) if f.name != "problems"))
        self.__attrs_init__(point, name, target, summary, source, default, api, before, tuple(found.found))

    @property
    def key(self) -> str:
        """`balancer/rgb`."""
        return f"{self.point}/{self.name}"


@attrs.frozen(init=False)
class Plugin:
    """The object an entry point of the group `crosstask.plugins` names.

    `api` is `crosstask.API_VERSION` as it was when the plugin was written: write the numbers, not the name.
    `formerly` are names that its distribution had before: settings that still use one of them go on working.
    """

    name: str
    extensions: tuple[Extension, ...] = ()
    points: tuple[Point, ...] = ()
    api: tuple[int, int] = (0, 0)
    formerly: tuple[str, ...] = ()
    problems: tuple[str, ...] = attrs.field(default=(), eq=False, repr=False)

    def __init__(
        self, name: str, extensions: Iterable[Extension] = (), *, points: Iterable[Point] = (),
        api: tuple[int, int] | None = None, formerly: Iterable[str] = (), **unknown: Any,
    ) -> None:  # fmt: skip
        found = _Problems(f"Plugin {_short(name)}")
        name = found.name("name", name)
        if not _is_version(api):
            missing = "is missing" if api is None else f"must be a pair of integers, got {api!r}"
            found.add(f"api {missing}; this kernel's is {API_VERSION}")
        offers = _listed(found, "extensions", extensions, Extension)
        brought = _listed(found, "points", points, Point)
        for what, keys in (("", [e.key for e in offers]), ("point ", [p.name for p in brought])):
            for key in sorted({key for key in keys if keys.count(key) > 1}, key=str):
                found.add(f"{what}{key!r} is declared twice")
        before = found.names("formerly", formerly)
        found.unknown(unknown, (f.name for f in attrs.fields(Plugin) if f.name != "problems"))
        problems = (*found.found, *(p for each in (*brought, *offers) for p in each.problems))
        self.__attrs_init__(
            name, offers, brought, api if api is not None and _is_version(api) else (0, 0), before, problems
        )

    def compatible(self) -> bool:
        """Same major version, and no newer minor version than this kernel's. One without `api` is not judged by it."""
        return self.api == (0, 0) or fits(self.api, API_VERSION)


def _listed(problems: _Problems, field: str, value: Any, kind: type) -> tuple[Any, ...]:
    if isinstance(value, str) or not isinstance(value, Iterable):
        problems.add(f"{field} must be a list of {kind.__name__} objects, got {value!r}")
        return ()
    items = tuple(value)
    for item in items:
        if not isinstance(item, kind):
            problems.add(f"{field} must hold {kind.__name__} objects, got {item!r}")
    return tuple(item for item in items if isinstance(item, kind))


def _own(name: str, contract: str, summary: str) -> Point:
    """A point of the kernel."""
    return Point(
        name, f"crosstask.points.{name}:{contract}", kit=f"crosstask.testing.kits.{name}:KIT",
        template="crosstask.cli:templates.json", summary=summary, version=API_VERSION,
    )  # fmt: skip


KERNEL_POINTS = (
    _own("adapter", "Adapter", "A few trainable weights beside a frozen model"),
    _own("balancer", "Balancer", "One update from the gradients of several tasks"),
    _own("curriculum", "CurriculumPlanner", "In what order to learn tasks on the way to a target"),
    _own("discovery", "Discoverer", "Which task helps which"),
    _own("distillation", "Distiller", "What several tasks have in common"),
    _own("executor", "Executor", "Where jobs run"),
    _own("meta_learner", "MetaLearner", "Learns from many small tasks how to learn the next"),
    _own("observer", "Observer", "Listens to the lifecycle of a run"),
    _own("source", "Source", "Where a portfolio of tasks comes from"),
    _own("stage", "Stage", "One step of a recipe"),
    _own("store", "StoreOpener", "Where finished work is kept"),
    _own("strategist", "Strategist", "Which strategies to use for a task, by what earlier runs came to"),
    _own("synthesis", "Synthesizer", "A model for an unseen task, made from others"),
    _own("transfer", "Transfer", "How a target is learned from a model of a source"),
    _own("wrapper", "Wrapper", "Changes the answers of other components"),
)
"""The points that the kernel itself defines. Others come from plugins, by the same rules; `Registry.points` has all."""

RESERVED = {
    COMMAND: ("compare", "plugins", "recipe", "report", "run", "stage", "store"),
    "stage": (
        "name", "description", "extends", "seed", "seeds", "requires", "prefer", "source", "model", "train", "budget",
        "transfer", "executor", "device", "observers", "wrappers",
    ),
}  # fmt: skip
"""Names that the kernel keeps: of its own commands, and of the tables of a recipe that are no stage's."""
