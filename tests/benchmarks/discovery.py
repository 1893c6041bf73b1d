"""How well sources are chosen without measuring every pair: python tests/benchmarks/discovery.py [digits] [omniglot]

    --repeats 20    random choices of the measured pairs per share
    --gnn 3         of these, how many with the network, which takes seconds each (0: none)
    --plot DIR      where to write discovery-<world>.svg (default: docs/images)

Tables in Markdown: every estimator; predictors with 10, 20 and 50 % of the pairs measured at random; whole targets
without a measurement; a shortlist that is measured; active choice. A world is measured once and cached
(`discovery_world`).

- `rho`: Spearman's correlation with the truth over all hidden pairs.
- `within`: inside each target, over its hidden pairs (four or more), averaged. This is the choice of a source.
- `top-1`: share of targets whose best source is chosen; `nregret`: (best - chosen) / (best - mean), 0 perfect, 1 a
  random source. The choice is among all sources: where a pair is known its value counts, elsewhere the prediction.

The truth is the mean of two repeats; targets on which they do not agree (Spearman's correlation inside the target below
0.3: no signal) count in `rho` only. A new predictor is a function of `Seen` in `PREDICTORS`; one with uncertainty, in
`BELIEFS`.
"""

import argparse
import functools
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import numpy as np
import torch
from discovery_world import World, world
from scipy.stats import spearmanr

from crosstask.graph import Evidence, TransferEdge, TransferGraph
from crosstask.learning.training import evaluate
from crosstask_active.decision import next_pairs
from crosstask_estimators.calibration import calibrated
from crosstask_gnn.additive import additive
from crosstask_gnn.choice import predict
from crosstask_gnn.features import task_features
from crosstask_gnn.mixed import mixed
from crosstask_gnn.pairs import Pairs
from crosstask_gnn.soft_impute import soft_impute
from crosstask_gnn.source_mean import source_mean

Matrix = np.ndarray
EIGHT = ("logme", "leep", "hscore", "transrate", "gbc", "cka", "knn", "ridge")
SHARES = (0.1, 0.2, 0.5)


@attrs.frozen
class Seen:
    """What a predictor gets: measured coefficients [n, n] (NaN: hidden), their standard errors, and the world, of which
    it may use all but the truth. `seed` for what it draws.
    """

    known: Matrix
    error: Matrix
    world: World
    seed: int = 0

    @functools.cached_property
    def pairs(self) -> Pairs:
        """The same for the predictors of crosstask-gnn."""
        return Pairs.of(self.known, self.error, np.stack(list(self.world.estimates.values())), nodes(self.world.name))

    @functools.cached_property
    def graph(self) -> TransferGraph:
        """The measured pairs as edges."""
        ids = self.world.names
        graph = TransferGraph(task.descriptor for task in self.world.portfolio)
        for i, j in np.argwhere(~np.isnan(self.known)):
            graph.add(
                TransferEdge(
                    source=ids[i],
                    target=ids[j],
                    transfer_coefficient=float(self.known[i, j]),
                    evidence=Evidence.MEASURED,
                    found_by="probe",
                )
            )
        return graph


_NODES: dict[str, Matrix] = {}


def nodes(name: str) -> Matrix:
    return _NODES[name]


# --- Predictors


def z_scores(values: Matrix) -> Matrix:
    """Inside each target."""
    return (values - np.nanmean(values, axis=0)) / np.maximum(np.nanstd(values, axis=0), 1e-12)


def mean_score(of: World, names: tuple[str, ...] = EIGHT) -> Matrix:
    return np.mean([z_scores(of.estimates[name]) for name in names], axis=0)


