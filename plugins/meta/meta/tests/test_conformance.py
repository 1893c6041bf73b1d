"""The stage does what the contract of stages says, and its learner of tests what that of meta-learners says."""

from crosstask.testing import conformance, reference_registry
from crosstask_meta import testing
from crosstask_meta.plugin import PLUGIN
from crosstask_meta.stage import FewShot

REGISTRY = reference_registry(PLUGIN, testing.PLUGIN)
SMALL = {"ways": 2, "steps": 4, "meta_batch": 2, "test_episodes": 4, "shots": 2}

test_few_shot = conformance(FewShot, options=SMALL, registry=REGISTRY)
test_with_an_adapter = conformance(
    FewShot, options={**SMALL, "adapter": "reference", "learner": "nearest_means"}, registry=REGISTRY
)
test_nearest_means = conformance(
    testing.NearestMeans,
    manifest="crosstask_meta.testing:PLUGIN",
    expected_failures={"check_manifest_is_light": "for tests: it stands beside its components"},
)
