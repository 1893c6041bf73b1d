"""Runs in MLflow, read back with its own client; a database in a file and a server."""

import json
import shutil
import socket
import sys
from pathlib import Path
from typing import Any

import mlflow
import pytest
import structlog

from crosstask import RunRecord
from crosstask.errors import PluginError
from crosstask.testing import conformance
from crosstask_mlflow import MLflow
from crosstask_trackers import Point, TrackedRun
from crosstask_trackers.testing import EVERY, Heard, expected_figures, short_run, small_run

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")
"""MLflow 3.17 uses what SQLAlchemy 2.1 calls old."""

STOPS = [(RuntimeError("lost"), "FAILED"), (KeyboardInterrupt(), "KILLED")]


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that MLflow has made its tables in, which takes it seconds."""
    path = tmp_path_factory.mktemp("database") / "mlflow.db"
    mlflow.MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def uri(tmp_path: Path, database: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    shutil.copyfile(database, tmp_path / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    return f"sqlite:///{tmp_path}/mlflow.db"


conforms = conformance(MLflow, options={"patience": 60.0})


@pytest.fixture
def _in_a_copy(uri: str) -> None:
    """The kit's runs are written to a database of their own."""


test_conformance = pytest.mark.usefixtures("_in_a_copy")(conforms)


def runs(uri: str, experiment: str = "crosstask") -> tuple[Any, list[Any]]:
    client = mlflow.MlflowClient(tracking_uri=uri)
    return client, client.search_runs([client.get_experiment_by_name(experiment).experiment_id])


