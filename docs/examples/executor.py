from concurrent.futures import ThreadPoolExecutor

from crosstask import Executor, component, option, state
from crosstask.components import Job


@component
class Threads(Executor):
    """Jobs in a pool of threads."""

    workers: int = option(2, ge=1, help="threads")
    pool: ThreadPoolExecutor | None = state(None)

    def submit(self, job):
        self.pool = self.pool or ThreadPoolExecutor(self.workers)
        return self.pool.submit(job.function, *job.args)

    def capacity(self):
        return self.workers

    def shutdown(self):
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)


threads = Threads(workers=3)
assert threads.submit(Job(max, (1, 2))).result() == 2
threads.shutdown()
