"""The registry: what the table of broken things does not show."""

from __future__ import annotations

import signal
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from crosstask import registry as registry_module
from crosstask.errors import PluginError, UnknownComponentError
from crosstask.manifest import KERNEL_POINTS, Extension, Plugin, Point
from crosstask.registry import Indexed, PluginRecord, Registry, Status, packages
from crosstask.registry import shipped_index as SHIPPED
from crosstask.settings import Settings


def offering(name: str, *targets: tuple[str, str, str], **given: Any) -> Plugin:
    return Plugin(name, [Extension(*target) for target in targets], api=(2, 0), **given)


def fails(name: str, distribution: str = "d", **given: Any) -> PluginRecord:
    """What becomes of a plugin in a registry of its own."""
    registry = Registry()
    registry.register(Plugin(name, **{"api": (2, 0), **given}), distribution=distribution, version="1")
    (record,) = registry.plugins()
    return record


SERIAL = ("executor", "here", "crosstask.executors:SerialExecutor")
PROCESS = ("executor", "other", "crosstask.executors:ProcessExecutor")
CHOOSER = Point("chooser", "crosstask_fakes.contracts:Chooser", version=(1, 2))
FIRST = ("chooser", "first", "crosstask_fakes.choosers:First")


def test_starts_with_the_kernels_points_and_without_plugins() -> None:
    assert Registry().plugins() == []
    assert Registry().names("balancer") == []
    assert Registry().point("balancer").contract == "crosstask.points.balancer:Balancer"


def test_installed_reads_entry_points_of_this_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fake_installed.py").write_text(
        "from crosstask.manifest import Extension, Plugin\n"
        "serial = Extension('executor', 'fake', 'crosstask.executors:SerialExecutor')\n"
        "PLUGIN = Plugin('fake-installed', [serial], api=(2, 0))\n"
    )
    for folder, version in (("first", "1.0"), ("second", "2.0")):
        info = tmp_path / folder / f"fake_installed-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.4\nName: fake-installed\nVersion: {version}\n\nName: no\n")
        (info / "entry_points.txt").write_text(
            "[console_scripts]\nx = y:z\n\n[crosstask.plugins]\n# a comment\nfake-installed = fake_installed:PLUGIN\n"
        )
    other = tmp_path / "first" / "other-1.dist-info"
    other.mkdir()
    (other / "entry_points.txt").write_text("[console_scripts]\nx = y:z\n")
    for folder in (tmp_path, tmp_path / "second", tmp_path / "first"):
        monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("CROSSTASK_ALLOW", "fake-installed")
    found = [r for r in Registry.installed().plugins() if r.status is not Status.DENIED]
    assert [(r.name, r.origin, r.entry_point) for r in found] == [
        ("fake-installed", "fake-installed 1.0", "fake_installed:PLUGIN")  # 2.0 is shadowed: it comes later on sys.path
    ]
    settings = Settings(deny=("*",))
    assert {r.status for r in Registry.installed(settings).plugins()} == {Status.DENIED}
    assert "fake_installed" not in sys.modules, "a stranger's manifest is imported in another process"


