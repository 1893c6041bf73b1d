"""The checks of every agent."""

from crosstask.testing import conformance, reference_registry
from crosstask_distilled_q import DistilledQ
from crosstask_reinforcement.testing import REFERENCE

SMALL = {
    "shared_dims": (16,), "task_dims": (16,), "batch_size": 32, "warmup": 40, "gamma": 0.9, "learning_rate": 5e-3,
    "steps": 12,
}  # fmt: skip

test_conformance = conformance(DistilledQ, options=SMALL, registry=reference_registry(REFERENCE))
