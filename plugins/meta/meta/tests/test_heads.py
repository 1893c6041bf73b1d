"""Heads that fit the classes of episodes, and heads that do not."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from crosstask.errors import DataError
from crosstask_meta.heads import answer_of, check_head, outputs_of, with_head
from crosstask_meta.samplers import create_meta_batch
from crosstask_meta.testing import network, seeded, some_episodes


def test_heads_that_do_not_fit() -> None:
    episodes = some_episodes(ways=2)
    assert outputs_of(network(5), episodes.query_inputs[0]) == 5
    with pytest.raises(DataError, match="episodes have 2 classes, the model's head has 5 outputs"):
        check_head(network(5), episodes)
    values = create_meta_batch(
        (torch.ones(20, 6), torch.ones(20, 2)), batch_size=2, ways=None, shots=2, queries=2, generator=seeded()
    )
    with pytest.raises(DataError, match="the tasks have 2 values to predict, the model's head has 1 outputs"):
        check_head(network(1), values)


def test_a_head_on_features_of_any_shape() -> None:
    inputs = torch.randn(4, 6, generator=seeded())
    for trunk in (nn.Linear(6, 5), nn.Unflatten(1, (2, 3))):
        features = answer_of(trunk, inputs)
        one, two, other = (with_head(trunk, features, 3, seed) for seed in (1, 1, 2))
        assert one(inputs).shape == (4, 3)
        assert torch.equal(one(inputs), two(inputs))
        assert not torch.equal(one(inputs), other(inputs))


def test_asking_leaves_the_model_as_it_was() -> None:
    model = network().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert answer_of(model, torch.randn(4, 6, generator=seeded())).shape == (2, 3)
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