def lay(folder: Path, info: str, entries: str | bytes, metadata: str | bytes, module: str = "") -> None:
    """A distribution as a folder may hold it, however odd; with its manifest, if `module` is named."""
    (folder / info).mkdir(parents=True)
    for name, text in (("entry_points.txt", entries), ("METADATA", metadata)):
        (folder / info / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    if module:
        (folder / f"{module}.py").write_text(
            "from crosstask.manifest import Extension, Plugin\n"
            "PLUGIN = Plugin('odd-one', [Extension('executor', 'odd', 'crosstask.executors:SerialExecutor')],"
            " api=(2, 0))\nclass Holder:\n    PLUGIN = PLUGIN\n"
        )


PLAIN = "[crosstask.plugins]\nodd-one = odd_manifest:PLUGIN\n"
META = "Metadata-Version: 2.1\nName: odd-one\nVersion: 1.0\n"
ODD: dict[str, tuple[str | bytes, str | bytes]] = {
    "plain": (PLAIN, META),
    "metadata in Latin-1": (PLAIN, META.encode() + b"Author: J\xf6rg\n"),
    "entry points in Latin-1": (b"[console_scripts]\nd\xe9mo = x:y\n" + PLAIN.encode(), META),
    "a mark of the byte order": ("\ufeff" + PLAIN, "\ufeff" + META),
    "lines as Windows ends them": (PLAIN.replace("\n", "\r\n"), META.replace("\n", "\r\n") + "\r\nName: no\r\n"),
    "the same line twice": (PLAIN + "odd-one=odd_manifest : PLUGIN\n", META),
    "blanks around everything": ("[ crosstask.plugins ]\n  odd-one  =  odd_manifest  :  PLUGIN  [ extra ]\n", META),
    "a dotted attribute": (PLAIN.replace(":PLUGIN", ":Holder.PLUGIN"), META),
    "no blank after the colon": (PLAIN, "Name:odd-one\nVersion:1.0\n"),
}


@pytest.mark.parametrize("case", ODD)
def test_distributions_in_odd_shapes(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entries, metadata = ODD[case]
    lay(tmp_path, "odd_one-1.0.dist-info", entries, metadata, "odd_manifest")
    monkeypatch.syspath_prepend(str(tmp_path))
    registry = Registry.installed(Settings(allow=("odd-one",)))
    found = [(r.name, r.origin, r.status) for r in registry.plugins() if r.status is not Status.DENIED]
    assert found == [("odd-one", "odd-one 1.0", Status.OK)]
    assert registry.names("executor") == ["odd"]
    assert registry_module.folder_of("odd-one") == str(tmp_path)
    assert registry_module.licence("odd-one") == "unknown"


def test_strangers_in_odd_shapes_stop_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lay(tmp_path, "odd_one-1.0.dist-info", PLAIN, META, "odd_manifest")
    lay(tmp_path, "latin-1.dist-info", b"[console_scripts]\nd\xe9mo=x:y\n", b"Name: l\xe4tin\n")
    lay(tmp_path, "utf16-1.dist-info", PLAIN.encode("utf-16"), META.encode("utf-16"))
    lay(tmp_path, "empty-1.dist-info", "", "")
    (tmp_path / "folders-1.dist-info" / "entry_points.txt").mkdir(parents=True)
    circle = tmp_path / "circle-1.dist-info"
    circle.mkdir()
    (circle / "entry_points.txt").symlink_to("entry_points.txt")
    monkeypatch.syspath_prepend(str(tmp_path))
    registry = Registry.installed(Settings(allow=("odd-one",)))
    assert [r.name for r in registry.plugins() if r.status is not Status.DENIED] == ["odd-one"]
    assert sorted(Path(path).parent.name for path in registry_module.unreadable()) == [
        "latin-1.dist-info",
        "utf16-1.dist-info",
    ]


def test_what_fails_because_a_strangers_entry_points_are_not_utf8_is_told_which(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch and networkx read the entry points of everybody as they are imported."""
    lay(tmp_path, "latin-1.dist-info", b"[console_scripts]\nd\xe9mo=x:y\n", "Name: latin\n")
    (tmp_path / "reads_all.py").write_text("from importlib.metadata import entry_points\nentry_points()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    registry = Registry()
    registry.register(offering("x", ("executor", "here", "reads_all:X")))
    path = tmp_path / "latin-1.dist-info" / "entry_points.txt"
    with pytest.raises(PluginError, match=rf"failed: UnicodeDecodeError: .*; not UTF-8, as they must be: {path}$"):
        registry.create("executor", "here")


def test_one_project_under_two_spellings_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lay(tmp_path / "new", "odd_one-1.0.dist-info", PLAIN, META.replace("odd-one", "Odd_.One"), "odd_manifest")
    lay(tmp_path / "old", "odd.one-0.9.dist-info", PLAIN, META.replace("1.0", "0.9"))
    for folder in ("old", "new"):
        monkeypatch.syspath_prepend(str(tmp_path / folder))
    registry = Registry.installed(Settings(allow=("odd.one",)))
    found = [(r.name, r.origin, r.status) for r in registry.plugins() if r.status is not Status.DENIED]
    assert found == [("odd-one", "Odd_.One 1.0", Status.OK)]


def test_prefer_and_former_names_compare_as_pep_503_says() -> None:
    registry = Registry(Settings(prefer={"executor/here": "My_Second"}, deny=("old.name",)))
    registry.register(offering("one", SERIAL), distribution="my-first")
    registry.register(offering("two", SERIAL), distribution="my-second")
    assert registry.find("executor", "here")[0].name == "two"
    record = registry.register(offering("three", formerly=["old_name"]), distribution="new-name")
    assert (record.status, record.reason) == (Status.DENIED, "denied by 'old.name' (settings)")


def test_allow_wants_the_distribution_and_what_the_program_registers_goes_by_its_name() -> None:
    registry = Registry(Settings(allow=("rgb",)))
    impostor = registry.register(offering("rgb", SERIAL), distribution="evil")
    assert impostor.status is Status.DENIED
    assert registry.register(offering("rgb", PROCESS)).status is Status.OK


def test_component_by_name_knows_where_it_comes_from() -> None:
    registry = Registry()
    registry.register(offering("x", SERIAL), distribution="x-dist", version="3")
    assert registry.names("executor") == ["here"]
    made = registry.create("executor", "here")
    assert (made.origin, made.name, made.offered_by) == ("executor 'here' (x-dist 3)", "here", "x-dist 3")


def test_something_that_is_no_plugin_can_be_registered_and_is_listed_as_broken() -> None:
    record = Registry().register("rgb")  # type: ignore[arg-type]
    assert (record.status, record.reason) == (Status.BROKEN, "names a str, not a crosstask.Plugin")
    kind = Registry(Settings(deny=("x",))).register(Plugin)  # type: ignore[arg-type]  # whose `name` is no name
    assert (kind.status, kind.reason) == (Status.BROKEN, "names a type, not a crosstask.Plugin")


@pytest.mark.parametrize("api", [(2, 0), (9, 0)])
def test_names_that_are_none_harm_their_plugin_only(api: tuple[int, int]) -> None:
    """Lists and dicts cannot be keys, numbers cannot be sorted among words."""
    for wrong in (["x"], {}, 5, None, ("a", "b")):
        name: Any = wrong
        for plugin in (
            Plugin(name, api=api),
            Plugin("p", [Extension(name, "x", "a:B")], api=api),
            Plugin("p", [Extension("executor", name, "a:B")], api=api),
            Plugin("p", [Extension("executor", "x", "a:B", aliases=[name])], api=api),
            Plugin("p", points=[Point(name, "a:B"), Point(name, "a:B")], api=api),
            Plugin("p", formerly=[name], api=api),
        ):
            registry = Registry(Settings(deny=("nobody",)))
            registry.register(plugin, distribution="wrong")
            registry.register(offering("well", SERIAL), distribution="well")
            told = {r.distribution: r.status for r in registry.plugins()}
            assert told == {"wrong": Status.BROKEN if api == (2, 0) else Status.INCOMPATIBLE, "well": Status.OK}
            assert registry.points()
            assert registry.names("executor") == ["here"]


def test_the_first_failure_is_kept() -> None:
    record = Registry(Settings(deny=("x",))).register(offering("x"))
    record.fail(Status.BROKEN, "later")
    assert (record.status, record.reason) == (Status.DENIED, "denied by 'x' (settings)")


# Conflicts of names ---------------------------------------------------------------------------------------------------


def test_a_third_offer_does_not_slip_through_a_settled_conflict() -> None:
    registry = Registry()
    for distribution in "ab":
        registry.register(offering("same", SERIAL), distribution=distribution)
    assert {r.status for r in registry.plugins()} == {Status.CONFLICTING}
    registry.register(offering("same", SERIAL), distribution="c")
    with pytest.raises(PluginError, match=r"is offered by a and b and c; choose with prefer: 'same' = 'a'"):
        registry.find("executor", "here")


def test_a_conflict_of_one_component_leaves_the_others_usable() -> None:
    registry = Registry()
    registry.register(offering("one", SERIAL, PROCESS), distribution="a")
    registry.register(offering("two", SERIAL), distribution="b")
    assert {r.status for r in registry.plugins()} == {Status.OK}
    assert registry.names("executor") == ["other"]
    assert registry.create("executor", "other")
    with pytest.raises(
        PluginError, match=r"^executor 'here' is offered by a and b; choose with prefer: 'executor/here' ="
    ):
        registry.create("executor", "here")
    chosen = registry.preferring({"executor/here": "b"})
    assert chosen.find("executor", "here")[0].distribution == "b"
    assert [r.unusable for r in chosen.plugins()] == [
        {"executor/here": "conflicting: executor 'here' is offered by a and b; b is preferred"},
        {},
    ]
    assert registry.preferring({}) is registry
    assert registry.names("executor") == ["other"]  # the first is left as it was


def two_of_a_point(**prefer: str) -> Registry:
    """Two plugins that define the same point, and a third with a component of it and one of the kernel's."""
    registry = Registry(Settings(prefer={key.replace("_", "/"): value for key, value in prefer.items()}))
    registry.register(Plugin("one", points=[CHOOSER], api=(2, 0)), distribution="a", version="1")
    rival = Point("chooser", "crosstask_fakes.contracts:Ranker")
    registry.register(Plugin("two", [Extension(*SERIAL)], points=[rival], api=(2, 0)), distribution="b", version="1")
    registry.register(offering("three", FIRST, PROCESS), distribution="c", version="1")
    return registry


def test_two_plugins_that_define_one_point_conflict_and_nothing_else_of_them_does() -> None:
    registry = two_of_a_point()
    reason = "extension point 'chooser' is offered by a 1 and b 1; choose with prefer: 'point/chooser' = 'a'"
    records = {record.name: record for record in registry.plugins()}
    assert {record.status for record in records.values()} == {Status.OK}
    assert records["one"].unusable == records["two"].unusable == {"point/chooser": f"conflicting: {reason}"}
    assert records["three"].unusable == {
        "chooser/first": f"extension point 'chooser' of a 1 cannot be used: {reason}",
    }
    assert registry.names("executor") == ["here", "other"]
    assert registry.names("chooser") == []
    contributed = [each for each in registry.points() if each.plugin is not None]
    assert [(each.point.name, each.origin, each.reason) for each in contributed] == [
        ("chooser", "a 1", reason),
        ("chooser", "b 1", reason),
    ]
    for ask in (
        lambda: registry.point("chooser"),
        lambda: registry.contract("chooser"),
        lambda: registry.create("chooser", "first"),
    ):
        with pytest.raises(PluginError, match="extension point 'chooser' of a 1 cannot be used: extension point"):
            ask()


@pytest.mark.parametrize(("preferred", "contract"), [("a", "Chooser"), ("b", "Ranker")])
def test_prefer_decides_between_points(preferred: str, contract: str) -> None:
    registry = two_of_a_point(point_chooser=preferred)
    assert registry.point("chooser").contract.endswith(contract)
    assert registry.names("chooser") == ["first"]
    loser = next(record for record in registry.plugins() if record.distribution == {"a": "b", "b": "a"}[preferred])
    assert loser.unusable["point/chooser"].endswith(f"is offered by a 1 and b 1; {preferred} is preferred")
    if preferred == "a":
        assert registry.create("chooser", "first").name == "first"
    else:  # that of b is not what its manifest says
        with pytest.raises(PluginError, match="is not a Component that says point = 'chooser'"):
            registry.create("chooser", "first")


def test_prefer_of_a_recipe_decides_for_its_run(registry: Registry, tmp_path: Path) -> None:
    from crosstask.job import run_recipe
    from crosstask.recipe import recipe_from

    registry.register(offering("rival", ("source", "fake", "nowhere:Nothing")), distribution="rival-dist")
    plain = {"source": "fake", "transfer": "fake", "train": {"steps": 1}, "model": {"hidden": [4]}}
    with pytest.raises(
        PluginError, match=r"source 'fake' is offered by crosstask-fakes 1.0 and rival-dist; choose with"
    ):
        run_recipe(recipe_from(plain, registry), tmp_path / "a", registry=registry)
    chosen = recipe_from(plain | {"prefer": {"source/fake": "crosstask-fakes"}}, registry)
    assert run_recipe(chosen, tmp_path / "b", registry=registry).status == "finished"
    assert "fake" not in registry.names("source")  # for that run only


# Points of plugins ----------------------------------------------------------------------------------------------------


def test_a_point_of_a_plugin_is_like_the_kernels(registry: Registry) -> None:
    from crosstask_fakes.contracts import Chooser

    own = [each for each in registry.points() if each.plugin is not None]
    assert [(each.point.name, each.origin) for each in own] == [("chooser", "crosstask-fakes 1.0")]
    assert registry.point("chooser").kit == "crosstask_fakes.kit:ChooserKit"
    assert registry.contract("chooser") is Chooser
    assert registry.names("chooser") == ["first", "last"]
    assert registry.create("chooser", "first", {"share": 0.5}).origin == "chooser 'first' (crosstask-fakes 1.0)"
    assert registry.point("balancer").contract == "crosstask.points.balancer:Balancer"


def test_an_extension_of_a_point_that_nobody_defines_is_unusable_and_the_rest_of_its_plugin_is_not() -> None:
    registry = Registry()
    record = registry.register(offering("x", SERIAL, ("choosr", "first", "a:B")), distribution="x-dist", version="1")
    registry.register(Plugin("y", points=[CHOOSER], api=(2, 0)))
    assert registry.names("executor") == ["here"]
    assert record.status is Status.OK
    assert list(record.unusable) == ["choosr/first"]
    asked = "no installed plugin defines extension point 'choosr'; did you mean 'chooser'? Valid: "
    assert record.unusable["choosr/first"].startswith(asked)
    with pytest.raises(UnknownComponentError, match="unknown extension point 'choosr'; did you mean 'chooser'"):
        registry.create("choosr", "first")


def test_what_to_install_for_a_point_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def reason(*needs: str) -> str:
        registry = Registry()
        record = PluginRecord("x", "x-dist", "1", needs=needs)
        registry._add(record, lambda: offering("x", ("router", "first", "a:B")))
        registry.plugins()
        return record.unusable["router/first"]

    asked = "no installed plugin defines extension point 'router'"
    assert reason("crosstask-kernel>=0.1", "crosstask-routing>=0.1,<0.2") == f"{asked}; pip install crosstask-routing"
    assert reason("crosstask_routing") == f"{asked}; pip install crosstask-routing"
    assert "; valid: adapter, balancer, command" in reason()
    monkeypatch.setattr(registry_module, "packages", lambda: {"point/router": "crosstask-router-base"})
    assert reason("crosstask-routing") == f"{asked}; pip install crosstask-router-base"
    with pytest.raises(
        UnknownComponentError, match="unknown extension point 'router'; pip install crosstask-router-base"
    ):
        Registry().point("router")


def test_a_component_that_an_installable_package_has_is_named_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"balancer/rgb": "crosstask-rgb", "transfer/default": "crosstask-finetuning"}
    monkeypatch.setattr(registry_module, "packages", lambda: known)
    with pytest.raises(UnknownComponentError, match="no balancer named 'rgb' is installed; pip install crosstask-rgb"):
        Registry().create("balancer", "rgb")
    with pytest.raises(
        UnknownComponentError, match="marks a transfer as the default; pip install crosstask-finetuning"
    ):
        Registry().default("transfer")


def test_the_index_of_packages_is_empty_where_only_the_kernel_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib_metadata

    def missing(name: str) -> None:
        raise importlib_metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib_metadata, "distribution", missing)
    assert SHIPPED.__wrapped__() == {}  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("wanted", "usable"), [(None, True), ((1, 0), True), ((1, 2), True), ((1, 3), False), ((2, 0), False)]
)
def test_the_version_of_a_point_is_checked_like_the_api(wanted: tuple[int, int] | None, usable: bool) -> None:
    registry = Registry()
    registry.register(Plugin("base", points=[CHOOSER], api=(2, 0)), distribution="base", version="0.4")
    record = registry.register(Plugin("x", [Extension(*FIRST, api=wanted), Extension(*SERIAL)], api=(2, 0)))
    assert registry.names("chooser") == (["first"] if usable else [])
    assert registry.names("executor") == ["here"]
    if not usable:
        assert wanted is not None
        told = ".".join(map(str, wanted))
        assert record.unusable == {"chooser/first": f"made for chooser {told}; base 0.4 has 1.2"}


