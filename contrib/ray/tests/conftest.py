"""A cluster of two nodes on this machine, one CPU each. Every test that needs it is in one file: it is started once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

STORE = 120 << 20  # bytes of each node's object store


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
