"""Finds, filters, loads and reports plugins. The only reader of entry points.

A plugin's state is a value: one that is broken, incompatible, denied or conflicting is listed with its reason, and
never stops the others. Listing imports manifests only; a component's module is imported when it is first asked for.
Extension points come through the same door: the kernel's own and those that plugins bring stand in one table.
"""

from __future__ import annotations

import enum
import functools
import importlib
import json
import re
import reprlib
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from crosstask.errors import CrosstaskError, PluginError, UnknownComponentError, nearest, told
from crosstask.isolated import Answer, Import, Keyboard, attribute, look, look_apart, parsed_entry
from crosstask.manifest import (
    API_VERSION,
    COMMAND,
    DEFAULT,
    ENTRY_POINT_GROUP,
    KERNEL_POINTS,
    RECIPE,
    RESERVED,
    Extension,
    Plugin,
    Point,
    canonical,
    fits,
)
from crosstask.settings import Settings, load_settings
from crosstask.version import __version__

if TYPE_CHECKING:
    from crosstask.components import Component

SLOW_IMPORT_SECONDS = 0.5
KERNEL = "crosstask-kernel"
IN_PROCESS = "(in process)"
"""Instead of a distribution: of a plugin that the program itself registered."""


class Status(enum.Enum):
    """What became of a plugin."""

    OK = "ok"
    BROKEN = "broken"
    INCOMPATIBLE = "incompatible"
    DENIED = "denied"
    CONFLICTING = "conflicting"


@attrs.define
class PluginRecord:
    """One plugin as found: where it comes from, what became of it and why."""

    name: str
    distribution: str
    version: str
    entry_point: str = ""
    status: Status = Status.OK
    reason: str = ""
    traceback: str = ""
    notes: tuple[str, ...] = ()
    plugin: Plugin | None = None
    needs: tuple[str, ...] = ()
    """What its distribution requires, as far as that is ours: `crosstask-…` with a version."""
    unusable: dict[str, str] = attrs.field(factory=dict)
    """`point/name` (`point/…` for a point that it brings) -> why that is not used, where the plugin itself is."""

    @property
    def origin(self) -> str:
        """`crosstask-rgb 0.1.0`."""
        return f"{self.distribution} {self.version}".strip()

    @property
    def names(self) -> tuple[str, ...]:
        """All that `deny` may call it: plugin, distribution, and the distribution's former names."""
        return (self.name, self.distribution, *(self.plugin.formerly if self.plugin else ()))

    @property
    def is_foreign(self) -> bool:
        """Whether it was found, not registered by the program itself, and is no distribution of this repository."""
        known = canonical(self.distribution)
        return bool(self.entry_point) and known != KERNEL and known not in packages().values()

    def fail(self, status: Status, reason: str, trace: str = "") -> None:
        """Keep the first failure; later ones follow from it."""
        if self.status is Status.OK:
            self.status, self.reason, self.traceback = status, reason, trace


@attrs.frozen
class PointRecord:
    """An extension point as found: who brings it (None: the kernel), and why it cannot be used, if it cannot."""

    point: Point
    plugin: PluginRecord | None = None
    reason: str = ""

    @property
    def origin(self) -> str:
        """`crosstask-continual 0.1.0`, or `kernel`."""
        return "kernel" if self.plugin is None else self.plugin.origin


