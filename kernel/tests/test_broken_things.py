"""Broken plugins, components, recipes and settings: each with the exact message that its author or user reads.

A case is written as a distribution in a temporary folder on sys.path, as pip would leave it. `{pkg}` stands for its
package's name, which is a new one for each case, and for `{pkg}-dist`, its distribution.
"""

# ruff: noqa: E501 -- messages and the code of a case stand on one line

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch

from crosstask import registry as registry_module
from crosstask.components import Component
from crosstask.context import LocalContext
from crosstask.descriptors import TaskDescriptor
from crosstask.errors import CrosstaskError
from crosstask.job import check_requirements
from crosstask.learning.gradients import MatrixGradients
from crosstask.recipe import bind, load_recipe, recipe_from
from crosstask.registry import PluginRecord, Registry
from crosstask.run import Run
from crosstask.settings import Settings, load_settings
from crosstask.tasks import Portfolio, Task
from crosstask.testing import run_checks
from crosstask_fakes.plugin import PLUGIN as FAKES

_numbers = itertools.count(1)

MANIFEST = """
from crosstask.manifest import Extension, Plugin
PLUGIN = Plugin(name="{pkg}", extensions=[Extension("POINT", "bad", "{pkg}.algo:Bad")], api=(2, 0))
"""

HEADER = """
from crosstask import *
from crosstask import wraps
from crosstask import Balancer, Component, Discoverer, Observer, Stage, Wrapper, component, hookimpl, option, state
from crosstask.graph import TransferEdge
"""


@attrs.define
class Site:
    """A folder on sys.path, into which distributions are written."""

    folder: Path
    package: str = ""

    def write(self, plugin: str, algo: str = "", *, entry: str = "{pkg} = {pkg}.plugin:PLUGIN", metadata: bool = True,
              dist: str = "{pkg}-dist") -> None:  # fmt: skip
        """A package with a manifest and a module of algorithms, and its dist-info."""
        self.package = self.package or f"bad{next(_numbers)}"
        folder = self.folder / self.package
        folder.mkdir(exist_ok=True)
        (folder / "__init__.py").touch()
        (folder / "plugin.py").write_text(self.named(plugin))
        (folder / "algo.py").write_text(HEADER + self.named(algo))
        info = self.folder / f"{self.named(dist).replace('-', '_')}-1.0.dist-info"
        info.mkdir()
        if metadata:
            (info / "METADATA").write_text(f"Metadata-Version: 2.4\nName: {self.named(dist)}\nVersion: 1.0\n\n")
        (info / "entry_points.txt").write_text(f"[crosstask.plugins]\n{self.named(entry)}\n")

    def named(self, text: str) -> str:
        return text.replace("{pkg}", self.package)

    def registry(self, settings: Settings | None = None) -> Registry:
        """Only what the case wrote: what else is installed is not allowed, and so not imported."""
        made = Registry(settings or Settings(allow=(f"{self.package}*",)))
        made.add_entry_points()
        made.records = [r for r in made.records if self.package in r.distribution + r.name]
        return made


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield Site(tmp_path)
    for name in set(sys.modules) - before:
        if name.startswith("bad"):
            del sys.modules[name]


def only(records: list[PluginRecord]) -> PluginRecord:
    (record,) = records
    return record


# Manifests: the plugin is listed with the reason, and nothing else stops working -------------------------------------

IMPORTS = "from crosstask.manifest import Extension, Plugin, Point\n"


def plugin(arguments: str) -> str:
    return f"{IMPORTS}PLUGIN = Plugin({arguments})"


def extension(arguments: str) -> str:
    return plugin(f'name="{{pkg}}", extensions=[Extension({arguments})], api=(2, 0)')


WHERE = "{pkg}.plugin:PLUGIN: "
API = "api=(2, 0)"

