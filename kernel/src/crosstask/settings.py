"""Which plugins may load, who wins a conflict, what plugins are told: user configuration, `[tool.crosstask]`,
environment; later wins, except that none of them can allow what another denies.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import attrs

from crosstask.errors import OptionError, nearest
from crosstask.manifest import canonical

_KEYS = ("allow", "deny", "prefer", "plugins_dir")
_SECRET = re.compile(r"token|secret|passw|passphrase|credential|apikey|(^|[_-])(key|pwd|pat|dsn|auth)($|[_-])")
_NAMED = re.compile(r'tool\s*\.\s*["\']?crosstask|^\s*["\']?crosstask["\']?\s*[.=]', re.MULTILINE)
"""What a file that has `[tool.crosstask]`, however it is written, has in it: most need not be parsed."""
_LOGIN = re.compile(r"(?<=://)[^/@\s]+(?=@)")


@attrs.frozen
class Settings:
    """Globs that say which plugins may load. An empty `allow` allows everything; `deny` wins over `allow`.

    `deny` names plugins or distributions. `allow` names distributions only: what a plugin is called its author chose,
    from which distribution it comes the user did when installing it. `allow_project` is the list of the project's file:
    what is loaded must be in both. Names are compared as PEP 503 says: `my_plugin`, `My-Plugin`, `my.plugin` are one.

    `prefer` maps a plugin name, or `point/component`, to the distribution to use when several offer it.
    `plugins_dir` are folders of one-off plugins. `index` is a list of plugins beside ours that says what to install: a
    path, or a file:// or https:// address. `tables` are what plugins are told, by plugin name:
    `[tool.crosstask.NAME]` of a file, CROSSTASK_NAME_KEY of the environment.
    """

    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    prefer: Mapping[str, str] = attrs.field(factory=dict)
    plugins_dir: tuple[str, ...] = ()
    tables: Mapping[str, Mapping[str, Any]] = attrs.field(factory=dict, repr=False)  # may hold secrets
    origins: Mapping[str, str] = attrs.field(factory=dict)
    allow_project: tuple[str, ...] = ()
    index: str = ""

    def refuses(self, plugin: str, distribution: str) -> str | None:
        """Why a plugin of a distribution may not load; None if it may."""
        if reason := self.denies(plugin, distribution):
            return reason
        for key in ("allow", "allow_project"):
            if getattr(self, key) and not self.matches(key, distribution):
                named = self.matches(key, plugin) is not None
                hint = f": it must name the distribution, {distribution!r}, not the plugin" if named else ""
                return f"not in the allow list ({self.whence(key)}){hint}"
        return None

    def denies(self, *names: str) -> str | None:
        """Why nothing with one of these names may load; None if it may."""
        if pattern := self.matches("deny", *names):
            return f"denied by {pattern!r} ({self.whence('deny', pattern)})"
        return None

    def whence(self, key: str, pattern: str = "") -> str:
        """Where a setting, or one of its patterns, comes from."""
        return self.origins.get(f"{key}/{pattern}", self.origins.get(key, "settings"))

    def table(self, plugin: str, environ: Mapping[str, str] | None = None) -> dict[str, Any]:
        """What a plugin is told: its table of the files, then CROSSTASK_<PLUGIN>_<KEY> of the environment (as text)."""
        prefix = f"CROSSTASK_{plugin.upper().replace('-', '_')}_"
        found = os.environ if environ is None else environ
        told = {key.removeprefix(prefix).lower(): value for key, value in found.items() if key.startswith(prefix)}
        return {**self.tables.get(plugin, {}), **told}

    def shown(self, plugin: str) -> dict[str, Any]:
        """The same for people to read: without values whose keys sound like secrets, and logins in addresses."""
        shown: dict[str, Any] = without_secrets(self.table(plugin))
        return shown

    def matches(self, key: str, *names: str) -> str | None:
        """The first pattern of `allow`, `allow_project` or `deny` that one of the names matches."""
        patterns: tuple[str, ...] = getattr(self, key)
        return next((pattern for pattern in patterns if matching(pattern, *names)), None)


def matching(pattern: str, *names: str) -> bool:
    """Whether a glob of `allow` or `deny` matches one of the names, compared as PEP 503 compares names."""
    return any(fnmatchcase(canonical(name), canonical(pattern)) for name in names)


def load_settings(environ: Mapping[str, str] | None = None, folder: Path | None = None) -> Settings:
    """Read the user's `crosstask/config.toml`, the `[tool.crosstask]` of the nearest pyproject.toml, the environment.

    The environment: CROSSTASK_ALLOW, CROSSTASK_DENY (globs, with commas), CROSSTASK_PREFER (name=distribution),
    CROSSTASK_PLUGINS_DIR (folders, with commas), CROSSTASK_PLUGINS_INDEX. A folder in a file is relative to that file.
    Later wins, except that denied is what any of them denies, and that a project's file can narrow what the user allows
    and not widen it, nor name an index: it may lie in a folder above that somebody else wrote.
    """
    environ = os.environ if environ is None else environ
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}

    def deny(patterns: Iterable[str], origin: str) -> None:
        for pattern in patterns:
            if pattern not in (known := values.setdefault("deny", ())):
                values["deny"] = (*known, pattern)
                origins[f"deny/{pattern}"] = origin
                origins["deny"] = ", ".join(dict.fromkeys([*filter(None, [origins.get("deny")]), origin]))

    home = Path(environ.get("XDG_CONFIG_HOME") or Path(environ.get("HOME", "~")).expanduser() / ".config")
    for path, table in [
        (home / "crosstask" / "config.toml", ()),
        (_pyproject(folder), ("tool", "crosstask")),
    ]:
        if path is not None and path.is_file():
            for key, value in _read(path, table).items():
                if key == "tables":
                    known = values.setdefault(key, {})
                    known |= {plugin: {**known.get(plugin, {}), **told} for plugin, told in value.items()}
                elif key == "deny":
                    deny(value, str(path))
                else:
                    own = "allow_project" if key == "allow" and table else key
                    values[own], origins[own] = value, str(path)
    for key in _KEYS:
        variable = f"CROSSTASK_{key.upper()}"
        if text := environ.get(variable):
            items = [item.strip() for item in text.split(",") if item.strip()]
            if key == "prefer" and not all("=" in item for item in items):
                raise OptionError(f"{variable} must look like name=distribution,…; got {text!r}")
            if key == "deny":
                deny(items, variable)
                continue
            if key == "allow":  # whoever sets it for this call knows the project
                values.pop("allow_project", None), origins.pop("allow_project", None)
            pairs = [item.partition("=") for item in items]
            values[key] = {k.strip(): v.strip() for k, _, v in pairs} if key == "prefer" else tuple(items)
            origins[key] = variable
    if text := environ.get("CROSSTASK_PLUGINS_INDEX"):
        values["index"], origins["index"] = text, "CROSSTASK_PLUGINS_INDEX"
    return Settings(**values, origins=origins)


def without_secrets(value: Any) -> Any:
    """Plain data for people to read: without values whose keys sound like secrets, and logins in addresses."""
    if isinstance(value, Mapping):
        return {
            key: "(set, not shown)" if _SECRET.search(key.lower()) else without_secrets(item)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [without_secrets(item) for item in value]
    return _LOGIN.sub("(not shown)", value) if isinstance(value, str) else value


def _pyproject(folder: Path | None) -> Path | None:
    try:
        start = (folder or Path.cwd()).absolute()
    except OSError:  # the folder in which the command was started is gone
        return None
    return next((p for d in (start, *start.parents) if (p := d / "pyproject.toml").is_file()), None)


def _read(path: Path, table: tuple[str, ...]) -> dict[str, Any]:
    import tomllib  # deferred: most starts find no such file

    try:
        text = path.read_text(encoding="utf-8")
        if table and not _NAMED.search(text):
            return {}
        found: Any = tomllib.loads(text)
    except (OSError, ValueError, RecursionError) as error:  # no UTF-8, no TOML, or a number of too many digits
        raise OptionError(f"{path}: cannot be read: {error}") from None
    for key in table:
        found = found.get(key, {})
        if not isinstance(found, dict):
            raise OptionError(f"{path}: {'.'.join(table)} must be a table, got {found!r}")
    checked: dict[str, Any] = {}
    tables: dict[str, Any] = {}
    for key, value in found.items():
        if key == "plugins":
            checked["index"] = _index(value, path, bool(table))
            continue
        if key not in _KEYS and isinstance(value, dict):
            tables[key] = value  # what a plugin of that name is told
            continue
        if key not in _KEYS:
            raise OptionError(f"{path}: unknown setting {key!r}{nearest(key, _KEYS)}")
        kind = dict if key == "prefer" else list
        items = value.values() if isinstance(value, dict) else value
        if not isinstance(value, kind) or not all(isinstance(item, str) for item in items):
            wanted = "a table of strings" if kind is dict else "a list of strings"
            raise OptionError(f"{path}: {key} must be {wanted}, got {value!r}")
        checked[key] = value if kind is dict else tuple(value)
        if key == "plugins_dir":
            checked[key] = tuple(str(path.parent / Path(item).expanduser()) for item in value)
    return {**checked, "tables": tables} if tables else checked


def _index(value: Any, path: Path, of_project: bool) -> str:
    """The table [plugins] of a file."""
    if of_project:
        told = "it says what to install, and a project may be somebody else's; set it in your crosstask/config.toml"
        raise OptionError(f"{path}: plugins.index cannot be set by a project: {told}, or CROSSTASK_PLUGINS_INDEX")
    if not isinstance(value, dict) or set(value) != {"index"} or not isinstance(value["index"], str):
        raise OptionError(f"{path}: [plugins] has one key, index, a path or an address; got {value!r}")
    given: str = value["index"]
    return given if "://" in given else str(path.parent / Path(given).expanduser())
