"""The executor."""

from __future__ import annotations

import os
import weakref
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import attrs

from crosstask.components import Job
from crosstask.errors import OptionError
from crosstask.options import component, option
from crosstask.points.executor import Executor
from crosstask_ray.cluster import connect, most_at_once, ray_library

if TYPE_CHECKING:
    from crosstask_ray.pool import Pool


@component
class RayExecutor(Executor):
    """Runs jobs as tasks of Ray, one torch thread each, on one machine or many.

    Large tensors and arrays go into Ray's object store once, whatever number of jobs share them. A job's own exception
    comes back as in `process` and is never tried again; a job whose worker or node is lost is. `shutdown` ends jobs
    under way at once, and a cluster if the executor has started it; one that it was connected to goes on.
    """

    address: str | None = option(
        None,
        help="of a cluster, host:port, or 'auto' for one that this machine is a node of; by default that of "
        "RAY_ADDRESS, else a cluster of this machine alone is started. A process that is connected already stays so",
    )
    workers: int | None = option(
        None, ge=1, help="jobs at once, at most (default: what the nodes hold); of a cluster started here also its size"
    )
    cpus: float = option(1.0, ge=0, help="CPUs that a job is counted as, less than 1 for a share of one")
    gpus: float = option(0.0, ge=0, help="GPUs of a job, less than 1 for a share of one; CUDA shows it no other")
    timeout: float | None = option(
        None, gt=0, help="seconds that a job may take, once its worker has read it and imported what it needs"
    )
    retries: int = option(
        3,
        ge=0,
        help="how often a job is begun again whose worker or node was lost; never after an exception of its own",
    )
    keep: int = option(1024, ge=0, help="MiB of data left in the object store for later jobs, besides what jobs hold")
    autoscaling: bool = option(
        False, help="whether the cluster adds nodes: then a job waits where no node that is there could hold it"
    )
    runtime_env: dict[str, Any] = option(
        factory=dict,
        help="of Ray: what workers on other machines need besides what is installed there (working_dir, py_modules, "
        "pip, env_vars); paths of this process are looked up there by themselves",
    )
    _pool: Pool | None = attrs.field(default=None, init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        for name, share in (("cpus", self.cpus), ("gpus", self.gpus)):
            if share > 1 and share != int(share):
                raise OptionError(f"{type(self).__name__}: {name} must be a whole number or less than 1, got {share:g}")
        if not self.cpus and not self.gpus:
            raise OptionError(f"{type(self).__name__}: cpus and gpus cannot both be 0: all jobs would begin at once")

    def capacity(self) -> int:
        self._connected()
        room = max(1, most_at_once(self.cpus, self.gpus))
        return room if self.workers is None else min(room, self.workers)

    def submit(self, job: Job) -> Future[Any]:
        return self._connected().submit(job)

    def shutdown(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.stop()

    def _connected(self) -> Pool:
        if self._pool is None:
            ray_library()
            from crosstask_ray.pool import Limits, Pool  # deferred: it imports Ray

            cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
            size = cores if self.workers is None else max(1, round(self.workers * self.cpus))
            connection = connect(self.origin, self.address, size, self.runtime_env)
            limits = Limits(self.cpus, self.gpus, self.workers, self.timeout, self.retries, self.keep, self.autoscaling)
            try:
                self._pool = Pool(connection, limits)
            except Exception as error:  # Ray looks at the environment
                connection.close()
                raise OptionError(f"{self.origin}: runtime_env cannot be used here: {error}") from error
            # An executor that is dropped without a shutdown lets go of its cluster when its jobs are done.
            weakref.finalize(self, self._pool.retire).atexit = False
        return self._pool