def test_a_point_of_a_plugin_that_is_not_well_cannot_be_used_and_says_why() -> None:
    registry = Registry(Settings(deny=("base",), origins={"deny": "CROSSTASK_DENY"}))
    registry.register(Plugin("base", points=[CHOOSER], api=(2, 0)), distribution="base-dist")
    record = registry.register(offering("x", FIRST))
    registry.plugins()
    assert record.unusable["chooser/first"].startswith("no installed plugin defines extension point 'chooser'")
    registry = Registry()
    registry.register(Plugin("base", points=[CHOOSER], api=(2, 9)), distribution="base-dist")
    record = registry.register(offering("x", FIRST))
    registry.plugins()
    assert record.unusable["chooser/first"] == (
        "extension point 'chooser' of base-dist cannot be used: incompatible: made for plugin API 2.9; this kernel has "
        "2.0"
    )


@pytest.mark.parametrize(
    ("contract", "said"),
    [
        ("crosstask_fakes.contracts:NoComponent", "is not a Component that says point = 'chooser'"),
        ("crosstask_fakes.contracts:Ranker", "is not a Component that says point = 'chooser'"),
        ("crosstask_fakes.choosers:First", "is not a Component that says point = 'chooser'"),
        ("crosstask_fakes.contracts:Choser", "has no 'Choser'; did you mean 'Chooser'"),
        ("crosstask_fakes.lost:Chooser", "importing crosstask_fakes.lost failed: ModuleNotFoundError"),
    ],
)
def test_a_contract_that_is_none(contract: str, said: str) -> None:
    registry = Registry()
    registry.register(Plugin("base", points=[Point("chooser", contract)], api=(2, 0)))
    registry.register(offering("x", FIRST))
    for ask in (lambda: registry.contract("chooser"), lambda: registry.create("chooser", "first")):
        with pytest.raises(PluginError, match=said) as caught:
            ask()
        assert "extension point 'chooser'" in str(caught.value)


