"""Which of 156 published text models fits a new data set? python tests/benchmarks/model_zoo.py [--part 3] [--seed 0]

One data set is left out at a time, and the models are ranked for it from what they reach on the other eight, from LogME
and H-score on the new one, and from what is known of the models: Spearman's correlation with their true accuracies.
With `--part N`: N random choices of 10, 30 and 50 % of the whole table as known; rho over what is hidden, and `within`
each data set.

The table is `text_model_zoo.npz` (accuracies of the TransferGraph study, 2024). `z-mean` is the mean of the z-scores
of source mean, LogME and H-score.
"""

import argparse
import os
import statistics
import time

import numpy as np
import torch
from places import DATA
from scipy.stats import spearmanr

from crosstask_gnn.additive import additive
from crosstask_gnn.choice import predict
from crosstask_gnn.low_rank import low_rank
from crosstask_gnn.mixed import mixed
from crosstask_gnn.pairs import Pairs
from crosstask_gnn.soft_impute import soft_impute


class Zoo:
    """The table as pairs: models first, then data sets; only the pairs from a model to a data set exist."""

    def __init__(self) -> None:
        held = np.load(DATA / "text_model_zoo.npz")
        self.accuracy = held["accuracy"].astype(float)
        self.models, self.sets = self.accuracy.shape
        self.names = [name.decode() for name in held["dataset"]]
        self.estimates = {name: held[name].astype(float) for name in ("logme", "hscore")}
        kinds = [[f"{name}={value.decode()}" for value in held[name]] for name in ("model_type", "trained_on")]
        words = sorted({word for column in kinds for word in column})
        size = np.log(held["parameters"])
        features = np.zeros((self.count, 2 + len(words)))
        features[: self.models, 0] = 1
        features[:, 1] = np.append(size, np.full(self.sets, size.mean()))
        for column in kinds:
            for row, word in enumerate(column):
                features[row, 2 + words.index(word)] = 1
        self.features = features

    @property
    def count(self) -> int:
        return self.models + self.sets

    def square(self, table: np.ndarray) -> np.ndarray:
        whole = np.full((self.count, self.count), np.nan)
        whole[: self.models, self.models :] = table
        return whole

    def pairs(self, known: np.ndarray) -> Pairs:
        estimates = np.stack([self.square(each) for each in self.estimates.values()])
        return Pairs.of(self.square(known), None, estimates, self.features)

    def table(self, whole: np.ndarray) -> np.ndarray:
        return whole[: self.models, self.models :]


def rank(one: np.ndarray, other: np.ndarray) -> float:
    seen = ~np.isnan(one) & ~np.isnan(other)
    if seen.sum() < 4 or np.ptp(one[seen]) == 0:
        return float("nan")
    return float(spearmanr(one[seen], other[seen])[0])


def z(values: np.ndarray) -> np.ndarray:
    if np.isnan(values).all():
        return np.zeros_like(values)
    return np.nan_to_num((values - np.nanmean(values)) / np.nanstd(values))


def leave_one_out(zoo: Zoo, seed: int) -> None:
    print("| | " + " | ".join(zoo.names) + " | mean | of those with estimates |\n|---|" + "---|" * (zoo.sets + 2))
    rows: dict[str, list[float]] = {}
    said = []
    for number in range(zoo.sets):
        known = zoo.accuracy.copy()
        known[:, number] = np.nan
        mean = np.nanmean(known, axis=1)
        each = {"source mean": mean} | {name: values[:, number] for name, values in zoo.estimates.items()}
        each["z-mean"] = sum(z(values) for values in each.values())
        pairs = zoo.pairs(known)
        each["additive + estimates"] = zoo.table(mixed(pairs).mean)[:, number]
        found = predict(pairs, seed=seed)
        each["`gnn`, as it answers"] = zoo.table(found.mean)[:, number]
        said.append(str(found.cold))
        for name, values in each.items():
            rows.setdefault(name, []).append(rank(values, zoo.accuracy[:, number]))
    estimated = ~np.isnan(zoo.estimates["logme"]).all(0)
    for name, values in rows.items():
        kept = np.array(values)
        means = f"{kept.mean():.3f} | {kept[estimated].mean():.3f}"
        print(f"| {name} | " + " | ".join(f"{value:.2f}" for value in values) + f" | {means} |")
    print("answered by: " + "; ".join(said))


def parts(zoo: Zoo, repeats: int, seed: int) -> None:
    methods = {
        "soft-impute": soft_impute,
        "low-rank": lambda pairs: low_rank(pairs).mean,
        "additive": additive,
        "additive + estimates": lambda pairs: mixed(pairs).mean,
        "`gnn`, as it answers": lambda pairs: predict(pairs, seed=seed).mean,
    }
    print("\n| known | " + " | ".join(methods) + " |\n|---|" + "---|" * len(methods))
    for share in (0.1, 0.3, 0.5):
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in methods}
        for repeat in range(repeats):
            hidden = np.random.default_rng(repeat).random(zoo.accuracy.shape) >= share
            pairs = zoo.pairs(np.where(hidden, np.nan, zoo.accuracy))
            for name, method in methods.items():
                guess = np.where(hidden, zoo.table(method(pairs)), np.nan)
                within = [rank(guess[:, n], zoo.accuracy[:, n]) for n in range(zoo.sets)]
                found[name].append((rank(guess.ravel(), zoo.accuracy.ravel()), float(np.nanmean(within))))
        cells = []
        for values in found.values():
            rho, within = (statistics.fmean(column) for column in zip(*values, strict=True))
            spread = statistics.stdev(v for _, v in values) if len(values) > 1 else float("nan")
            cells.append(f"{rho:.3f}, {within:.3f} ± {spread:.3f}")
        print(f"| {share:.0%} | " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", type=int, default=0, help="random choices of a part of the table")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    zoo, started = Zoo(), time.process_time()
    print(f"load {os.getloadavg()}")
    leave_one_out(zoo, asked.seed)
    if asked.part:
        parts(zoo, asked.part, asked.seed)
    print(f"{time.process_time() - started:.0f} CPU s")


if __name__ == "__main__":
    main()
