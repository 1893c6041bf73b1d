"""The graph as a network that is called: what it answers, that it can be trained, that it knows no task by number."""

from __future__ import annotations

import io
import itertools

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from crosstask.errors import DataError
from crosstask.graph import Evidence, TransferEdge
from crosstask.learning.modules import seeded
from crosstask.records import CurriculumStrategy
from crosstask_discovery.testing import graph_of, transfer_world
from crosstask_gnn import RelationshipNetwork, TaskRelationshipGraph
from crosstask_gnn.relations import relations_of

from .test_task_relationship_graph import SMALL, described, discovered, discoverer, filled, named

Inputs = tuple[Tensor, Tensor, Tensor]


def inputs(tasks: int = 9, features: int = 12, seed: int = 0) -> Inputs:
    generator = torch.Generator().manual_seed(seed)
    nodes = torch.randn(tasks, features, generator=generator)
    weights = torch.rand(tasks, tasks, generator=generator) * 2 - 1
    weights = weights * (torch.rand(tasks, tasks, generator=generator) < 0.4)
    return nodes, weights, torch.randint(0, 7, (tasks, tasks), generator=generator)


def test_a_call_answers_with_embeddings_transfer_and_difficulties() -> None:
    graph = TaskRelationshipGraph(task_embedding_dim=128, hidden_dim=256, num_relation_types=7, num_layers=3)
    embeddings, transfer, difficulty = graph(*inputs())
    assert (embeddings.shape, transfer.shape, difficulty.shape) == ((9, 128), (9, 9), (9,))
    assert transfer.abs().max() <= 1
    assert ((difficulty > 0) & (difficulty < 1)).all()
    assert not torch.allclose(transfer, transfer.T, atol=1e-3), "directed"
    for i, j in ((0, 3), (3, 0), (8, 1)):
        found = graph.predict_transfer_efficiency(embeddings[i], embeddings[j])
        assert isinstance(found, float)
        assert found == pytest.approx(float(transfer[i, j].detach()), abs=1e-6)
    with torch.no_grad():
        rows = graph.generate_curriculum_order(embeddings, 4)
    assert graph.generate_curriculum_order(embeddings, 4) == rows, "with a gradient or without"
    listed = graph.predict_transfer_efficiency(embeddings[0].tolist(), tuple(embeddings[3].tolist()))
    assert listed == pytest.approx(float(transfer[0, 3].detach()), abs=1e-6)


def test_renumbering_the_tasks_renumbers_the_answers() -> None:
    graph, given = TaskRelationshipGraph(**SMALL), inputs()
    order = torch.randperm(9, generator=torch.Generator().manual_seed(1))
    turned = given[0][order], given[1][order][:, order], given[2][order][:, order]
    here, there = graph(*given), graph(*turned)
    assert torch.allclose(there[0], here[0][order], atol=1e-5)
    assert torch.allclose(there[1], here[1][order][:, order], atol=1e-5)
    assert torch.allclose(there[2], here[2][order], atol=1e-5)


def test_what_it_looks_at() -> None:
    """Ways and types of edges count; the adjacency's diagonal and the types of pairs without an edge do not."""
    graph, (nodes, weights, types) = TaskRelationshipGraph(**SMALL), inputs()
    answer = graph(nodes, weights, types)[1]
    assert not torch.allclose(graph(nodes, weights.T, types.T)[1], answer, atol=1e-3), "the way of an edge"
    assert not torch.allclose(graph(nodes, weights, (types + 1) % 7)[1], answer, atol=1e-3), "its type"
    assert not torch.allclose(graph(nodes, -weights, types)[1], answer, atol=1e-3), "its sign"
    assert torch.equal(graph(nodes, weights + 5 * torch.eye(9), types)[1], answer)
    assert torch.equal(graph(nodes, weights, types.masked_fill(weights == 0, 99))[1], answer)
    alone = torch.zeros(9, 9)
    assert graph(nodes, alone, types)[1].isfinite().all(), "no edges"
    changed = nodes.clone()
    changed[4] += 1
    assert torch.equal(graph(changed, alone, types)[0][:4], graph(nodes, alone, types)[0][:4]), "no messages"