# What is the kernel's -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("point", [point.name for point in KERNEL_POINTS])
def test_a_plugin_never_replaces_a_point_of_the_kernel(point: str) -> None:
    registry = Registry(Settings(prefer={f"point/{point}": "d"}))
    rival = Point(point, "crosstask_fakes.contracts:Chooser")
    record = registry.register(Plugin("x", [Extension(*SERIAL)], points=[rival], api=(2, 0)), distribution="d")
    assert registry.point(point).contract.startswith("crosstask.points.")
    assert registry.contract(point).__module__ == f"crosstask.points.{point}"
    assert record.unusable == {
        f"point/{point}": f"conflicting: the kernel defines an extension point {point!r}; choose another name"
    }
    assert registry.names("executor") == ["here"]


@pytest.mark.parametrize("name", ["run", "stage", "recipe", "report", "plugins"])
def test_a_plugin_never_replaces_a_command_of_the_kernel(name: str) -> None:
    record = fails("x", extensions=[Extension("command", name, "crosstask_fakes.cli:command")])
    assert record.unusable == {f"command/{name}": f"the kernel has a command {name!r}; choose another name"}


@pytest.mark.parametrize("name", ["source", "model", "train", "wrappers", "extends", "transfer"])
def test_a_stage_cannot_have_the_name_of_a_table_of_every_recipe(name: str) -> None:
    record = fails("x", extensions=[Extension("stage", name, "crosstask_fakes.stages:FakeLook")])
    assert record.unusable == {f"stage/{name}": f"the kernel has a table of every recipe {name!r}; choose another name"}