def by_calibration(seen: Seen, values: Matrix) -> tuple[Matrix, Matrix]:
    """(coefficients, standard errors) as the plugin estimators makes them of raw values and measured edges."""
    ids = seen.world.names
    raw = {(s, t): float(values[i, j]) for i, s in enumerate(ids) for j, t in enumerate(ids) if i != j}
    told = calibrated(raw, seen.graph, 0.15)
    mean, spread = np.full(values.shape, np.nan), np.full(values.shape, np.nan)
    for i, s in enumerate(ids):
        for j, t in enumerate(ids):
            if i != j:
                mean[i, j], spread[i, j] = told[s, t].coefficient, told[s, t].uncertainty
    return mean, spread


PREDICTORS: dict[str, Callable[[Seen], Matrix]] = {
    "source mean": lambda seen: source_mean(seen.pairs),
    "row and column means": lambda seen: additive(seen.pairs),
    "soft-impute": lambda seen: soft_impute(seen.pairs, seen.seed),
    "mean z, calibrated": lambda seen: by_calibration(seen, mean_score(seen.world))[0],
    "additive + estimates": lambda seen: mixed(seen.pairs).mean,
}
NETWORKS: dict[str, Callable[[Seen], Matrix]] = {
    "no message passing": lambda seen: _network(seen, "decoder without messages"),
    "gnn alone": lambda seen: _network(seen, "gnn"),
    "gnn, as the component answers": lambda seen: predict_once(seen).mean,
}
BELIEFS: dict[str, Callable[[Seen], tuple[Matrix, Matrix]]] = {
    "mean z, calibrated": lambda seen: by_calibration(seen, mean_score(seen.world)),
    "additive + estimates": lambda seen: _moments(mixed(seen.pairs)),
}
SLOW_BELIEFS: dict[str, Callable[[Seen], tuple[Matrix, Matrix]]] = {
    "gnn": lambda seen: _moments_of(predict_once(seen)),
}


@functools.lru_cache(maxsize=4)
def _predicted(key: bytes, name: str, seed: int):
    return predict(_CURRENT[key], seed=seed)


_CURRENT: dict[bytes, Pairs] = {}


def predict_once(seen: Seen):
    """The component's answer; asked for several times, computed once."""
    key = seen.known.tobytes()
    _CURRENT.clear()
    _CURRENT[key] = seen.pairs
    return _predicted(key, seen.world.name, seen.seed)


def _network(seen: Seen, name: str) -> Matrix:
    each = predict_once(seen).each
    return each.get(name, each["additive + estimates"])  # with fewer than 8 measurements there is no network


def _moments(fitted) -> tuple[Matrix, Matrix]:
    return fitted.mean, np.sqrt(fitted.variance)


def _moments_of(prediction) -> tuple[Matrix, Matrix]:
    return prediction.mean, prediction.std


# --- Metrics


def signal(of: World) -> np.ndarray:
    """[n]: the targets whose two repeats agree about their sources."""
    one, other = of.repeats
    return np.array([rank(one[:, j], other[:, j]) >= 0.3 for j in range(len(one))])


def rank(one: Matrix, other: Matrix) -> float:
    seen = ~np.isnan(one) & ~np.isnan(other)
    if seen.sum() < 3 or np.ptp(one[seen]) == 0 or np.ptp(other[seen]) == 0:
        return 0.0
    return float(spearmanr(one[seen], other[seen])[0])


def scores(predicted: Matrix, known: Matrix, of: World, truth: Matrix | None = None) -> dict[str, float]:
    """The four figures of a prediction; see the top of the file."""
    truth = of.truth if truth is None else truth
    hidden = np.isnan(known) & ~np.isnan(truth)
    belief = np.where(np.isnan(known), predicted, known)
    np.fill_diagonal(belief, np.nan)
    targets = np.flatnonzero(signal(of))
    columns = [j for j in targets if hidden[:, j].sum() >= 4]
    within = [rank(predicted[hidden[:, j], j], truth[hidden[:, j], j]) for j in columns]
    hits, regrets = zip(*(choice(belief[:, j], truth[:, j]) for j in targets), strict=True)
    found = {"rho": rank(predicted[hidden], truth[hidden]) if hidden.any() else np.nan}
    found["within"] = statistics.fmean(within) if within else np.nan
    return found | {"top-1": statistics.fmean(hits), "nregret": statistics.fmean(regrets)}


