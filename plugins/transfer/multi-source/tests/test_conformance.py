"""The contract's checks, and the stage's. `joint` and `soup` are looked at in `test_methods`, and as candidates."""

from crosstask.testing import conformance, reference_registry
from crosstask_multi_source import BestOf, Concat, ConcatJoint, Ensemble
from crosstask_multi_source.plugin import PLUGIN
from crosstask_multi_source.stage import MultiSourceStage

REGISTRY = reference_registry(PLUGIN)
GIVEN = {"options": {"method": "reference", "most": 2}, "registry": REGISTRY}

test_concat = conformance(Concat, **GIVEN)
test_concat_joint = conformance(ConcatJoint, options={"method": "reference", "most": 3}, registry=REGISTRY)
test_ensemble = conformance(Ensemble, options={"method": "reference", "most": 2, "distill": True}, registry=REGISTRY)
test_best_of = conformance(
    BestOf, options={"method": "reference", "most": 2, "candidates": ["concat", "joint"], "folds": 2}, registry=REGISTRY
)
test_stage = conformance(
    MultiSourceStage,
    options={"targets": ["quarters"], "strategy": {"use": "ensemble", "most": 2, "method": "reference"}},
    registry=REGISTRY,
)
