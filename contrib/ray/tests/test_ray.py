"""Ray itself, a cluster of two nodes on this machine: jobs, data, lost workers and nodes, groups."""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import pickle
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
from ray._private.internal_api import memory_summary
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from torch import Tensor, nn

from crosstask import Budget, Registry, TransferEngine
from crosstask.components import Job
from crosstask.errors import OptionError, PluginError, RunError
from crosstask.executors import WorkerTraceback
from crosstask.points.executor import Executor
from crosstask.testing import conformance
from crosstask_ray import RayExecutor, pool

# By the name under which workers find it, too.
_file = Path(__file__).with_name("ray_jobs.py")
sys.path.append(str(_file.parent))
import ray_jobs  # noqa: E402

WAIT = 120
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")


@contextlib.contextmanager
def executor(**options: Any) -> Iterator[RayExecutor]:
    made = RayExecutor(**options)
    try:
        yield made
    finally:
        made.shutdown()


def failure(made: Executor, function: Callable[..., Any], *args: Any) -> BaseException:
    error = made.submit(Job(function, args, "the job", "source 'mine' (dist 1)")).exception(WAIT)
    assert error is not None
    return error


NAMED = "job 'the job' of source 'mine' (dist 1)"


def objects() -> tuple[int, int]:
    """MiB in the object stores of all nodes, and how many objects these are: Ray's own account."""
    told = memory_summary(ray.get_runtime_context().gcs_address, stats_only=True)
    found = re.search(r"Plasma memory usage (\d+) MiB, (\d+) objects", told)
    assert found, told
    return int(found[1]), int(found[2])


# Without a cluster: these come first, before the fixture of two nodes connects this process.


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"cpus": 1.5}, "cpus must be a whole number or less than 1, got 1.5"),
        ({"gpus": 2.5}, "gpus must be a whole number or less than 1, got 2.5"),
        ({"cpus": 0}, "cpus and gpus cannot both be 0"),
        ({"retries": -1}, "retries"),
    ],
)
def test_shares_that_ray_does_not_know(options: dict[str, Any], told: str) -> None:
    with pytest.raises(OptionError, match=told):
        RayExecutor(**options)


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("ray://there:10001", "is of Ray Client"),
        ("there", "address 'there' must be host:port, or 'auto'"),
        ("127.0.0.1:1", "no connection to Ray at '127.0.0.1:1': .*refused"),
        ("127.0.0.1:99999", "no connection to Ray at '127.0.0.1:99999'"),
    ],
)
def test_where_no_cluster_is_one_is_told_at_once(address: str, told: str) -> None:
    with pytest.raises(RunError, match=told):
        RayExecutor(address=address).submit(Job(max, (1, 2)))
    assert not ray.is_initialized()


def test_what_ray_ends_with_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def ends(**_: Any) -> None:
        raise SystemExit(15)

    monkeypatch.setattr(ray, "init", ends)
    with pytest.raises(RunError, match="no connection to Ray at 'local': 15"):
        RayExecutor().capacity()


def test_without_ray_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(PluginError, match="crosstask-ray needs ray: pip install ray"):
        RayExecutor().submit(Job(max, (1, 2)))


def test_a_cluster_of_its_own_ends_with_the_last_that_uses_it(tmp_path: Path) -> None:
    first, second = RayExecutor(workers=1), RayExecutor(workers=4)
    assert first.capacity() == 1
    assert ray.cluster_resources()["CPU"] == 1
    assert second.capacity() == 1  # what is there
    assert first.submit(Job(lambda: 6 * 7)).result(WAIT) == 42  # a function of nowhere goes along
    values, array = torch.randn(512, 1024), np.random.default_rng(0).normal(size=(256, 1024))  # 2 MiB each
    jobs = [first.submit(Job(ray_jobs.total, (values, array, n))) for n in range(10)]
    expected = [ray_jobs.total(values, array, n) for n in range(10)]
    assert [job.result(WAIT) for job in jobs] == expected
    assert objects() == (4, 2)  # one copy of each for ten jobs
    first.shutdown()
    gate = tmp_path / "gate"
    future = second.submit(Job(ray_jobs.where_when, (str(tmp_path / "begun"), str(gate), 3)))
    del first, second
    gc.collect()
    assert ray.is_initialized()  # it has a job yet
    gate.write_text("")
    assert future.result(WAIT)[1] == 9
    assert ray_jobs.eventually(lambda: not ray.is_initialized())


