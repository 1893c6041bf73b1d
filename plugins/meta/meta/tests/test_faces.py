"""Learners with the model in hand: the calls of the documentation, as they stand there, and what they come to."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional

from crosstask.descriptors import TaskDescriptor
from crosstask.errors import CrosstaskError, DataError, OptionError, PluginError
from crosstask.learning.episodes import Episodes
from crosstask.tasks import Task
from crosstask_meta import (
    ANIL,
    MAML,
    BaseMetaLearner,
    MAMLFirstOrder,
    MetaSGD,
    MultiTaskMAML,
    Reptile,
    create_meta_batch,
)
from crosstask_meta.testing import network, seeded, some_episodes

pytest.importorskip("crosstask_maml")
pytest.importorskip("crosstask_reptile")

FACES: list[Callable[..., BaseMetaLearner]] = [MAML, MAMLFirstOrder, ANIL, MetaSGD, Reptile]


def plain(outputs: int = 3) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, outputs))


def some_tasks(count: int = 3, seed: int = 0) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Tasks of 6, 8, 10, … support samples and 5, 4, 3, … queries, in three classes with labels of their own."""
    made = []
    for number in range(count):
        support, query = 6 + 2 * number, max(1, 5 - number)
        x = torch.randn(support + query, 6, generator=seeded(seed + number))
        y = torch.arange(support + query) % 3 + 10 * number
        made.append((x[:support], y[:support], x[support:], y[support:]))
    return made


# The documentation's examples


def test_maml_as_documented() -> None:
    model = plain()
    before = copy.deepcopy(model.state_dict())
    maml = MAML(model, lr_inner=0.01, lr_meta=0.001, num_inner_steps=5)
    meta_batch = create_meta_batch(some_tasks(6), batch_size=4)
    metrics = maml.meta_train_step(meta_batch)
    assert all(type(value) is float for value in metrics.values())
    assert {"loss", "accuracy"} <= set(metrics)
    assert any(not torch.equal(value, before[name]) for name, value in model.state_dict().items())
    support_x, support_y, query_x, _ = some_tasks()[0]
    adapted = maml.adapt_to_task(support_x, support_y)
    assert isinstance(adapted, nn.Sequential)
    outputs = maml.forward_with_weights(query_x, adapted)
    assert outputs.shape == (5, 3)
    more = maml.adapt_to_task(support_x, support_y, num_steps=50)
    places = torch.unique(support_y, return_inverse=True)[1]
    with torch.no_grad():
        losses = [float(functional.cross_entropy(m(support_x), places)) for m in (model, adapted, more)]
    assert losses == sorted(losses, reverse=True)


@pytest.mark.parametrize("face", FACES, ids=lambda face: face.__name__)
def test_each_trains_adapts_and_holds_no_graph(face: Callable[..., BaseMetaLearner]) -> None:
    model = plain()
    learner = face(model)
    losses = [learner.meta_train_step(some_tasks())["loss"] for _ in range(30)]
    assert losses[-1] < losses[0]
    assert learner.model is model
    assert all(p.grad is None for p in model.parameters())  # nothing that a later backward pass would add to
    adapted = learner.adapt_to_task(*some_tasks()[1][:2])
    assert type(adapted) is type(model)
    assert all(p.is_leaf and p.grad is None for p in adapted.parameters())
    copy.deepcopy(adapted)
    again = learner.adapt_to_task(some_tasks()[1][:2])  # a pair
    assert all(torch.equal(a, b) for a, b in zip(adapted.parameters(), again.parameters(), strict=True))


