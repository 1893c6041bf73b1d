"""What is exported of a run, an engine, a store, a graph; the command; the stage and its section of the report."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from crosstask import Budget, ModelSpec, Portfolio, Registry, Task, TaskDescriptor, TransferEngine, TransferGraph
from crosstask.errors import CrosstaskError, RecipeError
from crosstask.graph import Evidence, TransferEdge
from crosstask.job import run_recipe
from crosstask.options import unstructure
from crosstask.recipe import load_recipe
from crosstask.report.page import document
from crosstask.store import open_store
from crosstask.testing.commands import installed, invoke
from crosstask_bundles import Bundles, BundlesResult, BundleUse, Imported, export, open_bundle, write_bundle
from crosstask_bundles.carried import MeasuredDigits
from crosstask_bundles.cli import command
from crosstask_bundles.errors import BundleError
from crosstask_bundles.records import TakenEdge
from crosstask_bundles.testing import serving, small_bundle, small_manifest

RECIPE = """
name = "small"
seed = 3
seeds = 1
source = { use = "digits", tasks = ["parity", "loop"] }
model = { kind = "mlp", hidden = [8] }
train = { steps = 20 }
budget = { steps = 6, samples = 40 }

[discovery]
discoverers = ["skills", "probe"]

[bundles]
bundles = ["measured_digits"]

