"""A cluster of two nodes on this machine, one CPU each. Every test that needs it is in one file: it is started once."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

STORE = 120 << 20  # bytes of each node's object store


@pytest.fixture(scope="session", autouse=True)
def folder() -> Iterator[None]:
    """Where Ray writes, with the address of the newest cluster: in the usual folder lies that of one that was killed,
    or is somebody else's. Not pytest's folder: names of sockets are short.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", made := tempfile.mkdtemp(prefix="ray-"))
        patch.delenv("RAY_ADDRESS", raising=False)
        yield
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Any]:
    made = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 1, "object_store_memory": STORE, "include_dashboard": False},
    )
    made.add_node(num_cpus=1, object_store_memory=STORE)
    ray.init(address=made.address, logging_level="ERROR", log_to_driver=False)
    yield made
    ray.shutdown()
    made.shutdown()
