"""The main job on fake plugins: what it writes, how it resumes, how it fails."""

import json
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import attrs
import pytest

from crosstask import OptionError, RecipeError, Registry, RunError, StoreError, TransferGraph, UnknownComponentError
from crosstask.errors import DataError
from crosstask.job import load_run, run_recipe
from crosstask.options import unstructure
from crosstask.recipe import Recipe, recipe_from
from crosstask_fakes import FakeObserver

VALUES = {
    "name": "fakes",
    "seeds": 2,
    "source": {"use": "fake"},
    "model": {"kind": "mlp", "hidden": [8]},
    "train": {"steps": 60, "learning_rate": 0.02, "evaluate_every": 10},
    "budget": {"steps": 20, "samples": 20, "learning_rate": 0.02, "evaluate_every": 5},
    "discovery": [{"use": "fake"}],
    "transfer": {"use": "fake"},
    "curriculum": {"target": "task2", "planner": "fake", "max_tasks": 3},
    "synthesis": {"task": "new", "synthesizer": "fake"},
    "multitask": {"balancer": "fake", "sharing": "fake", "budget": {"steps": 20, "evaluate_every": 5}},
}


def recipe(**changes: object) -> Recipe:
    return recipe_from({**VALUES, **changes})


def alone(**stages: object) -> Recipe:
    """A recipe with these stages and no others."""
    others = dict.fromkeys(("curriculum", "synthesis", "multitask"))
    return recipe(discovery=[], **others, **stages)


def test_a_few_shot_run(tmp_path: Path, registry: Registry) -> None:
    """Nothing but the stage is done, and what it found is in the summary and the report."""
    stage = {"learner": "fake", "ways": 2, "shots": 2, "steps": 12, "test_episodes": 20, "held_out": ["task2"]}
    source = {"use": "fake", "count": 3}
    record = run_recipe(alone(source=source, few_shot=stage), tmp_path, registry=registry)
    assert record.few_shot is not None
    assert record.few_shot.train == ("task0", "task1")
    assert record.few_shot.test == ("task2",)
    assert record.few_shot.accuracy.mean > 0.9  # clusters far apart
    assert record.summary["few_shot_accuracy"]["mean"] == record.few_shot.accuracy.mean
    page = (tmp_path / "report.html").read_text()
    assert "Few-shot learning" in page
    assert "Curriculum" not in page
    assert load_run(tmp_path) == record


def test_a_search_run(tmp_path: Path, registry: Registry) -> None:
    stage = {"search": "fake", "task": "task1", "models": {"max_layers": 2, "widths": [2, 8]}, "evaluations": 4}
    record = run_recipe(alone(search=stage), tmp_path, registry=registry)
    assert record.search is not None
    assert [trial.status for trial in record.search.trials] == ["done"] * 4
    assert record.summary["searched_task"] == "task1"
    assert record.summary["found_score"]["mean"] > 0.5
    assert record.summary["default_score"] is not None
    assert "All trials" in (tmp_path / "report.html").read_text()


