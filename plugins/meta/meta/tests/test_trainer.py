"""A meta-learner at work without a run, with the slow and right reference."""

from __future__ import annotations

import copy

import torch
from torch import nn

from crosstask.testing.references import ReferenceMetaLearner
from crosstask_meta.testing import network, some_episodes
from crosstask_meta.trainer import BaseMetaLearner


def test_lists_of_tasks_and_episodes_are_the_same_batch() -> None:
    episodes = some_episodes()
    sets = [(episodes.support(number), episodes.query(number)) for number in range(4)]
    tasks = [(s.inputs, s.targets * 10 - 3, q.inputs, q.targets * 10 - 3) for s, q in sets]
    one, two = (BaseMetaLearner(ReferenceMetaLearner(), network()) for _ in range(2))
    assert one.meta_train_step(episodes) == two.meta_train_step(tasks)
    assert torch.equal(one.predict(episodes), two.predict(tasks))


def test_a_saved_trainer_goes_on_where_it_was() -> None:
    episodes = some_episodes()
    whole, other = (BaseMetaLearner(ReferenceMetaLearner(), nn.Linear(6, 3)) for _ in range(2))
    for _ in range(5):
        whole.meta_train_step(episodes)
    state = copy.deepcopy(whole.state_dict())
    for _ in range(5):
        whole.meta_train_step(episodes)
    other.load_state_dict(state, episodes)
    for _ in range(5):
        other.meta_train_step(episodes)
    for one, two in zip(whole.model.parameters(), other.model.parameters(), strict=True):
        assert torch.allclose(one, two, atol=1e-6)


def test_adapting_takes_arrays_and_any_labels() -> None:
    trainer = BaseMetaLearner(ReferenceMetaLearner(rate=1.0), nn.Linear(1, 2))
    adapted = trainer.adapt_to_task([[1.0], [-1.0]], [70, -2], num_steps=30)
    assert adapted(torch.tensor([[2.0], [-2.0]])).argmax(1).tolist() == [1, 0]


def test_a_given_optimizer_is_used() -> None:
    model = network()
    before = model[0].weight.detach().clone()
    BaseMetaLearner(ReferenceMetaLearner(), model, torch.optim.SGD(model.parameters(), lr=0.0)).meta_train_step(
        some_episodes()
    )
    assert torch.equal(model[0].weight.detach(), before)
