"""A stranger's afternoon, in a fresh environment: scaffold, install, test, run; and a package built elsewhere.

One of everything that `crosstask plugins new` writes: a component of each extension point, a recipe, a whole family
with the package beside it, and a component of the point that this family brings.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from crosstask.manifest import KERNEL_POINTS
from tests.environments import Environment

BASES = (
    "adapters", "bundles", "continual", "curricula", "discovery", "federation", "monitoring", "multitask",
    "reinforcement", "routing", "search", "synthesis", "transfer",
)  # fmt: skip
ALGORITHMS = ("discovery/probe", "transfer/finetuning")  # what the scaffolded recipe names
CONTRIBUTED = (
    "agent", "bundle", "continual", "detector", "federation", "publisher", "router", "sampler", "search", "sharing",
    "world",
)  # fmt: skip
POINTS = [*(point.name for point in KERNEL_POINTS), *CONTRIBUTED]
pytestmark = [pytest.mark.slow, pytest.mark.packaging]

RECIPE = """
name = "stranger"
seed = 3
seeds = 1
source = { use = "my_source", samples = 60 }
model = { hidden = [8] }
train = { steps = 30 }
budget = { steps = 10, samples = 30 }
transfer = { use = "my_transfer", share = 0.5 }
executor = { use = "my_executor", workers = 2 }

[discovery]
discoverers = [{ use = "my_discovery", strength = 0.8 }]

[[wrappers]]
use = "my_wrapper"
doubt = 2.0

[[wrappers]]
use = "my_family_cautious"
doubt = 1.0

[[observers]]
use = "my_observer"
path = "events.jsonl"

[curriculum]
target = "ring"
max_tasks = 3
planner = { use = "my_curriculum" }

[synthesis]
task = "outside"
synthesizer = { use = "my_synthesis" }

[my_stage]
target = "ring"
most = 1

[my_family]
measure = { use = "worst", parts = ["balanced", { use = "likely", temperature = 2.0 }, "my_choice"] }

[multitask]
tasks = ["above", "inside"]
balancer = { use = "my_balancer", power = 0.5 }
sharing = { use = "my_sharing", hidden = 4 }
sampler = { use = "my_sampler", count = 2 }
budget = { steps = 8 }
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Environment]:
    """The kernel, the bases, and what is scaffolded from every template."""
    made = Environment(tmp_path_factory.mktemp("stranger"))
    made.install_member("kernel")
    for member in (*(f"{family}/{family}" for family in BASES), *ALGORITHMS):
        made.install_member(member)
    projects = made.folder / "projects"
    for kind in (*POINTS, "recipe", "family"):
        made.run("crosstask", "plugins", "new", kind, f"my-{kind.replace('_', '-')}", "--into", "projects")
    made.install(*sorted(projects.iterdir()))
    made.run("crosstask", "plugins", "new", "my_family", "my-choice", "--into", "projects")
    made.install(projects / "crosstask-my-choice")
    return made


def test_scaffolded_plugins_are_listed(environment: Environment) -> None:
    rows = json.loads(environment.run("crosstask", "plugins", "--json"))
    found = {row["name"]: row for row in rows}
    offered = {}
    for kind in (*POINTS, "recipe", "family", "family_extra", "choice"):
        dashed = f"my-{kind.replace('_', '-')}"
        row = found[dashed]
        assert row["status"] == "ok", row
        assert row["unusable"] == {}
        assert row["distribution"] == f"crosstask-{dashed}"
        offered[kind] = [(e["point"], e["name"].replace("-", "_")) for e in row["extensions"]]
    for point in POINTS:
        with_recipe = [("recipe", "my_stage")] if point == "stage" else []
        assert offered[point] == [(point, f"my_{point}"), *with_recipe]
    assert offered["recipe"] == [("recipe", "my_recipe")]
    mine = [("my_family", "balanced"), ("my_family", "likely")]
    assert offered["family"] == [*mine, *((point, "my_family") for point in ("stage", "command", "recipe"))]
    assert ("wrapper", "my_family_cautious") in offered["family_extra"]
    assert offered["choice"] == [("my_family", "my_choice")]


def test_nothing_is_wrong_with_them(environment: Environment) -> None:
    assert "0 with problems" in environment.run("crosstask", "plugins", "doctor", "--strict")


def test_scaffolded_plugins_pass_their_tests(environment: Environment) -> None:
    told = environment.run("python", "-m", "pytest", "-q", "-W", "error", "--import-mode=importlib", "projects")
    last = told.strip().splitlines()[-1]
    assert " passed" in last
    assert "failed" not in last
    assert int(last.split(" passed")[0].split()[-1]) > 500


@pytest.fixture(scope="module")
def record(environment: Environment) -> dict[str, Any]:
    """The record of a run of the recipe above."""
    (environment.folder / "recipe.toml").write_text(RECIPE, "utf-8")
    store = environment.folder / "kept"
    environment.run("crosstask", "run", "recipe.toml", "--out", "out", "--store", f"my-store://{store}", "--json")
    return json.loads((environment.folder / "out" / "run.json").read_text("utf-8"))