# On two nodes


@pytest.fixture(scope="module")
def shared(cluster: Any) -> Iterator[RayExecutor]:
    """For jobs that do no harm."""
    with executor() as made:
        yield made


test_conformance = pytest.mark.usefixtures("cluster")(conformance(RayExecutor))


def test_the_users_connection_stays(cluster: Any) -> None:
    with pytest.raises(RunError, match=f"connected to Ray at {cluster.address}, so not to 10.0.0.1:6379"):
        RayExecutor(address="10.0.0.1:6379").capacity()
    with executor(address=cluster.address, workers=1) as made:
        assert made.capacity() == 1
        assert made.submit(Job(max, (1, 2))).result(WAIT) == 2
    assert ray.is_initialized()
    assert RayExecutor(cpus=0.1).capacity() == 20


def test_a_run_on_two_nodes_gives_the_figures_of_one_process(shared: RayExecutor) -> None:
    def found(used: Executor | None) -> list[Any]:
        engine = TransferEngine(
            store=":memory:", seeds=2, budget=Budget(steps=8), discoverers=["probe"], executor=used, auto_discover=False
        )
        with engine:
            names = {"tasks": ["low", "loop", "parity"]}
            engine.register(Registry.installed().create("source", "digits", names).load())
            engine.discover()
            edges = [(e.source, e.target, e.transfer_coefficient, e.low, e.high) for e in engine.graph.edges()]
            transfer = engine.transfer_knowledge("low", "parity", "fine_tuning")
            return [sorted(edges), transfer.coefficient, transfer.score]

    alone = found(None)
    assert len(alone[0]) == 6
    with executor() as used:
        assert found(used) == alone


def test_jobs_are_on_both_nodes(shared: RayExecutor, tmp_path: Path) -> None:
    gate, begun = tmp_path / "gate", tmp_path / "begun"
    jobs = [shared.submit(Job(ray_jobs.where_when, (str(begun), str(gate), n))) for n in range(2)]
    assert ray_jobs.eventually(lambda: begun.exists() and len(begun.read_text().splitlines()) == 2)
    gate.write_text("")
    assert {job.result(WAIT)[0] for job in jobs} == {node["NodeID"] for node in ray.nodes() if node["Alive"]}


# Data


def test_a_thousand_jobs_send_their_data_once(cluster: Any) -> None:
    with executor() as made:
        gc.collect()
        assert ray_jobs.eventually(lambda: objects() == (0, 0))
        values, array = torch.randn(1024, 1024), np.random.default_rng(0).normal(size=(512, 1024))  # 4 MiB each
        jobs = [made.submit(Job(ray_jobs.total, (values, array, n))) for n in range(20)]
        found = [job.result(WAIT) for job in jobs]
        assert found == [ray_jobs.total(values, array, n) for n in range(20)]
        mebibytes, count = objects()
        assert count in (2, 4)  # one of each on every node that had jobs, instead of 40
        assert mebibytes == 4 * count
        # Known by what it holds, not by which object it is; what has changed goes again.
        again = made.submit(Job(ray_jobs.total, (values.clone(), array.copy(), 1)))
        assert again.result(WAIT) == found[1]
        assert objects()[1] == count
        array.reshape(-1)[0] += 7.0
        expected = ray_jobs.total(values, array, 1)
        assert expected != found[1]
        assert made.submit(Job(ray_jobs.total, (values, array, 1))).result(WAIT) == expected


def test_what_a_job_writes_no_other_sees(shared: RayExecutor) -> None:
    values, array = torch.ones(300, 300), np.ones((300, 300))
    for _ in range(3):
        assert shared.submit(Job(ray_jobs.spoils, (values, array))).result(WAIT) == (180000.0, 180000.0)
    assert values.sum() == array.sum() == 90000


