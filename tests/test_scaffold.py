"""A stranger's afternoon, in a fresh environment: scaffold, install, test, run; and a package built elsewhere."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from crosstask.manifest import KERNEL_POINTS
from tests.environments import Environment

BASES = ("adapters", "continual", "curricula", "discovery", "multitask", "search", "synthesis", "transfer")
CONTRIBUTED = ("continual", "sampler", "search", "sharing")
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

[multitask]
tasks = ["above", "inside"]
balancer = { use = "my_balancer", power = 0.5 }
sharing = { use = "my_sharing", hidden = 4 }
sampler = { use = "my_sampler", count = 2 }
budget = { steps = 8 }
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Environment]:
    """The kernel, the bases, and a scaffolded plugin for each extension point."""
    made = Environment(tmp_path_factory.mktemp("stranger"))
    made.install_member("kernel")
    for family in BASES:
        made.install_member(f"{family}/{family}")
    for point in POINTS:
        made.run("crosstask", "plugins", "new", point, f"my-{point.replace('_', '-')}", "--into", "projects")
    made.install(*sorted((made.folder / "projects").iterdir()))
    return made


def test_scaffolded_plugins_are_listed(environment: Environment) -> None:
    rows = json.loads(environment.run("crosstask", "plugins", "--json"))
    found = {row["name"]: row for row in rows}
    for point in POINTS:
        dashed = f"my-{point.replace('_', '-')}"
        row = found[dashed]
        assert row["status"] == "ok", row
        assert row["distribution"] == f"crosstask-{dashed}"
        assert [(e["point"], e["name"].replace("-", "_")) for e in row["extensions"]] == [(point, f"my_{point}")]


def test_scaffolded_plugins_pass_their_tests(environment: Environment) -> None:
    told = environment.run("python", "-m", "pytest", "-q", "-W", "error", "--import-mode=importlib", "projects")
    last = told.strip().splitlines()[-1]
    assert " passed" in last
    assert "failed" not in last
    assert int(last.split(" passed")[0].split()[-1]) > 200


def test_scaffolded_plugins_are_used_by_a_recipe(environment: Environment) -> None:
    (environment.folder / "recipe.toml").write_text(RECIPE, "utf-8")
    store = environment.folder / "kept"
    environment.run("crosstask", "run", "recipe.toml", "--out", "out", "--store", f"my-store://{store}", "--json")
    record = json.loads((environment.folder / "out" / "run.json").read_text("utf-8"))
    assert record["status"] == "finished"
    assert record["results"]["curriculum"]["curriculum"]["curriculum"]["task_sequence"][-1] == "ring"
    assert record["results"]["multitask"]["tasks"] == ["above", "inside"]
    assert "my_synthesis" in record["results"]["synthesis"]["provenance"]["strategy"]
    edges = json.loads((environment.folder / "out" / "graph.json").read_text("utf-8"))["edges"]
    shrunk = 0.8 / (1 + 2.0 * 0.5)  # my_discovery's coefficient inside my_wrapper
    assert {round(e["transfer_coefficient"], 6) for e in edges if e["found_by"] == "my_discovery"} == {shrunk}
    events = [json.loads(line) for line in (environment.folder / "events.jsonl").read_text("utf-8").splitlines()]
    assert {event["event"] for event in events} >= {"edges", "stage", "step", "end"}
    assert list((store / "models").glob("*.safetensors"))


def test_scaffolded_distiller_is_checked_without_pytest(environment: Environment) -> None:
    told = environment.run("crosstask", "plugins", "check", "my_distillation")
    assert "0 failed" in told
    assert "check_rate_zero_changes_nothing" in told


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
