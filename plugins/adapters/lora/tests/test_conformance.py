"""The contract's checks, also with a rank that fits every layer of their model, and with dropout."""

from crosstask.testing import conformance
from crosstask_lora import LoRA

test_conformance = conformance(LoRA, options={"r": 2, "alpha": 3.0})
test_conformance_by_default = conformance(LoRA)
test_conformance_with_dropout = conformance(LoRA, options={"r": 4, "dropout": 0.1})
