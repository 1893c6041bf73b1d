"""The networks against the simple predictors, what is chosen, and how sure it is."""

from __future__ import annotations

import functools

import attrs
import numpy as np
import pytest
import torch

from crosstask_discovery.testing import part_of, rank_correlation, transfer_world
from crosstask_gnn import Pairs, Prediction, Shape, predict
from crosstask_gnn.choice import COMPLETED, DECODER, MIXED, NETWORK

SMALL = Shape(members=1, steps=50, width=48, hidden=48)


@functools.cache
def found(share: float, seed: int = 0) -> tuple[Prediction, np.ndarray, np.ndarray]:
    """(prediction, truth, what was known) of 22 tasks."""
    truth, estimates, nodes = transfer_world(22, seed=seed)
    known = part_of(truth, share)
    return predict(Pairs.of(known, None, estimates, nodes), shape=SMALL), truth, known


def off(guess: np.ndarray, truth: np.ndarray, known: np.ndarray) -> float:
    hidden = np.isnan(known) & ~np.eye(len(truth), dtype=bool)
    return float(np.sqrt(np.square(guess - truth)[hidden].mean()))


def errors(share: float, seeds: int) -> dict[str, float]:
    """Root mean square error of every predictor and of the `answer`, averaged over worlds."""
    rows = []
    for seed in range(seeds):
        made, truth, known = found(share, seed)
        rows.append({name: off(guess, truth, known) for name, guess in {**made.each, "answer": made.mean}.items()})
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def test_the_networks_beat_every_simple_predictor_and_messages_help() -> None:
    told = errors(0.3, 2)
    networks = (NETWORK, DECODER, "answer")
    assert told[NETWORK] < min(error for name, error in told.items() if name not in networks)
    simple = min(error for name, error in told.items() if name not in (*networks, COMPLETED))
    assert told[NETWORK] < 0.97 * simple, "the completed model is what they start from"
    assert told[NETWORK] < told[DECODER]
    few = errors(0.1, 3)
    assert few[NETWORK] < few[DECODER]
    made, truth, known = found(0.3)
    assert rank_correlation(made.each[NETWORK], truth, known) > rank_correlation(made.each["mean z"], truth, known)
    assert made.warm.weights.keys() <= {NETWORK, DECODER}, "cross-validation hardly tells these two apart"


def test_the_answer_is_no_worse_than_the_best_simple_one() -> None:
    told = errors(0.1, 3)
    assert told["answer"] < 1.03 * min(told.values())
    assert told["answer"] < 0.8 * told["soft-impute"]