def test_named_arguments_and_defaults_are_the_papers() -> None:
    assert MAMLFirstOrder(model=plain()).learner.options() | {"path": "auto"} == MAMLFirstOrder(plain()).options
    made = MAML(plain())
    assert (made.lr_inner, made.lr_meta, made.num_inner_steps) == (0.01, 0.001, 5)
    assert (Reptile(plain()).lr_meta, MetaSGD(plain()).num_inner_steps) == (0.1, 1)
    assert MAML(plain(), first_order=True).options["first_order"] is True
    with pytest.raises(OptionError, match=r"lr_iner.*did you mean 'lr_inner'"):
        MAML(plain(), lr_iner=0.1)
    with pytest.raises(OptionError, match=r"model must be a torch\.nn\.Module, got int"):
        MAML(5)  # type: ignore[arg-type]


def test_reptile_takes_pairs() -> None:
    """θ + ε (φ - θ) for one task (x, y), with φ by torch's own SGD."""
    x, y, *_ = some_tasks()[2]
    model, other = plain(), plain()
    reptile = Reptile(model, lr_inner=0.1, lr_meta=0.5, num_inner_steps=3)
    metrics = reptile.meta_train_step([(x, y)])
    start = [p.detach().clone() for p in other.parameters()]
    sgd = torch.optim.SGD(other.parameters(), lr=0.1)
    for _ in range(3):
        sgd.zero_grad()
        functional.cross_entropy(other(x), y - 20).backward()
        sgd.step()
    for found, before, trained in zip(model.parameters(), start, other.parameters(), strict=True):
        assert torch.allclose(found, before + 0.5 * (trained - before), atol=1e-6)
    with torch.no_grad():
        assert metrics["loss"] == pytest.approx(float(functional.cross_entropy(other(x), y - 20)), abs=1e-6)
    with pytest.raises(DataError, match=r"maml.*episode 0 has no queries, by which this learner judges"):
        MAML(plain()).meta_train_step([(x, y)])
    mixed = Reptile(plain(), lr_inner=0.1, lr_meta=0.5, num_inner_steps=3)
    mixed.meta_train_step([(x, y), some_tasks()[1]])  # with queries and without