[curriculum]
target = "loop"
"""


@pytest.fixture(autouse=True, scope="module")
def one_registry() -> Iterator[Registry]:
    """The manifests of all that is installed are read once."""
    with installed(Registry.installed()) as registry:
        yield registry


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that measured one pair, and took over what a bundle says of it."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "small.toml").write_text(RECIPE)
    registry = Registry.installed()
    recipe = load_recipe(str(folder / "small.toml"), registry).recipe
    run_recipe(recipe, folder / "out", registry=registry)
    return folder / "out"


def test_of_a_run(run: Path) -> None:
    manifest = export(run, licence="MIT")
    record = json.loads((run / "run.json").read_text())
    assert (manifest.name, manifest.origin.run_id, manifest.origin.seed) == ("small", record["run_id"], 3)
    assert manifest.origin.started == record["started"]
    assert all(task.content and task.fingerprint for task in manifest.tasks)
    assert {edge.found_by for edge in manifest.edges} >= {"skills", "probe"}
    own = [edge for edge in manifest.edges if edge.found_by == "probe"]
    assert {(edge.origin, edge.evidence) for edge in own} == {(record["run_id"], Evidence.MEASURED)}
    pooled = [edge for edge in manifest.edges if edge.measurements]
    assert {len(edge.measurements) for edge in pooled} == {2}
    assert [curriculum.target for curriculum in manifest.curricula] == ["loop"]
    measured = export(run, guesses=False, name="only")
    assert measured.name == "only"
    assert all(edge.measured for edge in measured.edges)
    assert len(measured.edges) < len(manifest.edges)


def test_a_run_that_imported_is_not_counted_twice_elsewhere(run: Path, tmp_path: Path) -> None:
    """It passes on what a bundle told it; who has that bundle, too, has each measurement once."""
    again = write_bundle(export(run), tmp_path / "again.ctb")
    tasks = Registry.installed().create("source", "digits", {"tasks": ["parity", "loop"]}).load()
    graph = TransferGraph(task.descriptor for task in tasks)
    found = Imported(bundles=[str(again.path), "measured_digits"], stored=False).discover(tasks, graph)
    assert {len(edge.measurements) for edge in found if edge.measured} == {2}


def test_the_models_of_a_run(run: Path, tmp_path: Path) -> None:
    bundle = write_bundle(export(run, weights=True), tmp_path / "models.ctb")
    assert [weights.task_id for weights in bundle.manifest.weights] == ["parity", "loop"]
    store = open_store(str(run / "store.db"))
    own = [row for row in store.rows("models") if set(row.payload) == {"task", "model", "budget", "seed"}]
    kept = {row.payload["task"]: store.get("models", row.key) for row in own}
    store.close()
    for task_id in ("parity", "loop"):
        state = bundle.model(task_id).state_dict()
        assert kept[task_id] is not None
        assert all(torch.equal(state[name], tensor) for name, tensor in kept[task_id].tensors.items())


def points(name: str, seed: int) -> Task:
    """Two classes in the plane."""
    inputs = torch.randn(60, 4, generator=torch.Generator().manual_seed(seed))
    targets = (inputs[:, 0] > 0).long()
    descriptor = TaskDescriptor(task_id=name, output_dim=2)
    return Task(descriptor=descriptor, train=(inputs[:40], targets[:40]), test=(inputs[40:], targets[40:]))


def test_of_an_engine_its_folder_and_its_store(tmp_path: Path) -> None:
    with TransferEngine(
        model=ModelSpec(hidden=[4]), train=Budget(steps=5), budget=Budget(steps=3), seeds=2, discoverers=[],
        store=tmp_path / "s.db", run_id="here",
    ) as engine:  # fmt: skip
        engine.register(Portfolio([points("one", 1), points("two", 2)], name="points"))
        engine.register_task(TaskDescriptor(task_id="bare", input_shape=(4,), output_dim=2))
        result = engine.transfer_knowledge("one", "two")
        engine.graph.add(TransferEdge(source="one", target="bare", transfer_coefficient=0.1, found_by="me"))
        live = export(engine, weights=True)
        engine.save(tmp_path / "saved")
    assert live.origin.run_id == "here"
    assert live.name == "points"
    told = {task.descriptor.task_id: (task.content, task.fingerprint) for task in live.tasks}
    assert told["bare"] == (None, None)
    assert None not in told["one"]
    assert "one" in held(live)
    saved = export(str(tmp_path / "saved"))
    assert [(e.source, e.target, e.found_by) for e in saved.edges] == [("one", "bare", "me")]
    stored = export(str(tmp_path / "s.db"), weights=True)
    (edge,) = stored.edges
    assert (edge.source, edge.target, edge.found_by) == ("one", "two", result.strategy)
    assert edge.transfer_coefficient == result.coefficient.mean
    assert (edge.low, edge.high, edge.origin) == (result.coefficient.low, result.coefficient.high, "here")
    assert edge.when is not None
    prints = {task.descriptor.task_id: task.fingerprint for task in stored.tasks}
    assert prints == {"one": told["one"][1], "two": told["two"][1], "bare": None}
    assert "one" in held(stored)


def held(manifest: Any) -> list[str]:
    return [weights.task_id for weights in manifest.weights]


def test_of_a_store_that_has_a_pair_several_times(tmp_path: Path) -> None:
    """With fewer samples, for the gain in samples; with more repeats of the same seed; with another seed."""
    found = {}
    for seed, seeds in ((1, 2), (2, 2), (2, 3)):
        with TransferEngine(
            model=ModelSpec(hidden=[4]), train=Budget(steps=5), budget=Budget(steps=8), seeds=seeds, seed=seed,
            discoverers=[], store=tmp_path / "s.db",
        ) as engine:  # fmt: skip
            engine.register(Portfolio([points("one", 1), points("two", 2)]))
            found[seed, seeds] = engine.transfer_knowledge("one", "two", samples=True)
    store = open_store(str(tmp_path / "s.db"))
    rows = [row.payload for row in store.rows("transfers") if "coefficient" in row.payload]
    assert len(rows) > 4
    assert {row["budget"]["samples"] for row in rows} >= {None, 20}
    (edge,) = export(store).edges
    wanted = [found[seeds].coefficient for seeds in ((1, 2), (2, 3))]
    assert {(e.transfer_coefficient, e.low, e.high) for e in edge.measurements} == {
        (each.mean, each.low, each.high) for each in wanted
    }
    store.put("tasks", "other data", unstructure(points("one", 7).descriptor))
    (edge,) = export(store).edges
    assert (edge.transfer_coefficient, edge.measurements) == (wanted[1].mean, ()), "nobody knows of which data they are"
    store.close()


def test_of_a_store_with_two_tasks_of_one_name(tmp_path: Path) -> None:
    """Nobody can say which one was meant: it is left to its name."""
    for seed in (1, 2):
        with TransferEngine(discoverers=[], store=tmp_path / "s.db", run_id=str(seed)) as engine:
            engine.register_task(points("one", seed))
            engine.register_task(points("two", 3))
            engine.run.remember("transfers", f"key{seed}", {"what": "no transfer"})
    store = open_store(str(tmp_path / "s.db"))
    with pytest.raises(BundleError, match="nothing to export"):
        export(store)
    from crosstask_bundles.exporting import _of_store

    prints = {task.descriptor.task_id: task.fingerprint is None for task in _of_store(store, False).tasks}
    assert prints == {"one": True, "two": False}
    store.close()


def test_of_a_graph_and_of_what_is_none(tmp_path: Path) -> None:
    small_manifest().graph().export(tmp_path / "mine.json")
    manifest = export(tmp_path / "mine.json")
    assert (manifest.name, len(manifest.edges), manifest.tasks[0].content) == ("mine", 2, "a" * 24)
    (tmp_path / "empty").mkdir()
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "run.json").write_text('{"run_id": "x", "name": "x"}')
    for source, told in (
        (tmp_path / "empty", "the folder of no run and of no engine"),
        (tmp_path / "none", "no run, engine, store or graph"),
        (tmp_path / "half", "the run left no graph"),
    ):
        with pytest.raises(BundleError, match=told):
            export(source)
    TransferGraph().export(tmp_path / "half" / "graph.json")
    with pytest.raises(BundleError, match="nothing to export"):
        export(tmp_path / "half")


# The command ----------------------------------------------------------------------------------------------------------


def test_export_verify_import_publish(run: Path, tmp_path: Path) -> None:
    file = tmp_path / "small.ctb"
    (tmp_path / "licence.txt").write_text("As you like.")
    licence = ("--licence", "MIT", "--licence-file", tmp_path / "licence.txt")
    told = invoke(command, "export", run, file, "--weights", "--name", "named", *licence)
    assert "wrote named" in told
    assert "recognisable tasks" in told
    plain = json.loads(invoke(command, "verify", file, "--json"))
    assert (plain["name"], plain["licence"], plain["weights"], plain["signature"]) == ("named", "MIT", 2, False)
    assert plain["digest"] == open_bundle(file).digest
    into = ("--store", tmp_path / "b.db", "--into", tmp_path / "out")
    told = invoke(command, "import", file, *into)
    assert "4 files in" in told
    assert "runs with this store know it" in told
    assert (tmp_path / "out" / "LICENSE").read_text() == "As you like."
    assert "the store knew it already" in invoke(command, "import", file, *into)
    assert json.loads(invoke(command, "import", file, "--store", tmp_path / "b.db", "--json"))["new"] is False
    told = invoke(command, "publish", file, "--to", "index", "--set", f"folder={tmp_path}/shared")
    assert "published named" in told
    with serving() as server:
        where = json.loads(
            invoke(
                command, "publish", file, "--to", "http", "--set", f"url={server.url}", "--set", "timeout=5", "--json"
            )
        )["where"]
        assert where.startswith(server.url)
        assert list(server.files.values()) == [file.read_bytes()]


def test_what_the_command_refuses(tmp_path: Path) -> None:
    from click.testing import CliRunner

    file = small_bundle().path
    for arguments, told in (
        (["import", str(file)], "--store URL, --into FOLDER, or both"),
        (["publish", str(file), "--set", "folder"], "--set wants KEY=VALUE"),
    ):
        done = CliRunner().invoke(command, arguments)
        assert done.exit_code == 2
        assert told in done.output
    (tmp_path / "damaged.ctb").write_bytes(file.read_bytes()[:-1])
    none = str(tmp_path / "none")
    for given in (["verify", str(tmp_path / "damaged.ctb")], ["export", none, none], ["export", none, none,
                  "--licence-file", none]):  # fmt: skip
        with pytest.raises(CrosstaskError):
            CliRunner().invoke(command, given, catch_exceptions=False)


def test_a_hostile_name_does_nothing_to_the_terminal(tmp_path: Path) -> None:
    bundle = write_bundle(small_manifest("\x1b]0;title\x07<b>", licence=""), tmp_path / "hostile.ctb")
    told = invoke(command, "verify", bundle.path)
    assert "\x1b" not in told
    assert "none stated" in told


def test_no_licence_is_told(tmp_path: Path) -> None:
    small_manifest().graph().export(tmp_path / "mine.json")
    from click.testing import CliRunner

    done = CliRunner().invoke(command, ["export", str(tmp_path / "mine.json"), str(tmp_path / "mine.ctb"), "--text"])
    assert "no licence is stated" in done.output
    assert (tmp_path / "mine.ctb").read_text().startswith("-----BEGIN")


# The stage and the report ---------------------------------------------------------------------------------------------


def test_the_stage_in_a_run_and_its_section(run: Path) -> None:
    record = json.loads((run / "run.json").read_text())
    result = record["results"]["bundles"]
    assert [use["name"] for use in result["uses"]] == ["measured digits"]
    assert result["uses"][0]["matched"] == {"parity": "parity", "loop": "loop"}
    assert {edge["measurements"] for edge in result["edges"]} == {2}
    assert (record["summary"]["bundles"], record["summary"]["pooled_pairs"]) == (1, 2)
    page = (run / "report.html").read_text()
    for told in ('<h2 id="h-bundles">', "CC0-1.0", "measured digits", "probe (bundle measured digits"):
        assert told in page


def test_the_stage_refuses_files_that_are_not_there() -> None:
    for options, told in (
        ({"bundles": ["none/x.ctb"]}, "bundles: no file 'none/x.ctb'"),
        ({"signers": "nobody"}, "signers: no file 'nobody'"),
    ):
        with pytest.raises(RecipeError, match=told):
            Bundles(**options).check(Portfolio([points("one", 1)]))  # type: ignore[arg-type]


HOSTILE = "<script>alert(1)</script>\x1b\u202e"


def test_hostile_names_are_text_in_the_report() -> None:
    use = BundleUse(
        name=HOSTILE, digest=HOSTILE, licence=HOSTILE, run_id=HOSTILE, created=HOSTILE, signed_by=HOSTILE,
        matched={HOSTILE: HOSTILE, f"{HOSTILE}2": "x"}, edges={HOSTILE: 1},
    )  # fmt: skip
    edge = TakenEdge(source=HOSTILE, target=HOSTILE, mean=0.5, evidence=HOSTILE, found_by=HOSTILE)
    result = BundlesResult(uses=(use,), edges=(edge,), conflicts=(HOSTILE,))
    (section,) = Bundles.sections(result, TransferGraph())
    page = document("x", "", [section], {})
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in section.html
    assert not {"\x1b", "\u202e"} & set(section.html)


def test_sections_of_nothing_and_of_little() -> None:
    (section,) = Bundles.sections(BundlesResult(), TransferGraph())
    assert "No bundle was found" in section.html
    (section,) = Bundles.sections(BundlesResult(uses=(BundleUse(name="x", digest="y"),)), TransferGraph())
    assert "None of their edges is between two tasks of this run" in section.html
    assert "No licence is stated" in section.html
    assert Bundles.summary(BundlesResult())["bundles"] == 0


def test_the_carried_bundle_is_what_its_recipe_measures() -> None:
    manifest = open_bundle(MeasuredDigits().file()).manifest
    assert (len(manifest.tasks), len(manifest.edges)) == (5, 20)
    assert {(edge.found_by, edge.evidence) for edge in manifest.edges} == {("probe", Evidence.MEASURED)}
