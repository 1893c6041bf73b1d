"""How well sources are chosen without measuring every pair: python tests/benchmarks/discovery.py [digits] [omniglot]

    --repeats 5     random choices of the measured pairs per share, for predictors that take no time
    --gnn 5         the same for those that take seconds (0: none); `--active 3` runs of active choice by them
    --plot          draw docs/images/discovery.png of what was computed before, for both worlds, and stop

Tables in Markdown: every estimator; predictors with 10, 20 and 50 % of the pairs measured at random; whole targets
without a measurement; active choice; a shortlist that is measured; what it all costs. A world is measured once and
cached (`discovery_world`); so is every answer that takes seconds, under a digest of the code that gave it, so that a
call that was stopped goes on.

- `rho`: Spearman's correlation with the truth over all hidden pairs.
- `within`: inside each target, over its hidden pairs (four or more), averaged. This is the choice of a source.
- `top-1`: share of targets whose best source is chosen; `nregret`: (best - chosen) / (best - mean), 0 perfect, 1 a
  random source. The choice is among all sources: where a pair is known its value counts, elsewhere the prediction.
- `rms`: root mean square error over the hidden pairs.

The truth is the mean of all seeds; targets on which its two halves do not agree (Spearman's correlation inside the
target below 0.3: no signal) count in `rho` only. A new predictor is a function of `Seen` in `PREDICTORS`; one with
uncertainty, in `BELIEFS`.
"""

import argparse
import functools
import hashlib
import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch
from discovery_world import CACHE, World, world
from scipy.stats import spearmanr

from crosstask.graph import Evidence, TransferEdge, TransferGraph
from crosstask.learning.metrics import student_quantile
from crosstask.learning.training import evaluate
from crosstask_active.decision import next_pairs
from crosstask_discovery.calibration import calibrated
from crosstask_gnn import choice as gnn_code
from crosstask_gnn.additive import additive
from crosstask_gnn.choice import predict
from crosstask_gnn.features import task_features
from crosstask_gnn.mixed import mixed
from crosstask_gnn.pairs import Pairs
from crosstask_gnn.soft_impute import soft_impute
from crosstask_gnn.source_mean import source_mean

Matrix = np.ndarray
EIGHT = ("logme", "leep", "nce", "hscore", "gbc", "cka", "knn", "ridge")  # as `mean_z` has them
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
        """The same for the predictors of crosstask-gnn, with the estimates that `mean_z` leaves on the edges."""
        estimates = np.stack([self.world.estimates[name] for name in EIGHT])
        return Pairs.of(self.known, self.error, estimates, nodes(self.world.name))

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
BELIEFS: dict[str, Callable[[Seen], tuple[Matrix, Matrix]]] = {
    "mean z, calibrated": lambda seen: by_calibration(seen, mean_score(seen.world)),
    "additive + estimates": lambda seen: _moments(mixed(seen.pairs)),
}


def _moments(fitted) -> tuple[Matrix, Matrix]:
    return fitted.mean, np.sqrt(fitted.variance)


def network_belief(seen: Seen) -> tuple[Matrix, Matrix]:
    """What `gnn` answers, as the component does."""
    found = predict(seen.pairs, seed=seen.seed)
    return found.mean, found.std


NETWORKS = {
    "decoder without messages": "the same decoder without message passing",
    "gnn": "the message-passing networks",
    "answer": "**`gnn`, as it answers**",
}


def networks(seen: Seen) -> dict[str, Matrix]:
    """Of one training: the decoder without messages, the networks, and the answer of the component with its error."""
    found = predict(seen.pairs, seed=seen.seed)
    each = {name: found.each.get(name, found.mean) for name in ("decoder without messages", "gnn")}
    return each | {"answer": found.mean, "std": found.std}


