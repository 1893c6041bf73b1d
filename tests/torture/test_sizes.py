"""Sizes: a million rows, 200,000 columns, a thousand tasks, thousands of steps. What grows, grows in proportion.

Times are compared as CPU seconds of one process, memory by what is resident. `-s` prints the figures; those of
`docs/benchmarks.md` were printed so. Each measurement has a process of its own, whose memory nobody else has used.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.csv
import pyarrow.parquet
import pytest

pytestmark = pytest.mark.slow

BEGIN = """
import json, os, sys, threading, time
import torch
torch.set_num_threads(1)

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

class Watched:
    def __init__(self):
        self.most, self.done = 0.0, False
        self.thread = threading.Thread(target=self.look, daemon=True)
    def look(self):
        while not self.done:
            self.most = max(self.most, resident())
            time.sleep(0.01)
    def __enter__(self):
        self.before, self.cpu, self.wall = resident(), time.process_time(), time.monotonic()
        self.thread.start()
        return self
    def __exit__(self, *_):
        self.cpu, self.wall = time.process_time() - self.cpu, time.monotonic() - self.wall
        self.done = True
        self.thread.join()
    def told(self):
        return {"cpu": self.cpu, "wall": self.wall, "peak": self.most - self.before, "kept": resident() - self.before}
"""


def measured(script: str, *arguments: object, name: str = "") -> dict[str, Any]:
    """What a script prints as JSON in its last line, from a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", BEGIN + script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    shown = {key: round(value, 2) if isinstance(value, float) else value for key, value in found.items()}
    print(f"\n{name or script.split()[0]} {' '.join(map(str, arguments))}: {shown}; load {os.getloadavg()[0]:.1f}")
    return found


# Tables ---------------------------------------------------------------------------------------------------------------

READ = """
import crosstask_tabular.tabular
from crosstask_tabular import Tabular
if sys.argv[2] == "parquet":
    import pyarrow.parquet, pyarrow.compute
with Watched() as watched:
    task = Tabular(folder=sys.argv[1]).load()["label"]
    train = task.data("train")
shape, size = list(train.inputs.shape), 4 * sum(task.data(s).inputs.numel() for s in ("train", "validation", "test"))
if len(sys.argv) > 3:
    import numpy as np
    labels = train.targets.numpy()
    weights, *_ = np.linalg.lstsq(train.inputs.double().numpy(), labels - labels.mean(), rcond=None)
    test = task.data("test")
    right = ((test.inputs.double().numpy() @ weights > 0.5 - labels.mean()) == (test.targets.numpy() == 1)).mean()
    print("right", right)
    assert right > 0.97
print(json.dumps({**watched.told(), "shape": shape, "inputs": size / 2**20}))
"""
MANIFEST = '[[tasks]]\nid = "label"\ntarget = "label"\nfile = "table.{}"\n'


def written(path: Path, kind: str, columns: dict[str, Any]) -> float:
    """A folder with a table and its manifest; the size of the table in MiB."""
    (path / "tasks.toml").write_text(MANIFEST.format(kind))
    file = path / f"table.{kind}"
    if kind == "npz":
        np.savez(file, **columns)
    else:
        (pyarrow.csv.write_csv if kind == "csv" else pyarrow.parquet.write_table)(pyarrow.table(columns), file)
    return file.stat().st_size / 2**20


@pytest.mark.parametrize("kind", ["csv", "parquet", "npz"])
def test_a_million_rows_take_at_most_four_times_their_size(tmp_path: Path, kind: str) -> None:
    rng, count = np.random.default_rng(0), 1_000_000
    values = rng.normal(size=(count, 10)).round(6)
    columns: dict[str, Any] = {f"x{number}": values[:, number] for number in range(10)}
    columns["city"] = np.array(["Oslo", "Rome", "Bonn", "Lima"])[rng.integers(0, 4, count)]
    columns["label"] = np.array(["no", "yes"])[(values[:, 0] + values[:, 1] > 0).astype(int)]
    size = written(tmp_path, kind, columns)
    found = measured(READ, tmp_path, kind, "learn", name=f"a million rows, {size:.0f} MiB")
    assert found["shape"] == [700_000, 14]
    assert found["peak"] < 4 * size


