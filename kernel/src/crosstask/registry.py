"""Finds, filters, loads and reports plugins. The only reader of entry points.

A plugin's state is a value: one that is broken, incompatible, denied or conflicting is listed with its reason, and
never stops the others. Listing imports manifests only; a component's module is imported when it is first asked for.
"""

from __future__ import annotations

import contextlib
import enum
import functools
import importlib
import io
import time
import traceback
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, cast

import attrs

from crosstask.errors import CrosstaskError, PluginError, UnknownComponentError, nearest
from crosstask.manifest import API_VERSION, ENTRY_POINT_GROUP, POINTS, RECIPE, Extension, Plugin
from crosstask.settings import Settings, load_settings

if TYPE_CHECKING:
    from pathlib import Path

    from crosstask.components import Component

SLOW_IMPORT_SECONDS = 0.5


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
    conflicts: dict[str, str] = attrs.field(factory=dict)
    """`point/name` -> why this plugin's component of that name is not used, where others offer one too."""

    @property
    def origin(self) -> str:
        """`crosstask-rgb 0.1.0`."""
        return f"{self.distribution} {self.version}".strip()

    def fail(self, status: Status, reason: str, trace: str = "") -> None:
        """Keep the first failure; later ones follow from it."""
        if self.status is Status.OK:
            self.status, self.reason, self.traceback = status, reason, trace


