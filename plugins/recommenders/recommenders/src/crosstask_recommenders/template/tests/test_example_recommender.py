"""Every check of the contract, and what is special about this recommender."""

import torch

from crosstask.testing import conformance
from crosstask_example_recommender import ExampleRecommender
from crosstask_recommenders import Interactions, Support

test_conformance = conformance(ExampleRecommender)


def test_it_is_the_mean() -> None:
    table = Interactions.of([1, 1, 2], [1, 2, 1], [5, 4, 3])
    recommender = ExampleRecommender(shrink=1.0)
    scores = recommender.score(recommender.fit(table), Support.of([([1, 2], [1, 2])]), torch.tensor([[1, 2]]))
    assert torch.allclose(scores, torch.tensor([[7 / 3, 7 / 3]]))
