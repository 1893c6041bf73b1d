"""The three networks against their papers' formulas, and what must not go wrong."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import NearestCentroid
from torch import Tensor, nn
from torch.nn import functional

from crosstask.descriptors import TensorData
from crosstask.errors import DataError, OptionError, RunError
from crosstask.learning.episodes import Episodes
from crosstask_fewshot import FewShotLearner, MatchingNetwork, PrototypicalNetwork, RelationNetwork
from crosstask_meta.stage import FewShot
from crosstask_meta.testing import new_digits, some_episodes

EVERY = (PrototypicalNetwork, MatchingNetwork, RelationNetwork)
each = pytest.mark.parametrize("make", EVERY, ids=lambda kind: kind.__name__)


def scores(learner: Any, episodes: Episodes, encoder: nn.Module | None = None) -> Tensor:
    model = learner.prepare(encoder or nn.Identity(), episodes)
    found: Tensor = learner.predict(model, episodes, None)
    return found


def test_prototypes_by_hand() -> None:
    """Classes at 0 and 4, a query at 1: distances 1 and 3, scores log_softmax(-1, -9), not -log_softmax(1, 3)."""
    support, labels = torch.tensor([[[-1.0], [4.0], [1.0]]]), torch.tensor([[0, 1, 0]])
    episodes = Episodes(support, labels, torch.tensor([[[1.0]]]), torch.tensor([[0]]), 2)
    found = scores(PrototypicalNetwork(), episodes)[0, 0]
    assert torch.allclose(found, torch.tensor([-1.0, -9.0]).log_softmax(0))


@given(st.integers(0, 10_000), st.integers(2, 5), st.integers(2, 4))
@settings(max_examples=20, deadline=None)
def test_prototypes_are_scikit_learns_nearest_centroids(seed: int, ways: int, shots: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    support = torch.randn(ways * shots, 4, generator=generator)
    labels = torch.arange(ways).repeat(shots)
    query = torch.randn(20, 4, generator=generator)
    adapted = PrototypicalNetwork().adapt(nn.Identity(), TensorData(support, labels), None)
    wanted = NearestCentroid().fit(support.numpy(), labels.numpy()).predict(query.numpy())
    assert adapted(query).argmax(1).tolist() == wanted.tolist()


def test_scores_are_log_probabilities() -> None:
    for learner in (PrototypicalNetwork(), PrototypicalNetwork(distance="cosine"), MatchingNetwork()):
        found = scores(learner, some_episodes())
        assert torch.allclose(found.exp().sum(2), torch.ones(4, 9), atol=1e-5)


def test_cosine_prototypes_take_no_notice_of_length() -> None:
    episodes = some_episodes()
    longer = Episodes(
        episodes.support_inputs, episodes.support_targets, 7 * episodes.query_inputs, episodes.query_targets, 3
    )
    learner = PrototypicalNetwork(distance="cosine", scale=5.0)
    assert torch.allclose(scores(learner, episodes), scores(learner, longer), atol=1e-5)


def test_matching_is_a_vote_by_cosine() -> None:
    """Equations 1 and 2, one query after the other; classes with unequal numbers of samples."""
    generator = torch.Generator().manual_seed(0)
    support, query = torch.randn(5, 4, generator=generator), torch.randn(6, 4, generator=generator)
    labels = torch.tensor([0, 2, 1, 2, 2])
    found = MatchingNetwork(scale=3.0).adapt(nn.Identity(), TensorData(support, labels), None)(query)
    for number, own in enumerate(query):
        attention = torch.stack([3 * functional.cosine_similarity(own, s, dim=0) for s in support]).softmax(0)
        votes = torch.stack([attention[labels == c].sum() for c in range(3)])
        assert torch.allclose(found[number].exp(), votes, atol=1e-5)


@pytest.mark.parametrize("shape", [(6,), (3, 5, 4), (2, 1, 1)], ids=str)
def test_relations_are_those_of_one_pair_after_the_other(shape: tuple[int, ...]) -> None:
    episodes = some_episodes(2, shape=shape, queries=2)
    learner = RelationNetwork()
    model = learner.prepare(nn.Identity(), episodes).eval()
    found = learner.predict(model, episodes, None)
    for b in range(2):
        for q, query in enumerate(episodes.query_inputs[b]):
            for c in range(3):
                own = episodes.support_inputs[b][episodes.support_targets[b] == c].sum(0)
                alone = model.relation(torch.cat([own, query])[None])
                assert torch.allclose(found[b, q, c], alone.flatten()[0], atol=1e-5)


def test_relations_learn_one_and_zero_by_least_squares() -> None:
    found = torch.tensor([[[2.0, -1.0, 0.0]]])
    wanted = (torch.sigmoid(found[0, 0]) - torch.tensor([0.0, 1.0, 0.0])).square().mean()
    assert torch.allclose(RelationNetwork()._losses(found, torch.tensor([[1]])), wanted[None])


def test_relations_need_features_that_they_know() -> None:
    episodes = some_episodes()
    with pytest.raises(DataError, match=r"features must have shape \[F\] or \[C, H, W\], got \[2, 3\]"):
        RelationNetwork().prepare(nn.Unflatten(1, (2, 3)), episodes)
    with pytest.raises(DataError, match="no relation network yet; give it to `prepare` first"):
        RelationNetwork().predict(nn.Identity(), episodes, None)


@each
def test_any_labels_and_one_class_and_none(make: Any) -> None:
    episodes, learner = some_episodes(), make()
    support, query = episodes.support(0), episodes.query_inputs[0]
    model = learner.prepare(nn.Linear(6, 5), episodes)
    usual = learner.adapt(model, support, None)(query)
    strange = learner.adapt(model, TensorData(support.inputs, torch.tensor([-3, 8, 77])[support.targets]), None)(query)
    assert torch.equal(usual, strange)
    with pytest.raises(DataError, match=r"one class, 5 \(6 samples\): there is nothing to tell apart"):
        learner.adapt(model, TensorData(support.inputs, torch.full((6,), 5)), None)
    with pytest.raises(DataError, match="cannot be learned by comparing features; use maml or reptile"):
        learner.adapt(model, TensorData(support.inputs, torch.rand(6)), None)


@each
def test_losses_that_are_not_finite_are_reported(make: Any) -> None:
    episodes, learner = some_episodes(), make()
    model = learner.prepare(nn.Linear(6, 5), episodes)
    broken = episodes.query_inputs.clone()
    broken[2, 0] = math.nan
    with pytest.raises(RunError, match="the loss of episode 2 is nan: inputs or weights are not finite"):
        learner.meta_step(
            model,
            Episodes(episodes.support_inputs, episodes.support_targets, broken, episodes.query_targets, 3),
            learner.optimizer(model),
        )


@each
def test_it_learns_to_tell_new_digits_apart(make: Any) -> None:
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(128, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 32))
    before, after = new_digits(make(lr_meta=0.003), encoder)
    assert after > before + 0.1


# FewShotLearner


@pytest.mark.parametrize("algorithm", ["prototypical", {"use": "matching", "scale": 5.0}, RelationNetwork()], ids=str)
def test_few_shot_learner(algorithm: Any) -> None:
    """Labels come back as they were given; training lowers the loss; whole batches at once work too."""
    torch.manual_seed(0)
    learner = FewShotLearner(algorithm, nn.Linear(2, 8), seed=3)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 2, generator=generator)
    y = torch.where(x[:, 0] > 0, 900, -5)
    both = [n for label in (900, -5) for n in (y == label).nonzero().flatten()[:5].tolist()]
    rest = [n for n in range(40) if n not in both]
    losses = [learner.train_episode(x[both], y[both], x[rest], y[rest])["loss"] for _ in range(60)]
    assert losses[-1] < losses[0]
    answers = learner.predict(x[both], y[both], x[rest])
    assert set(answers.tolist()) <= {900, -5}
    assert float((answers == y[rest]).float().mean()) > 0.7
    assert learner.train_batch([(x[both], y[both], x[rest], y[rest])] * 2)["accuracy"] > 0.7
    assert learner.scores(x[both].numpy(), y[both].tolist(), x[rest].numpy()).shape == (30, 2)


def test_few_shot_learner_takes_other_meta_learners_too() -> None:
    pytest.importorskip("crosstask_maml")
    learner = FewShotLearner({"use": "maml", "lr_inner": 0.5}, nn.Linear(2, 2))
    x, y = torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), torch.tensor([4, 2])
    assert learner.predict(x, y, x, num_steps=50).tolist() == [4, 2]


def test_few_shot_learner_says_what_is_wrong() -> None:
    with pytest.raises(Exception, match="prototypical"):
        FewShotLearner("prototypcal", nn.Identity())
    with pytest.raises(OptionError, match="euclidean"):
        FewShotLearner({"use": "prototypical", "distance": "euclid"}, nn.Identity())
    learner = FewShotLearner("prototypical", nn.Identity())
    x, y = torch.randn(4, 2), torch.tensor([0, 0, 1, 1])
    with pytest.raises(DataError, match=r"task 0 of the batch: query labels \[7\] are not among the classes"):
        learner.train_episode(x, y, x, torch.tensor([0, 1, 7, 1]))
    with pytest.raises(DataError, match="one class, 1"):
        learner.predict(x, torch.ones(4, dtype=torch.long), x)


def test_the_few_shot_stage_takes_prototypes_unless_told_otherwise() -> None:
    assert isinstance(FewShot().made_of("learner")[0], PrototypicalNetwork)