class Memo:
    """Figures that took seconds to compute, kept in a file whose name tells by which code and of which world."""

    def __init__(self, of: World) -> None:
        digest = hashlib.sha256(np.nan_to_num(np.stack([of.truth, *of.estimates.values()])).tobytes())
        for file in sorted(Path(gnn_code.__file__).parent.glob("*.py")):
            digest.update(file.read_bytes())
        self.path = CACHE / f"discovery-{of.name}-{digest.hexdigest()[:8]}.json"
        self.kept = json.loads(self.path.read_text()) if self.path.exists() else {}

    def __call__(self, key: str, compute: Callable[[], object]):
        if key not in self.kept:
            self.kept[key] = compute()
            self.path.write_text(json.dumps(self.kept))
        return self.kept[key]


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
    """The figures of a prediction; see the top of the file."""
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
    found |= {"top-1": statistics.fmean(hits), "nregret": statistics.fmean(regrets)}
    return found | {"rms": float(np.sqrt(np.mean((predicted - truth)[hidden] ** 2))) if hidden.any() else np.nan}


def choice(belief: Matrix, truth: Matrix) -> tuple[float, float]:
    """(whether the best source is chosen, normalised regret) of one target."""
    best, chosen = np.nanmax(truth), truth[np.nanargmax(belief)]
    return float(chosen == best), float((best - chosen) / (best - np.nanmean(truth)))


def mean_of(rows: list[dict[str, float]]) -> dict[str, float]:
    return {name: float(np.nanmean([row[name] for row in rows])) for name in rows[0]}