def test_one_step_is_that_of_torch_func() -> None:
    """MAML's update in closed form: the gradient, by torch.func, of the mean query loss at p - lr grad(support loss),
    as learn2learn's `maml_update` writes it, and one step of SGD.
    """
    model = plain().double()
    episodes = some_episodes(count=4).to(torch.float64)
    start = {name: p.detach().clone() for name, p in model.named_parameters()}

    def loss(own: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return functional.cross_entropy(functional_call(model, own, (x,)), y)

    def after(own: dict[str, Tensor], sx: Tensor, sy: Tensor, qx: Tensor, qy: Tensor) -> Tensor:
        slope = grad(loss)(own, sx, sy)
        return loss({name: p - 0.1 * slope[name] for name, p in own.items()}, qx, qy)

    def whole(own: dict[str, Tensor]) -> Tensor:
        tensors = (episodes.support_inputs, episodes.support_targets, episodes.query_inputs, episodes.query_targets)
        return vmap(after, (None, 0, 0, 0, 0))(own, *tensors).mean()

    wanted = grad(whole)(start)
    maml = MAML(model, lr_inner=0.1, num_inner_steps=1, optimizer=torch.optim.SGD(model.parameters(), lr=0.7))
    assert maml.meta_train_step(episodes)["loss"] == pytest.approx(float(whole(start)))
    for name, parameter in model.named_parameters():
        assert torch.allclose(parameter, start[name] - 0.7 * wanted[name], atol=1e-12)


class Mine(BaseMetaLearner):
    """A meta-learner of one's own: first-order, one inner step."""

    def __init__(self, model: nn.Module, **kwargs: Any) -> None:
        super().__init__(model, **kwargs)

    def meta_train_step(self, tasks: Any) -> dict[str, float]:
        total = 0.0
        assert self.optimizer is not None
        self.optimizer.zero_grad()
        for support_x, support_y, query_x, query_y in tasks:
            adapted = self.adapt_to_task((support_x, support_y))
            loss = functional.cross_entropy(self.forward_with_weights(query_x, adapted), query_y)
            found = torch.autograd.grad(loss, list(adapted.parameters()))
            for parameter, gradient in zip(self.model.parameters(), found, strict=True):
                parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
            total += float(loss.detach())
        self.optimizer.step()
        return {"loss": total / len(tasks)}

    def adapt_to_task(self, support_data: Any) -> nn.Module:  # type: ignore[override]
        adapted = copy.deepcopy(self.model)
        loss = functional.cross_entropy(adapted(support_data[0]), support_data[1])
        found = torch.autograd.grad(loss, list(adapted.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(adapted.parameters(), found, strict=True):
                parameter.sub_(self.lr_inner * gradient)
        return adapted


def test_a_learner_of_ones_own() -> None:
    mine = Mine(plain(), lr_inner=0.5, lr_meta=0.01, temperature=3)
    assert (mine.lr_inner, mine.num_inner_steps, mine.options["temperature"]) == (0.5, 5, 3)
    episodes = create_meta_batch(some_tasks())
    losses = [mine.meta_train_step(episodes)["loss"] for _ in range(40)]
    assert losses[-1] < 0.7 * losses[0]
    saved, other = copy.deepcopy(mine.state_dict()), Mine(plain(), lr_inner=0.5, lr_meta=0.01)
    other.load_state_dict(saved)
    assert other.meta_train_step(episodes) == mine.meta_train_step(episodes)
    with pytest.raises(PluginError, match="Mine has no learner: give it one, or define what is asked of it in Mine"):
        mine.predict(episodes)
    with pytest.raises(OptionError, match="BaseMetaLearner needs a learner: the name of a component"):
        BaseMetaLearner(plain())
    with pytest.raises(CrosstaskError, match=r"Unknown|unknown|no meta_learner|did you mean 'maml'"):
        BaseMetaLearner(plain(), "mamls")
    with pytest.raises(OptionError, match="rate are options of a learner that is to be made"):
        BaseMetaLearner(plain(), MAML(plain()).learner, rate=3)


def test_tasks_are_weighed_as_they_are_learned() -> None:
    """The weights are exp(-s), with s trained on exp(-s) L + s: for a loss that stays at one, s stays at zero."""
    pytest.importorskip("crosstask_weighting")
    named = dict(zip(("one", "two", "three"), some_tasks(), strict=True))
    maml = MultiTaskMAML(plain(), lr_inner=0.1, lr_meta=0.05, num_inner_steps=1, balancer="uncertainty")
    first = maml.meta_train_step(named)
    assert [first[f"weight_{name}"] for name in named] == [1.0, 1.0, 1.0]
    for _ in range(60):
        metrics = maml.meta_train_step(dict(reversed(named.items())))
    assert metrics["loss"] < first["loss"]
    assert set(maml.task_weights) == set(named)
    assert min(maml.task_weights.values()) > 1.0  # losses below one weigh more than at the start
    with pytest.raises(DataError, match="the tasks were one, two, three, and are now one, two"):
        maml.meta_train_step({name: named[name] for name in ("one", "two")})


@pytest.mark.parametrize("balancer", ["equal", "uncertainty", "gradnorm", "rgb", "pcgrad", "mgda"])
@pytest.mark.parametrize("make", [plain, network], ids=["plain", "normalised"])
def test_any_balancer_weighs_the_query_losses(balancer: str, make: Callable[[], nn.Module]) -> None:
    try:
        maml = MultiTaskMAML(make(), lr_inner=0.1, lr_meta=0.01, num_inner_steps=2, balancer=balancer)
        losses = [maml.meta_train_step(some_tasks())["loss"] for _ in range(30)]
    except CrosstaskError as error:
        if "not installed" in str(error) or "no balancer" in str(error):
            pytest.skip(str(error))
        raise
    assert losses[-1] < losses[0]


def test_equal_weights_are_the_sum() -> None:
    pytest.importorskip("crosstask_weighting")
    one, two = plain().double(), plain().double()
    tasks = [tuple(t.double() if t.is_floating_point() else t for t in task) for task in some_tasks()]
    MultiTaskMAML(
        one, 0.1, 0.1, 2, balancer="equal", optimizer=torch.optim.SGD(one.parameters(), lr=0.1)
    ).meta_train_step(tasks)
    MAML(two, 0.1, 0.1, 2, optimizer=torch.optim.SGD(two.parameters(), lr=0.3)).meta_train_step(tasks)
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(one.parameters(), two.parameters(), strict=True))


# Batches


def test_batches_of_given_tasks_data_and_portfolios() -> None:
    tasks = some_tasks(6)[:5]
    chosen = create_meta_batch(tasks, batch_size=4, generator=seeded())
    assert len(chosen) == 4
    sizes = chosen.support_counts.tolist()
    assert len(set(sizes)) == 4  # different tasks, of 6, 8, … samples
    assert chosen.support_inputs.shape[1] == max(sizes)
    assert len(create_meta_batch(tasks, batch_size=40)) == 5
    named = create_meta_batch({f"user {number}": task for number, task in enumerate(tasks)}, 2, generator=seeded())
    assert len(named.names) == 2
    assert len(create_meta_batch(tasks[0])) == 1
    x, y = np.random.default_rng(0).normal(size=(40, 6)), np.arange(40) % 4
    drawn = create_meta_batch((x, y))
    assert (len(drawn), drawn.ways, drawn.support_inputs.shape[1], drawn.query_inputs.shape[1]) == (4, 4, 4, 36)
    values = create_meta_batch((x, x[:, :1]), batch_size=2, shots=7)
    assert (values.ways, values.support_inputs.shape[:2], values.query_targets.shape) == (None, (2, 7), (2, 15, 1))
    portfolio = [
        Task(
            descriptor=TaskDescriptor(task_id=name, classes=tuple("abcde"[:classes])),
            train=(torch.randn(30, 6), torch.arange(30) % classes),
        )
        for name, classes in (("few", 3), ("many", 5))
    ]
    assert create_meta_batch(portfolio, batch_size=3).ways == 3
    assert create_meta_batch(chosen, 2).names == ()
    with pytest.raises(DataError, match="at least one task, batch_size is 0"):
        create_meta_batch(tasks, batch_size=0)


def test_training_in_one_call() -> None:
    x = torch.randn(60, 6, generator=seeded())
    x[:, :3] += 4 * functional.one_hot(torch.arange(60) % 3, 3)
    metrics = MAML(plain(), 0.1, 0.01).meta_train(
        (x, torch.arange(60) % 3), steps=60, batch_size=4, shots=2, queries=3, generator=seeded()
    )
    assert sum(m["loss"] for m in metrics[-10:]) < 0.7 * sum(m["loss"] for m in metrics[:10])
    given = Reptile(plain(), 0.1).meta_train(some_tasks(), steps=5, batch_size=2, generator=seeded())
    assert len(given) == 5


@pytest.mark.parametrize("face", FACES, ids=lambda face: face.__name__)
@pytest.mark.parametrize("make", [plain, network], ids=["padded", "normalised"])
def test_padding_changes_no_result(face: Callable[..., BaseMetaLearner], make: Callable[[], nn.Sequential]) -> None:
    """One step on tasks of unequal sizes moves the weights by the mean of what each alone does; with batch
    normalisation too.
    """
    tasks = [tuple(t.double() if t.is_floating_point() else t for t in task) for task in some_tasks()]

    def moved(chosen: Any) -> tuple[list[Tensor], float]:
        model = make().double()
        before = [p.detach().clone() for p in model.parameters()]
        learner = face(model, 0.1, num_inner_steps=2, optimizer=torch.optim.SGD(model.parameters(), lr=1.0))
        loss = learner.meta_train_step(chosen)["loss"]
        return [p.detach() - b for p, b in zip(model.parameters(), before, strict=True)], loss

    together, loss = moved(tasks)
    apart = [moved([task]) for task in tasks]
    assert loss == pytest.approx(sum(own for _, own in apart) / 3, abs=1e-12)
    for place, found in enumerate(together):
        assert torch.allclose(found, torch.stack([own[place] for own, _ in apart]).mean(0), atol=1e-11)
    learner = face(make().double(), 0.1)
    scores = learner.predict(tasks)
    for number, task in enumerate(tasks):
        adapted = learner.adapt_to_task(*task[:2])
        assert torch.allclose(scores[number, : len(task[2])], learner.forward_with_weights(task[2], adapted))
        assert not bool(scores[number, len(task[2]) :].any())


def test_what_stands_in_the_padding_does_not_matter() -> None:
    x, y = torch.randn(2, 6, 6, generator=seeded()), (torch.arange(6) % 3).expand(2, -1)
    mask = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    found = []
    for value in (0.0, 1e30, float("nan")):
        padded = x.clone()
        padded[~mask] = value
        learner = MAML(plain(), 0.1)
        found.append(learner.meta_train_step(Episodes(padded, y, padded, y, 3, mask, mask)))
    assert found[0] == found[1] == found[2]


# Models of every kind


def test_data_in_other_precisions_and_whole_numbers() -> None:
    x, y = np.random.default_rng(0).normal(size=(6, 6)), [0, 1, 2] * 2
    maml = MAML(plain())
    assert np.isfinite(maml.meta_train_step([(x, y, x, y)])["loss"])  # numpy's float64
    bytes_ = (255 * np.random.default_rng(0).random((6, 6))).astype(np.uint8)
    for path in ("layers", "vmap", "loop"):
        learner = MAML(plain(), 1e-5, path=path)
        assert np.isfinite(learner.meta_train_step([(bytes_, y, bytes_, y)])["loss"])
        assert learner.forward_with_weights(bytes_, learner.adapt_to_task(bytes_, y)).shape == (6, 3)
    tokens = np.random.default_rng(0).integers(0, 9, (6, 4))
    words = nn.Sequential(nn.Embedding(9, 5), nn.Flatten(), nn.Linear(20, 3))
    assert np.isfinite(MAML(words).meta_train_step([(tokens, y, tokens, y), (tokens[:4], y[:4], tokens, y)])["loss"])


def test_dropout_is_off_while_it_adapts_unless_asked_for() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 30), nn.Dropout(0.5), nn.Linear(30, 3)).train()
    support = some_tasks()[0][:2]

    def alike(learner: BaseMetaLearner) -> bool:
        one, two = (learner.adapt_to_task(*support) for _ in range(2))
        assert model.training
        assert not one.training
        return all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))

    for face in (MAML, Reptile):
        assert alike(face(model, 0.1))
        assert not alike(face(model, 0.1, adapt_dropout=True))


def test_lazy_layers_get_their_shapes() -> None:
    model = nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.LazyLinear(3))
    assert np.isfinite(MAML(model).meta_train_step(some_tasks())["loss"])


def test_support_sets_that_are_none() -> None:
    maml = MAML(plain())
    with pytest.raises(DataError, match=r"a target for each sample, got inputs \[2, 6\] and targets \[3\]"):
        maml.adapt_to_task(torch.ones(2, 6), [0, 1, 0])
    with pytest.raises(DataError, match="a support set is a pair"):
        maml.adapt_to_task(torch.ones(3, 6))
    with pytest.raises(DataError, match="tensors or arrays"):
        maml.adapt_to_task({}, [0])
    with pytest.raises(DataError, match="the model has no parameter 'weight'"):
        maml.forward_with_weights(torch.ones(1, 6), {"weight": torch.ones(1)})
    weights = {name: torch.zeros_like(p) for name, p in maml.model.named_parameters()}
    assert not bool(maml.forward_with_weights(torch.ones(2, 6), weights).any())
