"""MLflow as a tracker. It is spoken to through `MlflowClient`: a run that the user has begun is not touched."""

from __future__ import annotations

import hashlib
import json
import posixpath
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

from crosstask.options import component, option
from crosstask_trackers import Point, Sink, TrackedRun, Tracker, library

_STATUS = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}
_RUN = "crosstask.run_id"
"""The tag by which a run that is resumed is found."""
_METRICS, _PARAMETERS, _KEY, _VALUE = 1000, 100, 250, 6000
"""What MLflow takes: metrics and parameters at once, characters of a name and of a parameter."""


@component
class MLflow(Tracker):
    """A run of MLflow for each run: parameters, metrics by step, tables and files as artefacts.

    Credentials are MLflow's own: MLFLOW_TRACKING_USERNAME, MLFLOW_TRACKING_PASSWORD, MLFLOW_TRACKING_TOKEN.
    """

    tracking_uri: str | None = option(None, help="server or database; MLflow's own by default (MLFLOW_TRACKING_URI)")
    experiment: str | None = option(None, help='name of the experiment ("crosstask")')
    run_name: str | None = option(None, help="name of the run there; the recipe's by default")

    plugin: ClassVar[str] = "mlflow"
    usual: ClassVar[Mapping[str, Any]] = {**Tracker.usual, "experiment": "crosstask"}

    def check(self) -> None:
        library("mlflow", "mlflow-skinny", "crosstask-mlflow")

    def open(self, run: TrackedRun) -> Sink:
        mlflow = library("mlflow", "mlflow-skinny", "crosstask-mlflow")
        uri = self.said("tracking_uri") or mlflow.get_tracking_uri()
        client = mlflow.MlflowClient(tracking_uri=uri)
        experiment = _experiment(client, self.said("experiment"), uri)
        return MlflowSink(mlflow, client, experiment, self.said("run_name") or run.name, run)


def _experiment(client: Any, name: str, uri: str) -> str:
    """Its id. A new one in a database in a file keeps its artefacts beside that file, wherever the run was started."""
    known = client.get_experiment_by_name(name)
    if known is not None:
        return str(known.experiment_id)
    place = None
    if uri.startswith("sqlite:///") and uri != "sqlite:///:memory:":
        place = (Path(uri.removeprefix("sqlite:///")).absolute().parent / "mlruns" / _key(name)).as_uri()
    return str(client.create_experiment(name, artifact_location=place))


class MlflowSink(Sink):
    """A run, found by its tag or made."""

    def __init__(self, mlflow: Any, client: Any, experiment: str, name: str, run: TrackedRun) -> None:
        self._entities, self._client = mlflow.entities, client
        wanted = f"tags.`{_RUN}` = '{run.run_id.replace(chr(39), '')}'"
        found = client.search_runs([experiment], filter_string=wanted, max_results=1)
        if found:
            self.run_id, known = found[0].info.run_id, found[0].data.params
            client.update_run(self.run_id, status="RUNNING")
        else:
            made = client.create_run(experiment, run_name=name, tags={_RUN: run.run_id.replace("'", "")})
            self.run_id, known = made.info.run_id, {}
        self._tables: dict[str, None] = {}
        values = ((_key(key), str(value)[:_VALUE]) for key, value in run.parameters.items())
        new = (self._entities.Param(key, value) for key, value in values if key not in known)  # they do not change
        for some in _parts(new, _PARAMETERS):
            client.log_batch(self.run_id, params=some)

    def points(self, points: Sequence[Point]) -> None:
        metrics = (
            self._entities.Metric(_key(name), value, int(1000 * point.seconds), point.step)
            for point in points
            for name, value in point.figures.items()
        )
        for some in _parts(metrics, _METRICS):
            self._client.log_batch(self.run_id, metrics=some)

    def figures(self, values: Mapping[str, float]) -> None:
        now = int(1000 * time.time())
        for some in _parts((self._entities.Metric(_key(n), v, now, 0) for n, v in values.items()), _METRICS):
            self._client.log_batch(self.run_id, metrics=some)

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        path = f"tables/{name}.json"  # as MLflow's own log_table writes it, which needs pandas and only adds rows
        self._client.log_dict(self.run_id, {"columns": list(columns), "data": [list(row) for row in rows]}, path)
        self._tables[path] = None
        told = json.dumps([{"path": each, "type": "table"} for each in self._tables])
        self._client.set_tag(self.run_id, "mlflow.loggedArtifacts", told)

    def image(self, name: str, path: Path) -> None:
        self.file(f"{name}{path.suffix}", path)

    def file(self, name: str, path: Path) -> None:
        folder, _, last = name.rpartition("/")
        if path.name == last:
            self._client.log_artifact(self.run_id, str(path), folder or None)
        else:
            self._client.log_text(self.run_id, path.read_text("utf-8"), name)

    def end(self, status: str, error: str | None) -> None:
        if error is not None:
            self._client.set_tag(self.run_id, "crosstask.error", error)
        self._client.set_terminated(self.run_id, _STATUS[status])


def _key(name: str) -> str:
    """A name that MLflow takes: other characters by their numbers, and what is too long by its beginning and a digest,
    so that no two become one. Names are paths to MLflow, which takes none that leads to another.
    """
    found = re.sub(r"[^\w. /-]", lambda found: f"_{ord(found[0]):x}_", name, flags=re.ASCII)
    if posixpath.normpath(found) != found or found.startswith(("/", "..")) or found == ".":
        dots = len(found) - len(found.lstrip("."))
        found = "_2e_" * dots + found[dots:].replace("/", "_2f_") or "_"
    if len(found) > _KEY:
        found = f"{found[: _KEY - 17]}_{hashlib.blake2b(name.encode('utf-8', 'replace'), digest_size=8).hexdigest()}"
    return found


def _parts(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    while part := list(islice(items, size)):
        yield part