class Registry:
    """Plugins by name, components by (point, name). Starts with the kernel's own extension points and no plugin;
    `Registry.installed()` reads the entry points.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or Settings()
        self.records: list[PluginRecord] = []

    @classmethod
    def installed(cls, settings: Settings | None = None) -> Registry:
        """Everything installed in this environment, filtered by `settings` (default: as configured), and the one-off
        plugins of the folders that they name.
        """
        registry = cls(load_settings() if settings is None else settings)
        registry.add_entry_points()
        for folder in registry.settings.plugins_dir:
            registry.add_folder(folder)
        return registry

    def preferring(self, prefer: Mapping[str, str]) -> Registry:
        """The same plugins where `prefer` (of a recipe, say) decides conflicts before the settings do."""
        if not prefer:
            return self
        made = Registry(attrs.evolve(self.settings, prefer={**self.settings.prefer, **prefer}))
        made.records = [attrs.evolve(record) for record in self.records]
        return made

    def add_entry_points(self) -> None:
        """Load every manifest of the entry-point group that the settings allow. Those of distributions that are not
        ours are imported in another process.
        """
        seen: set[str] = set()
        strangers: list[tuple[PluginRecord, Import]] = []
        for found, text in _distributions():
            name, version, needs = _facts(found)
            if canonical(name) in seen:  # an earlier folder on sys.path shadows a later one
                continue
            seen.add(canonical(name))
            for entry, value in dict.fromkeys(_entries(text)):  # a line may stand there twice
                record = PluginRecord(entry, name, version, value, needs=needs)
                load = Import("entry", (value,))
                if not record.is_foreign:
                    self._add(record, load.here)
                elif self._is_wanted(record):
                    strangers.append((record, load))
        self._take_apart(strangers)

    def add_folder(self, folder: str | Path) -> None:
        """Load the one-off plugins of a folder: each `NAME.py`, or package `NAME` with a module `plugin`, that has a
        `PLUGIN`. To settings their distribution is called `dir:NAME`. Their manifests, too, are imported in another
        process.
        """
        place = Path(folder).expanduser().absolute()
        if not place.is_dir():
            raise PluginError(f"no folder of plugins {place}")
        if str(place) not in sys.path:
            sys.path.append(str(place))
            importlib.invalidate_caches()
        found: list[tuple[PluginRecord, Import]] = []
        for path in sorted(place.iterdir()):
            single = path.suffix == ".py" and path.is_file()
            module = path.stem if single else f"{path.name}.plugin"
            if path.name.startswith(".") or (single and "PLUGIN" not in path.read_text("utf-8", "replace")):
                continue  # an editor's file, or a module beside the plugins that they import
            if single or (path / "plugin.py").is_file():
                record = PluginRecord(path.stem, f"dir:{path.stem}", "", f"{module}:PLUGIN")
                if self._is_wanted(record):
                    found.append((record, Import("folder", (str(place), module))))
        self._take_apart(found)

    def register(self, plugin: Plugin, *, distribution: str = IN_PROCESS, version: str = "") -> PluginRecord:
        """Add a plugin by hand: tests, notebooks, embedded use. To `allow` one that is given no distribution goes by
        its own name.
        """
        name = plugin.name if isinstance(plugin, Plugin) else repr(plugin)
        record = PluginRecord(name, distribution, version)
        self._add(record, lambda: plugin)
        return record

    def _add(self, record: PluginRecord, load: Callable[[], Any]) -> None:
        """Add a plugin whose manifest may be read in this process."""
        if self._is_wanted(record):
            self._take(record, look(load))

    def _is_wanted(self, record: PluginRecord) -> bool:
        """Add a record; whether its manifest is to be read, as far as can be said before."""
        self.records.append(record)
        self.__dict__.pop("_index", None)
        distribution = record.name if record.distribution == IN_PROCESS else record.distribution
        if reason := self.settings.refuses(record.name, distribution):
            record.fail(Status.DENIED, reason)
        elif reason := _too_new(record):
            record.fail(Status.INCOMPATIBLE, reason)
        return record.status is Status.OK

    def _take_apart(self, found: list[tuple[PluginRecord, Import]]) -> None:
        for (record, _), answer in zip(found, look_apart([each for _, each in found]), strict=True):
            self._take(record, answer)

    def _take(self, record: PluginRecord, answer: Answer) -> None:
        """Judge a manifest, or what came of looking for one."""
        where = f"{_shown_entry(record.entry_point)}: " if record.entry_point else ""
        if answer.plugin is None:
            record.fail(Status.BROKEN, where + answer.reason, answer.traceback)
            return
        if answer.seconds > SLOW_IMPORT_SECONDS:
            told = f"its manifest took {answer.seconds:.1f} s to import; import heavy modules in components only"
            record.notes += (told,)
        if text := answer.printed.strip():
            record.notes += (f"its manifest printed {text[:60]!r} at import",)
        plugin = record.plugin = answer.plugin
        # First of all the version: a manifest written for another API may be wrong in this one without being broken.
        if not plugin.compatible():
            needs, has = (".".join(map(str, v)) for v in (plugin.api, API_VERSION))
            record.fail(Status.INCOMPATIBLE, f"made for plugin API {needs}; this kernel has {has}")
        elif plugin.problems:
            record.fail(Status.BROKEN, where + "; ".join(plugin.problems))
        elif record.entry_point and not record.distribution.startswith("dir:") and plugin.name != record.name:
            record.fail(
                Status.BROKEN,
                f"entry point {record.name!r} names plugin {plugin.name!r}; they must be the same",
            )
        if reason := self.settings.denies(*plugin.formerly):
            record.fail(Status.DENIED, reason)

    @functools.cached_property
    def _index(self) -> _Index:
        """Who offers what. Conflicts are settled between plugins of one name, then between points, then between
        components of one name.
        """
        by_name: dict[str, list[PluginRecord]] = {}
        for record in self.records:
            record.unusable = {}
            if record.status is Status.CONFLICTING:  # settled before something was added: look again
                record.status, record.reason = Status.OK, ""
            if record.status is Status.OK:
                by_name.setdefault(record.name, []).append(record)
        for name, records in by_name.items():
            for record, reason in self._losers(records, name, f"plugin {name!r}"):
                record.fail(Status.CONFLICTING, reason)
        made = _Index(self._point_records())
        for record in self.records:
            for extension in record.plugin.extensions if record.plugin else ():
                made.offers.setdefault((extension.point, extension.name), []).append((record, extension))
                for alias in extension.aliases:
                    made.aliases.setdefault((extension.point, alias), []).append((record, extension))
                if record.status is Status.OK and (reason := self._no_place(record, extension, made.points)):
                    record.unusable[extension.key] = reason
        for (point, name), offers in made.offers.items():
            usable = [record for record, extension in offers if _usable(record, extension)]
            for record, reason in self._losers(usable, f"{point}/{name}", f"{point} {name!r}"):
                record.unusable[f"{point}/{name}"] = f"conflicting: {reason}"
        return made

    def _point_records(self) -> dict[str, list[PointRecord]]:
        """Every point by name, the usable one (if there is one) first."""
        found = {point.name: [PointRecord(point)] for point in KERNEL_POINTS}
        brought: dict[str, list[tuple[PluginRecord, Point]]] = {}
        for record in self.records:
            for point in record.plugin.points if record.plugin else ():
                brought.setdefault(point.name, []).append((record, point))
        for name, offers in brought.items():
            usable = [record for record, _ in offers if record.status is Status.OK]
            lost = {
                id(record): why for record, why in self._losers(usable, f"point/{name}", f"extension point {name!r}")
            }
            for record, point in offers:
                reason = "" if record.status is Status.OK else f"{record.status.value}: {record.reason}"
                if not reason and name in found and found[name][0].plugin is None:
                    reason = f"the kernel defines an extension point {name!r}; choose another name"
                reason = reason or lost.get(id(record), "")
                if reason and record.status is Status.OK:
                    record.unusable[f"point/{name}"] = f"conflicting: {reason}"
                found.setdefault(name, []).append(PointRecord(point, record, reason))
            found[name].sort(key=lambda each: bool(each.reason))
        return found

    def _no_place(self, record: PluginRecord, extension: Extension, points: dict[str, list[PointRecord]]) -> str:
        """Why an extension of a plugin that is well cannot be used whoever else offers one of its name; or nothing."""
        if extension.name in RESERVED.get(extension.point, ()):
            what = "a command" if extension.point == COMMAND else "a table of every recipe"
            return f"the kernel has {what} {extension.name!r}; choose another name"
        if extension.point in (RECIPE, COMMAND):
            return ""
        offers = points.get(extension.point, [])
        if not offers:
            whence = self._whence(record, extension, points)
            return f"no installed plugin defines extension point {extension.point!r}{whence}"
        if offers[0].reason:
            return f"extension point {extension.point!r} of {offers[0].origin} cannot be used: {offers[0].reason}"
        version = offers[0].point.version
        if extension.api is not None and not fits(extension.api, version):
            needs, has = (".".join(map(str, v)) for v in (extension.api, version))
            return f"made for {extension.point} {needs}; {offers[0].origin} has {has}"
        return ""

    def _whence(self, record: PluginRecord, extension: Extension, points: Iterable[str]) -> str:
        """What to install for a missing point: as our index says, else what the distribution itself requires."""
        offered = self.offered(f"point/{extension.point}")
        installed = {canonical(known.distribution) for known in self.records}
        missing = [name for text in record.needs if (name := _name_of(text)) not in installed and name != KERNEL]
        if offered or missing:
            return f"; pip install {offered or ' '.join(missing)}"
        return nearest(extension.point, [*points, RECIPE, COMMAND])

    def _losers(self, records: list[PluginRecord], key: str, what: str) -> list[tuple[PluginRecord, str]]:
        """Those that may not be used because others have the same name, with the reason; all, if none is preferred."""
        if len(records) < 2:
            return []
        records = sorted(records, key=lambda record: record.origin)  # however the file system lists them
        origins = " and ".join(record.origin for record in records)
        preferred = self.settings.prefer.get(key)
        chosen = canonical(preferred or "")
        for record in records:  # settings may use a name that the distribution had before
            if record.plugin and chosen in map(canonical, record.plugin.formerly):
                chosen = canonical(record.distribution)
        winners = [record for record in records if canonical(record.distribution) == chosen]
        if len(winners) == 1:
            reason = f"{what} is offered by {origins}; {winners[0].distribution} is preferred"
            return [(record, reason) for record in records if record is not winners[0]]
        wrong = f" (prefer says {preferred!r}, which does not decide it)" if preferred is not None else ""
        reason = f"{what} is offered by {origins}; choose with prefer: {key!r} = {records[0].distribution!r}{wrong}"
        return [(record, reason) for record in records]

    def offered(self, key: str) -> str:
        """What to install for `point/name`: as our index says, then as that of the settings does; else nothing."""
        found = packages().get(key)
        if found is None and self.settings.index:
            offer = named_index(self.settings.index).get(key)
            return "" if offer is None else offer.install
        return found or ""

    def plugins(self) -> list[PluginRecord]:
        """Every plugin found, conflicts settled, sorted by name."""
        _ = self._index
        return sorted(self.records, key=lambda record: (record.name, record.distribution))

    def points(self) -> list[PointRecord]:
        """Every extension point: the kernel's, then those of plugins, by name; those that cannot be used too."""
        every = [each for records in self._index.points.values() for each in records]
        return sorted(every, key=lambda each: (each.plugin is not None, each.point.name, each.origin))

    def point(self, name: str) -> Point:
        """A usable extension point. PluginError says why it cannot be used, or what comes nearest."""
        records = self._index.points.get(name, [])
        if not records:
            offered = self.offered(f"point/{name}")
            hint = f"; pip install {offered} brings it" if offered else nearest(name, self._index.points)
            raise UnknownComponentError(f"unknown extension point {name!r}{hint}")
        if records[0].reason:
            raise PluginError(f"extension point {name!r} of {records[0].origin} cannot be used: {records[0].reason}")
        return records[0].point

    def contract(self, name: str) -> type[Component]:
        """The base class of an extension point, imported."""
        from crosstask.components import Component

        target = self.point(name).contract
        loaded = load(target, f"extension point {name!r} ({self._index.points[name][0].origin})")
        if not (isinstance(loaded, type) and issubclass(loaded, Component) and vars(loaded).get("point") == name):
            raise PluginError(f"extension point {name!r}: {target} is not a Component that says point = {name!r}")
        return loaded

    def names(self, point: str) -> list[str]:
        """Usable components of an extension point (recipes, commands)."""
        return sorted(
            name
            for (at, name), offers in self._index.offers.items()
            if at == point and any(_usable(record, extension) for record, extension in offers)
        )

    def defaults(self, point: str) -> list[str]:
        """The usable components of a point that manifests mark as default, by number, then by name."""
        marked = [
            (extension.default, name)
            for (at, name), offers in self._index.offers.items()
            for record, extension in offers
            if at == point and extension.default and _usable(record, extension)
        ]
        return [name for _, name in sorted(marked)]

    def default(self, point: str) -> str:
        """The one component of a point that a manifest marks as default; `prefer` decides between several."""
        marked = self.defaults(point)
        preferred = self.settings.prefer.get(f"{point}/{DEFAULT}")
        if len(marked) > 1 and preferred:
            chosen = canonical(preferred)
            whose = {name: canonical(self.find(point, name)[0].distribution) for name in marked}
            marked = [name for name in marked if whose[name] == chosen] or marked
        if len(marked) == 1:
            return marked[0]
        if not marked:
            self._why_no_default(point)
            offered = self.offered(f"{point}/{DEFAULT}")
            hint = f"; pip install {offered}" if offered else f"; name one of: {', '.join(self.names(point)) or 'none'}"
            raise UnknownComponentError(f"no installed plugin marks a {point} as the default{hint}")
        told = " and ".join(f"{name!r} of {self.find(point, name)[0].origin}" for name in marked)
        key = f"{point}/{DEFAULT}"
        offering = [self.find(point, name)[0].distribution for name in marked]
        choose = f"choose with prefer: {key!r} = {offering[0]!r}" if len(set(offering)) > 1 else "name one"
        wrong = f" (prefer says {preferred!r}, which does not decide it)" if preferred is not None else ""
        raise PluginError(f"several {point} are marked as the default: {told}; {choose}{wrong}")

    def _why_no_default(self, point: str) -> None:
        """PluginError in the words of one that is marked and cannot be used, if there is one."""
        for (at, name), offers in self._index.offers.items():
            if at == point and any(extension.default for _, extension in offers):
                self.find(point, name)

    def find(self, point: str, name: str) -> tuple[PluginRecord, Extension]:
        """The one usable offer of a component, or an error that says why there is none and what comes nearest."""
        if not isinstance(name, str):
            raise UnknownComponentError(f"a {point} is chosen by its name, got {reprlib.repr(name)}")
        if point not in (RECIPE, COMMAND):
            self.point(point)
        if name == DEFAULT:
            name = self.default(point)
        offers = self._index.offers.get((point, name), [])
        if not offers and (renamed := self._renamed(point, name)):
            warnings.warn(f"{point} {name!r} is now called {renamed!r}", FutureWarning, stacklevel=3)
            return self.find(point, renamed)
        for record, extension in offers:
            if _usable(record, extension):
                return record, extension
        for record, extension in offers:
            if record.status is Status.CONFLICTING:
                raise PluginError(f"{point} {name!r} cannot be used: {record.reason}")
            if record.status is Status.OK:
                why = record.unusable[extension.key]
                if why.startswith("conflicting: "):  # it names all that offer it
                    raise PluginError(why.removeprefix("conflicting: "))
                raise PluginError(f"{point} {name!r} of {record.origin} cannot be used: {why}")
            raise PluginError(
                f"{point} {name!r} of {record.origin} cannot be used: {record.status.value}: {record.reason}"
            )
        broken = [
            r for r in self.records if r.plugin is None and name.replace("_", "-") in (r.name, r.name.replace("_", "-"))
        ]
        if broken:
            record = broken[0]
            raise PluginError(
                f"{point} {name!r}: plugin {record.name!r} of {record.origin} is {record.status.value}: {record.reason}"
            )
        if offered := self.offered(f"{point}/{name}"):
            raise UnknownComponentError(f"no {point} named {name!r} is installed; pip install {offered} brings it")
        unread = sorted(r.name for r in self.records if r.plugin is None)
        told = f" (not loaded: {', '.join(unread)}; see `crosstask plugins doctor`)" if unread else ""
        raise UnknownComponentError(f"no {point} named {name!r}{nearest(name, self.names(point))}{told}")

    def _renamed(self, point: str, name: str) -> str:
        """What a former name stands for now; nothing if it is none. Of several, those that can be used count."""
        known = self._index.aliases.get((point, name), [])
        now = [offer for offer in known if _usable(*offer)] or known[:1]
        if len({extension.name for _, extension in now}) > 1:
            told = " and ".join(sorted(f"{extension.name!r} of {record.origin}" for record, extension in now))
            raise PluginError(f"{point} {name!r} was the name of {told}; say which")
        return now[0][1].name if now else ""

    def component_class(self, point: str, name: str) -> type[Component]:
        """Import a component's class. PluginError names the import string and the distribution if that fails."""
        record, extension = self.find(point, name)
        where = f"{point} {extension.name!r} ({record.origin})"
        loaded = load(extension.target, where)
        contract = self.contract(point)
        if not (isinstance(loaded, type) and issubclass(loaded, contract)):
            told = self.point(point).contract
            raise PluginError(f"{where}: {extension.target} is not a {contract.__name__} ({told})")
        if missing := getattr(loaded, "__abstractmethods__", None):
            raise PluginError(f"{where}: {extension.target} does not implement {', '.join(sorted(missing))}")
        if "__attrs_attrs__" not in vars(loaded):
            raise PluginError(f"{where}: {extension.target} is not decorated with @crosstask.component")
        return loaded

    def create(self, point: str, name: str, options: Mapping[str, Any] | None = None) -> Component:
        """A component by name, with its options checked."""
        from crosstask.options import build  # deferred: listing plugins needs no options

        record, extension = self.find(point, name)
        origin = f"{point} {extension.name!r} ({record.origin})"
        try:
            made = build(self.component_class(point, extension.name), options, f"{point} {extension.name!r}")
        except CrosstaskError:
            raise
        except (Exception, SystemExit) as error:  # foreign code, such as the component's own __attrs_post_init__
            raise PluginError(f"{origin} cannot be made: {told(error)}") from error
        made._origin, made._name, made._distribution = origin, extension.name, record.origin
        return made

    def load_offer(self, extension: Extension) -> Any:
        """Whatever an extension names: a component's class, a recipe's path, a click command. PluginError says what is
        wrong with it.
        """
        if extension.point == RECIPE:
            return self.recipe_path(extension.name)
        if extension.point != COMMAND:
            return self.component_class(extension.point, extension.name)
        import click  # deferred: only commands are one

        record, _ = self.find(COMMAND, extension.name)
        where = f"command {extension.name!r} ({record.origin})"
        found = load(extension.target, where)
        if not isinstance(found, click.Command):
            raise PluginError(f"{where}: {extension.target} is a {type(found).__name__}, not a click command")
        return found

    def recipe_path(self, name: str) -> Path:
        """The TOML file of a recipe that a plugin ships."""
        record, extension = self.find(RECIPE, name)
        path = data_path(extension.target)
        if not path.is_file():
            raise PluginError(f"recipe {name!r} ({record.origin}): {extension.target} is not a file")
        return path


