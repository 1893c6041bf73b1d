"""Which plugins, in which versions, a run used: written after one, required before another."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from crosstask.errors import RecipeError
from crosstask.records import RunRecord
from crosstask.registry import Registry, Status


def check_frozen(path: Path, named: Mapping[str, str], registry: Registry) -> None:
    """RecipeError with every difference between the plugins that a run would use and those of a frozen file."""
    wanted = read_frozen(path)
    installed = {r.distribution: r.version for r in registry.plugins() if r.status is Status.OK}
    released = {name: version for name, version in named.items() if version}
    wrong = [
        f"{name} {version} is used, which it does not name" for name, version in released.items() if name not in wanted
    ]
    for name, version in wanted.items():
        if name not in installed:
            wrong.append(f"{name} {version} is not installed (or cannot be used)")
        elif installed[name] != version:
            wrong.append(f"{name} is {installed[name]}, it names {version}")
    if wrong:
        raise RecipeError(f"not the plugins of {path}: " + "; ".join(wrong))


def read_frozen(path: Path) -> dict[str, str]:
    """Distribution -> version of a file of lines `name==version`. RecipeError for any other line."""
    found = {}
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: cannot be read: {error}") from None
    for number, line in enumerate(lines, 1):
        text = line.partition("#")[0].strip()
        name, sign, version = (part.strip() for part in text.partition("=="))
        if text and not (sign and name):
            raise RecipeError(f"{path}, line {number}: expected name==version, got {text!r}")
        if text:
            found[name] = version
    return found


def freeze(record: RunRecord) -> str:
    """The plugins that a run used, one `name==version` a line: `pip install -r` understands it, and `run --frozen`.

    What has no version, because no distribution offers it (a folder of one-off plugins), is a comment.
    """
    head = f"# plugins of run {record.run_id} ({record.name}), {record.started}"
    lines = [f"{name}=={version}" if version else f"# {name}" for name, version in sorted(record.used.items())]
    return "\n".join([head, *lines, ""])