@pytest.mark.parametrize("kind", ["csv", "npz", "parquet"])
def test_200_000_columns_are_read_in_linear_time(tmp_path: Path, kind: str) -> None:
    rng, cpu = np.random.default_rng(0), {}
    for count in (50_000, 200_000):
        values = rng.normal(size=(60, count)).round(3).astype(np.float32)
        columns: dict[str, Any] = {f"gene{number}": values[:, number] for number in range(count)}
        size = written(tmp_path, kind, {**columns, "label": np.arange(60) % 2})
        found = measured(READ, tmp_path, kind, name=f"{count:,} columns, {size:.0f} MiB")
        assert found["shape"] == [42, count]
        cpu[count] = found["cpu"]
    assert cpu[200_000] < 8 * cpu[50_000]  # linear: 4


MANY = """
import numpy as np
from pathlib import Path
from crosstask_tabular import Tabular
count, path = int(sys.argv[1]), Path(sys.argv[2])
rng = np.random.default_rng(0)
inputs = rng.normal(size=(2000, 20))
weights = rng.normal(size=(20, count))
np.savez(path / "t.npz", inputs=inputs, **{f"y{n}": (inputs @ weights[:, n] > 0).astype(int) for n in range(count)})
task = '[[tasks]]\\nid = "t{0}"\\ntarget = "y{0}"\\n'
head = '[defaults]\\nfile = "t.npz"\\nfeatures = ["inputs"]\\n'
(path / "tasks.toml").write_text(head + "".join(task.format(n) for n in range(count)))
with Watched() as watched:
    portfolio = Tabular(folder=str(path)).load()
pointers = {task.data().inputs.data_ptr() for task in portfolio}
print(json.dumps({**watched.told(), "tasks": len(portfolio), "tensors": len(pointers)}))
"""


def test_1000_tasks_over_one_table_share_its_inputs(tmp_path: Path) -> None:
    few, many = (measured(MANY, count, tmp_path, name="tasks over one table") for count in (250, 1000))
    assert (many["tasks"], many["tensors"]) == (1000, 1)
    assert many["cpu"] < 10 * few["cpu"]


# Tasks ----------------------------------------------------------------------------------------------------------------

REGISTER = """
import random
from pathlib import Path
from crosstask.descriptors import TaskDescriptor
from crosstask.engine import TransferEngine
from crosstask.graph import TransferGraph
from crosstask.options import unstructure
from crosstask.records import RunRecord
from crosstask.report import write_report
from crosstask_discovery.records import DiscoveryResult

count, out = int(sys.argv[1]), Path(sys.argv[2])
chance, skills = random.Random(0), [f"skill {number}" for number in range(40)]
engine, found = TransferEngine(), {}
with Watched() as watched:
    for number in range(count):
        engine.register_task(TaskDescriptor(
            task_id=f"task {number}", domain=f"domain {number % 7}", input_shape=(8,), output_dim=2, sample_count=100,
            required_skills=tuple(chance.sample(skills, 4)), domain_knowledge=tuple(chance.sample(skills, 3)),
            prerequisites=(f"task {number - 1}",) if number % 5 else (),
        ))
found["register"] = watched.told()
for name in sys.argv[3:]:
    with Watched() as watched:
        if name == "metrics":
            engine.get_transfer_graph_metrics()
        elif name == "report":
            result = DiscoveryResult(
                tasks=count, unseen_tasks=0, metrics=engine.graph.metrics(), measured=(), negative_transfer_pairs=0,
                impossible=(), gives={}, receives={}, repeats={}, skipped={},
            )
            record = RunRecord(run_id="run", name="big", status="finished", recipe={"discovery": {}},
                               results={"discovery": unstructure(result)})
            page = write_report(record, engine.graph, out / "report.html", engine.registry)
            assert "This section failed" not in page.read_text()
        else:
            engine.export_transfer_graph(out / f"graph.{name}")
    found[name] = watched.told()
    file = out / ("report.html" if name == "report" else f"graph.{name}")
    if file.exists():
        found[name]["size"] = file.stat().st_size / 2**20
found["edges"] = engine.graph.networkx.number_of_edges()
print(json.dumps({f"{k} {i}": round(v, 2) for k, each in found.items() if k != "edges" for i, v in each.items()}
                 | {"edges": found["edges"]}))
"""