@attrs.define
class _Index:
    points: dict[str, list[PointRecord]]
    offers: dict[tuple[str, str], list[tuple[PluginRecord, Extension]]] = attrs.field(factory=dict)
    aliases: dict[tuple[str, str], list[tuple[PluginRecord, Extension]]] = attrs.field(factory=dict)


INDEX_VERSION = 1
_LARGEST_INDEX = 10_000_000
_DISTRIBUTION = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,98}[A-Za-z0-9])?")


@attrs.frozen
class Indexed:
    """What an index says of a component, point, recipe or command: the distribution that brings it, and what it is."""

    install: str
    summary: str = ""


@functools.cache
def shipped_index() -> Mapping[str, Indexed]:
    """`point/name` -> what our distributions offer, by the index that the root distribution carries; empty where only
    the kernel is installed.
    """
    from importlib_metadata import PackageNotFoundError, distribution

    try:
        text = distribution("crosstask").read_text("extra_metadata/index.json")
    except PackageNotFoundError:
        return {}
    try:
        return parse_index(text, "the index of crosstask") if text else {}
    except PluginError:  # another release's
        return {}


@functools.cache
def packages() -> Mapping[str, str]:
    """`point/name` -> the distribution of ours that offers it."""
    return {key: offer.install for key, offer in shipped_index().items()}


