"""What the base offers does what its contracts say."""

import subprocess
import sys

from crosstask.testing import conformance, reference_registry
from crosstask_reinforcement.stage import Reinforcement
from crosstask_reinforcement.tasks import Environments
from crosstask_reinforcement.testing import REFERENCE, corridor_portfolio
from crosstask_reinforcement.worlds import CartPoleWorld, GymnasiumWorld, Named, SwingUpWorld

POLE = {"pole": Named(id="CartPole-v1", attributes={"gravity": 5.0})}
SMALL = {
    "steps": 400, "copies": 4, "evaluate_every": 200, "episodes": 3, "sources": ["right"], "targets": ["left"],
    "transfer_steps": 200, "transfer_every": 100,
}  # fmt: skip

KNOWN = reference_registry(REFERENCE)

test_cartpoles = conformance(
    CartPoleWorld, options={"poles": {"usual": {}, "moon": {"gravity": 1.62}}, "limit": 30}, registry=KNOWN
)
test_swing_ups = conformance(SwingUpWorld, options={"tasks": ["acrobot", "car-reversed"], "limit": 30}, registry=KNOWN)
test_gymnasium = conformance(GymnasiumWorld, options={"tasks": POLE, "limit": 30}, registry=KNOWN)
test_source = conformance(Environments, options={"world": "corridors"}, registry=KNOWN)
test_stage = conformance(Reinforcement, options=SMALL, registry=KNOWN, portfolio=corridor_portfolio)


def test_listing_imports_neither_gymnasium_nor_torch() -> None:
    code = "import sys, crosstask_reinforcement.plugin; print(*{'gymnasium', 'torch', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == ""