def test_everything_of_a_run_is_there(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard = Heard()
    chosen = {"use": "mlflow", "every": EVERY, "experiment": "figures", "run_name": "mine"}
    record = small_run(tmp_path / "out", heard, observers=[chosen])
    client, (run,) = runs(uri, "figures")
    assert (run.info.status, run.info.run_name) == ("FINISHED", "mine")
    assert run.data.tags["crosstask.run_id"] == record.run_id

    expected: dict[str, list[tuple[int, float]]] = {}
    for name, step, value in expected_figures(heard):
        expected.setdefault(name, []).append((step, value))
    assert {kind for name in expected for kind in [name.split("/")[1]]} == {"losses", "weights", "conflicts", "scores"}
    for name, points in expected.items():
        found = [(each.step, each.value) for each in client.get_metric_history(run.info.run_id, name)]
        assert sorted(found) == points, name
    result = record.results["multitask"]
    assert run.data.metrics["multitask/result/scores/digits"] == result["scores"]["digits"]
    assert run.data.params["recipe.source.options.train"] == "200"
    assert run.data.params["versions.crosstask-mlflow"] == record.versions["crosstask-mlflow"]

    got = Path(client.download_artifacts(run.info.run_id, "", str(tmp_path)))
    for name in ("report.html", "graph.json", "graph.graphml"):
        assert (got / name).read_bytes() == (tmp_path / "out" / name).read_bytes()
    assert (got / "graph.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((got / "results" / "multitask.json").read_text()) == result
    edges = json.loads((got / "tables" / "transfers.json").read_text())
    graph = json.loads((tmp_path / "out" / "graph.json").read_text())
    told = {(e["source"], e["target"]): e["transfer_coefficient"] for e in graph["edges"]}
    assert {(row[0], row[1]): row[2] for row in edges["data"]} == told
    listed = json.loads(run.data.tags["mlflow.loggedArtifacts"])
    assert {each["path"] for each in listed} == {"tables/transfers.json", "tables/stages.json"}
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "figures")
    frame = mlflow.load_table("tables/transfers.json", run_ids=[run.info.run_id])  # as MLflow itself reads a table
    assert list(frame["coefficient"]) == pytest.approx([row[2] for row in edges["data"]])


@pytest.mark.parametrize(("stop", "status"), STOPS, ids=repr)
def test_one_that_was_stopped_says_so_and_is_gone_on_with(uri: str, stop: BaseException, status: str) -> None:
    short_run(MLflow(every=1), range(1, 7), stop)
    client, (run,) = runs(uri)
    assert run.info.status == status
    assert run.data.tags["crosstask.error"].startswith(type(stop).__name__)
    short_run(MLflow(every=1), range(7, 23))
    client, (again,) = runs(uri)
    assert (again.info.run_id, again.info.status) == (run.info.run_id, "FINISHED")
    history = client.get_metric_history(run.info.run_id, "multitask/losses/digits")
    assert sorted((each.step, each.value) for each in history) == [(step, 1 / step) for step in range(1, 23)]


def test_the_users_own_run_is_not_touched(uri: str, tmp_path: Path) -> None:
    with mlflow.start_run() as own:
        made = MLflow()
        made.training_step("s", 1, {"loss": 1.0})
        made.close()
        assert mlflow.active_run().info.run_id == own.info.run_id
    _, (run,) = runs(uri)
    assert run.data.metrics == {"s/loss": 1.0}
    assert mlflow.get_run(own.info.run_id).data.metrics == {}


def test_artefacts_lie_beside_the_database_and_names_are_kept_apart(uri: str, tmp_path: Path) -> None:
    made = MLflow(experiment="a/b: c")
    run = TrackedRun(run_id="it's", name="n", folder=None, parameters={f"p{i}": "x" * 7000 for i in range(150)})
    sink = made.open(run)
    sink.points([Point(series="s", step=i, seconds=1.0, figures={"s/+": i, "s/*": -i, "s/ä": 0.5}) for i in range(700)])
    sink.end("finished", None)
    client, (found,) = runs(uri, "a/b: c")
    assert found.info.artifact_uri.startswith((tmp_path / "mlruns").as_uri())
    assert len(found.data.params) == 150
    assert {len(value) for value in found.data.params.values()} == {6000}
    assert found.data.metrics == {"s/_2b_": 699, "s/_2a_": -699, "s/_e4_": 0.5}
    assert len(client.get_metric_history(found.info.run_id, "s/_2b_")) == 700
    assert made.open(run).run_id == found.info.run_id


def test_without_the_library_it_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(PluginError, match=r"^crosstask-mlflow needs mlflow-skinny: pip install mlflow-skinny$"):
        MLflow().run_started(RunRecord(run_id="r", name="n"))


def test_a_server_that_is_not_there_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A port at which nobody listens; MLflow itself tries again for a while."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setattr("crosstask_trackers.line._PAUSE", 0.01)
    with structlog.testing.capture_logs() as told:
        short_run(MLflow(tracking_uri=address, patience=20.0), range(1, 23))
    assert [each["event"].partition(";")[0] for each in told] == [
        "a tracker cannot write",
        "a tracker has not everything of this run",
    ]
    assert "Max retries exceeded" in told[0]["why"]


ODD = [
    "a//b",
    "a/./b",
    "../x",
    "/x",
    "x/",
    ".",
    "..",
    "..x",
    "a/..",
    "ü\n",
    "k" * 400 + "1",
    "k" * 400 + "2",
    "a/b",
    "",
]


def test_odd_names_are_names_of_their_own(uri: str) -> None:
    parameters = {name: place for place, name in enumerate(ODD)}
    run = TrackedRun(run_id="odd", name="odd", folder=None, parameters=parameters)
    sink = MLflow().open(run)
    sink.points([Point(series="s", step=1, seconds=1.0, figures={name: float(n) for name, n in parameters.items()})])
    _, (found,) = runs(uri)
    assert len(found.data.metrics) == len(found.data.params) == len(ODD)
    assert found.data.metrics["a/b"] == ODD.index("a/b")
    assert sorted(found.data.metrics.values()) == sorted(map(int, found.data.params.values())) == [*range(len(ODD))]