class Registry:
    """Plugins by name, components by (point, name). Starts empty; `Registry.installed()` reads the entry points."""

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or Settings()
        self.records: list[PluginRecord] = []

    @classmethod
    def installed(cls, settings: Settings | None = None) -> Registry:
        """Everything installed in this environment, filtered by `settings` (default: as configured)."""
        registry = cls(load_settings() if settings is None else settings)
        registry.add_entry_points()
        return registry

    def preferring(self, prefer: Mapping[str, str]) -> Registry:
        """The same plugins where `prefer` (of a recipe, say) decides conflicts before the settings do."""
        if not prefer:
            return self
        made = Registry(attrs.evolve(self.settings, prefer={**self.settings.prefer, **prefer}))
        made.records = [attrs.evolve(record) for record in self.records]
        return made

    def add_entry_points(self) -> None:
        """Load every manifest of the entry-point group that the settings allow."""
        seen = set()
        for found, text in _distributions():
            name, version = _name_and_version(found)
            if name in seen:  # an earlier folder on sys.path shadows a later one
                continue
            seen.add(name)
            for entry, value in _entries(text):
                self._add(PluginRecord(entry, name, version, value), functools.partial(_load_entry, value))

    def register(self, plugin: Plugin, *, distribution: str = "(in process)", version: str = "") -> PluginRecord:
        """Add a plugin by hand: tests, notebooks, embedded use."""
        record = PluginRecord(getattr(plugin, "name", repr(plugin)), distribution, version)
        self._add(record, lambda: plugin)
        return record

    def _add(self, record: PluginRecord, load: Any) -> None:
        self.records.append(record)
        if reason := self.settings.refuses(record.name, record.distribution):
            record.fail(Status.DENIED, reason)
        else:
            self._load(record, load)
        self.__dict__.pop("_index", None)

    @staticmethod
    def _load(record: PluginRecord, load: Any) -> None:
        printed, started = io.StringIO(), time.perf_counter()
        try:
            with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
                plugin = load()
            if not isinstance(plugin, Plugin):
                raise PluginError(f"names a {type(plugin).__name__}, not a crosstask.Plugin")
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a manifest may even call sys.exit: that is its failure, not ours
            where = f"{record.entry_point}: " if record.entry_point else ""
            kind = "" if isinstance(error, CrosstaskError) else f"{type(error).__name__}: "
            record.fail(Status.BROKEN, f"{where}{kind}{error}", traceback.format_exc())
            return
        seconds = time.perf_counter() - started
        if seconds > SLOW_IMPORT_SECONDS:
            record.notes += (f"its manifest took {seconds:.1f} s to import; import heavy modules in components only",)
        if text := printed.getvalue().strip():
            record.notes += (f"its manifest printed {text[:60]!r} at import",)
        record.plugin = plugin
        if not plugin.compatible():
            needs, has = (".".join(map(str, v)) for v in (plugin.api, API_VERSION))
            record.fail(Status.INCOMPATIBLE, f"made for plugin API {needs}; this kernel has {has}")
        elif record.entry_point and plugin.name != record.name:
            record.fail(
                Status.BROKEN,
                f"entry point {record.name!r} names plugin {plugin.name!r}; they must be the same",
            )

    @functools.cached_property
    def _index(self) -> dict[tuple[str, str], list[tuple[PluginRecord, Extension]]]:
        """Who offers what. Conflicts are settled between plugins of one name, then between components of one name."""
        by_name: dict[str, list[PluginRecord]] = {}
        for record in self.records:
            record.conflicts = {}
            if record.status is Status.CONFLICTING:  # settled before something was added: look again
                record.status, record.reason = Status.OK, ""
            if record.status is Status.OK:
                by_name.setdefault(record.name, []).append(record)
        for name, records in by_name.items():
            for record, reason in self._losers(records, name, f"plugin {name!r}"):
                record.fail(Status.CONFLICTING, reason)
        index: dict[tuple[str, str], list[tuple[PluginRecord, Extension]]] = {}
        for record in self.records:
            for extension in record.plugin.extensions if record.plugin else ():
                index.setdefault((extension.point, extension.name), []).append((record, extension))
        for (point, name), offers in index.items():
            usable = [record for record, _ in offers if record.status is Status.OK]
            for record, reason in self._losers(usable, f"{point}/{name}", f"{point} {name!r}"):
                record.conflicts[f"{point}/{name}"] = reason
        return index

    def _losers(self, records: list[PluginRecord], key: str, what: str) -> list[tuple[PluginRecord, str]]:
        """Those that may not be used because others have the same name, with the reason; all, if none is preferred."""
        if len(records) < 2:
            return []
        records = sorted(records, key=lambda record: record.origin)  # however the file system lists them
        origins = " and ".join(record.origin for record in records)
        preferred = self.settings.prefer.get(key)
        if [record.distribution for record in records].count(preferred or "") == 1:
            reason = f"{what} is offered by {origins}; {preferred} is preferred"
            return [(record, reason) for record in records if record.distribution != preferred]
        wrong = f" (prefer says {preferred!r}, which does not decide it)" if preferred is not None else ""
        reason = f"{what} is offered by {origins}; choose with prefer: {key!r} = {records[0].distribution!r}{wrong}"
        return [(record, reason) for record in records]

    def plugins(self) -> list[PluginRecord]:
        """Every plugin found, conflicts settled, sorted by name."""
        _ = self._index
        return sorted(self.records, key=lambda record: (record.name, record.distribution))

    def names(self, point: str) -> list[str]:
        """Usable components of an extension point."""
        return sorted(
            name
            for (at, name), offers in self._index.items()
            if at == point and any(_usable(record, extension) for record, extension in offers)
        )

    def find(self, point: str, name: str) -> tuple[PluginRecord, Extension]:
        """The one usable offer of a component, or an error that says why there is none and what comes nearest."""
        if point not in POINTS and point != RECIPE:
            raise UnknownComponentError(f"unknown extension point {point!r}{nearest(point, POINTS)}")
        offers = self._index.get((point, name), [])
        for record, extension in offers:
            if _usable(record, extension):
                return record, extension
        for record, _ in offers:
            if conflict := record.conflicts.get(f"{point}/{name}"):
                raise PluginError(conflict)
            if record.status is Status.CONFLICTING:
                raise PluginError(f"{point} {name!r} cannot be used: {record.reason}")
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
        unread = sorted(r.name for r in self.records if r.plugin is None)
        told = f" (not loaded: {', '.join(unread)}; see `crosstask plugins doctor`)" if unread else ""
        raise UnknownComponentError(f"no {point} named {name!r}{nearest(name, self.names(point))}{told}")

    def component_class(self, point: str, name: str) -> type[Component]:
        """Import a component's class. PluginError names the import string and the distribution if that fails."""
        record, extension = self.find(point, name)
        where = f"{point} {name!r} ({record.origin})"
        loaded = _import(extension.target, where)
        contract = _import(POINTS[point], where)
        if not (isinstance(loaded, type) and issubclass(loaded, contract)):
            raise PluginError(f"{where}: {extension.target} is not a {contract.__name__} ({POINTS[point]})")
        if missing := getattr(loaded, "__abstractmethods__", None):
            raise PluginError(f"{where}: {extension.target} does not implement {', '.join(sorted(missing))}")
        if "__attrs_attrs__" not in vars(loaded):
            raise PluginError(f"{where}: {extension.target} is not decorated with @crosstask.component")
        return cast("type[Component]", loaded)

    def create(self, point: str, name: str, options: Mapping[str, Any] | None = None) -> Component:
        """A component by name, with its options checked."""
        from crosstask.options import build  # deferred: listing plugins needs no options

        record, _ = self.find(point, name)
        origin = f"{point} {name!r} ({record.origin})"
        try:
            made = build(self.component_class(point, name), options, f"{point} {name!r}")
        except CrosstaskError:
            raise
        except Exception as error:  # foreign code, such as the component's own __attrs_post_init__
            raise PluginError(f"{origin} cannot be made: {type(error).__name__}: {error}") from error
        made._origin = origin
        return made

    def recipe_path(self, name: str) -> Path:
        """The TOML file of a recipe that a plugin ships."""
        from importlib.resources import files
        from pathlib import Path

        record, extension = self.find(RECIPE, name)
        package, _, inside = extension.target.partition(":")
        path = Path(str(files(package).joinpath(inside)))
        if not path.is_file():
            raise PluginError(f"recipe {name!r} ({record.origin}): {extension.target} is not a file")
        return path


