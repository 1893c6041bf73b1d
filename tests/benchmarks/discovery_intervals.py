"""Do the intervals for whole new targets hold? python tests/benchmarks/discovery_intervals.py [--seeds 24] [family ...]

A fifth of the targets has nothing measured into it; of the others all pairs are known, or 40 %. For each family of
matrices: the share of pairs inside their 90 and 95 % intervals (1.645 and 1.96 standard errors), each target counting
once; the 90 % again by fifth, of the targets left out together (all seeds; lowest and highest of one matrix below) and
of the targets sorted by how wide their intervals are; the mean width and the interval score (Gneiting, Raftery 2007,
equation 43: width plus 2 / (1 - level) times what is missed, smaller is better) in standard deviations of the family.
Without networks, whose part in the spread is small, unless `--networks`.

Families: drawn (effects and a low rank; the same with tails of Student's t with 3 degrees of freedom; clusters; a known
rule with estimates; abilities, which was looked at once, after everything was chosen), parts of the two measured worlds
(`discovery_world`, which must be in the cache), and 40 models at a time of the text models with their nine data sets.

`exact`: intervals that are right by construction, from the scale of K known targets, where 65 % of the variance is
common to a target, as it is in these matrices: what luck alone does to a fifth.
"""

import argparse
import os
import time
from collections.abc import Callable

import attrs
import numpy as np
import torch
from discovery_world import world
from model_zoo import Zoo

from crosstask.learning.metrics import student_quantile
from crosstask_discovery.testing import transfer_world
from crosstask_gnn import Pairs, predict
from crosstask_gnn.features import task_features

Matrix = np.ndarray
EIGHT = ("logme", "leep", "nce", "hscore", "gbc", "cka", "knn", "ridge")
LEVELS = {0.9: 1.645, 0.95: 1.96}


@attrs.frozen
class Drawn:
    """`truth` [n, n] (NaN: no such pair), and what a predictor may look at beside measurements."""

    truth: Matrix
    estimates: Matrix | None = None
    nodes: Matrix | None = None


def effects(seed: int, heavy: bool = False, n: int = 24) -> Drawn:
    rng = np.random.default_rng([1 + heavy, seed])

    def draw(*shape: int) -> Matrix:
        return rng.standard_t(3, size=shape) / 3**0.5 if heavy else rng.normal(size=shape)

    left, right = rng.normal(size=(n, 3)), draw(n, 3)
    level = 0.05 + 0.12 * rng.normal(size=(n, 1)) + 0.15 * draw(1, n)
    return Drawn(np.tanh(level + 0.12 * left @ right.T / 3**0.5 + 0.06 * draw(n, n)))


def clusters(seed: int, n: int = 24) -> Drawn:
    rng = np.random.default_rng([3, seed])
    group = rng.integers(0, 4, n)
    block = 0.2 * rng.normal(size=(4, 4)) + 0.25 * np.eye(4)
    truth = block[group][:, group] + 0.08 * rng.normal(size=(n, 1)) + 0.08 * rng.normal(size=(1, n))
    truth = truth + 0.06 * rng.normal(size=(n, n))
    seen = [truth + 0.15 * rng.normal(size=(n, n)) for _ in range(3)]
    raw = [np.exp(0.4 * rng.normal(size=n)) * each + 2 * rng.normal(size=n) for each in seen]
    nodes = np.eye(4)[group] @ rng.normal(size=(4, 6)) + 0.5 * rng.normal(size=(n, 6))
    return Drawn(np.tanh(truth), np.stack(raw), nodes)


def rule(seed: int) -> Drawn:
    return Drawn(*transfer_world(20, seed + 100))


def abilities(seed: int, n: int = 25) -> Drawn:
    """Sources of an ability, targets of a skewed difficulty that tell more or less (an item response model), three
    times the noise for one target in seven; two estimators.
    """
    rng = np.random.default_rng([6, seed])
    ability, hard, tells = rng.normal(size=(n, 1)), rng.gamma(2, 0.7, size=n) - 1.4, rng.lognormal(0, 0.5, size=n)
    wild = 0.05 * np.where(rng.random(n) < 1 / 7, 3, 1)
    truth = 1 / (1 + np.exp(-tells * (ability - hard))) - 0.4 + wild * rng.normal(size=(n, n))
    raw = np.stack([truth + 0.3 * rng.normal(size=(n, n)) + rng.normal(size=n) for _ in range(2)])
    return Drawn(truth, raw, np.hstack([ability, tells[:, None], rng.normal(size=(n, 3))]))


def measured(name: str) -> Callable[[int], Drawn]:
    """The whole world first, then parts of it; each judged by another half of the seeds."""
    of = world(name)
    nodes = task_features(list(of.portfolio), of.portfolio)
    estimates = np.stack([of.estimates[each] for each in EIGHT])

    def part(seed: int) -> Drawn:
        rng = np.random.default_rng([4, seed])
        n = len(of.names)
        own = np.sort(rng.permutation(n)[: n if seed == 0 else round(0.8 * n)])
        truth = of.coefficients[..., rng.permutation(of.coefficients.shape[2])[:3]].mean(2)
        return Drawn(truth[np.ix_(own, own)], estimates[:, own][:, :, own], nodes[own])

    return part


def text_models(seed: int, models: int = 40) -> Drawn:
    zoo = Zoo()
    own = np.sort(np.random.default_rng([5, seed]).permutation(zoo.models)[:models])
    own = np.concatenate([own, np.arange(zoo.models, zoo.count)])
    estimates = np.stack([zoo.square(each) for each in zoo.estimates.values()])
    return Drawn(zoo.square(zoo.accuracy)[np.ix_(own, own)], estimates[:, own][:, :, own], zoo.features[own])


