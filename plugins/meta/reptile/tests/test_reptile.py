"""Reptile against ordinary training, in both optimisers, and what must not go wrong."""

import copy
import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from crosstask.descriptors import TensorData
from crosstask.errors import DataError, RunError
from crosstask.learning.episodes import Episodes
from crosstask_meta.testing import network, new_digits, some_episodes
from crosstask_reptile import Reptile


def some_tasks() -> Episodes:
    return some_episodes(5).to(torch.float64)


def stepped(episodes: Episodes, **options: Any) -> list[torch.Tensor]:
    model, learner = network().double(), Reptile(**options)
    learner.meta_step(model, episodes, learner.optimizer(model))
    return [p.detach() for p in model.parameters()]


@pytest.mark.parametrize("inner", ["sgd", "adam"])
def test_the_weights_go_a_part_of_the_way_to_those_of_ordinary_training(inner: str) -> None:
    """The other side: copies trained by torch's own optimisers, the meta-step an interpolation."""
    episodes, rate = some_tasks(), 0.02
    trained = []
    for number in range(len(episodes)):
        own = network().double()
        sgd, adam = torch.optim.SGD(own.parameters(), rate), torch.optim.Adam(own.parameters(), rate, (0.0, 0.999))
        inputs = torch.cat([episodes.support_inputs[number], episodes.query_inputs[number]])
        targets = torch.cat([episodes.support_targets[number], episodes.query_targets[number]])
        for _ in range(4):
            own.zero_grad()
            functional.cross_entropy(own(inputs), targets).backward()
            (sgd if inner == "sgd" else adam).step()
        trained.append(list(own.parameters()))
    options = {"lr_inner": rate, "num_inner_steps": 4, "inner_optimizer": inner}
    for place, found in enumerate(stepped(episodes, lr_meta=0.3, **options)):
        before, mean = (
            list(network().double().parameters())[place],
            torch.stack([own[place] for own in trained]).mean(0),
        )
        # The bias before batch normalisation has no gradient but rounding, which Adam makes steps of
        if not (inner == "adam" and place == 1):
            assert torch.allclose(found, torch.lerp(before, mean, 0.3), atol=1e-10)
    whole = stepped(episodes, lr_meta=1.0, **options)
    for place in (0, 4):
        assert torch.allclose(whole[place], torch.stack([own[place] for own in trained]).mean(0), atol=1e-10)


def test_one_inner_step_is_ordinary_training_on_all_tasks() -> None:
    """θ - lr_meta lr_inner times the mean gradient (section 5 of the paper: the first term)."""
    episodes, model = some_tasks(), network().double()
    losses = [
        functional.cross_entropy(model(episodes.support_inputs[n]), episodes.support_targets[n]) for n in range(5)
    ]
    gradients = torch.autograd.grad(torch.stack(losses).mean(), list(model.parameters()))
    found = stepped(episodes, lr_inner=0.1, lr_meta=0.5, num_inner_steps=1, use_queries=False)
    for parameter, gradient, after in zip(model.parameters(), gradients, found, strict=True):
        assert torch.allclose(after, parameter - 0.05 * gradient, atol=1e-12)


def test_paths_and_parts_of_a_batch_agree() -> None:
    episodes = some_tasks()
    first, *others = [
        stepped(episodes, path=path, tasks_at_once=size) for path in ("layers", "vmap", "loop") for size in (None, 2)
    ]
    for other in others:
        assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(first, other, strict=True))


def test_minibatches_are_drawn_anew_in_each_step_and_repeat_with_the_seed() -> None:
    episodes = some_tasks()
    one, two = (stepped(episodes, inner_batch=4) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    learner, model = Reptile(inner_batch=4), network().double()
    start = copy.deepcopy(model.state_dict())
    optimizer = learner.optimizer(model)
    learner.meta_step(model, episodes, optimizer)
    first = model[0].weight.detach().clone()
    model.load_state_dict(start)
    learner.meta_step(model, episodes, optimizer)
    assert not torch.equal(first, model[0].weight.detach())


def test_batch_normalisation_leaves_no_trace() -> None:
    episodes, model, learner = some_tasks(), network().double(), Reptile()
    before = {name: value.clone() for name, value in model.named_buffers()}
    learner.meta_step(model, episodes, learner.optimizer(model))
    learner.adapt(model, episodes.support(0), None)
    learner.predict(model, episodes, None)
    assert all(torch.equal(value, before[name]) for name, value in model.named_buffers())


def test_an_inner_loop_that_diverges_is_reported() -> None:
    x = torch.ones(2, 1, 1) * 10
    episodes, model = Episodes(x, x, x, x), nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 3.0)
    learner = Reptile(lr_inner=1e30)
    with pytest.raises(RunError, match=r"is (inf|nan) after \d inner steps with lr_inner = 1e\+30"):
        learner.meta_step(model, episodes, learner.optimizer(model))
    assert float(model.weight.detach()) == 3.0
    with pytest.warns(RuntimeWarning, match=r"the support loss rises from .* with lr_inner = 0.1: the inner loop"):
        Reptile(lr_inner=0.1).adapt(model, episodes.support(0), 2)


def test_tasks_that_do_not_fit_are_refused() -> None:
    episodes, learner = some_tasks(), Reptile()
    support = episodes.support(0)
    with pytest.raises(DataError, match="one class, 4"):
        learner.adapt(network().double(), TensorData(support.inputs, torch.full((6,), 4)), None)
    with pytest.raises(DataError, match=r"3 classes \(labels 0, 1, 2\), the model's head has 2 outputs"):
        learner.adapt(network(2).double(), support, None)
    with pytest.raises(DataError, match="episodes have 3 classes, the model's head has 4 outputs"):
        learner.meta_step(network(4).double(), episodes, learner.optimizer(network(4).double()))
    with pytest.raises(RunError, match="not finite"):
        learner.adapt(network().double(), TensorData(support.inputs * math.nan, support.targets), None)
    with pytest.raises(DataError, match="no trainable parameter"):
        learner.meta_step(network().double().requires_grad_(False), episodes, learner.optimizer(network().double()))


def test_it_learns_to_tell_new_digits_apart() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(128, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 4))
    before, after = new_digits(Reptile(lr_inner=0.1, lr_meta=0.3, num_inner_steps=8), model)
    assert after > before + 0.06