@functools.cache
def named_index(where: str) -> Mapping[str, Indexed]:
    """The index of the settings, for errors: they have something else to say than what is wrong with it."""
    try:
        return load_index(where, 5)
    except PluginError as error:
        warnings.warn(str(error), RuntimeWarning, stacklevel=4)
        return {}


def load_index(where: str, seconds: float = 20) -> Mapping[str, Indexed]:
    """An index from a file, or from a file:// or https:// address. PluginError says in a line what is wrong with it."""
    from http.client import HTTPException
    from urllib.error import URLError
    from urllib.parse import urlsplit
    from urllib.request import HTTPRedirectHandler, build_opener, url2pathname

    class OnlySecure(HTTPRedirectHandler):
        """An address that was given as a secure one must not become another."""

        def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
            if not newurl.startswith("https://"):
                raise URLError(f"it leads on to {newurl!r}, which is not https")
            return super().redirect_request(req, fp, code, msg, headers, newurl)

    told = f"the index {where!r}"
    scheme, _, _ = where.partition("://") if "://" in where else ("", "", "")
    if scheme not in ("", "file", "https"):
        raise PluginError(f"{told}: give a path, or an address that begins with file:// or https://")
    try:
        if scheme == "https":
            with build_opener(OnlySecure).open(where, timeout=seconds) as answer:
                data = answer.read(_LARGEST_INDEX + 1)
        else:
            path = Path(url2pathname(urlsplit(where).path) if scheme else where).expanduser()
            if path.exists() and not path.is_file():
                raise PluginError(f"{told} is no file")
            with path.open("rb") as file:
                data = file.read(_LARGEST_INDEX + 1)
    except (OSError, ValueError, HTTPException) as error:
        raise PluginError(f"{told} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if len(data) > _LARGEST_INDEX:
        raise PluginError(f"{told} is larger than {_LARGEST_INDEX:,} bytes")
    return parse_index(data.decode("utf-8", "replace"), told)


def parse_index(text: str, where: str) -> Mapping[str, Indexed]:
    """What an index holds; nothing of it is executed. PluginError says in a line what is wrong with it."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise PluginError(f"{where} is not JSON: {type(error).__name__}: {reprlib.repr(str(error))}") from None
    version = data.get("crosstask_index") if isinstance(data, dict) else None
    if type(version) is not int or not isinstance(offers := data.get("offers"), dict):
        raise PluginError(f"{where} is no index of plugins: it needs crosstask_index = {INDEX_VERSION} and offers")
    if version != INDEX_VERSION:
        raise PluginError(f"{where} is of version {version}; this crosstask reads version {INDEX_VERSION}")
    found: dict[str, Indexed] = {}
    for key, offer in offers.items():
        install, summary = (offer.get("install"), offer.get("summary", "")) if isinstance(offer, dict) else (None, "")
        if not re.fullmatch(r"[\w-]{1,60}/[^\s/]{1,100}", key) or not isinstance(summary, str):
            raise PluginError(f"{where}: {reprlib.repr(key)} must be point/name, its summary a text")
        if not isinstance(install, str) or not _DISTRIBUTION.fullmatch(install):
            told = "a distribution's name, such as crosstask-mine"
            raise PluginError(f"{where}: {reprlib.repr(key)}: install must be {told}; got {reprlib.repr(install)}")
        found[key] = Indexed(install, summary[:300])
    return found


def data_path(target: str) -> Path:
    """The file or folder that `package:path/inside` names. PluginError if the package cannot be imported."""
    from importlib.resources import files

    package, _, inside = target.partition(":")
    try:
        return Path(str(files(package).joinpath(inside)))
    except ImportError as error:
        raise PluginError(f"{target}: {error}") from None


def _usable(record: PluginRecord, extension: Extension) -> bool:
    return record.status is Status.OK and extension.key not in record.unusable


def _too_new(record: PluginRecord) -> str:
    """Why a distribution does not work with this kernel by its own requirement; nothing if it does."""
    for text in record.needs:
        asked = text.partition(";")[0].strip()
        least = re.search(r"(?:>=|~=|==)\s*([\d.]*\d)", asked)
        if _name_of(text) == KERNEL and least and _numbers(least[1]) > _numbers(__version__):
            return f"requires {asked}; this kernel is {__version__}"
    return ""


def _numbers(version: str) -> tuple[int, ...]:
    """The first three numbers of a version, as far as it has them: enough to compare releases."""
    found = [int(number) for number in re.findall(r"\d+", version)[:3]]
    return tuple(found + [0] * (3 - len(found)))


def _name_of(requirement: str) -> str:
    return canonical(re.split(r"[\s<>=!~;\[(@]", requirement, maxsplit=1)[0])


def _distributions() -> Iterator[tuple[Any, str]]:
    """(distribution, its entry_points.txt) of those that name our group."""
    from importlib_metadata import distributions  # deferred: a registry filled by hand does not need it

    for found in distributions():
        text = _text_of(found, "entry_points.txt")
        if f"[{ENTRY_POINT_GROUP}]" in text.replace(" ", ""):
            yield found, text


def _text_of(found: Any, name: str) -> str:
    """A file of a distribution's metadata; empty if there is none. One that is not UTF-8, as the specification wants
    it, is read as far as can be: what concerns us in it is ASCII.
    """
    try:
        text: str | None = found.read_text(name)
    except UnicodeDecodeError as error:
        text = error.object.decode("utf-8", "replace")
    except OSError:  # a circle of links, a disk that fails: a distribution that cannot be read offers nothing
        text = None
    return (text or "").removeprefix("\ufeff").replace("\r\n", "\n")


def unreadable() -> list[str]:
    """The entry_points.txt that are not UTF-8. We read over them, but not everybody who reads them all as it is
    imported: torch and networkx do.
    """
    from importlib_metadata import distributions

    found = []
    for each in distributions():
        try:
            each.read_text("entry_points.txt")
        except UnicodeDecodeError:
            found.append(str(getattr(each, "_path", each)) + "/entry_points.txt")
        except OSError:
            pass
    return found


def _facts(found: Any) -> tuple[str, str, tuple[str, ...]]:
    """Name, version and our requirements of a distribution, not parsing all its metadata: a listing must be fast."""
    text = _text_of(found, "METADATA") or _text_of(found, "PKG-INFO")
    fields: dict[str, str] = {}
    needs = []
    for line in text.partition("\n\n")[0].splitlines():
        key, sign, value = (part.strip() for part in line.partition(":"))
        if sign and key in ("Name", "Version"):
            fields.setdefault(key, value)
        elif key == "Requires-Dist" and canonical(value).startswith("crosstask") and "extra ==" not in value:
            needs.append(value)
    folder = getattr(getattr(found, "_path", None), "name", "(unknown distribution)")
    return fields.get("Name") or folder, fields.get("Version", ""), tuple(needs)


def licence(distribution: str) -> str:
    """Of a distribution, as its metadata say: the SPDX expression, the older field, or the classifier."""
    from email.parser import HeaderParser  # deferred, both: only who asks for one thing in full needs them

    found = _distribution(distribution)
    if found is None:
        return "unknown"
    fields = HeaderParser().parsestr(_text_of(found, "METADATA") or _text_of(found, "PKG-INFO"))
    classifiers = [c.rpartition(" :: ")[2] for c in fields.get_all("Classifier") or () if c.startswith("License ::")]
    told = [fields[key] for key in ("License-Expression", "License") if key in fields] + classifiers
    return told[0].splitlines()[0] if told and told[0] else "unknown"


def folder_of(distribution: str) -> str:
    """Where a distribution is installed; nothing if it is none."""
    found = _distribution(distribution)
    return "" if found is None else str(found.locate_file(""))


def _distribution(name: str) -> Any:
    """The distribution that is found under a name; None if there is none. Not by `importlib_metadata.distribution`,
    which parses, and so fails where the metadata are not as they should be.
    """
    from importlib_metadata import distributions

    return next(iter(distributions(name=name)), None)


def _entries(text: str) -> Iterator[tuple[str, str]]:
    """(name, value) of the entries of our group in an entry_points.txt."""
    ours = False
    for line in map(str.strip, text.splitlines()):
        if line.startswith("["):
            ours = line.strip("[] ") == ENTRY_POINT_GROUP
        elif ours and line and not line.startswith(("#", ";")):
            name, _, value = line.partition("=")
            yield name.strip(), _shown_entry(value.strip())


def _shown_entry(value: str) -> str:
    """An entry point's value as one writes it: without blanks and extras."""
    parsed = parsed_entry(value)
    return ":".join(parsed) if parsed else value.partition("[")[0].strip()


def load(target: str, where: str) -> Any:
    """What an import string names. PluginError begins with `where`, and says which name is meant."""
    module, _, dotted = target.partition(":")
    with Keyboard() as keyboard:
        try:
            value: Any = importlib.import_module(module)
        except BaseException as error:  # foreign code: whatever it raises is its failure
            if keyboard.interrupted(error):
                raise
            hint = ""
            if isinstance(error, UnicodeDecodeError) and (paths := unreadable()):
                hint = f"; not UTF-8, as they must be: {', '.join(paths)}"
            raise PluginError(f"{where}: importing {module} failed: {told(error)}{hint}") from error
    return attribute(value, dotted, f"{where}: {module}")
