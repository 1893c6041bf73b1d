"""The three recommenders as the specification names them, and that they have none of the classic form's faults."""

from __future__ import annotations

import copy
import inspect
import math
import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from crosstask.errors import DataError, OptionError
from crosstask_meta import BaseMetaLearner, Reptile
from crosstask_meta_recommenders import MAMLRecommender, PrototypicalNetworkRecommender, ReptileRecommender


def users(*sizes: int, outputs: int = 1, seed: int = 0) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    found = []
    for size in sizes:
        x = torch.randn(size + 4, 5, generator=generator)
        y = x @ torch.randn(5, outputs, generator=generator)
        found.append((x[:size], y[:size], x[size:], y[size:]))
    return found


def small(cls: type = MAMLRecommender, **given: object) -> nn.Module:
    torch.manual_seed(0)
    made: nn.Module = cls(5, hidden_dims=[8], **given)
    return made


def test_arguments_and_defaults_are_the_specifications() -> None:
    steps = {"hidden_dims": (128, 64), "output_dim": 1, "meta_lr": 0.01, "inner_lr": 0.1, "dropout_rate": 0.2}
    near = {"embedding_dim": 64, "hidden_dims": (128, 64), "dropout_rate": 0.2}
    for cls, wanted in ((MAMLRecommender, steps), (ReptileRecommender, steps), (PrototypicalNetworkRecommender, near)):
        told = inspect.signature(cls).parameters
        assert next(iter(told)) == "input_dim"
        assert {
            name: p.default for name, p in told.items() if p.kind != p.VAR_KEYWORD and name != "input_dim"
        } == wanted
    defaults = {
        MAMLRecommender.inner_update: 1,
        MAMLRecommender.adapt_to_new_task: 5,
        ReptileRecommender.inner_loop: 10,
    }
    for method, count in defaults.items():
        assert inspect.signature(method).parameters["num_steps"].default == count
    made = MAMLRecommender(7)
    assert [m.out_features for m in made.network if isinstance(m, nn.Linear)] == [128, 64, 1]
    assert [m.p for m in made.network if isinstance(m, nn.Dropout)] == [0.2, 0.2]