def test_a_round_of_messages_is_the_mean_that_the_paper_says() -> None:
    """Schlichtkrull et al. (2018), equation 2, task by task, both ways, in numpy."""
    network = RelationshipNetwork(8, 16, 3, 1)
    nodes, weights, types = inputs(5, 8)
    types = types % 3
    layer = network.layers[0]
    with torch.no_grad():
        h = network.enter(nodes)
        z = layer.norm(h)
        messages, own = layer.messages.numpy(), layer.own(z).numpy()
        w, t, sent = weights.numpy().copy(), types.numpy(), z.numpy()
        np.fill_diagonal(w, 0)
        for task in range(5):
            arrived, against = w[:, task], w[task]
            for way, strengths, kinds in ((0, arrived, t[:, task]), (1, against, t[task])):
                if np.abs(strengths).sum():
                    for other in range(5):
                        share = strengths[other] / np.abs(strengths).sum()
                        own[task] += share * (sent[other] @ messages[way, kinds[other]])
        expected = network.leave(h + layer.update(torch.tensor(own)))
        assert torch.allclose(network.embed(nodes, weights, types), expected, atol=1e-5)


def test_features_of_any_length() -> None:
    graph = TaskRelationshipGraph(**SMALL)
    shapes = [tuple(p.shape) for p in graph.parameters()]
    nodes, weights, types = inputs(features=5)
    padded = torch.cat([nodes, torch.zeros(9, 27)], dim=1)
    assert torch.equal(graph(nodes, weights, types)[0], graph(padded, weights, types)[0])
    wide = inputs(features=300)
    assert graph(*wide)[0].shape == (9, 32)
    assert torch.equal(graph(*wide)[0], graph(*wide)[0])
    assert [tuple(p.shape) for p in graph.parameters()] == shapes


def test_a_gradient_reaches_every_parameter_and_every_input() -> None:
    graph, (nodes, weights, types) = TaskRelationshipGraph(**SMALL), inputs(features=32)
    nodes.requires_grad_()
    weights.requires_grad_()
    embeddings, transfer, difficulty = graph(nodes, weights, types)
    (embeddings.square().mean() + transfer.sum() + difficulty.sum()).backward()
    for name, parameter in graph.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    assert nodes.grad is not None
    assert (nodes.grad.abs().sum(1) > 0).all()
    assert weights.grad is not None
    assert weights.grad.abs().sum() > 0
    graph.zero_grad()
    assert all(parameter.grad is None for parameter in graph.parameters())


def test_trained_in_a_loop_of_ones_own_it_predicts_held_out_edges() -> None:
    """Of a world in which who helps whom follows from hidden traits; a fifth of the pairs is never shown."""
    truth, _, traits = transfer_world(24, seed=2)
    wanted = torch.tensor(truth, dtype=torch.float32)
    off = ~torch.eye(24, dtype=torch.bool)
    generator = torch.Generator().manual_seed(0)
    held = off & (torch.rand(24, 24, generator=generator) < 0.2)
    shown = off & ~held
    types = torch.where(wanted < 0, 6, torch.where(wanted < 0.2, 5, torch.where(wanted < 0.4, 3, 2)))
    nodes = torch.tensor((traits - traits.mean(0)) / traits.std(0), dtype=torch.float32)
    graph = TaskRelationshipGraph(task_embedding_dim=32, hidden_dim=64)
    optimizer = torch.optim.AdamW(graph.parameters(), lr=3e-3, weight_decay=0.1)
    for _ in range(150):
        seen = shown & (torch.rand(24, 24, generator=generator) < 0.6)  # no edge tells of itself
        _, transfer, _ = graph(nodes, wanted * seen, types)
        asked = shown & ~seen
        loss = functional.mse_loss(transfer[asked], wanted[asked])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        told = graph(nodes, wanted * shown, types)[1][held]
    errors = (told - wanted[held]).square().mean(), (wanted[shown].mean() - wanted[held]).square().mean()
    assert errors[0] < 0.6 * errors[1]


def test_its_state_is_torch_s_and_comes_back() -> None:
    graph, given = TaskRelationshipGraph(**SMALL), inputs()
    with torch.no_grad():
        for parameter in graph.parameters():
            parameter.add_(0.1)
    file = io.BytesIO()
    torch.save(graph.state_dict(), file)
    file.seek(0)
    other = TaskRelationshipGraph(**SMALL)
    assert not torch.equal(other(*given)[1], graph(*given)[1])
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other(*given)[1], graph(*given)[1])
    assert other.train().eval().to(torch.float64).network.enter.weight.dtype == torch.float64
    assert other(*(x.double() if x.is_floating_point() else x for x in given))[1].dtype == torch.float64
    with pytest.raises(DataError, match="does not fit its options"):
        TaskRelationshipGraph(**{**SMALL, "hidden_dim": 64}).load_state_dict(graph.state_dict())