def choice(belief: Matrix, truth: Matrix) -> tuple[float, float]:
    """(whether the best source is chosen, normalised regret) of one target."""
    best, chosen = np.nanmax(truth), truth[np.nanargmax(belief)]
    return float(chosen == best), float((best - chosen) / (best - np.nanmean(truth)))


def mean_of(rows: list[dict[str, float]]) -> dict[str, float]:
    return {name: float(np.nanmean([row[name] for row in rows])) for name in rows[0]}


# --- What is hidden


def random_masks(n: int, share: float, repeats: int) -> Iterator[Matrix]:
    """[n, n] bool, true for measured: so many pairs, at random."""
    places = np.argwhere(~np.eye(n, dtype=bool))
    for seed in range(repeats):
        mask = np.zeros((n, n), dtype=bool)
        chosen = np.random.default_rng(seed).permutation(len(places))[: round(share * len(places))]
        mask[tuple(places[chosen].T)] = True
        yield mask


def seen_by(of: World, mask: Matrix, values: Matrix | None = None, seed: int = 0) -> Seen:
    errors = of.coefficients.std(axis=2, ddof=1) / np.sqrt(of.coefficients.shape[2])
    values = of.truth if values is None else values
    return Seen(np.where(mask, values, np.nan), np.where(mask, errors, np.nan), of, seed)


