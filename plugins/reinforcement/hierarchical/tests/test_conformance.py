"""The checks of every agent."""

from crosstask.testing import conformance, reference_registry
from crosstask_hierarchical import Hierarchical
from crosstask_reinforcement.testing import REFERENCE

SMALL = {"meta_dims": (16,), "task_dims": (16,), "learning_rate": 1e-2, "steps": 12, "option_length": 2}

test_conformance = conformance(Hierarchical, options=SMALL, registry=reference_registry(REFERENCE))
