"""Manifests: names are checked when the object is made, code is not."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import attrs
import pytest

from crosstask.components import Component
from crosstask.errors import PluginError
from crosstask.manifest import API_VERSION, POINTS, Extension, Plugin


def test_plugin_keeps_its_extensions_in_order_and_cannot_be_changed() -> None:
    plugin = Plugin("x", (Extension("sampler", n, "no.such:Thing") for n in ("b", "a")))
    assert [e.name for e in plugin.extensions] == ["b", "a"]
    assert plugin.api == API_VERSION
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        plugin.name = "y"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("api", "fits"), [((1, 0), True), ((1, 2), False), ((2, 0), False), ((0, 9), False), (API_VERSION, True)]
)
def test_compatible(api: tuple[int, int], fits: bool) -> None:
    assert Plugin("x", [], api=api).compatible() is fits


def test_older_minor_versions_are_compatible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crosstask.manifest.API_VERSION", (1, 3))
    assert [Plugin("x", [], api=(1, minor)).compatible() for minor in (0, 3, 4)] == [True, True, False]


@pytest.mark.parametrize("target", ["a:B", "a.b.c:D", "package:recipes/demo-1.toml"])
def test_targets(target: str) -> None:
    assert Extension("recipe", "x", target).target == target


@pytest.mark.parametrize("target", ["", "a", "a:", ":B", "1a:B", "a b:C", "a:../x y"])
def test_bad_targets(target: str) -> None:
    with pytest.raises(PluginError, match="target must look like"):
        Extension("sampler", "x", target)


@pytest.mark.parametrize("point", POINTS)
def test_every_point_leads_to_a_documented_contract(point: str) -> None:
    module, _, name = POINTS[point].partition(":")
    contract = getattr(import_module(module), name)
    assert issubclass(contract, Component)
    assert contract.point == point
    assert contract.__doc__
    assert import_module(module).__doc__


def test_importing_a_manifest_and_a_registry_costs_nothing_heavy() -> None:
    code = (
        "import sys; import crosstask; from crosstask.manifest import Plugin; from crosstask.registry import Registry\n"
        "Registry().plugins()\n"
        "print([m for m in ('torch', 'numpy', 'networkx', 'structlog', 'sqlalchemy', 'pluggy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