# Versions -------------------------------------------------------------------------------------------------------------


def test_a_newer_api_is_incompatible_though_its_manifest_uses_what_this_one_does_not_know() -> None:
    newer = Extension("balancer", "x", "a:B", licence="MIT", runs_on=["gpu"])
    record = fails("x", extensions=[newer], api=(2, 7), mood="good", points=[Point("p", "a:B", mode="all")])
    assert (record.status, record.reason) == (
        Status.INCOMPATIBLE,
        "made for plugin API 2.7; this kernel has 2.0",
    )
    now = fails("x", extensions=[newer], mood="good")
    assert now.status is Status.BROKEN
    assert "unknown field 'mood'" in now.reason
    assert "unknown field 'licence'" in now.reason


@pytest.mark.parametrize(
    ("needs", "incompatible"),
    [
        ("crosstask-kernel>=0.1,<0.2", False),
        ("crosstask-kernel", False),
        ("crosstask_kernel >= 0.0.1", False),
        ("crosstask-kernel>=9.0", True),
        ("crosstask-kernel>=9", True),
        ("Crosstask.Kernel[report] >= 0.2, <0.3 ; python_version > '3'", True),
        ("crosstask-kernel~=0.2.0", True),
        ("crosstask-kernel==9.*", True),
        ("crosstask-kernel>=0.1.1", True),
        ("crosstask-kernel>=0.1.0", False),
        ("crosstask-kerneled>=9.0", False),
    ],
)
def test_a_distribution_that_requires_a_newer_kernel_is_incompatible(
    needs: str, incompatible: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crosstask.registry.__version__", "0.1.0")
    loaded: list[str] = []

    def load() -> Plugin:
        loaded.append("x")
        return offering("x", SERIAL)

    registry, record = Registry(), PluginRecord("x", "x-dist", "1", needs=(needs,))
    registry._add(record, load)
    assert (record.status is Status.INCOMPATIBLE) is incompatible
    assert bool(loaded) is not incompatible, "its manifest is not even imported"
    assert registry.names("executor") == ([] if incompatible else ["here"])
    if incompatible:
        assert record.reason == f"requires {needs.partition(';')[0].strip()}; this kernel is 0.1.0"


def test_requirements_of_a_distribution_are_read_without_extras(tmp_path: Path) -> None:
    class Found:
        def read_text(self, name: str) -> str | None:
            return (
                (
                    "Metadata-Version: 2.4\nName: x-dist\nVersion: 1.5\nRequires-Dist: numpy>=2\n"
                    "Requires-Dist: crosstask-kernel<0.3,>=0.2\nRequires-Dist: crosstask-hpo; extra == 'all'\n\n"
                    "Requires-Dist: crosstask-text\n"
                )
                if name == "METADATA"
                else None
            )

    assert registry_module._facts(Found()) == ("x-dist", "1.5", ("crosstask-kernel<0.3,>=0.2",))


# Defaults and former names --------------------------------------------------------------------------------------------


def marked(*marks: tuple[str, int, str]) -> Registry:
    """A registry with executors `name`, marked, each of a distribution."""
    registry = Registry()
    for name, default, distribution in marks:
        extension = Extension("executor", name, SERIAL[2], default=default)
        registry.register(Plugin(f"of-{name}", [extension], api=(2, 0)), distribution=distribution, version="1")
    return registry


def test_the_default_is_the_component_that_a_manifest_marks() -> None:
    registry = marked(("a", False, "da"), ("b", True, "db"))
    assert registry.default("executor") == "b"
    assert registry.create("executor", "default").name == "b"
    assert registry.find("executor", "default")[1].name == "b"
    with pytest.raises(
        UnknownComponentError, match="no installed plugin marks a executor as the default; name one of: a"
    ):
        marked(("a", False, "da")).default("executor")
    with pytest.raises(UnknownComponentError, match="name one of: none"):
        Registry().create("balancer", "default")


def test_several_that_are_marked_conflict_and_prefer_decides() -> None:
    registry = marked(("b", True, "db"), ("a", True, "da"))
    told = r"marked as the default: 'a' of da 1 and 'b' of db 1; choose with prefer: 'executor/default' = 'da'"
    with pytest.raises(PluginError, match=told):
        registry.create("executor", "default")
    assert registry.preferring({"executor/default": "db"}).default("executor") == "b"
    with pytest.raises(PluginError, match=told + r" \(prefer says 'nobody', which does not decide it\)"):
        registry.preferring({"executor/default": "nobody"}).default("executor")
    both = Registry()
    names = [Extension("executor", name, SERIAL[2], default=True) for name in "ab"]
    both.register(Plugin("x", names, api=(2, 0)), distribution="d")
    with pytest.raises(PluginError, match="'a' of d and 'b' of d; name one"):
        both.default("executor")


def test_of_points_with_several_at_once_all_that_are_marked_count_by_number() -> None:
    registry = marked(("a", 2, "d1"), ("b", 1, "d2"), ("c", 0, "d3"), ("d", 1, "d4"), ("e", 10, "d5"))
    assert registry.defaults("executor") == ["b", "d", "a", "e"]


def test_a_default_that_cannot_be_used_is_none() -> None:
    registry = marked(("a", True, "da"), ("b", True, "db"))
    registry.register(offering("rival", ("executor", "a", SERIAL[2])), distribution="rival")
    assert registry.default("executor") == "b"
    alone = marked(("a", True, "da"))
    alone.register(offering("rival", ("executor", "a", SERIAL[2])), distribution="rival")
    with pytest.raises(PluginError, match="executor 'a' is offered by da 1 and rival; choose with prefer"):
        alone.default("executor")


def test_a_former_name_that_two_plugins_had_is_not_settled_by_their_order() -> None:
    one, two = (Extension("executor", name, SERIAL[2], aliases=["old"]) for name in "ab")
    registry = Registry()
    registry.register(Plugin("two", [two], api=(2, 0)), distribution="d2")
    registry.register(Plugin("one", [one], api=(2, 0)), distribution="d1")
    with pytest.raises(PluginError, match="executor 'old' was the name of 'a' of d1 and 'b' of d2; say which"):
        registry.find("executor", "old")
    denied = Registry(Settings(deny=("d2",)))
    denied.register(Plugin("two", [two], api=(2, 0)), distribution="d2")
    denied.register(Plugin("one", [one], api=(2, 0)), distribution="d1")
    with pytest.warns(FutureWarning, match="is now called 'a'"):
        assert denied.find("executor", "old")[1].name == "a"


def test_a_former_name_finds_the_component_with_one_warning(registry: Registry) -> None:
    with pytest.warns(FutureWarning, match="chooser 'hindmost' is now called 'last'") as told:
        made = registry.create("chooser", "hindmost")
    assert len(told) == 1
    assert (made.name, made.origin) == ("last", "chooser 'last' (crosstask-fakes 1.0)")
    assert registry.names("chooser") == ["first", "last"]
    registry.register(offering("new", ("chooser", "hindmost", "crosstask_fakes.choosers:First")))
    with warnings.catch_warnings():  # whoever takes the name now has it
        warnings.simplefilter("error")
        assert registry.create("chooser", "hindmost").name == "hindmost"


def test_a_former_name_of_what_cannot_be_used_says_why() -> None:
    registry = Registry()
    old = Extension("executor", "new", SERIAL[2], aliases=["old"])
    registry.register(Plugin("x", [old], api=(2, 9)), distribution="d")
    with (
        pytest.warns(FutureWarning, match="is now called 'new'"),
        pytest.raises(PluginError, match="executor 'new' of d cannot be used: incompatible"),
    ):
        registry.create("executor", "old")


def test_settings_may_use_a_name_that_the_distribution_had_before() -> None:
    was = offering("x", SERIAL, formerly=["crosstask-old"])
    denied = Registry(Settings(deny=("crosstask-old",))).register(was, distribution="crosstask-new")
    assert (denied.status, denied.reason) == (Status.DENIED, "denied by 'crosstask-old' (settings)")
    registry = Registry(Settings(prefer={"executor/here": "crosstask-old"}))
    registry.register(was, distribution="crosstask-new")
    registry.register(offering("y", SERIAL), distribution="rival")
    assert registry.find("executor", "here")[0].distribution == "crosstask-new"


# Recipes, commands, folders -------------------------------------------------------------------------------------------


def test_recipes_are_files_inside_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "shipping"
    (package / "recipes").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "recipes" / "a.toml").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    registry = Registry()
    extension = Extension("recipe", "a", "shipping:recipes/a.toml")
    registry.register(
        Plugin("x", [extension, Extension("recipe", "lost", "shipping_nothing:a.toml")], api=(2, 0)), distribution="d"
    )
    assert registry.recipe_path("a") == registry.load_offer(extension) == package / "recipes" / "a.toml"
    with pytest.raises(UnknownComponentError, match="no recipe named 'b'"):
        registry.recipe_path("b")
    with pytest.raises(PluginError, match=r"shipping_nothing:a\.toml: No module named 'shipping_nothing'"):
        registry.recipe_path("lost")