def active(
    of: World,
    belief: Callable[[Seen], tuple[Matrix, Matrix]],
    share: float,
    rounds: int,
    values: Matrix | None = None,
) -> Seen:
    """Measure a share of the pairs in rounds, each chosen by what the rounds before it told."""
    n = len(of.names)
    mask, total = np.zeros((n, n), dtype=bool), round(share * n * (n - 1))
    for number in range(rounds):
        seen = seen_by(of, mask, values)
        mean, spread = belief(seen)
        mean, spread = np.where(mask, seen.known, mean), np.where(mask, np.nan_to_num(seen.error), spread)
        np.fill_diagonal(mean, np.nan)
        noise = float(np.median(seen.error[mask])) if mask.any() else 0.05
        count = -(-(total - int(mask.sum())) // (rounds - number))
        for pair in next_pairs(mean, spread, ~mask & ~np.eye(n, dtype=bool), count, max(noise, 1e-3)):
            mask[pair] = True
    return seen_by(of, mask, values)


def shortlist(of: World, order: Matrix, size: int, measured: Matrix, judged: Matrix) -> dict[str, float]:
    """The best of the first `size` sources of each target by `order`, measured, judged by the truth."""
    hits, regrets, held = [], [], []
    for j in np.flatnonzero(signal(of)):
        ranked = np.argsort(np.where(np.isnan(order[:, j]), -np.inf, order[:, j]))[::-1][:size]
        belief = np.full(len(order), np.nan)
        belief[ranked] = measured[ranked, j]
        hit, regret = choice(belief, judged[:, j])
        hits.append(hit)
        regrets.append(regret)
        held.append(float(np.nanargmax(judged[:, j]) in ranked))
    n = len(of.names)
    cost = size / (n - 1) + of.seconds["estimate"] / of.seconds["measure"]
    return {
        "best in list": statistics.fmean(held),
        "top-1": statistics.fmean(hits),
        "nregret": statistics.fmean(regrets),
        "cost": cost,
    }


# --- Tables


def table(title: str, head: list[str], rows: dict[str, list[str]]) -> None:
    print(f"\n**{title}**\n\n| | {' | '.join(head)} |\n|---|{'---|' * len(head)}")
    for name, cells in rows.items():
        print(f"| {name} | {' | '.join(cells)} |")


def shown(found: dict[str, float]) -> str:
    return " ".join("  - " if np.isnan(value) else f"{value:.2f}" for value in found.values())


def estimators_table(of: World) -> None:
    nothing = np.full(of.truth.shape, np.nan)
    one, other = of.repeats
    rows = {name: [shown(scores(values, nothing, of))] for name, values in of.estimates.items()}
    rows["**mean z of eight**"] = [shown(scores(mean_score(of), nothing, of))]
    rows["mean z of all ten"] = [shown(scores(mean_score(of, tuple(of.estimates)), nothing, of))]
    accuracy = np.array([evaluate(task.model, task, "validation") for task in of.portfolio if task.model is not None])
    rows["the source's own accuracy"] = [shown(scores(np.repeat(accuracy[:, None], len(accuracy), 1), nothing, of))]
    rows["one repeat, judged by the other"] = [shown(scores(one, nothing, of, other))]
    table("Estimators alone: rho, within, top-1, nregret", ["nothing measured"], rows)


def random_table(of: World, repeats: int, networks: int) -> dict[str, list[dict[str, float]]]:
    found: dict[str, list[dict[str, float]]] = {}
    n = len(of.names)
    for name, predictor in (PREDICTORS | (NETWORKS if networks else {})).items():
        count = networks if name in NETWORKS else repeats
        found[name] = [
            mean_of(
                [
                    scores(predictor(seen), seen.known, of)
                    for seen in (seen_by(of, m) for m in random_masks(n, s, count))
                ]
            )
            for s in SHARES
        ]
    rows = {name: [shown(each) for each in cells] for name, cells in found.items()}
    table("Random pairs measured: rho, within, top-1, nregret", [f"{s:.0%}" for s in SHARES], rows)
    return found


def cold_table(of: World, networks: bool) -> None:
    """Each target in turn without a measurement into it, the rest known."""
    rows: dict[str, list[str]] = {}
    n = len(of.names)
    for name, predictor in (PREDICTORS | (NETWORKS if networks else {})).items():
        if name == "row and column means":
            continue  # the same as the mean of the sources here
        predicted = np.full((n, n), np.nan)
        for j in range(n):
            mask = ~np.eye(n, dtype=bool)
            mask[:, j] = False
            predicted[:, j] = predictor(seen_by(of, mask))[:, j]
        rows[name] = [shown(scores(predicted, np.full((n, n), np.nan), of))]
    table("Whole targets hidden: rho, within, top-1, nregret", ["one at a time"], rows)


def shortlist_table(of: World) -> None:
    nothing = seen_by(of, np.zeros_like(of.truth, dtype=bool))
    one, other = of.repeats
    order = mean_score(of)
    head = ["best in list", "top-1", "nregret", "cost of measuring all"]
    rows = {}
    for size in (1, 3, 5):
        rows[f"mean z, shortlist of {size}"] = [
            f"{v:.2f}" for v in shortlist(of, order, size, of.truth, of.truth).values()
        ]
    rows["the same, 3, measured once, judged by the other repeat"] = [
        f"{v:.2f}" for v in shortlist(of, order, 3, one, other).values()
    ]
    rng = np.random.default_rng(0)
    chance = [shortlist(of, rng.random(order.shape), 3, of.truth, of.truth) for _ in range(50)]
    rows["random 3"] = [f"{v:.2f}" for v in mean_of(chance).values()]
    everything = scores(one, nothing.known, of, other)
    rows["all measured once, judged by the other repeat"] = [
        "1.00",
        f"{everything['top-1']:.2f}",
        f"{everything['nregret']:.2f}",
        "1.00",
    ]
    table("A shortlist that is measured", head, rows)


def active_table(of: World, repeats: int, networks: int) -> dict[str, list[dict[str, float]]]:
    shares = (0.1, 0.2, 0.3)
    found: dict[str, list[dict[str, float]]] = {}
    n = len(of.names)
    for name, belief in (BELIEFS | (SLOW_BELIEFS if networks else {})).items():
        count = networks if name in SLOW_BELIEFS else repeats
        found[f"{name}, random"] = [
            mean_of(
                [
                    scores(belief(seen)[0], seen.known, of)
                    for seen in (seen_by(of, m) for m in random_masks(n, s, count))
                ]
            )
            for s in shares
        ]
        ends = [active(of, belief, s, 5) for s in shares]
        found[f"**{name}, active**"] = [scores(belief(seen)[0], seen.known, of) for seen in ends]
    rows = {name: [shown(each) for each in cells] for name, cells in found.items()}
    table("Pairs chosen by `active` in 5 rounds: rho, within, top-1, nregret", [f"{s:.0%}" for s in shares], rows)
    return found


def plot(path: Path, title: str, shares: tuple[float, ...], lines: dict[str, list[float]]) -> None:
    """Normalised regret over the share of the pairs measured, as SVG."""
    colours = ("#888888", "#bbbb55", "#4477aa", "#66ccee", "#228833", "#aa3377", "#ee6677", "#000000")
    width, height, left, top, right = 640, 360, 60, 40, 220
    low, high = 0.0, max(max(v) for v in lines.values()) * 1.05

    def x(share: float) -> float:
        return left + (width - left - right) * (share - shares[0]) / (shares[-1] - shares[0])

    def y(value: float) -> float:
        return top + (height - top - 50) * (1 - (value - low) / (high - low))

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif"',
        ' font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/><text x="{left}" y="22" font-size="14">{title}</text>',
    ]
    for tick in np.arange(0, high, 0.1):
        parts.append(f'<line x1="{left}" x2="{width - right}" y1="{y(tick):.0f}" y2="{y(tick):.0f}" stroke="#ddd"/>')
        parts.append(f'<text x="{left - 6}" y="{y(tick) + 4:.0f}" text-anchor="end">{tick:.1f}</text>')
    parts += [f'<text x="{x(s):.0f}" y="{height - 30}" text-anchor="middle">{s:.0%}</text>' for s in shares]
    parts.append(f'<text x="{left}" y="{height - 10}">share of the pairs measured; lower is better</text>')
    for number, (name, values) in enumerate(lines.items()):
        colour = colours[number % len(colours)]
        points = " ".join(f"{x(s):.0f},{y(v):.1f}" for s, v in zip(shares, values, strict=True))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(f'<text x="{width - right + 12}" y="{top + 14 + 18 * number}" fill="{colour}">{name}</text>')
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([*parts, "</svg>\n"]), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("worlds", nargs="*", default=["digits", "omniglot"])
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--gnn", type=int, default=3)
    parser.add_argument("--plot", type=Path, default=Path(__file__).parents[2] / "docs" / "images")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.worlds:
        start = time.perf_counter()
        of = world(name)
        _NODES[name] = task_features(list(of.portfolio), of.portfolio)
        agreed = signal(of)
        repeat = [rank(of.repeats[0][:, j], of.repeats[1][:, j]) for j in np.flatnonzero(agreed)]
        print(f"\n## {name}: {len(of.names)} tasks, {len(of.names) * (len(of.names) - 1)} pairs")
        print(f"\nTargets without signal: {[of.names[j] for j in np.flatnonzero(~agreed)]}")
        print(f"\nRepeat correlation within the others (the ceiling): {statistics.fmean(repeat):.2f}")
        print(f"\nMeasured: {of.seconds['measure']:.2f} CPU s per pair; estimated: {of.seconds['estimate']:.3f}")
        print(f"\nMean coefficient {np.nanmean(of.truth):+.3f}, share above 0 {np.nanmean(of.truth > 0):.2f}")
        estimators_table(of)
        random = random_table(of, options.repeats, options.gnn)
        cold_table(of, options.gnn > 0)
        shortlist_table(of)
        active_table(of, options.repeats, options.gnn)
        plot(
            options.plot / f"discovery-{name}.svg",
            f"{name}: normalised regret of the chosen source",
            SHARES,
            {predictor: [cell["nregret"] for cell in cells] for predictor, cells in random.items()},
        )
        print(f"\n({time.perf_counter() - start:.0f} s)")


if __name__ == "__main__":
    main()
