"""`crosstask plugins new POINT NAME`: from the template of an extension point, or of a recipe or a whole family."""

from __future__ import annotations

import json
import keyword
import re
from importlib.resources import files
from pathlib import Path

import click

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


@click.command()
@click.argument("point")
@click.argument("name")
@click.option(
    "--into",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(),
    help="Folder to make the project in.  [default: here]",
)
def command(point: str, name: str, into: Path) -> None:
    """Write a new plugin: a small working component of the extension point POINT, its tests and its packaging.

    POINT may also be `recipe` (a package that ships a recipe) or `family` (a base with a point, a stage, a section of the
    report and a kit, beside a component of that point).

    NAME is in lower case with dashes, as in `my-balancer`; the distribution will be `crosstask-my-balancer`.
    """
    folder = scaffold(point, name, into)
    click.echo(f"wrote {folder}")
    click.echo(f"next: pip install -e '{folder}[test]' && pytest {folder}")


def scaffold(point: str, name: str, into: Path) -> Path:
    """Write the project and return its folder. PluginError if the point or the name cannot be used."""
    from crosstask.errors import PluginError

    template = _template(point)
    name = name.removeprefix("crosstask-")
    _check_name(name, point)
    project = {_renamed(path, point, name): text for path, text in template.items()}
    camel = _camel(name)
    for path, text in project.items():
        # The class would hide something that the template uses under that name.
        if path.endswith(".py") and re.search(rf"\b{camel}\b", text):
            raise PluginError(f"a plugin cannot be named {name!r}: its class would be {camel}, a name that it needs")
    folder = into / f"crosstask-{name}"
    if folder.exists():
        raise PluginError(f"{folder} exists already; choose another name, or another folder with --into")
    try:
        for path, text in project.items():
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(_kernel_of_today(_renamed(text, point, name)), encoding="utf-8")
    except OSError as error:
        raise PluginError(f"cannot write {error.filename}: {error.strerror}") from None
    return folder


def _template(point: str) -> dict[str, str]:
    """The files of a template: of the kernel's own, packed in one file, or in a folder of the plugin that brings it."""
    from crosstask.errors import PluginError, UnknownComponentError, nearest
    from crosstask.registry import Registry, data_path

    packed: dict[str, dict[str, str]] = json.loads(files("crosstask.cli").joinpath("templates.json").read_text("utf-8"))
    if point in packed:
        return packed[point]
    registry = Registry.installed()
    try:
        found = registry.point(point)
    except UnknownComponentError as error:
        if "pip install" in str(error):
            raise
        every = [*packed, *(each.point.name for each in registry.points())]
        raise UnknownComponentError(f"unknown extension point {point!r}{nearest(point, every)}") from None
    if not found.template:
        raise PluginError(f"extension point {point!r} has no template")
    folder = data_path(found.template)
    if not folder.is_dir():
        raise PluginError(f"extension point {point!r}: its template {found.template} is not there")
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and "__pycache__" not in path.parts]
    return {path.relative_to(folder).as_posix(): path.read_text("utf-8") for path in paths}


def _check_name(name: str, point: str) -> None:
    from crosstask.errors import PluginError
    from crosstask.registry import Registry

    if not _NAME.fullmatch(name):
        likely = re.sub(r"[^a-z0-9]+", "-", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", name).lower()).strip("-")
        hint = f"; try {likely!r}" if _NAME.fullmatch(likely) else ""
        raise PluginError(
            f"a plugin's name is lower-case words joined by dashes, such as 'my-{_dashed(point)}', got {name!r}{hint}"
        )
    if keyword.iskeyword(name) or keyword.iskeyword(_camel(name)):
        raise PluginError(f"{name!r} is a word of the language Python; try 'my-{name}'")
    for record in Registry.installed().plugins():
        if record.name == name:
            raise PluginError(f"a plugin named {name!r} is installed already ({record.origin}); names must differ")


def _camel(name: str) -> str:
    return "".join(word.capitalize() for word in name.split("-"))


def _dashed(point: str) -> str:
    return point.replace("_", "-")


def _renamed(text: str, point: str, name: str) -> str:
    """The template's names (example-balancer, example_balancer, ExampleBalancer) made those of the plugin."""
    text = text.replace(f"example-{_dashed(point)}", name).replace(f"example_{point}", name.replace("-", "_"))
    return text.replace(f"Example{_camel(_dashed(point))}", _camel(name))


def _kernel_of_today(text: str) -> str:
    """Ask for the kernel that wrote the project, whatever the template's own requirement is."""
    from crosstask.version import __version__

    major, minor = __version__.split(".")[:2]
    return re.sub(
        r"crosstask-kernel>=[\d.]+,<[\d.]+", f"crosstask-kernel>={major}.{minor},<{major}.{int(minor) + 1}", text
    )