def test_what_an_extension_offers_is_loaded_whatever_it_is(registry: Registry) -> None:
    from crosstask_fakes.components import FakeSource
    from crosstask_fakes.stages import FakeLook

    offers = {e.key: e for record in registry.plugins() if record.plugin for e in record.plugin.extensions}
    assert registry.load_offer(offers["source/fake"]) is FakeSource
    assert registry.load_offer(offers["stage/look"]) is FakeLook
    assert isinstance(registry.load_offer(offers["command/greet"]), click.Command)
    assert registry.load_offer(offers["recipe/fakes"]).name == "fakes.toml"
    for target, said in (
        ("crosstask_fakes.cli:no_command", "is a str, not a click command"),
        ("crosstask_fakes.cli:commands", "has no 'commands'; did you mean 'command'"),
        ("crosstask_fakes.clj:command", "importing crosstask_fakes.clj failed"),
    ):
        made = Registry()
        wrong = Extension("command", "wave", target)
        made.register(Plugin("x", [wrong], api=(2, 0)), distribution="d")
        with pytest.raises(PluginError, match=rf"command 'wave' \(d\): .*{said}"):
            made.load_offer(wrong)


ONE_OFF = """
from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin("{name}", [Extension("executor", "{name}", "crosstask.executors:SerialExecutor")], api=(2, 0))
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of one-off plugins: a file, a package, a module that both import, a broken one, one of another name."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    place = tmp_path / "mine"
    place.mkdir()
    (place / "oneoff_file.py").write_text(ONE_OFF.format(name="oneoff-file"))
    (place / "oneoff_package").mkdir()
    (place / "oneoff_package" / "__init__.py").touch()
    (place / "oneoff_package" / "plugin.py").write_text(ONE_OFF.format(name="oneoff-package"))
    (place / "oneoff_helper.py").write_text("HELP = 1\n")
    (place / "oneoff_broken.py").write_text("PLUGIN = 1 / 0\n")
    (place / "json.py").write_text(ONE_OFF.format(name="json"))
    (place / "notes.txt").write_text("PLUGIN")
    (place / "folder.py").mkdir()
    (place / "oneoff_lost.py").symlink_to(place / "nowhere")
    (place / ".oneoff_hidden.py").write_text("PLUGIN = 1 / 0\n")
    yield place
    for name in [name for name in sys.modules if name.startswith("oneoff")]:
        del sys.modules[name]


def test_a_folder_of_plugins(folder: Path) -> None:
    registry = Registry()
    registry.add_folder(folder)
    assert [(r.name, r.distribution, r.status.value) for r in registry.plugins()] == [
        ("json", "dir:json", "broken"),
        ("oneoff_broken", "dir:oneoff_broken", "broken"),
        ("oneoff_file", "dir:oneoff_file", "ok"),
        ("oneoff_package", "dir:oneoff_package", "ok"),
    ]
    taken, broken = registry.plugins()[:2]
    assert "a module json is there already" in taken.reason
    assert broken.reason == "oneoff_broken:PLUGIN: ZeroDivisionError: division by zero"
    assert registry.names("executor") == ["oneoff-file", "oneoff-package"]
    assert registry.create("executor", "oneoff-file").origin == "executor 'oneoff-file' (dir:oneoff_file)"
    with pytest.raises(PluginError, match=r"no folder of plugins .*nowhere"):
        registry.add_folder(folder / "nowhere")


def test_a_folder_of_settings_is_read_and_its_plugins_can_be_denied(folder: Path) -> None:
    settings = Settings(plugins_dir=(str(folder),), allow=("dir:*",), deny=("dir:oneoff_p*",))
    found = [r for r in Registry.installed(settings).plugins() if r.distribution.startswith("dir:")]
    assert {r.name: r.status for r in found} == {
        "json": Status.BROKEN,
        "oneoff_broken": Status.BROKEN,
        "oneoff_file": Status.OK,
        "oneoff_package": Status.DENIED,
    }


def test_ctrl_c_is_not_swallowed_and_foreign_code_cannot_pretend_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def pressed(name: str) -> None:
        signal.raise_signal(signal.SIGINT)

    def pretended(name: str) -> None:
        raise KeyboardInterrupt

    registry = Registry()
    registry.register(offering("x", SERIAL))
    monkeypatch.setattr(registry_module.importlib, "import_module", pressed)
    with pytest.raises(KeyboardInterrupt):
        registry.create("executor", "here")
    with pytest.raises(KeyboardInterrupt):
        registry._add(PluginRecord("y", "y-dist", "1", "y:PLUGIN"), lambda: pressed("y"))
    monkeypatch.setattr(registry_module.importlib, "import_module", pretended)
    with pytest.raises(PluginError, match=r"importing crosstask.executors failed: KeyboardInterrupt$"):
        registry.create("executor", "here")
    record = PluginRecord("z", "z-dist", "1", "z:PLUGIN")
    registry._add(record, lambda: pretended("z"))
    assert (record.status, record.reason) == (Status.BROKEN, "z:PLUGIN: KeyboardInterrupt")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_where_one_component_comes_from_says_nothing_of_another_of_its_class() -> None:
    from crosstask.executors import SerialExecutor

    registry = Registry()
    registry.register(offering("x", SERIAL), distribution="x-dist", version="3")
    registry.create("executor", "here")
    assert SerialExecutor().origin == "executor SerialExecutor"


def test_a_component_that_leaves_while_it_is_made_does_not_end_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "leaving_executor.py").write_text(
        "import sys\nfrom crosstask.executors import SerialExecutor\nfrom crosstask.options import component\n"
        "@component\nclass Leaves(SerialExecutor):\n    def __attrs_post_init__(self):\n        sys.exit(0)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    registry = Registry()
    registry.register(offering("x", ("executor", "leaves", "leaving_executor:Leaves")), distribution="d")
    with pytest.raises(PluginError, match=r"executor 'leaves' \(d\) cannot be made: SystemExit: 0"):
        registry.create("executor", "leaves")


def test_asking_for_a_name_that_the_kernel_keeps_says_so() -> None:
    registry = Registry()
    offer = Extension("command", "run", "mine.cli:command", summary="Runs")
    registry.register(Plugin("mine", [offer], api=(2, 0)), distribution="crosstask-mine", version="1.0")
    told = r"command 'run' of crosstask-mine 1.0 cannot be used: the kernel has a command"
    with pytest.raises(PluginError, match=told):
        registry.find("command", "run")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (
            '{"crosstask_index": 1, "offers": {"balancer/rgb": {"install": "crosstask-rgb"}}}',
            {"balancer/rgb": Indexed("crosstask-rgb")},
        ),
        ('{"balancer/rgb": "crosstask-rgb"}', {}),
        (None, {}),
    ],
    ids=["ours", "of another release", "none"],
)
def test_the_index_is_read_from_the_root_distribution(
    monkeypatch: pytest.MonkeyPatch, text: str | None, found: dict[str, Indexed]
) -> None:
    import importlib_metadata

    class Root:
        @staticmethod
        def read_text(name: str) -> str | None:
            return text if name == "extra_metadata/index.json" else None

    monkeypatch.setattr(importlib_metadata, "distribution", lambda name: Root())
    assert SHIPPED.__wrapped__() == found  # type: ignore[attr-defined]
    monkeypatch.setattr(registry_module, "shipped_index", lambda: found)
    assert packages.__wrapped__() == {key: offer.install for key, offer in found.items()}  # type: ignore[attr-defined]


def test_a_component_is_chosen_by_a_name_and_a_record_has_all_its_names() -> None:
    from crosstask.errors import UnknownComponentError
    from crosstask.manifest import Plugin
    from crosstask.registry import Registry, licence

    registry = Registry()
    with pytest.raises(UnknownComponentError, match="a executor is chosen by its name, got 3"):
        registry.find("executor", 3)  # type: ignore[arg-type]
    record = registry.register(Plugin(name="new", api=(2, 0), formerly=["old"]))
    assert record.names == ("new", "(in process)", "old")
    assert licence("no-such-distribution") == "unknown"