def test_its_first_weights_do_not_depend_on_what_came_before() -> None:
    first = list(TaskRelationshipGraph(**SMALL).parameters())
    torch.randn(3)
    before = torch.get_rng_state()
    second = list(TaskRelationshipGraph(**SMALL).parameters())
    assert all(map(torch.equal, first, second))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (0, torch.zeros(9), "task_features must be floats"),
        (0, torch.zeros(9, 3, dtype=torch.long), r"task_features must be floats \[n, d\], got torch.int64"),
        (0, torch.full((9, 3), torch.nan), "task_features holds NaN"),
        (1, torch.zeros(9, 8), r"adjacency_matrix has shape \(9, 8\); 9 tasks need \(9, 9\)"),
        (1, torch.full((9, 9), torch.inf), "adjacency_matrix holds NaN or infinite"),
        (2, torch.zeros(9, 9), "relation_types must be integers, got torch.float32"),
        (2, torch.zeros(8, 9, dtype=torch.long), "relation_types has shape"),
        (2, torch.full((9, 9), 7), r"relation_types\[0, \d\] is 7; there are 7 types, 0 to 6"),
        (2, torch.full((9, 9), -1), r"is -1; there are 7 types"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(place: int, value: Tensor, message: str) -> None:
    given = list(inputs())
    given[place] = value
    with pytest.raises(DataError, match=message):
        TaskRelationshipGraph(**SMALL)(*given)


def taught() -> tuple[TaskRelationshipGraph, Tensor, np.ndarray, np.ndarray]:
    """(graph, embeddings, transfer, difficulty) of a graph whose network says what can be checked by hand."""
    graph = TaskRelationshipGraph(**SMALL)
    with seeded(0):
        embeddings = torch.randn(6, 32)
    with torch.no_grad():
        transfer = graph.network.transfer(embeddings).double().numpy()
        difficulty = graph.network.difficulty(embeddings).double().numpy()
    return graph, embeddings, transfer, difficulty


def test_an_order_of_rows_ends_with_the_target() -> None:
    graph, embeddings, transfer, difficulty = taught()
    gain = transfer[:, 2]
    others = [n for n in range(6) if n != 2]
    for strategy in (None, *CurriculumStrategy, *(each.value for each in CurriculumStrategy)):
        order = graph.generate_curriculum_order(embeddings, 2, strategy)
        assert order[-1] == 2
        assert sorted(order) == list(range(6))
        assert all(isinstance(row, int) for row in order)
    easiest = sorted(others, key=lambda n: difficulty[n])
    assert graph.generate_curriculum_order(embeddings, 2, "easy_to_hard") == [*easiest, 2]
    assert graph.generate_curriculum_order(embeddings, 2, "adaptive_difficulty") == [*easiest, 2]
    best = sorted(others, key=lambda n: gain[n])
    assert graph.generate_curriculum_order(embeddings, 2, "transfer_potential") == [*best, 2]
    assert graph.generate_curriculum_order(embeddings, 2, "transfer_potential", max_tasks=3) == [*best[-2:], 2]
    helping = [n for n in best if gain[n] > 0]
    assert graph.generate_curriculum_order(embeddings, 2, "transfer_potential", minimum=0.0) == [*helping, 2]
    unit = embeddings / embeddings.norm(dim=1, keepdim=True)
    near = (unit @ unit.T - 9 * torch.eye(6)).max(1).values.double().numpy()
    unsure = sorted(others, key=lambda n: gain[n] + 1 - near[n])
    assert graph.generate_curriculum_order(embeddings, 2, "uncertainty_driven") == [*unsure, 2]


def test_diverse_rows_are_chosen_one_by_one() -> None:
    graph, embeddings, transfer, _ = taught()
    found = graph.generate_curriculum_order(embeddings, 2, CurriculumStrategy.DIVERSE_SAMPLING)[:-1][::-1]
    alike = (transfer + transfer.T) / 2
    for number, chosen in enumerate(found):
        worth = {n: transfer[n, 2] - max((alike[n, t] for t in found[:number]), default=0.0) for n in found[number:]}
        assert worth[chosen] == max(worth.values())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda g, e: g.predict_transfer_efficiency(e[0], e[1][:5]), r"must have shape \[1, 32\], got \(5,\)"),
        (lambda g, e: g.predict_transfer_efficiency(e, e), r"must have shape \[1, 32\], got \(6, 32\)"),
        (lambda g, e: g.predict_transfer_efficiency(None, e[1]), "a tensor or a list of numbers; a NoneType is none"),
        (lambda g, e: g.predict_transfer_efficiency("a", e[1]), "two ids of tasks or two embeddings"),
        (lambda g, e: g.predict_transfer_efficiency(e[0] * torch.nan, e[1]), "NaN"),
        (lambda g, e: g.generate_curriculum_order(e, 6, None), "target_task_idx is 6; there are 6 tasks, 0 to 5"),
        (lambda g, e: g.generate_curriculum_order(e), "target_task_idx is None"),
        (lambda g, e: g.generate_curriculum_order(e, 0, "easy_to_herd"), "'easy_to_herd'.*did you mean 'easy_to_hard'"),
        (lambda g, e: g.generate_curriculum_order(e[:, :5], 0), r"must have shape \[n, 32\]"),
    ],
)
def test_what_cannot_be_asked(call: object, message: str) -> None:
    graph, embeddings, _, _ = taught()
    with pytest.raises(DataError, match=message):
        call(graph, embeddings)  # type: ignore[operator]