def half_width(values: list[float]) -> float:
    """Of the 95 % interval of a mean."""
    if len(values) < 2:
        return float("nan")
    return student_quantile(len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5


# --- What is hidden


def random_masks(n: int, share: float, repeats: int) -> Iterator[Matrix]:
    """[n, n] bool, true for measured: so many pairs, at random."""
    places = np.argwhere(~np.eye(n, dtype=bool))
    for seed in range(repeats):
        mask = np.zeros((n, n), dtype=bool)
        chosen = np.random.default_rng(seed).permutation(len(places))[: round(share * len(places))]
        mask[tuple(places[chosen].T)] = True
        yield mask


def seen_by(of: World, mask: Matrix, seed: int = 0) -> Seen:
    errors = of.coefficients.std(axis=2, ddof=1) / np.sqrt(of.coefficients.shape[2])
    return Seen(np.where(mask, of.truth, np.nan), np.where(mask, errors, np.nan), of, seed)


def active(
    of: World, belief: Callable[[Seen], tuple[Matrix, Matrix]], shares: tuple[float, ...], seed: int = 0
) -> list[tuple[Seen, Matrix]]:
    """(what is known, what is believed) when each share of the pairs is measured: chosen in two rounds per share, by
    what the rounds before told.
    """
    n = len(of.names)
    mask, reached = np.zeros((n, n), dtype=bool), []
    counts = [round(share * n * (n - 1)) for share in shares]
    seen = seen_by(of, mask, seed=seed)
    mean, spread = belief(seen)
    for before, total in zip([0, *counts], counts, strict=False):
        for until in ((before + total) // 2, total):
            mean, spread = np.where(mask, seen.known, mean), np.where(mask, np.nan_to_num(seen.error), spread)
            np.fill_diagonal(mean, np.nan)
            noise = float(np.median(seen.error[mask])) if mask.any() else 0.05
            open_ = ~mask & ~np.eye(n, dtype=bool)
            for pair in next_pairs(mean, spread, open_, until - int(mask.sum()), max(noise, 1e-3)):
                mask[pair] = True
            seen = seen_by(of, mask.copy(), seed=seed)
            mean, spread = belief(seen)
        reached.append((seen, mean))
    return reached


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
    values = [found[name] for name in ("rho", "within", "top-1", "nregret")]
    return " ".join("  - " if np.isnan(value) else f"{value:.2f}" for value in values)


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


def random_table(of: World, repeats: int, slow: int, memo: Memo) -> dict[str, list[list[dict[str, float]]]]:
    """By predictor and share: the figures of every choice of the measured pairs."""
    n = len(of.names)
    found: dict[str, list[list[dict[str, float]]]] = {}
    for name, predictor in PREDICTORS.items():
        found[name] = [
            [scores(predictor(seen), seen.known, of) for seen in _random(of, share, repeats)] for share in SHARES
        ]
    cover = []
    if slow:
        for share in SHARES:
            rows = [memo(f"random {share} {s.seed}", lambda s=s: _judged(s)) for s in _random(of, share, slow)]
            for name, title in NETWORKS.items():
                found.setdefault(title, []).append([row[name] for row in rows])
            cover.append(statistics.fmean(row["cover"] for row in rows))
    rows = {name: [spread(each) for each in cells] for name, cells in found.items()}
    heads = [f"{s:.0%}, {round(s * n * (n - 1))} pairs" for s in SHARES]
    table("Random pairs measured: rho, within, top-1, nregret ± half of its 95 % interval, rms error", heads, rows)
    if cover:
        print("\n95 % intervals of `gnn` that hold the truth of a hidden pair: " + ", ".join(f"{c:.1%}" for c in cover))
    return found


def _random(of: World, share: float, repeats: int) -> Iterator[Seen]:
    for seed, mask in enumerate(random_masks(len(of.names), share, repeats)):
        yield seen_by(of, mask, seed)


def _judged(seen: Seen) -> dict[str, object]:
    found = networks(seen)
    error = found.pop("std")
    hidden = np.isnan(seen.known) & ~np.eye(len(error), dtype=bool)
    inside = np.abs(found["answer"] - seen.world.truth)[hidden] < 1.96 * error[hidden]
    return {name: scores(each, seen.known, seen.world) for name, each in found.items()} | {"cover": inside.mean()}


def spread(rows: list[dict[str, float]]) -> str:
    wide = f" ± {half_width([row['nregret'] for row in rows]):.2f}" if len(rows) > 1 else ""
    mean = mean_of(rows)
    return f"{shown(mean)}{wide}, {mean['rms']:.3f}"


def cold_table(of: World, slow: bool, memo: Memo) -> None:
    """A fifth of the targets at a time without a measurement into them, the rest known; every target once."""
    n = len(of.names)
    groups = np.array_split(np.random.default_rng(0).permutation(n), 5)
    nothing = np.full((n, n), np.nan)
    cold = [seen_by(of, ~np.eye(n, dtype=bool) & ~np.isin(np.arange(n), group)) for group in groups]
    answers = {name: [predictor(seen) for seen in cold] for name, predictor in PREDICTORS.items()}
    if slow:
        made = [memo(f"cold {k}", lambda s=s: _listed(networks(s))) for k, s in enumerate(cold)]
        answers |= {title: [np.array(each[name]) for each in made] for name, title in NETWORKS.items()}
    rows = {}
    for name, each in answers.items():
        predicted = nothing.copy()
        for group, answer in zip(groups, each, strict=True):
            predicted[:, group] = answer[:, group]
        rows[name] = [shown(scores(predicted, nothing, of))]
    table("Whole targets hidden: rho, within, top-1, nregret", ["a fifth of the targets at a time"], rows)
    if slow:
        inside = [
            np.abs(np.array(each["answer"]) - of.truth)[:, group] < 1.96 * np.array(each["std"])[:, group]
            for each, group in zip(made, groups, strict=True)
        ]
        kept = [~np.eye(n, dtype=bool)[:, group] for group in groups]
        share = np.concatenate([i[k] for i, k in zip(inside, kept, strict=True)]).mean()
        print(f"\n95 % intervals of `gnn` that hold the truth: {share:.1%}")


def _listed(found: dict[str, Matrix]) -> dict[str, list]:
    return {name: each.tolist() for name, each in found.items()}


def active_table(of: World, repeats: int, slow: int, runs: int, memo: Memo) -> dict[str, list[list[dict[str, float]]]]:
    shares = (0.1, 0.2, 0.3)
    found: dict[str, list[list[dict[str, float]]]] = {}
    for name, belief in BELIEFS.items():
        found[f"{name}, random"] = [
            [scores(belief(seen)[0], seen.known, of) for seen in _random(of, share, repeats)] for share in shares
        ]
        found[f"{name}, active"] = [[scores(m, s.known, of)] for s, m in active(of, belief, shares)]
    if slow:
        found["`gnn`, random"] = [
            [memo(f"random {share} {s.seed}", lambda s=s: _judged(s))["answer"] for s in _random(of, share, slow)]
            for share in shares
        ]
        ends = [
            memo(
                f"active {seed}",
                lambda seed=seed: [scores(m, s.known, of) for s, m in active(of, network_belief, shares, seed)],
            )
            for seed in range(runs)
        ]
        found["**`gnn`, active**"] = [[end[k] for end in ends] for k in range(len(shares))]
    rows = {name: [spread(each) for each in cells] for name, cells in found.items()}
    table(
        "Pairs chosen by `active`: rho, within, top-1, nregret ± half of its 95 % interval, rms error",
        [f"{s:.0%}" for s in shares],
        rows,
    )
    return found


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
    share = 3 / (len(of.names) - 1)
    for name, belief in BELIEFS.items():
        ((seen, mean),) = active(of, belief, (share,))
        found = scores(mean, seen.known, of)
        cost = share + of.seconds["estimate"] / of.seconds["measure"]
        cells = ["", f"{found['top-1']:.2f}", f"{found['nregret']:.2f}", f"{cost:.2f}"]
        rows[f"`active` with {name}, 3 per target on average"] = cells
    everything = scores(one, nothing.known, of, other)
    rows["all measured once, judged by the other repeat"] = [
        "1.00",
        f"{everything['top-1']:.2f}",
        f"{everything['nregret']:.2f}",
        "1.00",
    ]
    table("A shortlist that is measured", head, rows)


def independent_table(of: World, repeats: int, slow: bool, memo: Memo) -> None:
    """Half of the seeds is measured, the other half judges, and the other way round: what a choice is worth when the
    luck of the measurements that led to it does not count.
    """
    shares = (0.1, 0.2, 0.3)
    halves = (
        of.coefficients[..., : of.coefficients.shape[2] // 2],
        of.coefficients[..., of.coefficients.shape[2] // 2 :],
    )
    rows: dict[str, list[list[dict[str, float]]]] = {}

    def add(name: str, found: list[dict[str, float]]) -> None:
        for column, each in zip(rows.setdefault(name, [[] for _ in found]), found, strict=True):
            column.append(each)

    for number, (measured, judging) in enumerate((halves, halves[::-1])):
        half, truth = attrs.evolve(of, coefficients=measured), judging.mean(axis=2)
        for name, belief in BELIEFS.items():
            for share_seen in zip(*(_random(half, share, repeats) for share in shares), strict=True):
                add(f"{name}, random", [scores(belief(s)[0], s.known, of, truth) for s in share_seen])
            add(f"{name}, active", [scores(m, s.known, of, truth) for s, m in active(half, belief, shares)])
        if slow:
            key = f"independent {number}"
            ends = memo(
                key,
                lambda h=half, t=truth: [scores(m, s.known, of, t) for s, m in active(h, network_belief, shares)],
            )
            add("**`gnn`, active**", ends)
        everything = scores(half.truth, np.full(truth.shape, np.nan), of, truth)
        add("every pair measured", [everything] * len(shares))
        add("shortlist of 3 by mean z", [shortlist(of, mean_score(of), 3, half.truth, truth)] * len(shares))
    shown_rows = {
        name: [f"{mean_of(column)['top-1']:.2f} {mean_of(column)['nregret']:.2f}" for column in columns]
        for name, columns in rows.items()
    }
    table("Judged by measurements that were not seen: top-1, nregret", [f"{s:.0%}" for s in shares], shown_rows)


def cost_table(of: World, seconds: float) -> None:
    """CPU seconds of what was compared, as shares of measuring everything."""
    n = len(of.names)
    pairs, each, estimate = n * (n - 1), of.seconds["measure"], of.seconds["estimate"]
    whole = pairs * each
    rows = {"all pairs measured": whole, "all pairs estimated": pairs * estimate}
    rows["shortlist of 3 per target measured, after estimates"] = n * 3 * each + pairs * estimate
    for share in sorted((*SHARES, 0.3)):
        rows[f"{share:.0%} measured, estimates, `gnn`"] = share * whole + pairs * estimate + seconds
    table(
        "Cost in CPU seconds",
        ["seconds", "of measuring all"],
        {name: [f"{value:.0f}", f"{value / whole:.1%}"] for name, value in rows.items()},
    )


LINES = {
    "source mean": ("source mean", "#999999"),
    "soft-impute": ("matrix completion", "#4477aa"),
    "mean z, calibrated": ("mean z", "#ccbb44"),
    "additive + estimates": ("additive + estimates", "#228833"),
    NETWORKS["answer"]: ("gnn", "#aa3377"),
    "`gnn`, random": ("gnn", "#aa3377"),
    "**`gnn`, active**": ("gnn, active choice", "#ee6677"),
}


def plot(path: Path, kept: dict[str, dict[str, Any]]) -> None:
    """`within` and `nregret` over the share of the pairs measured, with intervals; one row per world."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(len(kept), 2, figsize=(10, 3.6 * len(kept)), squeeze=False)
    for row, (name, of) in zip(axes, kept.items(), strict=True):
        for axis, figure_of in zip(row, ("within", "nregret"), strict=True):
            for line, (title, colour) in LINES.items():
                points = {}
                for shares, cells in ((SHARES, of["random"].get(line)), ((0.1, 0.2, 0.3), of["active"].get(line))):
                    for share, cell in zip(shares, cells or (), strict=False):
                        points[share] = [each[figure_of] for each in cell]
                if not points or (line == "`gnn`, random"):
                    continue
                x = sorted(points)
                y = [float(np.nanmean(points[share])) for share in x]
                wide = [np.nan_to_num(half_width(points[share])) for share in x]
                axis.errorbar(x, y, wide, label=title, color=colour, marker="o", markersize=3, capsize=2)
            axis.axhline(of["ceiling"][figure_of], color="black", linestyle=":", label="one repeat for another")
            axis.set_xlabel("share of the pairs measured")
            axis.set_title(f"{name}: {'within (higher is better)' if figure_of == 'within' else 'nregret (lower)'}")
            axis.grid(alpha=0.3)
    axes[0][1].legend(fontsize=7)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("worlds", nargs="*", default=["digits", "omniglot"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--gnn", type=int, default=5)
    parser.add_argument("--active", type=int, default=3)
    parser.add_argument("--plot", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.plot:
        paths = {name: CACHE / f"discovery-{name}.json" for name in options.worlds}
        kept = {name: json.loads(path.read_text()) for name, path in paths.items()}
        plot(Path(__file__).parents[2] / "docs" / "images" / "discovery.png", kept)
        return
    for name in options.worlds:
        of = world(name)
        _NODES[name] = task_features(list(of.portfolio), of.portfolio)
        memo = Memo(of)
        agreed = signal(of)
        one, other = of.repeats
        repeat = [rank(one[:, j], other[:, j]) for j in np.flatnonzero(agreed)]
        print(f"\n### {name}: {len(of.names)} tasks, {len(of.names) * (len(of.names) - 1)} pairs")
        print(f"\nTargets without signal: {[of.names[j] for j in np.flatnonzero(~agreed)]}")
        print(f"\nRepeat correlation within the others (the ceiling): {statistics.fmean(repeat):.2f}")
        print(f"\nMeasured: {of.seconds['measure']:.2f} CPU s per pair; estimated: {of.seconds['estimate']:.3f}")
        print(f"\nMean coefficient {np.nanmean(of.truth):+.3f}, share above 0 {np.nanmean(of.truth > 0):.2f}")
        estimators_table(of)
        shortlist_table(of)
        random = random_table(of, options.repeats, options.gnn, memo)
        cold_table(of, options.gnn > 0, memo)
        chosen = active_table(of, options.repeats, options.gnn, options.active, memo)
        independent_table(of, options.repeats, options.gnn > 0, memo)
        start = time.process_time()
        predict(seen_by(of, next(random_masks(len(of.names), 0.2, 1))).pairs)
        cost_table(of, time.process_time() - start)
        ceiling = scores(one, np.full(of.truth.shape, np.nan), of, other)
        kept = {"random": random, "active": chosen, "ceiling": ceiling}
        (CACHE / f"discovery-{name}.json").write_text(json.dumps(kept))


if __name__ == "__main__":
    main()
