"""Cold-start users on Book-Crossing: recommenders beside means, popularity and matrix factorisation.

    python tests/benchmarks/recommenders.py --seeds 3

Explicit: `ratings`; RMSE, MAE, AUC (liked: the training mean or more) and NDCG@10 over a user's rated queries.
Implicit:
`history`; AUC, NDCG@10, hit@10 of a query among 100 books that its user has in no split. Users of the test are in
nothing that is fitted; every recommender sees the same support, queries and negatives. One thread, CPU time.
`--peer`: our biased factorisation beside that of scikit-surprise (SVD) on held-out ratings of known users.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

import torch

from crosstask.context import LocalContext
from crosstask_ratings import load_ratings
from crosstask_recommenders import ColdStart, Interactions, cold_start, cold_users, fit_explicit
from crosstask_recommenders.factors import scores as factor_scores

EXPLICIT = ("rmse", "mae", "auc", "ndcg")
IMPLICIT = ("auc", "ndcg", "hit")
QUICK = {"steps": 100, "negatives": 1, "meta_batch": 32}
MADE = {
    "explicit": {
        "global mean": ("global_mean", {}),
        "item mean": ("item_mean", {}),
        "user mean": ("user_mean", {}),
        "user mean, item means": ("user_mean", {"item_means": True}),
        "biased MF": ("biased_mf", {"factors": 8, "user_decay": 20.0, "item_decay": 20.0}),
        "MAML": ("maml", {"factors": 8, "item_decay": 5.0}),
        "Reptile": ("reptile", {"factors": 8, "item_decay": 5.0}),
        "prototypical": ("prototypical", {"factors": 8, "item_decay": 5.0}),
    },
    "implicit": {
        "popularity": ("popularity", {}),
        "biased MF": ("biased_mf", {"factors": 16}),
        "BPR": ("bpr_mf", {"factors": 16}),
        "MAML": ("maml", {"factors": 16, **QUICK}),
        "Reptile": ("reptile", {"factors": 16, **QUICK}),
        "prototypical": ("prototypical", {"factors": 16, **QUICK}),
    },
}
BASELINES = {"global mean", "item mean", "user mean", "user mean, item means", "popularity", "biased MF", "BPR"}


def judged(table: Interactions, seed: int, supports: tuple[int, ...], wanted: list[str] | None) -> list[tuple]:
    """(name, support, scores, seconds per user, seconds of fitting) of each recommender."""
    train, test = cold_users(table, 0.2, max(supports) + 1, seed)
    generator = torch.Generator().manual_seed(seed)
    cold = ColdStart.of(test, supports, liked=float(train.rating.mean()), generator=generator)
    found = []
    for name, (use, options) in MADE[table.feedback].items():
        if wanted and name not in wanted:
            continue
        recommender = LocalContext(seed=seed).component("recommender", use, options)
        before = time.process_time()
        model = recommender.fit(train)
        fitting = time.process_time() - before
        for each in cold_start(lambda s, i, r=recommender, m=model: r.score(m, s, i), cold, name):
            found.append((name, each.support, each, each.seconds, fitting))
            values = {m: round(v, 4) for m in (*EXPLICIT, "hit") if (v := getattr(each, m)) is not None}
            print(f"seed {seed}, {name}, {each.support}: {values}", file=sys.stderr, flush=True)
    return found


def show(feedback: str, rows: list[tuple], supports: tuple[int, ...]) -> None:
    metrics = EXPLICIT if feedback == "explicit" else IMPLICIT
    print(f"\n### {feedback}\n")
    print("| recommender | support | " + " | ".join(metrics) + " | ms per user | fit, s |")
    print("|---|---|" + "---|" * (len(metrics) + 2))
    names = list(dict.fromkeys(row[0] for row in rows))
    mean: dict[tuple[str, int, str], float] = {}
    for name in names:
        for support in supports:
            own = [row for row in rows if row[:2] == (name, support)]
            cells = []
            for metric in metrics:
                values = [getattr(row[2], metric) for row in own]
                mean[name, support, metric] = statistics.fmean(values)
                spread = statistics.stdev(values) if len(values) > 1 else 0.0
                cells.append(f"{mean[name, support, metric]:.3f} ±{spread:.3f}")
            latency, fitting = (statistics.fmean(row[place] for row in own) for place in (3, 4))
            print(f"| {name} | {support} | {' | '.join(cells)} | {1000 * latency:.3f} | {fitting:.1f} |")
    print()
    for name in (n for n in names if n not in BASELINES):
        for metric in metrics:
            less = metric in ("rmse", "mae")
            verdicts = []
            for support in supports:
                others = [mean[other, support, metric] for other in names if other in BASELINES]
                if others:
                    best, mine = (min if less else max)(others), mean[name, support, metric]
                    verdicts.append(
                        f"{support}: {'beats' if (mine < best if less else mine > best) else 'LOSES to'} {best:.3f}"
                    )
            print(f"{name}, {metric} against the best baseline: {'; '.join(verdicts)}")


def peer(table: Interactions, seed: int) -> None:
    """Test RMSE on known users: ours, the means, and scikit-surprise's SVD with its defaults."""
    rows = table.split(0.0, 0.2, seed=seed)
    train, test = table.take(rows["train"]), table.take(rows["test"])
    generator = torch.Generator().manual_seed(seed)
    before = time.process_time()
    found = fit_explicit(train, 8, 20.0, 20.0, 10, generator, 4.0)
    seconds = time.process_time() - before
    ours = factor_scores(found.item, found.offset, found.user[test.user], test.item[:, None])[:, 0]
    print(f"biased MF: RMSE {float((ours - test.rating).square().mean().sqrt()):.4f}, {seconds:.1f} s")
    away = float((train.rating.mean() - test.rating).square().mean().sqrt())
    print(f"global mean: RMSE {away:.4f}")
    try:
        import pandas as pd
        from surprise import SVD, Dataset, Reader, accuracy
    except ImportError:
        print("scikit-surprise is not installed")
        return
    frame = pd.DataFrame({"u": train.user, "i": train.item, "r": train.rating})
    data = Dataset.load_from_df(frame, Reader(rating_scale=(1, 10))).build_full_trainset()
    before = time.process_time()
    svd = SVD(random_state=seed).fit(data)
    seconds = time.process_time() - before
    rated = list(zip(test.user.tolist(), test.item.tolist(), test.rating.tolist(), strict=True))
    print(f"surprise SVD: RMSE {accuracy.rmse(svd.test(rated), verbose=False):.4f}, {seconds:.1f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--file", default="book_crossing.npz", type=Path)
    parser.add_argument("--seeds", default=1, type=int)
    parser.add_argument("--supports", default=[1, 3, 5, 10], type=int, nargs="+")
    parser.add_argument("--feedback", default=["explicit", "implicit"], nargs="+", choices=["explicit", "implicit"])
    parser.add_argument("--only", nargs="*", help="names of recommenders")
    parser.add_argument("--peer", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    supports = tuple(given.supports)
    for feedback in given.feedback:
        table = load_ratings(given.file, table="ratings" if feedback == "explicit" else "history")
        if given.peer and feedback == "explicit":
            for seed in range(given.seeds):
                peer(table, seed)
            continue
        rows = [row for seed in range(given.seeds) for row in judged(table, seed, supports, given.only)]
        show(feedback, rows, supports)


if __name__ == "__main__":
    main()
