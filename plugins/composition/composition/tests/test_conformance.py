"""Each composition of the kit's reference components does what its contract says."""

from crosstask.testing import conformance, reference_registry
from crosstask_composition import balancers, curricula, discovery, samplers, wrappers
from crosstask_multitask.testing import REFERENCE

REGISTRY = reference_registry(REFERENCE, other="discovery")
TWO = {"parts": ["reference", "reference"]}

test_discovery_chain = conformance(discovery.Chain, options={"parts": ["reference"]}, registry=REGISTRY)
test_discovery_blend = conformance(discovery.Blend, options=TWO, registry=REGISTRY)
test_discovery_fallback = conformance(discovery.Fallback, options=TWO, registry=REGISTRY)
test_curriculum_fallback = conformance(curricula.Fallback, options=TWO, registry=REGISTRY)
test_curriculum_interleave = conformance(curricula.Interleave, options=TWO, registry=REGISTRY)
test_balancer_sequence = conformance(balancers.Sequence, options=TWO, registry=REGISTRY)
test_balancer_blend = conformance(balancers.Blend, options=TWO, registry=REGISTRY)
test_balancer_normalise = conformance(balancers.Normalise)
test_sampler_interleave = conformance(samplers.Interleave, options=TWO, registry=REGISTRY)
test_cautious = conformance(wrappers.Cautious)
test_smooth = conformance(wrappers.Smooth)
