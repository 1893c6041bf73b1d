"""Manifests: names are checked when the object is made, and what is wrong is collected; code is not looked at."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from typing import Any

import attrs
import pytest

from crosstask.components import Component
from crosstask.manifest import API_VERSION, KERNEL_POINTS, RESERVED, Extension, Plugin, Point, fits
from crosstask.registry import Registry


def test_plugin_keeps_its_extensions_and_points_in_order_and_cannot_be_changed() -> None:
    plugin = Plugin(
        "x",
        (Extension("balancer", n, "no.such:Thing") for n in ("b", "a")),
        points=(Point(n, "no.such:Contract") for n in ("q", "p")),
        api=(2, 0),
    )
    assert [e.name for e in plugin.extensions] == ["b", "a"]
    assert [p.name for p in plugin.points] == ["q", "p"]
    assert plugin.problems == ()
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        plugin.name = "y"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("api", "compatible"),
    [((2, 0), True), ((2, 1), False), ((3, 0), False), ((1, 1), False), ((1, 0), False), (API_VERSION, True)],
)
def test_compatible(api: tuple[int, int], compatible: bool) -> None:
    assert Plugin("x", [], api=api).compatible() is compatible


def test_older_minor_versions_are_compatible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crosstask.manifest.API_VERSION", (2, 3))
    assert [Plugin("x", [], api=(2, minor)).compatible() for minor in (0, 3, 4)] == [True, True, False]
    assert [fits((1, 2), offered) for offered in ((1, 1), (1, 2), (1, 9), (2, 2))] == [False, True, True, False]


def test_a_manifest_without_api_is_wrong_and_not_incompatible() -> None:
    plugin = Plugin("x", [])
    assert plugin.compatible()
    assert plugin.problems == (f"Plugin 'x': api is missing; this kernel's is {API_VERSION}",)


@pytest.mark.parametrize("target", ["a:B", "a.b.c:D", "package:recipes/demo-1.toml"])
def test_targets(target: str) -> None:
    extension = Extension("recipe", "x", target)
    assert (extension.target, extension.problems) == (target, ())


@pytest.mark.parametrize("target", ["", "a", "a:", ":B", "1a:B", "a b:C", "a:../x y", None, dict])
def test_bad_targets(target: Any) -> None:
    (problem,) = Extension("balancer", "x", target).problems
    assert problem == f"Extension 'x': target must look like 'package.module:Class', got {target!r}"


def test_nothing_that_is_wrong_raises_and_everything_is_told() -> None:
    """A manifest for another API may look like anything: its version must be readable all the same."""
    wrong = Plugin(
        "Wrong",
        [Extension("balancer", "two words", "nowhere", made_of="gold"), "no extension"],  # type: ignore[list-item]
        points=[Point("default", "x", kit="y", version="1")],  # type: ignore[arg-type]
        api=(9, 1),
        formerly="old",  # type: ignore[arg-type]
        colour="red",
    )
    assert wrong.api == (9, 1)
    assert not wrong.compatible()
    assert [p for p in wrong.problems if "colour" in p] == [
        "Plugin 'Wrong': unknown field 'colour'; valid: api, extensions, formerly, name, points"
    ]
    for problem in wrong.problems:
        assert problem.partition(":")[0] in ("Plugin 'Wrong'", "Extension 'two words'", "Point 'default'")
    assert [extension.name for extension in wrong.extensions] == ["two words"]
    told = "\n".join(wrong.problems)
    for said in (
        "formerly must be a list of names, got 'old'",
        "extensions must hold Extension objects, got 'no extension'",
        "unknown field 'made_of'; valid: aliases, api, default, name, point, source, summary, target",
        "'default' cannot be the name of a point",
        "kit must look like 'package.module:Class', got 'y'",
        "version must be a pair of integers such as (1, 0), got '1'",
    ):
        assert said in told


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"default": -1}, "default must be True, False or a number from 1 on, got -1"),
        ({"default": "yes"}, "default must be True, False or a number from 1 on, got 'yes'"),
        ({"api": (1,)}, "api must be a pair of integers such as (1, 0), got (1,)"),
        ({"aliases": "old"}, "aliases must be a list of names, got 'old'"),
        ({"aliases": ["Old"]}, "aliases must be lower-case letters, digits, '_', '+' or '-', got 'Old'"),
    ],
)
def test_bad_fields_of_an_extension(given: dict[str, Any], problem: str) -> None:
    assert Extension("balancer", "x", "a:B", **given).problems == (f"Extension 'x': {problem}",)


def test_a_component_cannot_be_called_default() -> None:
    (problem,) = Extension("balancer", "default", "a:B").problems
    assert "stands for the one that a manifest marks" in problem


@pytest.mark.parametrize("point", KERNEL_POINTS, ids=lambda point: point.name)
def test_every_point_leads_to_a_documented_contract_a_kit_and_templates(point: Point) -> None:
    assert point.problems == ()
    assert point.summary
    assert point.version == API_VERSION
    module, _, name = point.contract.partition(":")
    contract = getattr(import_module(module), name)
    assert issubclass(contract, Component)
    assert contract.point == point.name
    assert contract.__doc__
    assert import_module(module).__doc__
    module, _, name = point.kit.partition(":")
    assert getattr(import_module(module), name).point == point.name


def test_the_kernel_reserves_the_tables_of_its_own_recipe() -> None:
    from crosstask.recipe import Recipe

    own = {field.name for field in attrs.fields(Recipe)} - {"stages"}
    assert set(RESERVED["stage"]) == own | {"extends"}


def test_importing_a_manifest_and_a_registry_costs_nothing_heavy() -> None:
    code = (
        "import sys; import crosstask; from crosstask.manifest import Plugin; from crosstask.registry import Registry\n"
        "found = Registry(); found.points(); found.plugins(); found.names('stage')\n"
        "print([m for m in ('torch', 'numpy', 'networkx', 'structlog', 'sqlalchemy', 'pluggy', 'click') "
        "if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_registry_starts_with_the_kernels_points() -> None:
    assert [(each.point.name, each.origin) for each in Registry().points()] == [
        (point.name, "kernel") for point in KERNEL_POINTS
    ]


def test_fields_of_other_kinds_are_problems() -> None:
    from crosstask.manifest import Extension, Plugin

    made = Plugin(name="odd", api=(2, 0), extensions="rgb", formerly=[3])  # type: ignore[arg-type,list-item]
    assert any("extensions must be a list of Extension objects, got 'rgb'" in problem for problem in made.problems)
    assert any("formerly must be lower-case letters" in problem for problem in made.problems)
    told = Plugin(name="odd", api=(2, 0), extensions=[Extension("balancer", "x", "a:B", summary=3)])  # type: ignore[arg-type]
    assert any("summary must be a string, got 3" in each for each in told.extensions[0].problems)
