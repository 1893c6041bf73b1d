"""The multimodal sharing does what the contract of sharing architectures says, on one input and on several."""

from crosstask.learning.modules import seeded
from crosstask.tasks import Portfolio
from crosstask.testing import conformance
from crosstask_multimodal import MultiModal, network
from crosstask_multimodal.digits import VOCAB_SIZES, portfolio


def several() -> Portfolio:
    """The digits as modalities, with a model whose trunk is multimodal."""
    made = portfolio(60)
    first = next(iter(made))
    with seeded(0):
        first.model = network(
            first.data().inputs.shapes, 10, VOCAB_SIZES, embedding_dim=8, hidden_dims=[12, 6], dropout_rate=0.0
        )
    return made


test_on_one_input = conformance(MultiModal, options={"hidden": 8})
test_on_several_inputs = conformance(MultiModal, portfolio=several)
