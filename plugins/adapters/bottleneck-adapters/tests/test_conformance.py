"""The contract's checks, for each of them."""

from crosstask.testing import conformance
from crosstask_bottleneck_adapters import IA3, Bottleneck, Compacter, LinearBottleneck, Multimodal

test_conformance = conformance(Bottleneck)
test_conformance_linear = conformance(Bottleneck, options={"hidden_dim": 3, "activation": "linear"})
test_conformance_linear_by_name = conformance(LinearBottleneck, options={"hidden_dim": 3})
test_conformance_compacter = conformance(Compacter, options={"hidden_dim": 16})
test_conformance_compacter_of_rank_two = conformance(Compacter, options={"hidden_dim": 8, "n": 2, "rank": 2})
test_conformance_ia3 = conformance(IA3)
test_conformance_multimodal = conformance(Multimodal, options={"hidden_dim": 6})
test_conformance_towers = conformance(Multimodal, options={"hidden_dim": 4, "language": ["stem"], "vision": ["body.0"]})