FAMILIES: dict[str, Callable[[], Callable[[int], Drawn]]] = {
    "effects and low rank": lambda: effects,
    "heavy tails": lambda: lambda seed: effects(seed, heavy=True),
    "clusters": lambda: clusters,
    "known rule": lambda: rule,
    "digits": lambda: measured("digits"),
    "omniglot": lambda: measured("omniglot"),
    "text models": lambda: text_models,
    "abilities": lambda: abilities,
}
FEW = {"digits": 4, "omniglot": 3, "text models": 3}
"""Parts that are looked at: they are of one matrix, every fifth of whose targets is left out in turn."""


@attrs.frozen
class Judged:
    """Of a new target: shares held by level, widths and scores by level, and where it comes from."""

    held: dict[float, float]
    width: dict[float, float]
    score: dict[float, float]
    matrix: tuple[int, float]
    fifth: int


def judge(made: Drawn, share: float, seed: int, fifths: list[int], networks: bool) -> list[Judged]:
    rng = np.random.default_rng([9, seed])
    n = len(made.truth)
    truth = np.where(np.eye(n, dtype=bool), np.nan, made.truth)
    groups = np.array_split(rng.permutation(np.flatnonzero(~np.isnan(truth).all(0))), 5)
    found = []
    for fifth in fifths:
        known = np.where(rng.random((n, n)) < share, truth, np.nan)
        known[:, groups[fifth]] = np.nan
        said = predict(Pairs.of(known, None, made.estimates, made.nodes), seed=seed, network=networks)
        for target in groups[fifth]:
            seen = ~np.isnan(truth[:, target])
            off = np.abs(said.mean - truth)[seen, target]
            half = {level: z * said.std[seen, target] for level, z in LEVELS.items()}
            score = {q: 2 * h + 2 / (1 - q) * np.maximum(off - h, 0) for q, h in half.items()}
            found.append(
                Judged(
                    {q: float((off < h).mean()) for q, h in half.items()},
                    {q: 2 * float(h.mean()) for q, h in half.items()},
                    {q: float(s.mean()) for q, s in score.items()},
                    (seed, share),
                    fifth,
                )
            )
    return found


def shown(values: list[float]) -> str:
    return " ".join(f"{value:.2f}" for value in values)


def row(name: str, found: list[Judged], unit: float) -> str:
    held = np.array([each.held[0.9] for each in found])
    order = np.argsort([each.width[0.9] for each in found], kind="stable")
    fifths = [float(held[[each.fifth == k for each in found]].mean()) for k in range(5)]
    single: dict[tuple[object, int], list[float]] = {}
    for each in found:
        single.setdefault((each.matrix, each.fifth), []).append(each.held[0.9])
    alone = [float(np.mean(values)) for values in single.values()]
    cells = [
        f"{held.mean():.3f}",
        f"{np.mean([each.held[0.95] for each in found]):.3f}",
        shown(fifths),
        f"{min(alone):.2f} to {max(alone):.2f}",
        shown([float(held[part].mean()) for part in np.array_split(order, 5)]),
        *(f"{np.mean([each.score[level] for each in found]) / unit:.2f}" for level in LEVELS),
        f"{np.mean([each.width[0.9] for each in found]) / unit:.2f}",
    ]
    return f"| {name} | {' | '.join(cells)} |"


def exact(known: int, draws: int = 4000, common: float = 0.65, sources: int = 24, new: int = 5) -> list[Judged]:
    """Normal errors of variance 1, `common` of it shared by a target's pairs; intervals by Student's distribution from
    the mean square of `known` targets.
    """
    rng = np.random.default_rng(known)

    def errors(targets: int) -> Matrix:
        shared = common**0.5 * rng.normal(size=(targets, 1))
        return shared + (1 - common) ** 0.5 * rng.normal(size=(targets, sources))

    found = []
    for number in range(draws):
        scale = float(np.sqrt((errors(known) ** 2).mean())) * student_quantile(known - 1) / 1.96
        off = np.abs(errors(new))
        for target in off:
            half = {level: z * scale for level, z in LEVELS.items()}
            held = {q: float((target < h).mean()) for q, h in half.items()}
            score = {q: 2 * h + 2 / (1 - q) * float(np.maximum(target - h, 0).mean()) for q, h in half.items()}
            found.append(Judged(held, {q: 2 * h for q, h in half.items()}, score, (number, 1.0), number % 5))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*", default=list(FAMILIES), help=", ".join(FAMILIES))
    parser.add_argument("--seeds", type=int, default=24, help="of the drawn families")
    parser.add_argument("--networks", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    started = time.process_time()
    print(f"load {os.getloadavg()}\n")
    head = ["90 %", "95 %", "90 % by fifth left out", "one matrix's fifth", "90 % by fifth, narrow to wide"]
    head += ["score 90 %", "95 %", "width 90 %"]
    print(f"| | {' | '.join(head)} |\n|---|{'---|' * len(head)}")
    for name in asked.families:
        make, found, truths = FAMILIES[name](), [], []
        for seed in range(FEW.get(name, asked.seeds)):
            made = make(seed)
            truths.append(float(np.nanstd(made.truth)))
            shares = (1.0, 0.4) if name in FEW else ((0.4, 1.0)[seed % 2],)
            fifths = list(range(5)) if name in FEW else [seed % 5]
            for share in shares:
                found += judge(made, share, seed, fifths, asked.networks)
        print(row(name, found, float(np.mean(truths))), flush=True)
    for known in (8, 19):
        print(row(f"exact, {known} known targets", exact(known), 1.0))
    print(f"\n{time.process_time() - started:.0f} CPU s")


if __name__ == "__main__":
    main()
