"""Every check of the contract."""

from crosstask.testing import conformance, reference_registry
from crosstask_detectors import CUSUM, EDetector, EProcess
from crosstask_monitoring.testing import REFERENCE

REGISTRY = reference_registry(REFERENCE)  # that of all that is installed takes longer than the checks

test_e_process = conformance(EProcess, registry=REGISTRY)
test_e_detector = conformance(EDetector, registry=REGISTRY)
test_cusum = conformance(CUSUM, registry=REGISTRY)
