"""Every check of the contract."""

from crosstask.testing import conformance, reference_registry
from crosstask_policy_gradient import A2C, PPO
from crosstask_policy_gradient.plugin import PLUGIN
from crosstask_reinforcement.testing import REFERENCE

SMALL = {"shared_dims": [16], "task_dims": [8]}
KNOWN = reference_registry(REFERENCE, PLUGIN)

test_ppo = conformance(PPO, options={**SMALL, "epochs": 4, "learning_rate": 3e-3}, registry=KNOWN)
test_a2c = conformance(A2C, options={**SMALL, "learning_rate": 1e-2}, registry=KNOWN)