@pytest.mark.parametrize(("share", "seeds"), [(0.1, 3), (0.3, 2)])
def test_intervals_hold_what_they_say(share: float, seeds: int) -> None:
    inside, widest, all_ = [], [], []
    for seed in range(seeds):
        made, truth, known = found(share, seed)
        hidden = np.isnan(known) & ~np.eye(22, dtype=bool)
        wrong = np.abs(made.mean - truth)[hidden]
        inside.append((wrong < 1.96 * made.std[hidden]).mean())
        widest.append(wrong[np.argsort(made.std[hidden])[-hidden.sum() // 4 :]].mean())
        all_.append(wrong.mean())
    assert 0.89 < np.mean(inside) < 0.99, inside
    assert np.mean(widest) > np.mean(all_), "where it is less sure it is further off"


def test_targets_with_nothing_measured_are_chosen_for_on_whole_targets() -> None:
    truth, estimates, nodes = transfer_world(20, seed=1)
    known = part_of(truth, 0.4)
    known[:, :6] = np.nan
    made = predict(Pairs.of(known, None, estimates, nodes), shape=attrs.evolve(SMALL, steps=25), folds=3)
    assert made.cold is not None
    cold = np.where(np.arange(20) < 6, np.nan, 0.0) + np.zeros((20, 20))
    assert rank_correlation(made.mean, truth, cold) > 0.5
    hidden = (np.arange(20) < 6) & ~np.eye(20, dtype=bool)
    assert made.std[hidden].mean() > made.std[~hidden].mean(), "what nothing was measured of is less sure"


def test_intervals_of_cold_targets_hold_what_they_say() -> None:
    """Over many worlds: in one, six targets may all be harder than those that were seen."""
    inside = []
    hidden = (np.arange(16) < 5) & ~np.eye(16, dtype=bool)
    for seed in range(6):
        truth, estimates, nodes = transfer_world(16, seed=seed)
        known = part_of(truth, 0.4, seed)
        known[:, :5] = np.nan
        made = predict(Pairs.of(known, None, estimates, nodes), folds=3, network=False)
        inside.append((np.abs(made.mean - truth) < 1.96 * made.std)[hidden].mean())
    assert 0.88 < np.mean(inside) < 0.995, inside


def test_noise_is_left_to_a_simple_predictor() -> None:
    """Nothing to learn: what is predicted stays near the mean, and the networks get no vote of their own."""
    rng = np.random.default_rng(0)
    truth = 0.1 * rng.normal(size=(16, 16))
    known = part_of(truth, 0.4)
    made = predict(Pairs.of(known, None, rng.normal(size=(4, 16, 16))), shape=SMALL)
    assert off(made.mean, truth, known) < 1.1 * truth.std()
    assert made.warm.weights.get(NETWORK, 0.0) <= 0.5


def test_a_low_rank_matrix_without_estimates_goes_to_completion() -> None:
    rng = np.random.default_rng(3)
    truth = 0.3 * rng.normal(size=(30, 2)) @ rng.normal(size=(2, 30))
    known = part_of(truth, 0.5)
    made = predict(Pairs.of(known), folds=3, network=False)
    assert made.warm.weights.keys() <= {"low-rank", "low-rank + estimates"}
    assert off(made.mean, truth, known) < 0.5 * off(made.each[MIXED], truth, known)


def test_an_asked_pair_is_never_seen() -> None:
    """What is left out has no way in: another value there changes none of the predictions without it."""
    truth, estimates, nodes = transfer_world(12, seed=4)
    known = part_of(truth, 0.5)
    pairs = [Pairs.of(known, None, estimates, nodes)]
    place = tuple(np.argwhere(pairs[0].measured)[3])
    other = known.copy()
    other[place] += 0.7
    pairs.append(Pairs.of(other, None, estimates, nodes))
    from crosstask_gnn.mixed import Design, mixed
    from crosstask_gnn.training import Base, Labels, forecast, lessons

    hidden = np.zeros((12, 12), dtype=bool)
    hidden[place] = True
    blind = []
    for each in pairs:
        design = Design.of(each)
        rest = each.without(hidden)
        fit = mixed(rest, design=design)
        shape = Shape(members=1, steps=5, width=16, hidden=16)
        library = [lessons(rest, fit, design, np.random.default_rng(0), complete=True)]
        whole = Base.completed(each, mixed(each, design=design))
        made = forecast(each, [hidden], [Base.completed(rest, fit)], whole, library, design, Labels.none(12), shape, 0)
        blind.append(made.blind)
    assert np.array_equal(*blind)


def test_a_whole_row_is_answered_as_its_pairs_are() -> None:
    from crosstask_gnn.network import Networks, Sight

    generator = torch.Generator().manual_seed(0)
    made = Networks(3, 6, 4, 5, width=16, hidden=16, relations=2, layers=1, generator=generator).eval()
    with torch.no_grad():
        for weight in made.parameters():
            weight.normal_(generator=generator)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    sight = Sight(drawn(6, 4), drawn(5, 6, 6), drawn(3, 6, 6), (drawn(3, 6, 6) > 0).float(), drawn(3, 6, 6))
    with torch.no_grad():
        h = made.tasks(sight)
        rows = torch.tensor([4, 1])
        source, target = torch.cartesian_prod(rows, torch.arange(6)).T
        added, logits = made.pairs(h, sight, source[None], target[None])
        wide, types = made.grid(h, sight, rows)
    assert torch.allclose(wide.reshape(3, -1), added, atol=1e-4)
    assert torch.allclose(types.reshape(3, 12, 7), logits, atol=1e-4)


def test_too_few_measurements_are_said() -> None:
    truth, estimates, _ = transfer_world(10, seed=5)
    made = predict(Pairs.of(part_of(truth, 0.05), None, estimates))
    assert "only 4 pairs were measured" in made.note
    assert made.fallback
    assert np.isfinite(made.mean).all()
    assert (made.std > 0).all()
