"""`crosstask plugins new POINT NAME`: from the template of an extension point, or of a recipe or a whole family."""

from __future__ import annotations

import json
import keyword
import re
import shlex
from importlib.resources import files
from pathlib import Path

import click

from crosstask.cli.common import emit_json, json_option, say

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_OFFER = re.compile(r'(Point|Extension)\(\s*"([^"]+)",\s*"([^"]+)"')
"""What a manifest brings: (Point, its name, …) or (Extension, its point, its name)."""


@click.command()
@click.argument("point")
@click.argument("name")
@click.option(
    "--into",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(),
    help="Folder to make the project in.  [default: here]",
)
@json_option
def command(point: str, name: str, into: Path, as_json: bool) -> None:
    """Write a new plugin: a small working component of the extension point POINT, its tests and its packaging.

    POINT may also be `recipe` (a package that ships a recipe) or `family` (a base with a point, its contract, kit and
    template, components, a stage with a section of the report, a command and a recipe; and beside it a second package,
    `crosstask-NAME-extra`, that composes and wraps them).

    NAME is in lower case with dashes, as in `my-balancer`; the distribution will be `crosstask-my-balancer`.
    """
    folders = scaffold(point, name, into)
    install = " ".join(["pip install", *(f"-e {shlex.quote(f'{folder}[test]')}" for folder in folders)])
    then = " && ".join([install, *(f"pytest {shlex.quote(str(folder))}" for folder in folders)])
    if as_json:
        emit_json({"wrote": [str(folder) for folder in folders], "next": then})
        return
    for folder in folders:
        say(f"wrote {folder}")
    say(f"next: {then}")


def scaffold(point: str, name: str, into: Path) -> list[Path]:
    """Write the project (a family has two) and return the folders. PluginError if point or name cannot be used."""
    from crosstask.errors import PluginError

    template = _template(point)
    name = name.removeprefix("crosstask-")
    _check_name(name, point)
    written = {_renamed(path, point, name): _renamed(text, point, name) for path, text in template.items()}
    if len(written) < len(template):
        raise PluginError(f"a plugin cannot be named {name!r}: it needs a module of that name for something else")
    camel = _camel(name)
    for path, text in template.items():
        # The class would hide something that the template uses under that name.
        if path.endswith(".py") and re.search(rf"\b{camel}\b", text):
            raise PluginError(f"a plugin cannot be named {name!r}: its class would be {camel}, a name that it needs")
    projects = sorted({path.partition("/")[0] for path in written})
    _check_free(projects, written)
    for project in projects:
        if (into / project).exists():
            raise PluginError(f"{into / project} exists already; choose another name, or another folder with --into")
    try:
        for path, text in written.items():
            target = into / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
    except OSError as error:
        raise PluginError(f"cannot write {error.filename}: {error.strerror}") from None
    return [into / project for project in projects]


def _template(point: str) -> dict[str, str]:
    """The files of a template by path, which begins with the folder of the project: of the kernel's own, packed in one
    file, or in a folder of the plugin that brings it. They ask for the kernel that writes the project, whatever the
    template's own requirement is.
    """
    from crosstask.errors import PluginError, UnknownComponentError, nearest
    from crosstask.registry import Registry, data_path

    packed: dict[str, dict[str, str]] = json.loads(files("crosstask.cli").joinpath("templates.json").read_text("utf-8"))
    if point in packed:
        # These were packed with this kernel: the bases that they ask for are of its release, too.
        return _in_projects(point, packed[point], r"crosstask-(?!example-)[a-z-]+")
    registry = Registry.installed()
    try:
        found = registry.point(point)
    except UnknownComponentError as error:
        if "pip install" in str(error):
            raise
        every = {*packed, *(each.point.name for each in registry.points())}
        raise UnknownComponentError(f"unknown extension point {point!r}{nearest(point, every)}") from None
    if not found.template:
        raise PluginError(f"extension point {point!r} has no template")
    folder = data_path(found.template)
    if not folder.is_dir():
        raise PluginError(f"extension point {point!r}: its template {found.template} is not there")
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and "__pycache__" not in path.parts]
    texts = {path.relative_to(folder).as_posix(): path.read_text("utf-8") for path in paths}
    return _in_projects(point, texts, "crosstask-kernel")


def _in_projects(point: str, texts: dict[str, str], of_today: str) -> dict[str, str]:
    """The files of a template below the folder of their project; a template of several projects has these folders. The
    distributions `of_today` (a pattern) are asked for in this kernel's version.
    """
    from crosstask.version import __version__

    major, minor = __version__.split(".")[:2]
    version = rf"\1>={major}.{minor},<{major}.{int(minor) + 1}"
    folder = f"crosstask-example-{_dashed(point)}/" if "pyproject.toml" in texts else ""
    return {folder + path: re.sub(rf"\b({of_today})>=[\d.]+,<[\d.]+", version, text) for path, text in texts.items()}


def _check_name(name: str, point: str) -> None:
    from crosstask.errors import PluginError

    if not _NAME.fullmatch(name):
        likely = re.sub(r"[^a-z0-9]+", "-", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", name).lower()).strip("-")
        hint = f"; try {likely!r}" if _NAME.fullmatch(likely) else ""
        raise PluginError(
            f"a plugin's name is lower-case words joined by dashes, such as 'my-{_dashed(point)}', got {name!r}{hint}"
        )
    if keyword.iskeyword(name) or keyword.iskeyword(_camel(name)):
        raise PluginError(f"{name!r} is a word of the language Python; try 'my-{name}'")


def _check_free(projects: list[str], written: dict[str, str]) -> None:
    """PluginError if something that the projects bring has a name that is taken: the plugin, a point, a component."""
    from crosstask.errors import PluginError
    from crosstask.manifest import RESERVED
    from crosstask.registry import Registry

    registry = Registry.installed()
    plugins = {record.name: record.origin for record in registry.plugins()}
    for name in (project.removeprefix("crosstask-") for project in projects):
        if name in plugins:
            raise PluginError(f"a plugin named {name!r} is installed already ({plugins[name]}); names must differ")
    points = {each.point.name: each.origin for each in registry.points()}
    manifests = [text for path, text in written.items() if path.endswith("/plugin.py")]
    for kind, first, second in (found for text in manifests for found in _OFFER.findall(text)):
        if kind == "Point" and first in points:
            raise PluginError(f"extension point {first!r} is there already ({points[first]}); choose another name")
        if kind == "Extension" and second in RESERVED.get(first, ()):
            raise PluginError(f"a {first} cannot be named {second!r}: the kernel keeps that name; choose another one")
        if kind == "Extension" and second in registry.names(first):
            origin = registry.find(first, second)[0].origin
            raise PluginError(f"{first} {second!r} is there already ({origin}); choose another name")


def _camel(name: str) -> str:
    return "".join(word.capitalize() for word in name.split("-"))


def _dashed(point: str) -> str:
    return point.replace("_", "-")


def _renamed(text: str, point: str, name: str) -> str:
    """The template's names (example-balancer, example_balancer, ExampleBalancer) made those of the plugin."""
    text = text.replace(f"example-{_dashed(point)}", name).replace(f"example_{point}", name.replace("-", "_"))
    return text.replace(f"Example{_camel(_dashed(point))}", _camel(name))