def _usable(record: PluginRecord, extension: Extension) -> bool:
    return record.status is Status.OK and f"{extension.point}/{extension.name}" not in record.conflicts


def _distributions() -> Iterator[tuple[Any, str]]:
    """(distribution, its entry_points.txt) of those that name our group."""
    from importlib_metadata import distributions  # deferred: a registry filled by hand does not need it

    for found in distributions():
        text = found.read_text("entry_points.txt") or ""
        if f"[{ENTRY_POINT_GROUP}]" in text.replace(" ", ""):
            yield found, text


def _name_and_version(found: Any) -> tuple[str, str]:
    """Of a distribution, without parsing the whole of its metadata: a listing must be fast."""
    head = (found.read_text("METADATA") or found.read_text("PKG-INFO") or "").partition("\n\n")[0]
    fields: dict[str, str] = {}
    for line in head.splitlines():
        key, sign, value = line.partition(": ")
        if sign and key in ("Name", "Version"):
            fields.setdefault(key, value.strip())
    folder = getattr(getattr(found, "_path", None), "name", "(unknown distribution)")
    return fields.get("Name", folder), fields.get("Version", "")


def _entries(text: str) -> Iterator[tuple[str, str]]:
    """(name, value) of the entries of our group in an entry_points.txt."""
    ours = False
    for line in map(str.strip, text.splitlines()):
        if line.startswith("["):
            ours = line.strip("[] ") == ENTRY_POINT_GROUP
        elif ours and line and not line.startswith(("#", ";")):
            name, _, value = line.partition("=")
            yield name.strip(), value.partition("[")[0].strip()


def _load_entry(value: str) -> Any:
    module, sign, attribute = value.partition(":")
    if not all(part.isidentifier() for part in module.split(".")) or not (sign and attribute.isidentifier()):
        raise PluginError("an entry point must look like 'package.plugin:PLUGIN'")
    loaded = importlib.import_module(module)
    if not hasattr(loaded, attribute):
        raise PluginError(f"{module} has no {attribute!r}{nearest(attribute, _public(loaded))}")
    return getattr(loaded, attribute)


def _import(target: str, where: str) -> Any:
    module, _, attribute = target.partition(":")
    try:
        value: Any = importlib.import_module(module)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # foreign code: whatever it raises is its failure
        raise PluginError(f"{where}: importing {module} failed: {type(error).__name__}: {error}") from error
    for part in attribute.split("."):
        if not hasattr(value, part):
            raise PluginError(f"{where}: {module} has no {attribute!r}{nearest(part, _public(value))}")
        value = getattr(value, part)
    return value


def _public(value: Any) -> Iterable[str]:
    return (name for name in dir(value) if not name.startswith("_"))