def test_scaffolded_plugins_are_used_by_a_recipe(environment: Environment, record: dict[str, Any]) -> None:
    assert record["status"] == "finished"
    results = record["results"]
    assert results["curriculum"]["curriculum"]["curriculum"]["task_sequence"][-1] == "ring"
    assert results["multitask"]["tasks"] == ["above", "inside"]
    assert "my_synthesis" in results["synthesis"]["provenance"]["strategy"]
    edges = json.loads((environment.folder / "out" / "graph.json").read_text("utf-8"))["edges"]
    shrunk = 0.8 / (1 + 2.0 * 0.5)  # my_discovery's coefficient inside my_wrapper
    assert {round(e["transfer_coefficient"], 6) for e in edges if e["found_by"] == "my_discovery"} == {shrunk}
    events = [json.loads(line) for line in (environment.folder / "events.jsonl").read_text("utf-8").splitlines()]
    assert {event["event"] for event in events} >= {"edges", "stage", "step", "end"}
    assert list((environment.folder / "kept" / "models").glob("*.safetensors"))
    elsewhere = {"agent", "bundle", "continual", "detector", "federation", "publisher", "router", "search", "world"}
    kinds = set(POINTS) - {"store", "adapter", "meta_learner", "distillation", "strategist", *elsewhere}
    assert {f"crosstask-my-{kind.replace('_', '-')}" for kind in (*kinds, "family", "family_extra", "choice")} <= set(
        record["used"]
    )


def test_scaffolded_stage_and_family_tell_their_results(environment: Environment, record: dict[str, Any]) -> None:
    assert "my_transfer" in record["results"]["my_stage"]["method"]
    assert len(record["results"]["my_stage"]["coefficients"]) == 1  # `most`
    scores = record["results"]["my_family"]["scores"]
    assert set(scores) == {"above", "inside", "ring"}
    assert record["summary"]["worst_score"] == min(scores.values())
    page = (environment.folder / "out" / "report.html").read_text("utf-8")
    assert "What each start is worth" in page
    assert "How good the answers are" in page
    assert "my_family: my_family 'worst' (crosstask-my-family-extra" in environment.run("crosstask", "my-family", "out")


@pytest.mark.parametrize(
    ("name", "given", "stage"),
    [
        ("my-recipe", "discovery.discoverers=[{ use = 'probe', steps = 5, seeds = 2 }]", "discovery"),
        ("my-stage", "budget.steps=5", "my_stage"),
        ("my-family", "my_family.measure=likely", "my_family"),
        ("my-family-extra", "train.batch_size=16", "my_family"),
    ],
)
def test_scaffolded_recipes_run(environment: Environment, name: str, given: str, stage: str) -> None:
    environment.run("crosstask", "run", name, "--out", name, "--set", "train.steps=5", "--set", given, "--json")
    record = json.loads((environment.folder / name / "run.json").read_text("utf-8"))
    assert (record["status"], set(record["results"])) == ("finished", {stage})


def test_scaffolded_distiller_is_checked_without_pytest(environment: Environment) -> None:
    told = environment.run("crosstask", "plugins", "check", "my_distillation")
    assert "0 failed" in told
    assert "check_rate_zero_changes_nothing" in told


def test_scaffolded_family_is_checked_without_pytest(environment: Environment) -> None:
    told = environment.run("crosstask", "plugins", "check", "my-family")
    assert told.count(" 0 failed") == 3  # two components and the stage
    assert "check_only_answers_count" in told
    assert environment.run("crosstask", "plugins", "check", "my-family-extra").count(" 0 failed") == 2  # and a wrapper
    assert " 0 failed" in environment.run("crosstask", "plugins", "check", "my_choice")


def test_package_built_elsewhere_brings_a_recipe_and_a_wrapper(environment: Environment, tmp_path: Path) -> None:
    environment.run("crosstask", "plugins", "new", "wrapper", "their-wrapper", "--into", tmp_path)
    project = tmp_path / "crosstask-their-wrapper"
    package = project / "src" / "crosstask_their_wrapper"
    (package / "recipes").mkdir()
    text = RECIPE.replace("my_wrapper", "their_wrapper").replace("doubt = 2.0", "doubt = 6.0")
    (package / "recipes" / "short.toml").write_text(text, "utf-8")
    manifest = package / "plugin.py"
    extension = (
        '        Extension("recipe", "their-recipe", "crosstask_their_wrapper:recipes/short.toml"),\n    ],\n    api'
    )
    manifest.write_text(manifest.read_text("utf-8").replace("    ],\n    api", extension), "utf-8")
    flags = ("--no-deps", "--no-build-isolation", "--no-index")
    environment.run("python", "-m", "pip", "wheel", "-q", *flags, "-w", tmp_path / "wheels", project)
    shutil.rmtree(project)
    environment.install(next((tmp_path / "wheels").glob("*.whl")))
    environment.run("crosstask", "run", "their-recipe", "--out", "theirs", "--json")
    edges = json.loads((environment.folder / "theirs" / "graph.json").read_text("utf-8"))["edges"]
    shrunk = 0.8 / (1 + 6.0 * 0.5)
    assert {round(e["transfer_coefficient"], 6) for e in edges if e["found_by"] == "my_discovery"} == {shrunk}
