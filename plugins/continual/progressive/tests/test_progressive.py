"""Progressive networks: the laterals by the paper's equation, and that nothing learned ever changes."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from crosstask.errors import DataError
from crosstask_continual import ContinualLearner, ScenarioWarning
from crosstask_continual.testing import learned, learner, pairs
from crosstask_progressive import Progressive, ProgressiveNetwork


def dense(outputs: int = 10) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, outputs)
    )


def convolutions() -> nn.Sequential:
    torch.manual_seed(0)
    first = [nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.2), nn.MaxPool2d(2)]
    return nn.Sequential(*first, nn.Conv2d(8, 8, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 10))


def test_a_pass_is_the_papers_equation() -> None:
    """Equation 2 of Rusu et al. for three columns, written out layer by layer."""
    network = ProgressiveNetwork(dense(4), 4, width=5)
    for seed in range(3):
        network.add(seed, 4)
    x = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    entering: list[list[Tensor]] = []
    answers = []
    pairs_of: Any = zip(network.columns, network.laterals, strict=True)
    for column, fed in pairs_of:
        layers: list[Any] = [column.get_submodule(name) for name in ("1", "3", "5")]
        seen, h = list[Tensor](), x.flatten(1)
        for place, layer in enumerate(layers):
            seen.append(h)
            total = layer(h)
            if entering and place:
                lateral = fed[place - 1]
                scaled = torch.cat([a * old[place] for a, old in zip(lateral.scale, entering, strict=True)], dim=1)
                hidden = (scaled @ lateral.reduce.weight.T + lateral.reduce.bias).clamp_min(0)
                total = total + hidden @ lateral.feed.weight.T
            h = total.clamp_min(0) if place < 2 else total
        entering.append(seen)
        answers.append(h)
    for number, expected in enumerate(answers):
        torch.testing.assert_close(network(x, torch.full((6,), number)), expected)
    try:
        for column in network.columns:
            column.compile(backend="eager")
            column(x)  # compiled before hooks are on it
        torch.testing.assert_close(network(x), answers[2])
    finally:
        torch.compiler.reset()
    torch.testing.assert_close(network(x), answers[2])
    mixed = torch.tensor([0, 2, 1, 1, 0, 7])  # task 8 has no column yet: the newest answers
    rows = [answers[min(int(k), 2)][n] for n, k in enumerate(mixed)]
    torch.testing.assert_close(network(x, mixed), torch.stack(rows))


@pytest.mark.parametrize("make", [dense, convolutions])
def test_nothing_that_was_learned_changes(make: Any) -> None:
    """Answers to earlier tasks are bit for bit what they were: batch statistics and dropout do not touch them."""
    made = learner("progressive", model=make())
    network, answers = made.model, list[Tensor]()
    for number, task in enumerate(pairs()[:4]):
        made.train_task(task, num_epochs=4)
        network.eval()
        with torch.no_grad():
            now = [
                network(t.data("test").inputs, torch.full((len(t.data("test")),), k))
                for k, t in enumerate(pairs()[: number + 1])
            ]
        network.train()
        for before, after in zip(answers, now, strict=False):
            assert torch.equal(before, after)
        answers = now
    found = made.scores()
    assert found.forgetting is not None
    assert found.accuracy is not None
    assert found.forgetting.mean == 0
    assert found.accuracy.mean > 0.93


def test_only_the_newest_column_learns_and_earlier_ones_reach_it() -> None:
    made = learned(Progressive(width=4), model=dense(), epochs=3, count=3)
    network: Any = made.model.network
    assert len(network.columns) == 3
    learning = {name for name, p in network.named_parameters() if p.requires_grad}
    assert learning == {n for n, _ in network.named_parameters() if n.startswith(("columns.2.", "laterals.2."))}
    x, newest = pairs()[2].data("test").inputs, torch.full((len(pairs()[2].data("test")),), 2)
    before = network(x, newest).detach()
    with torch.no_grad():
        network.columns[0][1].weight.mul_(-1)
    assert not torch.allclose(network(x, newest), before)


def test_later_columns_start_anew_and_the_first_as_the_model() -> None:
    given = dense()
    kept = copy.deepcopy(given.state_dict())
    made = ContinualLearner(given, "progressive", learning_rate=1e-9)
    for task in pairs()[:3]:
        made.train_task(task, num_epochs=1)
    for name, value in given.state_dict().items():
        assert torch.equal(value, kept[name])  # the caller's model is not trained
    columns: Any = made.model.network.columns
    weights = [column[3].weight.detach() for column in columns]
    torch.testing.assert_close(weights[0], kept["3.weight"], atol=1e-6, rtol=0)
    for a, b in itertools.combinations(weights, 2):
        assert float((a - b).abs().mean()) > 0.01


def test_later_columns_of_a_compiled_layer_are_drawn_as_of_the_layer() -> None:
    plain, compiled = dense(4), dense(4)
    compiled[3] = torch.compile(compiled[3], backend="eager")
    columns = []
    for template in (plain, compiled):
        network = ProgressiveNetwork(template, 4, width=5)
        for seed in range(2):
            network.add(seed, 4)
        columns.append(network.columns[1])
    for one, other in zip(*(column.parameters() for column in columns), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("scenario", ["domain", "class"])
def test_without_the_task_it_warns_and_does_not_peek(scenario: str) -> None:
    """A better figure than that of the last task alone would mean that the identity of the task leaks."""
    with pytest.warns(ScenarioWarning, match="nothing says which to ask: the newest answers"):
        made = learned("progressive", scenario, model=dense(2 if scenario == "domain" else 10), epochs=3, count=3)
    data = pairs()[0].data("test")
    first, last = (made.model(data.inputs, torch.full((len(data),), k)) for k in (0, 2))
    assert torch.equal(first, last)
    if scenario == "class":
        assert made.evaluate_all_tasks()["digits:0+1"] < 0.05


@pytest.mark.parametrize("deep", [False, True])
def test_columns_have_the_outputs_that_were_there(deep: bool) -> None:
    """With a growing head, and when a run goes on from a state."""

    def start() -> ContinualLearner:
        torch.manual_seed(0)  # whatever other tests drew
        network = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU())
        layers = [nn.Linear(32, 8), nn.ReLU(), nn.Linear(8, 2)] if deep else [nn.Linear(32, 2)]
        network.add_module("head", nn.Sequential(*layers) if deep else layers[0])
        return learner("progressive", model=network, grow=True)

    through = start()
    for task in pairs()[:2]:
        through.train_task(task, num_epochs=3)
    taken = copy.deepcopy(through.state_dict())
    again = start()
    again.load_state_dict(taken)
    for made in (through, again):
        for task in pairs()[2 if made is through else 0 : 4]:
            scores = made.train_task(task, num_epochs=3)
        assert min(scores.values()) > 0.8
    network: Any = again.model.network
    sizes = [[m for m in column.modules() if isinstance(m, nn.Linear)][-1].out_features for column in network.columns]
    assert sizes == [2, 4, 6, 8]
    for name, value in through.model.network.state_dict().items():
        assert torch.equal(value, again.model.network.state_dict()[name]), name


def test_beside_replay_and_ewc() -> None:
    made = learned(["ewc", "progressive", {"use": "replay", "buffer_size": 50}], model=dense(), epochs=3, count=3)
    found = made.scores().forgetting
    assert found is not None
    assert found.mean == 0


def test_networks_that_have_no_columns_to_connect() -> None:
    only = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with pytest.raises(DataError, match="Sequential has 1 linear or convolution layers"):
        ContinualLearner(only, "progressive").train_task(pairs()[0], num_epochs=1)
    shared = nn.Linear(64, 64)
    twice = nn.Sequential(nn.Flatten(), shared, nn.ReLU(), shared, nn.Linear(64, 10))
    with pytest.raises(DataError, match="layer '1' is used twice in one pass"):
        ContinualLearner(twice, "progressive").train_task(pairs()[0], num_epochs=1)