def test_what_is_kept_has_a_limit(cluster: Any) -> None:
    with executor(keep=1) as made:
        for seed in range(4):
            values = torch.full((400, 400), float(seed))  # .6 MiB
            assert made.submit(Job(ray_jobs.total, (values, np.zeros(1), 1))).result(WAIT) == seed * 160000
        assert made._pool is not None
        assert len(made._pool.shelf.references) == 1
        assert made._pool.shelf.held == 640000
        assert [ray.get(reference).view(np.float32)[0] for reference, _ in made._pool.shelf.references.values()] == [3]


STRIDED: dict[str, Callable[[], Any]] = {
    "transposed": lambda: torch.randn(300, 200).T,
    "channels last": lambda: torch.randn(8, 3, 64, 64).to(memory_format=torch.channels_last),
    "sliced": lambda: torch.randn(600, 300)[5::2, 7:],
    "expanded": lambda: torch.randn(40000)[:, None].expand(40000, 4),
    "bfloat16": lambda: torch.randn(400, 300).to(torch.bfloat16),
    "bool": lambda: torch.rand(400, 300) < 0.5,
    "complex": lambda: torch.randn(400, 300, dtype=torch.complex64),
    "with a gradient": lambda: torch.randn(400, 300, requires_grad=True),
    "conjugate": lambda: torch.randn(400, 300, dtype=torch.complex64).conj(),
    "sparse": lambda: torch.eye(400).to_sparse(),
    "small": lambda: torch.randn(3, 4).T,
    "empty": lambda: torch.empty(0, 3),
    "array": lambda: np.random.default_rng(0).normal(size=(200, 100)),
    "array of Fortran's order": lambda: np.asfortranarray(np.random.default_rng(0).normal(size=(200, 100))),
    "array backwards": lambda: np.arange(40000.0)[::-1],
    "array of records": lambda: np.zeros(20000, dtype=[("a", "f4"), ("b", "i8")]),
    "array of objects": lambda: np.array([None, "x"] * 10000, dtype=object),
}


def test_tensors_and_arrays_arrive_as_they_are(shared: RayExecutor) -> None:
    """And come back: strides too, on which the order of sums depends."""
    given = {name: make() for name, make in STRIDED.items()}
    back = shared.submit(Job(ray_jobs.passes, tuple(given.values()))).result(WAIT)
    for (name, value), found in zip(given.items(), back, strict=True):
        assert type(found) is type(value), name
        assert found.dtype == value.dtype, name
        if isinstance(value, Tensor):
            torch.testing.assert_close(found, value, rtol=0, atol=0)
            assert found.requires_grad == value.requires_grad
            if name not in ("sparse", "expanded", "sliced"):  # the way back is torch's, which keeps what is dense
                assert found.stride() == value.stride(), name
        else:
            assert (found == value).all()
            assert found.flags.f_contiguous == value.flags.f_contiguous or name == "array backwards"


def strides_there(*values: Tensor) -> list[tuple[int, ...]]:
    return [value.stride() for value in values]


def test_strides_are_kept_on_the_way_there(shared: RayExecutor) -> None:
    given = [STRIDED[name]() for name in ("transposed", "channels last", "sliced", "expanded")]
    assert shared.submit(Job(strides_there, tuple(given))).result(WAIT) == [value.stride() for value in given]


def aliases(model: nn.Sequential, first: Tensor, second: Tensor, third: Tensor) -> tuple[bool, bool, bool]:
    first += 1
    return model[0].weight is model[1].weight, bool((second == first).all()), bool((third == first).any())


def test_one_tensor_stays_one_and_equal_ones_stay_two(shared: RayExecutor) -> None:
    model = nn.Sequential(nn.Linear(200, 200), nn.Linear(200, 200))
    model[1].weight = model[0].weight
    values = torch.zeros(200, 200)
    found = shared.submit(Job(aliases, (model, values, values, values.clone()))).result(WAIT)
    assert found == (True, True, False)


# What goes wrong


