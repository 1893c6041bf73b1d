"""Every check of the contract, and what is special about this router."""

import numpy as np

from crosstask.testing import conformance
from crosstask_example_router import ExampleRouter

test_conformance = conformance(ExampleRouter)


def test_contexts_are_told_apart_by_their_largest_number() -> None:
    router = ExampleRouter(width=0.0)
    for tool, reward in (("a", 1.0), ("b", 0.0)):
        router.update(np.array([0.9, 0.1]), tool, reward)
        router.update(np.array([0.2, 0.8]), tool, 1 - reward)
    assert router.choose(np.array([0.6, 0.5]), ("a", "b")).tool == "a"
    assert router.choose(np.array([0.5, 0.6]), ("a", "b")).tool == "b"