def test_a_distillation_run(tmp_path: Path, registry: Registry) -> None:
    record = run_recipe(alone(distillation={"distiller": "fake", "tasks": ["task0", "task2"]}), tmp_path,
                        registry=registry)  # fmt: skip
    assert record.knowledge is not None
    assert record.knowledge.source_tasks == ("task0", "task2")
    assert record.summary["generalization_score"] == 0.25
    assert "leaving out one task" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("stage", "said"),
    [
        (
            {"few_shot": {"learner": "fake", "tasks": ["taks1"]}},
            "few_shot.tasks: no task 'taks1' in portfolio 'fakes'; did you mean 'task1'",
        ),
        (
            {"search": {"search": "fake", "task": "taks1"}},
            "search.task: no task 'taks1' in portfolio 'fakes'; did you mean 'task1'",
        ),
        ({"distillation": {"distiller": "fake", "tasks": ["x"]}}, "distillation.tasks: no task 'x'"),
    ],
)
def test_a_stage_that_names_no_task(tmp_path: Path, registry: Registry, stage: dict[str, object], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        run_recipe(alone(**stage), tmp_path, registry=registry)


def test_a_whole_run_writes_everything(tmp_path: Path, registry: Registry) -> None:
    observer = FakeObserver()
    record = run_recipe(recipe(), tmp_path / "out", registry=registry, observers=[observer])
    out = tmp_path / "out"
    assert record.status == "finished"
    assert load_run(out) == record
    graph = TransferGraph.load(out / "graph.json")
    assert len(graph.task_ids) == 4
    assert set(TransferGraph.load(out / "graph.graphml").task_ids) == set(graph.task_ids)
    assert "<html" in (out / "report.html").read_text()[:200].lower()
    assert record.curriculum is not None
    assert record.curriculum.curriculum.task_sequence == ("task0", "task1", "task2")
    assert record.summary["target_with_curriculum"]["mean"] > 0.5
    assert record.synthesis is not None
    assert record.synthesis.score == pytest.approx(1 / 3, abs=0.05)  # always class 0 of three
    assert record.multitask is not None
    assert set(record.multitask.scores) == {"task0", "task1", "task2"}
    assert record.multitask.conflicts["conflict_share"]
    heard = [name for name, _ in observer.heard]
    assert heard[0] == "run_started"
    assert observer.heard[-1] == ("run_finished", "finished")
    assert heard.count("task_registered") == 4
    assert heard.count("training_step") == 20


def test_same_seed_same_figures_and_another_seed_others(tmp_path: Path, registry: Registry) -> None:
    records = [
        run_recipe(recipe(seed=seed), tmp_path / name, registry=registry)
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    figures = [
        json.dumps([unstructure(r.summary), unstructure(r.curriculum), unstructure(r.multitask)]) for r in records
    ]
    assert figures[0] == figures[1]
    assert figures[0] != figures[2]


def test_processes_give_the_same_figures(tmp_path: Path, registry: Registry) -> None:
    serial = run_recipe(recipe(), tmp_path / "serial", registry=registry)
    pool = run_recipe(recipe(executor={"use": "process", "workers": 2}), tmp_path / "pool", registry=registry)
    assert unstructure(serial.summary) == unstructure(pool.summary)


def test_second_run_measures_nothing_again(tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run_recipe(recipe(), tmp_path, registry=registry)

    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("trained again")

    for place in ("crosstask.learning.transferring.fit", "crosstask.engine.fit", "crosstask_fakes.fit"):
        monkeypatch.setattr(place, forbidden)
    monkeypatch.setattr("crosstask.learning.multitask.MultiTaskTrainer.fit", forbidden)
    second = run_recipe(recipe(), tmp_path, registry=registry)
    assert second.summary == first.summary
    assert second.run_id != first.run_id


def test_resume_continues_a_failed_run(tmp_path: Path, registry: Registry) -> None:
    broken = recipe(transfer={"use": "fake", "fail_on": "task2"})
    with pytest.raises(ZeroDivisionError) as caught:
        run_recipe(broken, tmp_path, registry=registry)
    assert caught.value.args == ("told to fail",)
    failed = load_run(tmp_path)
    assert failed.status == "failed"
    assert "told to fail" in (failed.error or "")
    with pytest.raises(RunError, match="another recipe"):
        run_recipe(recipe(), tmp_path, registry=registry, resume=True)
    with pytest.raises(ZeroDivisionError):
        run_recipe(None, tmp_path, registry=registry, resume=True)
    assert load_run(tmp_path).run_id == failed.run_id


def test_resume_needs_a_run(tmp_path: Path, registry: Registry) -> None:
    with pytest.raises(RunError, match="nothing to resume"):
        run_recipe(recipe(), tmp_path, registry=registry, resume=True)


SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
import crosstask_fakes
from crosstask.builtin import PLUGIN
from crosstask.registry import Registry
from crosstask.job import run_recipe
from test_job import recipe
registry = Registry()
registry.register(PLUGIN)
registry.register(crosstask_fakes.PLUGIN)
run_recipe(recipe(train={{"steps": {steps}}}), Path({out!r}), registry=registry)
"""


def test_runs_in_two_folders_share_a_store(tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    url = str(tmp_path / "shared" / "all.db")
    first = run_recipe(recipe(), tmp_path / "one", registry=registry, store=url)
    import crosstask.learning.transferring as place

    def refuse(*_: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(place, "train_job", refuse)
    second = run_recipe(recipe(), tmp_path / "two", registry=registry, store=url)
    assert second.summary == first.summary


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_run_resumes_and_repeats_no_training(
    tmp_path: Path, registry: Registry, how: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = 1500
    script = SCRIPT.format(tests=str(Path(__file__).parent), steps=steps, out=str(tmp_path))
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stderr=subprocess.DEVNULL)
    from crosstask.store import open_store

    deadline = time.time() + 60
    done: list[object] = []
    while time.time() < deadline and process.poll() is None and not done:
        time.sleep(0.05)
        if (tmp_path / "store.db").exists():
            with_store = open_store(str(tmp_path / "store.db"))
            done = list(with_store.entries("models"))
            with_store.close()
    assert done, "the run stored no model in time"
    process.send_signal(how)
    process.wait(30)
    kept = len(done)
    trained: list[str] = []
    import crosstask.learning.transferring as place

    real = place.train_job

    def counting(spec, task, budget, seed, device):  # type: ignore[no-untyped-def]
        trained.append(task.task_id)
        return real(spec, task, budget, seed, device)

    monkeypatch.setattr(place, "train_job", counting)
    record = run_recipe(recipe(train={"steps": steps}), tmp_path, registry=registry, resume=True)
    assert record.status == "finished"
    assert len(trained) <= 3 - kept


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"source": {"use": "fak"}}, UnknownComponentError, "no source named 'fak'; did you mean 'fake'"),
        ({"source": {"use": "fake", "cuont": 2}}, OptionError, "unknown option 'cuont'; did you mean 'count'"),
        ({"source": {"use": "fake", "count": "two"}}, OptionError, "count must be an integer, got 'two'"),
        ({"source": {"use": "fake", "count": -1}}, OptionError, "count must be >= 0"),
        ({"source": {"use": "fake", "count": 0}}, DataError, "portfolio 'fakes' is empty"),
        ({"source": {"use": "fake", "poison": True}}, DataError, "'task0', train data: inputs hold NaN"),
        ({"curriculum": {"target": "task9", "planner": "fake"}}, RecipeError, "curriculum.target: no task 'task9'"),
        ({"synthesis": {"task": "old", "synthesizer": "fake"}}, RecipeError, "synthesis.task: no task 'old'"),
        ({"multitask": {"balancer": "fkae", "sharing": "fake"}}, UnknownComponentError, "no balancer named 'fkae'"),
        ({"requires": {"fakes": ">=2"}}, RecipeError, "requires plugin fakes >=2; version 1.0 is installed"),
        ({"requires": {"other": ">=2"}}, RecipeError, "it is not installed"),
        ({"requires": {"fakes": "new"}}, RecipeError, "'new' is not a version specifier"),
    ],
)
def test_bad_recipes_fail_before_any_training(
    tmp_path: Path, registry: Registry, changes: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message.replace("(", r"\(")):
        run_recipe(recipe(**changes), tmp_path, registry=registry)


def test_an_unwritable_folder_and_damaged_results(tmp_path: Path, registry: Registry) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot write to the output folder"):
        run_recipe(recipe(), tmp_path / "file", registry=registry)
    with pytest.raises(RunError, match=r"no run in"):
        load_run(tmp_path)
    (tmp_path / "run.json").write_text("{nonsense")
    with pytest.raises(RunError, match="is not a run's record"):
        load_run(tmp_path)


def test_a_truncated_weights_file_is_named(tmp_path: Path, registry: Registry) -> None:
    run_recipe(recipe(), tmp_path, registry=registry)
    for path in (tmp_path / "store.weights").iterdir():
        path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(StoreError, match=r"weights file .* is damaged"):
        run_recipe(attrs.evolve(recipe(), seeds=2), tmp_path, registry=registry)


def test_wrappers_change_what_is_discovered(tmp_path: Path, registry: Registry) -> None:
    wrapped = recipe(wrappers=[{"use": "fake"}], curriculum=None, synthesis=None, multitask=None)
    record = run_recipe(wrapped, tmp_path, registry=registry)
    assert record.discovery["metrics"]["mean_coefficient"] == pytest.approx(-0.5)
