"""What a Ray worker does for a job. Imported there, and sent to nobody."""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import attrs
import ray
import torch
from ray import cloudpickle

from crosstask.executors import answer_of, read_call
from crosstask_ray.packing import Bytes, unpack


@attrs.frozen
class Begun:
    """What a worker says when it has read a job, before it does it."""

    node: str
    process: int


def work(paths: Sequence[str], pickled: bytes, *data: Bytes) -> Iterator[bytes]:
    """A task of Ray that yields twice: that the job has begun (a pickled `Begun`), and its answer; the answer alone if
    it cannot be read. Whatever the job does, no error of Ray's comes of it, unless it ends the process.
    """
    for path in paths:  # what the program can import, its worker can, where the files are
        if path not in sys.path:
            sys.path.append(path)
    torch.set_num_threads(1)  # as in every executor: results do not depend on cores
    call = read_call(partial(_read, pickled, data))
    del pickled, data
    if isinstance(call, bytes):
        yield call
        return
    yield pickle.dumps(Begun(ray.util.get_node_ip_address(), os.getpid()))
    yield answer_of(*call, dumps=lambda value: cloudpickle.dumps(value, protocol=5))


def _read(pickled: bytes, data: Sequence[Bytes]) -> Any:
    try:
        return unpack(pickled, data)
    except ImportError as error:
        node = ray.util.get_node_ip_address()
        raise ImportError(f"{error}; install it on node {node}, or name it in the executor's runtime_env") from error


def task(**options: Any) -> Any:
    """`work` as a remote function; Ray begins nothing again by itself."""
    return ray.remote(work).options(**options, num_returns="streaming", max_retries=0, name="crosstask")
