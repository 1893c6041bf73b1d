"""The stage does what the contract of stages says, with and without an adapter."""

from crosstask.manifest import Plugin
from crosstask.testing import conformance, reference_registry
from crosstask_continual import Continual
from crosstask_continual.plugin import PLUGIN
from crosstask_continual.testing import REFERENCE

REGISTRY = reference_registry(PLUGIN, Plugin("strategies", REFERENCE.extensions, api=(2, 0)))
SMALL = {"tasks": ["moons", "turned"], "scenario": "domain", "epochs": 4, "batch_size": 16, "learning_rate": 0.02}

test_stage = conformance(Continual, options={**SMALL, "strategies": ["replaying"]}, registry=REGISTRY)
test_stage_with_adapter = conformance(
    Continual, options={**SMALL, "strategies": ["reference"], "adapter": "reference"}, registry=REGISTRY
)