def test_1000_tasks_are_registered_exported_and_reported(tmp_path: Path) -> None:
    """Every pair has an edge: four times the tasks are sixteen times the edges, and take so many times as long."""
    parts = ("metrics", "json", "report")
    few, many = (measured(REGISTER, count, tmp_path, *parts, name="tasks") for count in (250, 1000))
    assert (few["edges"], many["edges"]) == (250 * 249, 1000 * 999)
    for part in ("register", "metrics", "json"):
        assert many[f"{part} cpu"] < 32 * few[f"{part} cpu"] + 1, part
    assert many["report cpu"] < 32 * few["report cpu"]
    assert many["report size"] < 25, "a page that opens, however many edges there are"


def test_xml_grows_with_the_edges(tmp_path: Path) -> None:
    few, many = (measured(REGISTER, count, tmp_path, "graphml", "gexf", name="tasks") for count in (80, 240))
    for kind in ("graphml", "gexf"):
        assert many[f"{kind} cpu"] < 18 * few[f"{kind} cpu"]  # nine times the edges


# Steps ----------------------------------------------------------------------------------------------------------------

TRAIN = """
import gc, tracemalloc
import numpy as np
from pathlib import Path
from sklearn.datasets import load_digits
from crosstask.context import LocalContext
from crosstask.learning.models import ModelSpec
from crosstask.learning.training import fit
from crosstask.records import Budget
from crosstask.registry import Registry
from crosstask.steps import heard_by
from crosstask_multitask import MultiTaskTrainer
from crosstask_multitask.testing import Heads
from crosstask_tabular import Tabular

path, how = Path(sys.argv[1]), sys.argv[2]
digits = load_digits()
np.savez(path / "digits.npz", pixels=digits.data / 16, digit=digits.target, odd=digits.target % 2)
(path / "tasks.toml").write_text('''
[defaults]
file = "digits.npz"
features = ["pixels"]
[[tasks]]
id = "digit"
target = "digit"
[[tasks]]
id = "odd"
target = "odd"
''')
digit, odd = Tabular(folder=str(path)).load()
at, marks = 0, {}

def look():
    gc.collect()
    marks[at] = (resident(), tracemalloc.get_traced_memory()[0] / 2**20)

class Looking(LocalContext):
    def tell(self, hook, **arguments):
        global at
        if hook == "training_step":
            at += 1
            if at in (200, 2000):
                look()
        return []

def heard(step, metrics):
    global at
    at = step
    if step in (200, 2000):
        look()
    return False

tracemalloc.start()
budget = Budget(steps=2000, batch_size=32)
if how == "fit":
    model = ModelSpec().build(digit.descriptor, 0)
    with heard_by(heard):
        fit(model, digit, budget, torch.Generator().manual_seed(0))
else:
    module = Heads(torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU()),
                   {"digit": torch.nn.Linear(32, 10), "odd": torch.nn.Linear(32, 2)})
    balancer = Registry.installed().create("balancer", how)
    trainer = MultiTaskTrainer(module, [digit, odd], balancer, budget, Looking())
    assert len(trainer._tables) == 1, "each row passes once"
    trainer.fit()
print(json.dumps({"resident": marks[2000][0] - marks[200][0], "traced": marks[2000][1] - marks[200][1],
                  "resident at 2000": marks[2000][0]}))
"""


@pytest.mark.parametrize("how", ["fit", "equal", "uncertainty", "pcgrad", "rgb"])
def test_memory_is_flat_over_2000_steps(tmp_path: Path, how: str) -> None:
    """What a step leaves behind would be there 1,800 times: between steps 200 and 2,000 next to nothing is."""
    found = measured(TRAIN, tmp_path, how, name="MiB more after 2,000 steps than after 200")
    assert found["traced"] < 1, "histories of a number each hundredth step"
    assert found["resident"] < 16