def test_an_order_by_id_follows_a_strategy_too() -> None:
    made, *_ = discovered()
    assert made.mean is not None
    assert made.std is not None
    goal = made.tasks.index("t03")
    gain, spread = made.mean[:, goal].tolist(), made.std[:, goal].tolist()
    helping = [n for n in range(16) if gain[n] > 0 and n != goal]
    for strategy, key in (
        ("transfer_potential", lambda n: gain[n]),
        (CurriculumStrategy.UNCERTAINTY_DRIVEN, lambda n: gain[n] + spread[n]),
        (None, lambda n: made.predict_difficulty(made.tasks[n])),
    ):
        expected = [made.tasks[n] for n in sorted(helping, key=key)]
        assert made.generate_curriculum_order("t03", strategy=strategy) == [*expected, "t03"]


def test_what_was_discovered_is_in_the_embeddings() -> None:
    """The network is taught what `discover` found: embeddings say what ids say, and stand in the descriptors."""
    truth, estimates, _ = transfer_world(12, seed=4)
    known = truth.copy()
    known[np.random.default_rng(0).random(known.shape) < 0.5] = np.nan
    portfolio = described(12)
    made = discoverer(steps=10)
    made.discover(portfolio, filled(portfolio, known, estimates))
    own = made.task_embeddings()
    by_id, by_embedding = [], []
    for source, target in itertools.permutations(portfolio, 2):
        by_id.append(made.predict_transfer_efficiency(source.task_id, target.task_id).mean)
        by_embedding.append(made.predict_transfer_efficiency(own[source.task_id], own[target.task_id]))
    assert {name: len(row) for name, row in own.items()} == dict.fromkeys(named(12), 32)
    assert np.sqrt(np.mean((np.array(by_id) - by_embedding) ** 2)) < 0.35 * np.std(by_id)
    other = discoverer()
    other.load_state_dict(made.state_dict())
    assert made.embeddings is not None
    assert torch.equal(other.embeddings, made.embeddings)
    ends = made.embeddings[0], made.embeddings[1]
    assert other.predict_transfer_efficiency(*ends) == made.predict_transfer_efficiency(*ends)
    again = described(12)
    other = discoverer(steps=10)
    assert other.task_embeddings() == {}
    other.discover(again, filled(again, known, estimates))
    assert other.task_embeddings() == own


def test_without_any_measurement_there_are_embeddings_too() -> None:
    portfolio = described(5)
    made = discoverer()
    made.discover(portfolio, filled(portfolio, np.full((5, 5), np.nan), np.zeros((1, 5, 5))))
    assert len(set(made.task_embeddings().values())) == 5


def test_the_relations_of_a_graph() -> None:
    portfolio = described(4)
    graph = graph_of(portfolio)
    for source, target, value, evidence in (
        ("t00", "t01", 0.5, Evidence.ESTIMATED),
        ("t00", "t01", -0.5, Evidence.MEASURED),
        ("t00", "t01", 0.9, Evidence.ESTIMATED),
        ("t02", "t03", 0.75, Evidence.ESTIMATED),
        ("t03", "t02", 0.8, Evidence.PREDICTED),
        ("t01", "t00", 0.1, Evidence.MEASURED),
    ):
        graph.add(TransferEdge(source=source, target=target, transfer_coefficient=value, evidence=evidence))
    adjacency, types = relations_of(list(portfolio), graph)
    expected = torch.zeros(4, 4)
    expected[0, 1], expected[2, 3], expected[1, 0] = -0.5, 0.75, 0.1
    assert torch.equal(adjacency, expected)
    assert (int(types[0, 1]), int(types[2, 3]), int(types[1, 0])) == (6, 1, 5)
    TaskRelationshipGraph(**SMALL)(torch.randn(4, 3), adjacency, types)
    assert named(4) == portfolio.ids