MANIFESTS = {
    "import of what is not installed": (
        "import not_installed_anywhere",
        WHERE + "ModuleNotFoundError: No module named 'not_installed_anywhere'",
    ),
    "import of a name that is not there": (
        "from math import sinus",
        WHERE + "ImportError: cannot import name 'sinus' from 'math'",
    ),
    "syntax error": ("PLUGIN = = 1", WHERE + "SyntaxError: invalid syntax (plugin.py, line 1)"),
    "error at import": ("1 / 0", WHERE + "ZeroDivisionError: division by zero"),
    "sys.exit at import": ("import sys; sys.exit(3)", WHERE + "SystemExit: 3"),
    "endless recursion at import": (
        "def f(): f()\nf()",
        WHERE + "RecursionError: maximum recursion depth exceeded",
    ),
    "a dict": ("PLUGIN = {}", WHERE + "names a dict, not a crosstask.Plugin"),
    "the class instead of an object": (IMPORTS + "PLUGIN = Plugin", WHERE + "names a type, not a crosstask.Plugin"),
    "name a number": (
        plugin(f"name=3, {API}"),
        WHERE + "Plugin 3: name must be lower-case letters, digits, '_', '+' or '-', got 3",
    ),
    "name in capitals": (
        plugin(f"name='RGB', {API}"),
        WHERE + "Plugin 'RGB': name must be lower-case letters, digits, '_', '+' or '-', got 'RGB'",
    ),
    "name another than the entry point's": (
        plugin(f"name='other', {API}"),
        "entry point '{pkg}' names plugin 'other'; they must be the same",
    ),
    "no api": (
        plugin("name='{pkg}'"), WHERE + "Plugin '{pkg}': api is missing; this kernel's is (2, 0)",
    ),
    "api a string": (
        plugin("name='{pkg}', api='2.0'"),
        WHERE + "Plugin '{pkg}': api must be a pair of integers, got '2.0'; this kernel's is (2, 0)",
    ),
    "api a list": (
        plugin("name='{pkg}', api=[2, 0]"),
        WHERE + "Plugin '{pkg}': api must be a pair of integers, got [2, 0]; this kernel's is (2, 0)",
    ),
    "api of booleans": (
        plugin("name='{pkg}', api=(True, False)"),
        WHERE + "Plugin '{pkg}': api must be a pair of integers, got (True, False); this kernel's is (2, 0)",
    ),
    "api of a newer major version": (
        plugin("name='{pkg}', api=(3, 0)"), "made for plugin API 3.0; this kernel has 2.0",
    ),
    "api of a newer minor version": (
        plugin("name='{pkg}', api=(2, 9)"), "made for plugin API 2.9; this kernel has 2.0",
    ),
    "api of an older major version": (
        plugin("name='{pkg}', extensions=[], api=(1, 1)"), "made for plugin API 1.1; this kernel has 2.0",
    ),
    "extensions None": (
        plugin(f"name='{{pkg}}', extensions=None, {API}"),
        WHERE + "Plugin '{pkg}': extensions must be a list of Extension objects, got None",
    ),
    "extensions of strings": (
        plugin(f"name='{{pkg}}', extensions=['rgb'], {API}"),
        WHERE + "Plugin '{pkg}': extensions must hold Extension objects, got 'rgb'",
    ),
    "points of extensions": (
        plugin(f"name='{{pkg}}', points=[Extension('discovery', 'x', 'a.b:C')], {API}").replace("\n", "\nExtension.__repr__ = lambda s: 'one'\n"),
        WHERE + "Plugin '{pkg}': points must hold Point objects, got one",
    ),
    "a component declared twice": (
        plugin(f"name='{{pkg}}', extensions=2 * [Extension('discovery', 'x', 'a.b:C')], {API}"),
        WHERE + "Plugin '{pkg}': 'discovery/x' is declared twice",
    ),
    "a point declared twice": (
        plugin(f"name='{{pkg}}', points=2 * [Point('router', 'a.b:C')], {API}"),
        WHERE + "Plugin '{pkg}': point 'router' is declared twice",
    ),
    "an argument that Plugin does not have": (
        plugin(f"name='{{pkg}}', requires='numpy', {API}"),
        WHERE + "Plugin '{pkg}': unknown field 'requires'; valid: api, extensions, formerly, name, points",
    ),
    "two things wrong": (
        plugin(f"name='{{pkg}}', formerly=['Old One'], requires='numpy', {API}"),
        WHERE + "Plugin '{pkg}': formerly must be lower-case letters, digits, '_', '+' or '-', got 'Old One'; "
        "Plugin '{pkg}': unknown field 'requires'; valid: api, extensions, formerly, name, points",
    ),
    "a point called recipe": (
        plugin(f"name='{{pkg}}', points=[Point('recipe', 'a.b:C')], {API}"),
        WHERE + "Point 'recipe': 'recipe' cannot be the name of a point",
    ),
    "a contract that is a class": (
        plugin(f"name='{{pkg}}', points=[Point('router', dict)], {API}"),
        WHERE + "Point 'router': contract must look like 'package.module:Class', got <class 'dict'>",
    ),
    "extension name with a blank": (
        extension("'discovery', 'my discovery', 'a.b:C'"),
        WHERE + "Extension 'my discovery': name must be lower-case letters, digits, '_', '+' or '-', got 'my discovery'",
    ),
    "a component called default": (
        extension("'discovery', 'default', 'a.b:C'"),
        WHERE + "Extension 'default': a component cannot be called 'default': that stands for the one that a manifest marks",
    ),
    "target without a class": (
        extension("'discovery', 'x', 'a.b'"),
        WHERE + "Extension 'x': target must look like 'package.module:Class', got 'a.b'",
    ),
    "target a class": (
        extension("'discovery', 'x', dict"),
        WHERE + "Extension 'x': target must look like 'package.module:Class', got <class 'dict'>",
    ),
    "recipe that is no file in a package": (
        extension("'recipe', 'x', 'recipes/x.toml'"),
        WHERE + "Extension 'x': target must look like 'package:path/inside.toml', got 'recipes/x.toml'",
    ),
    "summary a number": (
        extension("'discovery', 'x', 'a.b:C', summary=1"),
        WHERE + "Extension 'x': summary must be a string, got 1",
    ),
    "source a list": (
        extension("'discovery', 'x', 'a.b:C', source=['arXiv']"),
        WHERE + "Extension 'x': source must be a string, got ['arXiv']",
    ),
    "marked as default by a word": (
        extension("'discovery', 'x', 'a.b:C', default='yes'"),
        WHERE + "Extension 'x': default must be True, False or a number from 1 on, got 'yes'",
    ),
    "an argument that Extension does not have": (
        extension("'discovery', 'x', 'a.b:C', capability='fast'"),
        WHERE + "Extension 'x': unknown field 'capability'; valid: aliases, api, default, name, point, source, summary, target",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", MANIFESTS)
def test_manifest(case: str, site: Site) -> None:
    text, expected = MANIFESTS[case]
    site.write(text)
    record = only(site.registry().plugins())
    reason = record.reason.partition(" (/")[0]  # an ImportError ends with the path of the module
    assert reason == site.named(expected)
    raised = any(f"{name}: " in reason for name in ("Error", "SystemExit")) or "not a crosstask.Plugin" in reason
    assert bool(record.traceback) == raised


ENTRIES = {
    "to nothing": ("{pkg} = {pkg}.nothing:PLUGIN", "{pkg}.nothing:PLUGIN: ModuleNotFoundError: No module named '{pkg}.nothing'"),
    "to a name that is not there": (
        "{pkg} = {pkg}.plugin:PLUGINS",
        "{pkg}.plugin:PLUGINS: {pkg}.plugin has no 'PLUGINS'; did you mean 'PLUGIN'? Valid: Extension, PLUGIN, Plugin",
    ),
    "to a module": ("{pkg} = {pkg}.plugin", "{pkg}.plugin: an entry point must look like 'package.plugin:PLUGIN'"),
    "to no Python name": ("{pkg} = my plugin!:PLUGIN", "my plugin!:PLUGIN: an entry point must look like 'package.plugin:PLUGIN'"),
    "without a value": ("{pkg}", "an entry point must look like 'package.plugin:PLUGIN'"),
}  # fmt: skip


@pytest.mark.parametrize("case", ENTRIES)
def test_entry_point(case: str, site: Site) -> None:
    entry, expected = ENTRIES[case]
    site.write(MANIFEST.replace("POINT", "discovery"), entry=entry)
    record = only(site.registry().plugins())
    assert (record.status.value, record.reason) == ("broken", site.named(expected))


def test_distribution_without_metadata_is_named_after_its_folder(site: Site) -> None:
    site.write("1 / 0", metadata=False)
    assert only(site.registry().plugins()).origin == site.named("{pkg}_dist-1.0.dist-info")


def test_manifest_that_prints_and_one_that_is_slow_are_usable_but_noted(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(registry_module, "SLOW_IMPORT_SECONDS", 0.05)
    site.write("import time\ntime.sleep(0.12)\nprint('hello from', __name__)" + MANIFEST.replace("POINT", "discovery"))
    record = only(site.registry().plugins())
    assert record.status.value == "ok"
    assert record.notes == (
        "its manifest took 0.1 s to import; import heavy modules in components only",
        site.named("its manifest printed 'hello from {pkg}.plugin' at import"),
    )
    assert capsys.readouterr() == ("", "")


# Components: the error when they are asked for --------------------------------------------------------------------------

BAD = "discovery 'bad' ({pkg}-dist 1.0)"
FIND = """
@component
class Bad(Discoverer):
    size: int = option(1, ge=1, le=9, help="how many")
    rate: float = option(0.5, gt=0, help="how fast")
    kind: str = option("one", choices=("one", "two"), help="which")
    names: tuple[str, ...] = option((), help="of what")
    steps: int = state(0)

    def discover(self, portfolio, graph):
        return ANSWER
"""


def observer(body: str) -> tuple[str, str]:
    return "observer", f"@component\nclass Bad(Observer):\n    {body}\n"


def failed(message: str, point: str = "discovery") -> str:
    return f"{point} 'bad' ({{pkg}}-dist 1.0): importing {{pkg}}.algo failed: PluginError: {message}"


CODE: dict[str, tuple[str, str, str]] = {
    "error at import": (
        "discovery", "1 / 0", BAD + ": importing {pkg}.algo failed: ZeroDivisionError: division by zero",
    ),
    "sys.exit at import": ("discovery", "raise SystemExit(0)", BAD + ": importing {pkg}.algo failed: SystemExit: 0"),
    "needs what is not installed": (
        "discovery", "import not_installed_anywhere",
        BAD + ": importing {pkg}.algo failed: ModuleNotFoundError: No module named 'not_installed_anywhere'",
    ),
    "class not there": (
        "discovery", "__all__ = []\nfor n in list(globals()): n.startswith('_') or globals().pop(n)\nBadd = 1",
        BAD + ": {pkg}.algo has no 'Bad'; did you mean 'Badd'? Valid: Badd, n",
    ),
    "a function": ("discovery", "def Bad(): pass", BAD + ": {pkg}.algo:Bad is not a Discoverer (crosstask.points.discovery:Discoverer)"),
    "of another extension point": (
        "balancer", FIND, "balancer 'bad' ({pkg}-dist 1.0): {pkg}.algo:Bad is not a Balancer (crosstask.points.balancer:Balancer)",
    ),
    "hook not implemented": (
        "discovery", "@component\nclass Bad(Discoverer): pass", BAD + ": {pkg}.algo:Bad does not implement discover",
    ),
    "not decorated": (
        "discovery", "class Bad(Discoverer):\n    def discover(self, portfolio, graph): return []",
        BAD + ": {pkg}.algo:Bad is not decorated with @crosstask.component",
    ),
    "a forgotten decorator on one with options": (
        "discovery", FIND.replace("@component\n", ""),
        BAD + ": {pkg}.algo:Bad is not decorated with @crosstask.component",
    ),
    "a stage without work": (
        "stage", "@component\nclass Bad(Stage): pass", "stage 'bad' ({pkg}-dist 1.0): {pkg}.algo:Bad does not implement work",
    ),
    "of a point that nobody defines": (
        "router", FIND, "unknown extension point 'router'; valid: adapter, balancer, curriculum, discovery, "
        "distillation, executor, meta_learner, observer, source, stage, store, strategist, …",
    ),
    "balancer with neither method": (
        "balancer", "@component\nclass Bad(Balancer): pass",
        failed("Bad must define `balance` or `combine`", "balancer"),
    ),
    "hook misspelt, which is abstract": (
        "discovery", "@component\nclass Bad(Discoverer):\n    def discovers(self, portfolio, graph): return []",
        failed("Bad.discovers is no hook of 'discovery'; is 'discover' meant? If not, let its name begin with an underscore"),
    ),
    "hook misspelt, which has a default": (
        *observer("def run_start(self, record): pass"),
        failed("Bad.run_start is no hook of 'observer'; is 'run_started' meant? If not, let its name begin with an "
               "underscore", "observer"),
    ),
    "hookimpl on what is no hook": (
        *observer("@hookimpl\n    def epoch_finished(self, epoch): pass"),
        failed("Bad.epoch_finished is marked as a hook; 'observer' has none; did you mean 'stage_finished'? Valid: "
               "edges_discovered, run_finished, run_started, stage_finished, stage_progress, stage_started, "
               "task_registered, training_step", "observer"),
    ),
    "hook with other parameters": (
        "discovery", "@component\nclass Bad(Discoverer):\n    def discover(self, portfolio, edges): return []",
        failed("Bad.discover must take (self, portfolio, graph) as the contract says, not (self, portfolio, edges)"),
    ),
    "hook with a default": (
        "discovery", "@component\nclass Bad(Discoverer):\n    def discover(self, portfolio, graph=None): return []",
        failed("Bad.discover: 'graph' must not have a default; pluggy would never pass it"),
    ),
    "hook that is no method": (
        "discovery", "@component\nclass Bad(Discoverer):\n    discover = 3",
        failed("Bad.discover is a hook of 'discovery' and must be a plain method"),
    ),
    "option that hides a method": (
        "discovery", "@component\nclass Bad(Discoverer):\n    options: int = option(1, help='')\n    def discover(self, portfolio, graph): return []",
        failed("Bad: an option cannot be called 'options': every component has it"),
    ),
    "error while it is made": (
        "discovery", FIND + "    def __attrs_post_init__(self):\n        [][0]",
        BAD + " cannot be made: IndexError: list index out of range",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CODE)
def test_component(case: str, site: Site) -> None:
    point, code, expected = CODE[case]
    site.write(MANIFEST.replace("POINT", point), code)
    registry = site.registry()
    assert only(registry.plugins()).status.value == "ok"  # its code has not been imported yet
    with pytest.raises(CrosstaskError) as caught:
        registry.create(point, "bad")
    assert str(caught.value) == site.named(expected)


OPTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "a string for an integer": ({"size": "3"}, "size must be an integer, got '3'"),
    "a fraction for an integer": ({"size": 2.5}, "size must be an integer, got 2.5"),
    "true for an integer": ({"size": True}, "size must be an integer, got True"),
    "too large": ({"size": 10}, "size must be >= 1 and <= 9, got 10"),
    "on an open bound": ({"rate": 0}, "rate must be > 0, got 0.0"),
    "not a number": ({"rate": float("nan")}, "rate must be > 0, got nan"),
    "not one of the choices": ({"kind": "tow"}, "kind cannot be 'tow'; did you mean 'two'? Valid: one, two"),
    "a string for a list": ({"names": "abc"}, "names must be a list, got 'abc'"),
    "a wrong item in a list": ({"names": ["a", 1]}, "names[1] must be a string, got 1"),
    "unknown": ({"sise": 1}, "unknown option 'sise'; did you mean 'size'? Valid: kind, names, rate, size"),
    "state, which is no option": ({"steps": 1}, "unknown option 'steps'; valid: kind, names, rate, size"),
}  # fmt: skip


@pytest.mark.parametrize("case", OPTIONS)
def test_option(case: str, site: Site) -> None:
    options, expected = OPTIONS[case]
    site.write(MANIFEST.replace("POINT", "discovery"), FIND)
    with pytest.raises(CrosstaskError) as caught:
        site.registry().create("discovery", "bad", options)
    assert str(caught.value) == f"discovery 'bad': {expected}"


# Names: unknown, taken twice, refused ---------------------------------------------------------------------------------


def two(site: Site, plugin_names: tuple[str, str], prefer: dict[str, str]) -> Registry:
    for letter, name in zip("ab", plugin_names, strict=True):
        text = MANIFEST.replace("POINT", "discovery").replace('name="{pkg}"', f'name="{name}"')
        site.write(text, FIND, dist=f"{{pkg}}-{letter}", entry="x = {pkg}.plugin:PLUGIN")
        (site.folder / site.package / "plugin.py").rename(site.folder / site.package / f"plugin_{letter}.py")
        info = site.folder / f"{site.package}_{letter}-1.0.dist-info"
        (info / "entry_points.txt").write_text(
            site.named(f"[crosstask.plugins]\n{name} = {{pkg}}.plugin_{letter}:PLUGIN\n")
        )
    named = {key: site.named(value) for key, value in prefer.items()}
    return site.registry(Settings(allow=(f"{site.package}*",), prefer=named))


OFFERED = "is offered by {pkg}-a 1.0 and {pkg}-b 1.0"
CONFLICTS: dict[str, tuple[tuple[str, str], dict[str, str], str | None]] = {
    "one plugin name in two distributions": (
        ("same", "same"), {},
        f"discovery 'bad' cannot be used: plugin 'same' {OFFERED}; choose with prefer: "
        "'same' = '{pkg}-a'",
    ),
    "one component name in two plugins": (
        ("one", "other"), {}, f"discovery 'bad' {OFFERED}; choose with prefer: 'discovery/bad' = '{{pkg}}-a'",
    ),
    "a preference for a stranger": (
        ("one", "other"), {"discovery/bad": "nobody"},
        f"discovery 'bad' {OFFERED}; choose with prefer: 'discovery/bad' = '{{pkg}}-a' (prefer says 'nobody', which does "
        "not decide it)",
    ),
    "a preference that decides": (("one", "other"), {"discovery/bad": "{pkg}-b"}, None),
    "a preference that decides between plugins": (("same", "same"), {"same": "{pkg}-b"}, None),
}  # fmt: skip


@pytest.mark.parametrize("case", CONFLICTS)
def test_conflict(case: str, site: Site) -> None:
    names, prefer, expected = CONFLICTS[case]
    registry = two(site, names, prefer)
    if expected is None:
        assert registry.create("discovery", "bad").origin == site.named("discovery 'bad' ({pkg}-b 1.0)")
        return
    with pytest.raises(CrosstaskError) as caught:
        registry.create("discovery", "bad")
    assert str(caught.value) == site.named(expected)
    asked = registry.preferring({"same" if names[0] == names[1] else "discovery/bad": site.named("{pkg}-a")})
    assert asked.create("discovery", "bad").origin == site.named("discovery 'bad' ({pkg}-a 1.0)")


def raised(action: Callable[[], Any]) -> str:
    with pytest.raises(CrosstaskError) as caught:
        action()
    return str(caught.value)


def test_asking_for_what_is_not_usable(site: Site) -> None:
    site.write(MANIFEST.replace("POINT", "discovery"), FIND)
    registry = site.registry()
    assert (
        raised(lambda: registry.create("discovery", "bat"))
        == "no discovery named 'bat'; did you mean 'bad'? Valid: bad"
    )
    assert raised(lambda: registry.create("balancer", "bad")) == "no balancer named 'bad' (there are none)"
    assert raised(lambda: registry.create("discover", "bad")).startswith(
        "unknown extension point 'discover'; did you mean 'discovery'? Valid: adapter, "
    )
    denied = site.registry(Settings(deny=("*-dist",), origins={"deny": "CROSSTASK_DENY"}))
    assert raised(lambda: denied.create("discovery", site.package)) == site.named(
        "discovery '{pkg}': plugin '{pkg}' of {pkg}-dist 1.0 is denied: denied by '*-dist' (CROSSTASK_DENY)"
    )
    assert raised(lambda: denied.create("discovery", "bad")) == site.named(
        "no discovery named 'bad' (there are none) (not loaded: {pkg}; see `crosstask plugins doctor`)"
    )
    assert raised(lambda: site.registry(Settings(allow=("x",))).create("discovery", site.package)) == site.named(
        "discovery '{pkg}': plugin '{pkg}' of {pkg}-dist 1.0 is denied: not in the allow list (settings)"
    )


def test_asking_for_a_component_of_a_newer_api(site: Site) -> None:
    site.write(MANIFEST.replace("POINT", "discovery").replace("(2, 0)", "(2, 1)"), FIND)
    assert raised(lambda: site.registry().create("discovery", "bad")) == site.named(
        "discovery 'bad' of {pkg}-dist 1.0 cannot be used: incompatible: made for plugin API 2.1; this kernel has 2.0"
    )


# Hooks: what goes wrong while a run works -----------------------------------------------------------------------------


def portfolio() -> Portfolio:
    return Portfolio(Task(descriptor=TaskDescriptor(task_id=name)) for name in "ab")


HOOK_CALLS: dict[str, dict[str, Any]] = {
    "choose": {"tasks": ["a"], "most": 1},
    "discover": {"portfolio": portfolio(), "graph": None},
}

ANSWERS = {
    "nothing": ("discovery", "discover", "None", BAD + ": discover must return a list, got nothing"),
    "a string for a list": ("chooser", "choose", "'a'", "chooser 'bad' ({pkg}-dist 1.0): choose must return a list, got a str"),
    "a list of other things": (
        "chooser", "choose", "[1]", "chooser 'bad' ({pkg}-dist 1.0): choose must return a list of str, got 1 in it",
    ),
    "edges as pairs": (
        "discovery", "discover", "[('a', 'b')]", BAD + ": discover must return a list of TransferEdge, got ('a', 'b') in it",
    ),
    "a generator of edges": (
        "discovery", "discover", "(e for e in ())", BAD + ": discover must return a list, got a generator",
    ),
}  # fmt: skip
METHODS = {
    "chooser": "from crosstask_fakes.contracts import Chooser\n@component\nclass Bad(Chooser):\n    def choose(self, tasks, most):\n        return ANSWER",
    "discovery": FIND,
}


@pytest.mark.parametrize("case", ANSWERS)
def test_answer(case: str, site: Site) -> None:
    point, hook, answer, expected = ANSWERS[case]
    site.write(MANIFEST.replace("POINT", point), METHODS[point].replace("ANSWER", answer))
    registry = site.registry(Settings(allow=(f"{site.package}*", "fakes")))
    registry.register(FAKES)  # which bring the point `chooser`
    with Run(registry) as run:
        assert raised(lambda: run.call(run.component(point, "bad"), hook, **HOOK_CALLS[hook])) == site.named(expected)
    alone = LocalContext(registry=registry)
    assert raised(lambda: alone.call(alone.component(point, "bad"), hook, **HOOK_CALLS[hook])) == site.named(expected)


SHAPES = {
    "too many weights": ("torch.ones(3)", "balance must return weights of shape (2,) or a Direction, got (3,)"),
    "a list of weights": ("[1.0, 1.0]", "balance must return weights of shape (2,) or a Direction, got list"),
    "no weights": ("None", "balance returned neither weights nor a direction"),
}


@pytest.mark.parametrize("case", SHAPES)
def test_shape_of_weights(case: str, site: Site) -> None:
    answer, expected = SHAPES[case]
    code = f"import torch\n@component\nclass Bad(Balancer):\n    def balance(self, losses, gradients):\n        return {answer}"
    site.write(MANIFEST.replace("POINT", "balancer"), code)
    made: Any = site.registry().create("balancer", "bad")
    assert raised(lambda: made.combine(torch.eye(2))) == site.named(f"balancer 'bad' ({{pkg}}-dist 1.0): {expected}")


def test_error_inside_a_hook_names_component_and_distribution(site: Site) -> None:
    site.write(MANIFEST.replace("POINT", "discovery"), FIND.replace("ANSWER", "{}['lost']"))
    with Run(site.registry()) as run, pytest.raises(KeyError) as caught:
        run.call(run.component("discovery", "bad"), "discover", **HOOK_CALLS["discover"])
    assert caught.value.__notes__ == [site.named("in discovery 'bad' ({pkg}-dist 1.0)")]


WRAPPERS = {
    "of a hook that does not exist": (
        "@hookimpl(wrapper=True)\n    def discovery(self):\n        return (yield)",
        ": no hook 'discovery'; did you mean 'discover'? Valid: adapt, ",
    ),
    "of a hook that its point does not have": (
        "@wraps('balancer.discover')\n    def anything(self):\n        return (yield)",
        ": no hook 'discover'; valid: balance",
    ),
    "of a point that does not exist": (
        "@wraps('discoveries.discover')\n    def anything(self):\n        return (yield)",
        "unknown extension point 'discoveries'; did you mean 'discovery'?",
    ),
    "not marked": ("def discover(self):\n        return (yield)", ": discover must be marked @hookimpl(wrapper=True)"),
    "marked as a plain implementation": (
        "@hookimpl\n    def discover(self):\n        return []", ": discover must be marked @hookimpl(wrapper=True)",
    ),
    "of nothing": ("def helper(self): pass", " wraps no hook; mark a method with @hookimpl(wrapper=True)"),
    "with a parameter that the hook does not have": (
        "@hookimpl(wrapper=True)\n    def discover(self, portfolios):\n        return (yield)",
        ": discover takes 'portfolios', which hook discovery.discover does not pass; did you mean 'portfolio'? Valid: "
        "graph, portfolio",
    ),
    "that does not yield": (
        "@hookimpl(wrapper=True)\n    def discover(self):\n        return []",
        ": discover must yield once: `answer = yield` gives the answer of what it wraps",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRAPPERS)
def test_wrapper(case: str, site: Site) -> None:
    body, expected = WRAPPERS[case]
    site.write(MANIFEST.replace("POINT", "wrapper"), f"@component\nclass Bad(Wrapper):\n    {body}")
    with Run(site.registry()) as run:
        message = raised(lambda: run.component("wrapper", "bad"))
    assert message.startswith(site.named("wrapper 'bad' ({pkg}-dist 1.0)")) or "unknown extension point" in message
    assert expected in message


def test_answer_spoilt_by_a_wrapper_names_the_wrapper_too(site: Site) -> None:
    wrapper = "@component\nclass Bad(Wrapper):\n    @hookimpl(wrapper=True)\n    def discover(self):\n        yield\n"
    site.write(MANIFEST.replace("POINT", "wrapper"), wrapper + FIND.replace("Bad", "Good").replace("ANSWER", "[]"))
    with Run(site.registry()) as run:
        run.component("wrapper", "bad")
        good = sys.modules[f"{site.package}.algo"].Good()
        with pytest.raises(CrosstaskError, match="discovery Good: discover must return a list, got nothing") as caught:
            run.call(good, "discover", **HOOK_CALLS["discover"])
    assert caught.value.__notes__ == [site.named("the answer passed through wrapper 'bad' ({pkg}-dist 1.0)")]


def test_state_of_another_component(site: Site) -> None:
    site.write(MANIFEST.replace("POINT", "discovery"), FIND)
    made: Component = site.registry().create("discovery", "bad")
    assert raised(lambda: made.load_state_dict({"momentum": 1})) == site.named(
        BAD + ": state has ['momentum'], expected ['steps']"
    )


def test_conformance_kit_finds_a_component_that_changes_its_inputs(site: Site) -> None:
    code = (
        "@component\nclass Bad(Discoverer):\n    def discover(self, portfolio, graph):\n        s, t = portfolio.ids[:2]\n"
        "        graph.add(TransferEdge(source=s, target=t, transfer_coefficient=0.9, found_by='bad'))\n        return []"
    )
    site.write(MANIFEST.replace("POINT", "discovery"), code)
    made = site.registry().component_class("discovery", "bad")
    (outcome,) = [outcome for outcome in run_checks(made) if "inputs_untouched" in outcome.name]
    assert outcome.status == "failed"
    assert outcome.message.startswith("discovery Bad changes what it is given: inputs['graph']")


def test_empty_task_gradients_are_refused() -> None:
    with pytest.raises(ValueError, match=r"task gradients must have shape \[T, D\] with T >= 1, got \(0, 3\)"):
        MatrixGradients(torch.ones(0, 3))


# Recipes --------------------------------------------------------------------------------------------------------------

REQUIRES = {
    "a plugin that is not installed": (
        {"crosstask-lost": ">=1"},
        "the recipe requires plugin crosstask-lost >=1; it is not installed. Try: pip install 'crosstask-lost>=1'",
    ),
    "another version": (
        {"{pkg}": ">=2"},
        "the recipe requires plugin {pkg} >=2; version 1.0 is installed. Try: pip install '{pkg}-dist>=2'",
    ),
    "no version": ({"{pkg}": "new"}, "requires.{pkg}: 'new' is not a version specifier such as '>=1.2,<2'"),
}


@pytest.mark.parametrize("case", REQUIRES)
def test_requirement(case: str, site: Site) -> None:
    requires, expected = REQUIRES[case]
    site.write(MANIFEST.replace("POINT", "discovery"), FIND)
    recipe = recipe_from({"source": "x", "requires": {site.named(k): v for k, v in requires.items()}}, Registry())
    assert raised(lambda: check_requirements(recipe, site.registry())) == site.named(expected)


def test_requirement_of_a_broken_plugin(site: Site) -> None:
    site.write("1 / 0")
    recipe = recipe_from({"source": "x", "requires": {site.package: ""}}, Registry())
    assert raised(lambda: check_requirements(recipe, site.registry())) == site.named(
        "the recipe requires plugin {pkg}; {pkg}-dist 1.0 is broken: {pkg}.plugin:PLUGIN: ZeroDivisionError: division "
        "by zero"
    )


def test_recipe_of_a_package(site: Site) -> None:
    site.write(MANIFEST.replace("POINT", "recipe").replace("{pkg}.algo:Bad", "{pkg}:lost.toml"))
    registry = site.registry()
    assert raised(lambda: load_recipe("bad", registry)) == site.named(
        "recipe 'bad' ({pkg}-dist 1.0): {pkg}:lost.toml is not a file"
    )
    assert raised(lambda: load_recipe("bat", registry)) == (
        "no recipe named 'bat'; did you mean 'bad'? Valid: bad (a file's name ends in .toml)"
    )


RECIPES: dict[str, tuple[dict[str, Any], str]] = {
    "no source": ({}, "recipe: missing option 'source'"),
    "a component without a name": (
        {"source": {"seed": 3}},
        "recipe: source must be a name, or a table with use = \"name\" and the component's options, got {'seed': 3}",
    ),
    "one table where a list is wanted": (
        {"source": "x", "wrappers": {"use": "probe"}},
        "recipe: wrappers must be a list of tables ([[wrappers]]), got {'use': 'probe'}",
    ),
    "a list where a stage's table is wanted": (
        {"source": "x", "look": [{"use": "probe"}]},
        "recipe: look is a stage: its options stand in a table [look], got [{'use': 'probe'}]",
    ),
    "a stage misspelt": (
        {"source": "x", "prepair": {}},
        "recipe: unknown table or key 'prepair'; did you mean 'prepare'? Valid: budget, description, device, executor, extends, "
        "look, measure, model, name, observers, prefer, prepare, …",
    ),
    "a stage misspelt in use": (
        {"source": "x", "mine": {"use": "prepair"}},
        "recipe: [mine]: no stage named 'prepair'; did you mean 'prepare'? Valid: look, measure, prepare, wild",
    ),
    "a budget of nothing": (
        {"source": "x", "budget": {"steps": 0}}, "recipe: budget: steps must be >= 1, got 0",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", RECIPES)
def test_recipe(case: str, registry: Registry) -> None:
    values, expected = RECIPES[case]
    assert raised(lambda: recipe_from(values, registry)) == expected


STAGES: dict[str, tuple[dict[str, Any], str]] = {
    "an option misspelt": ({"sacle": 1}, "unknown option 'sacle'; did you mean 'scale'? Valid: chooser, scale, task, withhold"),
    "an option of another kind": ({"scale": "big"}, "scale must be a number, got 'big'"),
    "a part that is no name": (
        {"chooser": 3},
        "chooser must be a name, or a table with use = \"name\" and the component's options, got 3",
    ),
    "a part without its name": (
        {"chooser": {"share": 1}},
        "chooser must be a name, or a table with use = \"name\" and the component's options, got {'share': 1}",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", STAGES)
def test_stage_table(case: str, registry: Registry) -> None:
    options, expected = STAGES[case]
    recipe = recipe_from({"source": "x", "prepare": options}, registry)
    assert raised(lambda: bind(recipe, registry)) == f"recipe: [prepare]: {expected}"


# Settings -------------------------------------------------------------------------------------------------------------

SETTINGS = {
    "unknown setting": (
        'denny = ["x"]',
        "unknown setting 'denny'; did you mean 'deny'? Valid: allow, deny, plugins_dir, prefer",
    ),
    "deny a string": ('deny = "x"', "deny must be a list of strings, got 'x'"),
    "allow of numbers": ("allow = [1]", "allow must be a list of strings, got [1]"),
    "prefer a list": ('prefer = ["x"]', "prefer must be a table of strings, got ['x']"),
    "prefer of numbers": ("prefer = { x = 1 }", "prefer must be a table of strings, got {'x': 1}"),
    "plugins_dir a string": ('plugins_dir = "mine"', "plugins_dir must be a list of strings, got 'mine'"),
    "no TOML": ("deny = [", "cannot be read: Invalid value (at end of document)"),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_setting(case: str, tmp_path: Path) -> None:
    text, expected = SETTINGS[case]
    file = tmp_path / "pyproject.toml"
    file.write_text(f"[tool.crosstask]\n{text}\n")
    message = raised(lambda: load_settings({"HOME": str(tmp_path)}, tmp_path))
    assert message.startswith(f"{file}: {expected}")


def test_settings_of_the_environment(tmp_path: Path) -> None:
    environment = {"HOME": str(tmp_path), "CROSSTASK_PREFER": "rgb"}
    assert raised(lambda: load_settings(environment, tmp_path)) == (
        "CROSSTASK_PREFER must look like name=distribution,…; got 'rgb'"
    )


def test_there_are_at_least_sixty_of_them() -> None:
    tables = (
        MANIFESTS,
        ENTRIES,
        CODE,
        OPTIONS,
        CONFLICTS,
        ANSWERS,
        SHAPES,
        WRAPPERS,
        REQUIRES,
        RECIPES,
        STAGES,
        SETTINGS,
    )
    assert sum(map(len, tables)) >= 60