def test_an_exception_of_its_own_comes_back_and_is_never_tried_again(shared: RayExecutor, tmp_path: Path) -> None:
    path = tmp_path / "calls"
    error = failure(shared, ray_jobs.refused, str(path))
    assert type(error) is LookupError
    assert str(error) == "its own"
    assert error.__notes__ == [f"in {NAMED}"]
    assert isinstance(error.__cause__, WorkerTraceback)
    assert "in refused\n" in str(error.__cause__)
    assert len(path.read_text().splitlines()) == 1


def test_what_cannot_be_sent_is_told(shared: RayExecutor) -> None:
    error = failure(shared, ray_jobs.passes, threading.Lock())
    assert isinstance(error, RunError)
    assert f"{NAMED} cannot be sent to another process: pickling it raised TypeError" in str(error)
    error = failure(shared, threading.Lock)
    assert "has a result (lock) that cannot be sent back" in str(error)


def test_a_worker_imports_what_the_program_can(shared: RayExecutor, tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "my_own_plugin.py").write_text("def job(n):\n    return n + 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    job = importlib.import_module("my_own_plugin").job
    assert shared.submit(Job(job, (1,))).result(WAIT) == 2


class OnlyHere:
    def __reduce__(self) -> Any:
        return _only_here, (os.getpid(),)


def _only_here(process: int) -> None:
    if process != os.getpid():
        importlib.import_module("a_module_of_nowhere")


def test_a_module_that_workers_lack_is_named(shared: RayExecutor) -> None:
    error = failure(shared, ray_jobs.passes, OnlyHere())
    assert isinstance(error, RunError)
    assert "No module named 'a_module_of_nowhere'; install it on node" in str(error)
    assert "or name it in the executor's runtime_env" in str(error)


def test_an_environment_of_its_own_and_one_thread(cluster: Any) -> None:
    with executor(runtime_env={"env_vars": {"CROSSTASK_OF_WORKERS": "yes"}}) as made:
        assert made.submit(Job(ray_jobs.variable, ("CROSSTASK_OF_WORKERS",))).result(WAIT) == ("yes", 1)
    with pytest.raises(OptionError, match=r"runtime_env cannot be used here: .*only supported at the job level"):
        RayExecutor(runtime_env={"working_dir": "."}).capacity()


def test_a_killed_worker_loses_nothing(shared: RayExecutor, tmp_path: Path) -> None:
    gate, begun = tmp_path / "gate", [tmp_path / str(n) for n in range(4)]
    jobs = [shared.submit(Job(ray_jobs.where_when, (str(begun[n]), str(gate), n))) for n in range(4)]
    assert ray_jobs.eventually(lambda: any(path.exists() for path in begun))
    killed = next(path for path in begun if path.exists())
    os.kill(int(ray_jobs.written(killed).split()[1]), signal.SIGKILL)
    gate.write_text("")
    assert [job.result(WAIT)[1] for job in jobs] == [0, 1, 4, 9]
    assert [len(path.read_text().splitlines()) for path in begun] == [1 + (path == killed) for path in begun]


def test_a_job_that_loses_its_worker_again_says_so(cluster: Any, tmp_path: Path) -> None:
    path = tmp_path / "calls"
    with executor(retries=1) as made:
        error = failure(made, ray_jobs.leaves, str(path))
    assert isinstance(error, RunError)
    processes = path.read_text().split()
    assert len(processes) == 2
    assert re.search(
        rf"{re.escape(NAMED)} lost its worker \(process {processes[1]} on node [\d.]+\), 2 times in a row: "
        "WorkerCrashedError: ",
        str(error),
    )


def test_a_job_that_takes_too_long_ends(cluster: Any, tmp_path: Path) -> None:
    path = tmp_path / "calls"
    with executor(timeout=0.5) as made:
        error = failure(made, ray_jobs.sleeps, str(path), 600)
    assert isinstance(error, RunError)
    assert str(error) == f"{NAMED} took more than the 0.5 s of the executor's timeout"
    (process,) = path.read_text().split()
    assert ray_jobs.eventually(lambda: not Path(f"/proc/{process}").exists())


def test_a_cancelled_job_never_begins_and_one_under_way_goes_on(cluster: Any, tmp_path: Path) -> None:
    with executor(workers=1) as made:
        gate, begun, never = (tmp_path / name for name in ("gate", "begun", "never"))
        running = made.submit(Job(ray_jobs.where_when, (str(begun), str(gate), 3)))
        waiting = made.submit(Job(ray_jobs.count, (str(never),)))
        ray_jobs.written(begun)
        assert ray_jobs.eventually(running.running)
        assert waiting.cancel()
        assert not running.cancel()
        gate.write_text("")
        assert running.result(WAIT)[1] == 9
        with pytest.raises(CancelledError):
            waiting.result(WAIT)
        assert made.submit(Job(max, (1, 2))).result(WAIT) == 2
    assert not never.exists()


def test_a_job_cancelled_in_rays_queue_gives_its_place_back(cluster: Any, tmp_path: Path) -> None:
    with executor() as made:
        gate = tmp_path / "gate"
        running = [made.submit(Job(ray_jobs.where_when, (str(tmp_path / f"{n}"), str(gate), n))) for n in range(2)]
        for n in range(2):
            ray_jobs.written(tmp_path / f"{n}")
        queued = made.submit(Job(ray_jobs.count, (str(tmp_path / "never"),)))
        assert queued.cancel()
        gate.write_text("")
        assert [job.result(WAIT)[1] for job in running] == [0, 1]
        assert made.submit(Job(max, (1, 2))).result(WAIT) == 2
    assert not (tmp_path / "never").exists()


def test_after_shutdown_every_future_is_done(cluster: Any, tmp_path: Path) -> None:
    made = RayExecutor(workers=1)
    begun = tmp_path / "begun"
    futures: list[Future[Any]] = [made.submit(Job(ray_jobs.sleeps, (str(begun), 600)))]
    futures += [made.submit(Job(max, (1, 2))) for _ in range(3)]
    ray_jobs.written(begun)
    assert ray_jobs.eventually(futures[0].running)
    used = made._pool
    assert used is not None
    made.shutdown()
    assert [future.done() for future in futures] == [True] * 4
    assert "was stopped: the executor was shut down" in str(futures[0].exception())
    assert all(future.cancelled() for future in futures[1:])
    assert ray_jobs.eventually(lambda: not Path(f"/proc/{begun.read_text().strip()}").exists())
    with pytest.raises(RunError, match="comes too late: the executor was shut down"):
        used.submit(Job(max, (1, 2)))
    used.retire()  # as the garbage collector may yet do
    assert made.submit(Job(max, (1, 2))).result(WAIT) == 2  # it starts anew
    made.submit(Job(max, (3, 4))).add_done_callback(lambda _: made.shutdown())  # from its own thread
    assert ray_jobs.eventually(lambda: made._pool is None)


def test_it_can_be_sent_before_its_first_job() -> None:
    assert pickle.loads(pickle.dumps(RayExecutor(cpus=0.5, workers=3))).options()["cpus"] == 0.5


# Groups


def test_two_workers_that_train_together_are_one_process(shared: RayExecutor, tmp_path: Path) -> None:
    """Gloo between workers on two nodes: each has half of every batch, gradients are averaged."""
    jobs = [Job(ray_jobs.trained_together, (rank, 2, str(tmp_path / "meeting"))) for rank in range(2)]
    found = [future.result(WAIT) for future in [shared.submit(job) for job in jobs]]
    assert len({node for node, _ in found}) == 2
    expected = ray_jobs.trained(0, 1)
    assert len(expected) == 10
    for _, parameters in found:
        for parameter, alone in zip(parameters, expected, strict=True):
            torch.testing.assert_close(parameter, alone, rtol=1e-9, atol=1e-11)


# Nodes come and go: these come last.


def test_shares_of_a_gpu_and_nodes_that_come(cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "_LOOK", 0.2)
    with executor(gpus=0.5, cpus=0.25) as made:
        error = failure(made, max, 1, 2)
        assert isinstance(error, RunError)
        assert "cannot start on Ray: a job needs 0.25 CPUs and 0.5 GPUs, which no node of the cluster has" in str(error)
        assert "(1 CPU, 0 GPUs; 1 CPU, 0 GPUs)" in str(error)
    with executor(gpus=0.5, cpus=0.25, autoscaling=True) as made:
        waiting = made.submit(Job(ray_jobs.variable, ("CUDA_VISIBLE_DEVICES",)))
        node = cluster.add_node(num_cpus=1, num_gpus=1, object_store_memory=80 << 20)
        assert waiting.result(WAIT) == ("0", 1)
        assert made.capacity() == 2
    with executor(gpus=0.5, cpus=0.25) as made:
        gate, begun = tmp_path / "gate", tmp_path / "begun"
        jobs = [made.submit(Job(ray_jobs.where_when, (str(begun), str(gate), n))) for n in range(3)]
        assert ray_jobs.eventually(lambda: begun.exists() and len(begun.read_text().splitlines()) == 2)
        cluster.remove_node(node)
        for job in jobs:  # those under way and the one that waits: nothing is left that could hold them
            assert "which no node of the cluster has" in str(job.exception(WAIT))


def test_a_removed_node_loses_nothing(cluster: Any, tmp_path: Path) -> None:
    node = cluster.add_node(num_cpus=1, object_store_memory=80 << 20)
    with executor() as made:
        gate, begun = tmp_path / "gate", [tmp_path / str(n) for n in range(6)]
        values = torch.randn(300, 300)
        jobs = [made.submit(Job(ray_jobs.where_when, (str(begun[n]), str(gate), n))) for n in range(6)]
        sums = [made.submit(Job(ray_jobs.total, (values, np.zeros(1), n))) for n in range(6)]
        assert ray_jobs.eventually(lambda: sum(path.exists() for path in begun) == 3)  # one on each node
        there = [path for path in begun if path.exists() and ray_jobs.written(path).split()[0] == node.node_id]
        assert len(there) == 1
        cluster.remove_node(node, allow_graceful=False)
        process = ray_jobs.written(there[0]).split()[1]
        assert ray_jobs.eventually(lambda: not Path(f"/proc/{process}").exists())
        gate.write_text("")
        found = [job.result(WAIT) for job in jobs]
        assert [value for _, value in found] == [0, 1, 4, 9, 16, 25]
        assert node.node_id not in {where for where, _ in found}
        assert [job.result(WAIT) for job in sums] == [ray_jobs.total(values, np.zeros(1), n) for n in range(6)]
        assert [len(path.read_text().splitlines()) for path in begun] == [1 + (path in there) for path in begun]
        assert ray_jobs.eventually(lambda: made.capacity() == 2)


def test_data_that_is_lost_with_a_node_is_sent_again(cluster: Any) -> None:
    """Found out as it is compared with what a job brings, or by the job itself."""
    node = cluster.add_node(num_cpus=1, object_store_memory=80 << 20)
    there = NodeAffinitySchedulingStrategy(node.node_id, soft=False)
    compared, sent = torch.randn(300, 300), torch.randn(300, 300)
    with executor() as made:
        for values in (compared, sent):
            made.submit(Job(ray_jobs.total, (values, np.zeros(1), 2))).result(WAIT)
        assert made._pool is not None
        shelf = made._pool.shelf
        put = ray.remote(max_retries=0)(lambda data: np.frombuffer(data, dtype=np.uint8))
        lost = {}
        for (name, (_, size)), values in zip(list(shelf.references.items()), (compared, sent), strict=True):
            lost[name] = put.options(scheduling_strategy=there).remote(values.numpy().tobytes())
            ray.wait([lost[name]], fetch_local=False)
            shelf.references[name] = lost[name], size
        cluster.remove_node(node, allow_graceful=False)
        assert ray_jobs.eventually(lambda: made.capacity() == 2)
        for values in (compared, sent.clone()):
            job = made.submit(Job(ray_jobs.total, (values, np.zeros(1), 2)))
            assert job.result(WAIT) == ray_jobs.total(values, np.zeros(1), 2)
        assert shelf.references.keys() == lost.keys()
        assert all(shelf.references[name][0] != lost[name] for name in lost)
        assert shelf.held == 2 * compared.nbytes