def test_ratings_in_a_column_and_in_a_row_are_the_same() -> None:
    """The classic form broadcasts [N] against [N, 1] to [N, N]."""
    one, other = small(dropout_rate=0.0), small(dropout_rate=0.0)
    task = users(6)[0]
    flat = (task[0], task[1][:, 0], task[2], task[3][:, 0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert one.meta_update([task]) == other.meta_update([flat])
        single = (task[0][:1], task[1][:1])
        first, second = one.adapt_to_new_task(*single), other.adapt_to_new_task(single[0], single[1][:, 0])
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert one(task[0]).shape == (6, 1)


def test_several_outputs_can_be_learned() -> None:
    """The classic form fails for output_dim > 1."""
    made, task = small(output_dim=3, dropout_rate=0.0), users(6, outputs=3)[0]
    params = made.adapt_to_new_task(*task[:2], num_steps=40)
    before, after = (functional.mse_loss(found, task[1]) for found in (made(task[0]), made(task[0], params)))
    assert made(task[0], params).shape == (6, 3)
    assert after < 0.5 * before
    assert made.meta_update([task]) > 0


def test_inner_update_is_gradient_descent_through_which_gradients_go() -> None:
    made, (x, y, qx, qy) = small(dropout_rate=0.0), users(6)[0]
    params = made.inner_update(x, y, num_steps=2)
    twin = copy.deepcopy(made.network)
    for _ in range(2):
        twin.zero_grad()
        functional.mse_loss(twin(x), y).backward()
        with torch.no_grad():
            for weight in twin.parameters():
                weight -= 0.1 * weight.grad
    for name, weight in twin.named_parameters():
        assert torch.allclose(params[name], weight, atol=1e-6)
    functional.mse_loss(made(qx, params), qy).backward()
    through = made.network[0].weight.grad.clone()
    assert not torch.allclose(through, torch.autograd.grad(functional.mse_loss(twin(qx), qy), twin[0].weight)[0])


def test_adapting_keeps_no_graph_and_draws_no_dropout() -> None:
    """The classic form's adapted parameters hold the whole graph, and dropout is active while it adapts."""
    made, task = small(dropout_rate=0.5), users(6)[0]
    made.train()
    first, second = made.adapt_to_new_task(*task[:2]), made.adapt_to_new_task(*task[:2])
    for name, value in first.items():
        assert not value.requires_grad
        assert value.grad_fn is None
        assert torch.equal(value, second[name])
    assert made.training
    assert all(p.grad is None for p in made.parameters())


def test_training_takes_as_many_steps_as_adapting() -> None:
    """The classic form takes one step in training and five in the test."""
    made = MAMLRecommender(5)
    default = inspect.signature(made.adapt_to_new_task).parameters["num_steps"].default
    assert made.learner.num_inner_steps == default == 5


def test_a_missing_parameter_is_refused() -> None:
    """The classic form falls back to its own weights without a word."""
    made = small()
    params = dict(made.network.named_parameters())
    left = {name: value for name, value in params.items() if name != "0.weight"}
    with pytest.raises(DataError, match=r"params has no '0.weight'"):
        made(torch.zeros(1, 5), left)
    with pytest.raises(DataError, match=r"params holds an unknown '0.weigth'; did you mean '0.weight'"):
        made(torch.zeros(1, 5), {**params, "0.weigth": params["0.weight"]})


def test_all_users_go_back_in_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """The classic form keeps every user's graph, in a loop over users; and its answer is the mean of each user's."""
    calls = []
    grad = torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *a, **k: calls.append(1) or grad(*a, **k))
    small(dropout_rate=0.0).meta_update(users(4))
    alone = len(calls)
    made = small(dropout_rate=0.0)
    many = users(*[4] * 16)
    calls.clear()
    together = made.meta_update(many)
    assert len(calls) == alone
    assert together == pytest.approx(sum(small(dropout_rate=0.0).meta_update([t]) for t in many) / 16, rel=1e-4)


@pytest.mark.parametrize("cls", [MAMLRecommender, ReptileRecommender])
def test_users_with_three_and_eight_ratings_are_one_batch(cls: type) -> None:
    """Padding counts for nothing: the step is the mean of those on each user alone."""
    options = {"dropout_rate": 0.0} | ({"use_queries": False} if cls is ReptileRecommender else {})
    both, start = small(cls, **options), small(cls, **options)
    ragged = users(3, 8)
    both.learner.optimizer = torch.optim.SGD(both.parameters(), lr=1.0)
    both.meta_update(ragged)
    moved = [after - before for after, before in zip(both.parameters(), start.parameters(), strict=True)]
    each = []
    for task in ragged:
        alone = small(cls, **options)
        alone.learner.optimizer = torch.optim.SGD(alone.parameters(), lr=1.0)
        alone.meta_update([task])
        each.append([after - before for after, before in zip(alone.parameters(), start.parameters(), strict=True)])
    for whole, one, other in zip(moved, *each, strict=True):
        assert torch.allclose(whole, (one + other) / 2, atol=1e-5)


def test_reptile_takes_pairs_and_leaves_no_gradient() -> None:
    """The classic form leaves stale `.grad`; the interpolation is θ + meta_lr (mean φ - θ)."""
    made, pairs = small(ReptileRecommender, dropout_rate=0.0), [task[:2] for task in users(5, 5)]
    before = {name: value.clone() for name, value in made.network.named_parameters()}
    ends = [made.inner_loop(pair) for pair in pairs]
    assert not any(value.requires_grad for value in ends[0].values())
    assert made.meta_update(pairs) is None
    for name, value in made.network.named_parameters():
        mean = (ends[0][name] + ends[1][name]) / 2
        assert torch.allclose(value, before[name] + 0.01 * (mean - before[name]), atol=1e-6)
        assert value.grad is None
    assert set(made.adapt_to_new_task(*pairs[0])) == set(before)


def test_the_meta_learner_takes_pairs() -> None:
    net = nn.Linear(5, 1)
    assert math.isfinite(BaseMetaLearner(net, "reptile").meta_train_step([users(4)[0][:2]])["loss"])
    from crosstask_reptile import Reptile as Component

    assert math.isfinite(BaseMetaLearner(Component(), net).meta_train_step([users(4)[0][:2]])["loss"])
    assert math.isfinite(Reptile(net).meta_train_step([users(4)[0][:2]])["loss"])


def test_implicit_feedback_are_labels_of_two_outputs() -> None:
    made = small(output_dim=2, dropout_rate=0.0)
    x = torch.randn(12, 5, generator=torch.Generator().manual_seed(2))
    labels = (x[:, 0] > 0).long()
    params = made.adapt_to_new_task(x, 3 + 6 * labels, num_steps=60)  # whatever they are called
    assert float((made(x, params).argmax(1) == labels).double().mean()) > 0.9
    assert made.meta_update([(x, labels, x, labels)]) > 0
    found = made.inner_update(x, 3 + 6 * labels)
    again = made.inner_update(x, labels)
    assert all(torch.equal(found[name], again[name]) for name in found)


def test_bad_input_is_refused_in_words() -> None:
    made, (x, y, qx, _) = small(), users(4)[0]
    with pytest.raises(DataError, match=r"MAMLRecommender: inputs must be \[N, 5\], got \[4, 3\]"):
        made(x[:, :3])
    with pytest.raises(DataError, match=r"the support set has inputs \[4, 5\] and targets \[3, 1\]"):
        made.adapt_to_new_task(x, y[:3])
    with pytest.raises(DataError, match="targets that are not finite"):
        made.adapt_to_new_task(x, y * float("nan"))
    with pytest.raises(DataError, match=r"task 0 must be 4 tensors .* got 2"):
        made.meta_update([(x, y)])
    with pytest.raises(DataError, match=r"task 0 must be 2 tensors or 4 tensors .* got a int"):
        small(ReptileRecommender).meta_update([3])
    with pytest.raises(OptionError, match="dropout_rate must be at least 0"):
        MAMLRecommender(5, dropout_rate=1.0)
    with pytest.raises(OptionError, match="hidden_dims must be at least 1, got 0"):
        ReptileRecommender(5, hidden_dims=[0])
    near = PrototypicalNetworkRecommender(5)
    with pytest.raises(DataError, match="4 features but 3 labels"):
        near.compute_prototypes(near(x), [0, 1, 1])
    with pytest.raises(DataError, match="one class"):
        near.episode_forward(x, [1, 1, 1, 1], qx)


def test_prototypes_give_log_probabilities_of_squared_distances() -> None:
    """The classic form's -log_softmax(distance) is positive everywhere, its exponentials sum to 25, and the distance is
    not squared.
    """
    torch.manual_seed(1)
    made = PrototypicalNetworkRecommender(5, 6, [8]).eval()
    x, labels, query = torch.randn(9, 5), torch.tensor([0, 1, 2] * 3), torch.randn(4, 5)
    found = made.episode_forward(x, labels, query)
    prototypes = torch.stack([made(x)[labels == number].mean(0) for number in range(3)])
    assert torch.allclose(made.compute_prototypes(made(x), labels), prototypes, atol=1e-6)
    wanted = torch.log_softmax(-torch.cdist(made(query), prototypes).square(), dim=1)
    assert torch.allclose(found, wanted, atol=1e-5)
    assert torch.allclose(found.exp().sum(1), torch.ones(4), atol=1e-6)
    assert bool((found <= 0).all())
    from_learner = made.learner.predict([(x, labels, query, torch.zeros(4).long())])[0]
    assert torch.allclose(found, from_learner, atol=1e-5)


def test_prototypes_of_labels_three_and_nine() -> None:
    """The classic form's labels are indices: 3 and 9 are out of range."""
    made = PrototypicalNetworkRecommender(5, 6, [8]).eval()
    x, query = torch.randn(6, 5), torch.randn(2, 5)
    named, plain = torch.tensor([9, 3, 9, 3, 3, 9]), torch.tensor([1, 0, 1, 0, 0, 1])
    assert torch.equal(made.episode_forward(x, named, query), made.episode_forward(x, plain, query))
    before = made.meta_update([(x, named, x, named)])
    for _ in range(30):
        after = made.meta_update([(x, named, x, named)])
    assert after < before


def test_bad_input_of_a_face_is_told() -> None:
    net, (x, y) = MAMLRecommender(4, [8]), (torch.randn(6, 4), torch.randn(6))
    with pytest.raises(DataError, match="the support set has no samples"):
        net.adapt_to_new_task(x[:0], y[:0])
    with pytest.raises(DataError, match="a batch needs a task"):
        net.meta_update([])
    for steps in (-1, 1.5):
        with pytest.raises(OptionError, match="num_steps"):
            net.inner_update(x, y, steps)  # type: ignore[arg-type]
    params = net.adapt_to_new_task(x, y)
    with pytest.raises(DataError, match=r"'0.weight' of params has the shape \[1, 4\], not \[8, 4\]"):
        net(x, {**params, "0.weight": params["0.weight"][:1]})
    with pytest.raises(DataError, match="labels of 3 classes, the network has 2 outputs"):
        MAMLRecommender(4, [8], 2).inner_update(x, torch.tensor([0, 1, 2] * 2))
    with pytest.raises(OptionError, match="hidden_dims"):
        MAMLRecommender(4, 8)  # type: ignore[arg-type]
