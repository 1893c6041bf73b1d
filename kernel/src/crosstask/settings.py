"""Which plugins may load, who wins a conflict, what plugins are told: user configuration, `[tool.crosstask]`,
environment; later wins.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import attrs

from crosstask.errors import OptionError, nearest

_KEYS = ("allow", "deny", "prefer", "plugins_dir")
_SECRET = re.compile(r"token|secret|passw|passphrase|credential|apikey|(^|[_-])(key|pwd|pat|dsn|auth)($|[_-])")
_NAMED = re.compile(r'tool\s*\.\s*["\']?crosstask|^\s*["\']?crosstask["\']?\s*[.=]', re.MULTILINE)
"""What a file that has `[tool.crosstask]`, however it is written, has in it: most need not be parsed."""
_LOGIN = re.compile(r"(?<=://)[^/@\s]+(?=@)")


@attrs.frozen
class Settings:
    """Globs over plugin and distribution names. An empty `allow` allows everything; `deny` wins over `allow`.

    `prefer` maps a plugin name, or `point/component`, to the distribution to use when several offer it.
    `plugins_dir` are folders of one-off plugins. `tables` are what plugins are told, by plugin name:
    `[tool.crosstask.NAME]` of a file, CROSSTASK_NAME_KEY of the environment.
    """

    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    prefer: Mapping[str, str] = attrs.field(factory=dict)
    plugins_dir: tuple[str, ...] = ()
    tables: Mapping[str, Mapping[str, Any]] = attrs.field(factory=dict, repr=False)  # may hold secrets
    origins: Mapping[str, str] = attrs.field(factory=dict)

    def refuses(self, *names: str, by_allow: bool = True) -> str | None:
        """Why a plugin with these names (its own, its distribution's) may not load; None if it may."""
        if pattern := self.matches("deny", *names):
            return f"denied by {pattern!r} ({self.origins.get('deny', 'settings')})"
        if by_allow and self.allow and not self.matches("allow", *names):
            return f"not in the allow list ({self.origins.get('allow', 'settings')})"
        return None

    def table(self, plugin: str, environ: Mapping[str, str] | None = None) -> dict[str, Any]:
        """What a plugin is told: its table of the files, then CROSSTASK_<PLUGIN>_<KEY> of the environment (as text)."""
        prefix = f"CROSSTASK_{plugin.upper().replace('-', '_')}_"
        found = os.environ if environ is None else environ
        told = {key.removeprefix(prefix).lower(): value for key, value in found.items() if key.startswith(prefix)}
        return {**self.tables.get(plugin, {}), **told}

    def shown(self, plugin: str) -> dict[str, Any]:
        """The same for people to read: without values whose keys sound like secrets, and logins in addresses."""
        shown: dict[str, Any] = _without_secrets(self.table(plugin))
        return shown

    def matches(self, key: str, *names: str) -> str | None:
        """The first pattern of `allow` or `deny` that one of the names matches."""
        patterns: tuple[str, ...] = getattr(self, key)
        return next((p for p in patterns for name in names if fnmatchcase(name, p)), None)


def load_settings(environ: Mapping[str, str] | None = None, folder: Path | None = None) -> Settings:
    """Read the user's `crosstask/config.toml`, the `[tool.crosstask]` of the nearest pyproject.toml, the environment.

    The environment: CROSSTASK_ALLOW, CROSSTASK_DENY (globs, with commas), CROSSTASK_PREFER (name=distribution),
    CROSSTASK_PLUGINS_DIR (folders, with commas). A folder in a file is relative to that file.
    """
    environ = os.environ if environ is None else environ
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
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
                else:
                    values[key], origins[key] = value, str(path)
    for key in _KEYS:
        variable = f"CROSSTASK_{key.upper()}"
        if text := environ.get(variable):
            items = [item.strip() for item in text.split(",") if item.strip()]
            if key == "prefer" and not all("=" in item for item in items):
                raise OptionError(f"{variable} must look like name=distribution,…; got {text!r}")
            pairs = [item.partition("=") for item in items]
            values[key] = {k.strip(): v.strip() for k, _, v in pairs} if key == "prefer" else tuple(items)
            origins[key] = variable
    return Settings(**values, origins=origins)


def _without_secrets(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {
            key: "(set, not shown)" if _SECRET.search(key.lower()) else _without_secrets(item)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [_without_secrets(item) for item in value]
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
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise OptionError(f"{path}: cannot be read: {error}") from None
    for key in table:
        found = found.get(key, {})
        if not isinstance(found, dict):
            raise OptionError(f"{path}: {'.'.join(table)} must be a table, got {found!r}")
    checked: dict[str, Any] = {}
    tables: dict[str, Any] = {}
    for key, value in found.items():
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
