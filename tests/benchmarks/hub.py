"""A hub of many models: python tests/benchmarks/hub.py [--sources 1000 10000 100000] [--targets 1000] [--units]

The world is drawn from the real one of `text_model_zoo.npz` (text models fine-tuned on 9 data sets; those measured on
all nine). Its table of
accuracies less the data sets' means is taken apart by SVD into a quality and factors of each model. A source of the
simulation is a real model moved by 0.5 of the factors' covariance (a smoothed bootstrap), a target a Dirichlet mixture
of the nine data sets' loadings, moved likewise. The true transfer is quality + factors . loadings + noise of the size
that the zoo's rank-4 fit leaves. What the hub sees: embeddings (a random projection of the factors to 32 numbers), a
quality, both with one noise, for which the score ranks the sources of a target as well as LogME ranks the real models
of a data set (Spearman's rho, mean over the eight of which LogME is known; by bisection), and the model's parameters
and words. `--quality` is that weight: with less, rankings differ more between targets.

`--units` measures on scikit-learn's digits what an estimate, a transfer and a job in another process cost, and says
what 1,000 targets cost by that.
"""

import argparse
import importlib.util
import math
import os
import resource
import tempfile
import time
from pathlib import Path

import attrs
import numpy as np

from crosstask.descriptors import TaskDescriptor
from crosstask.graph import Evidence, TransferEdge, TransferGraph
from crosstask.store import open_store
from crosstask_hub import Card, HubIndex, Weights, keep_edges

DATA = Path(os.environ.get("CROSSTASK_DATA", Path(__file__).parents[2].parent / "shared" / "data"))
RANK, WIDTH = 4, 32
WEIGHTS = Weights(embedding=1.0, words=0.05, statistics=0.05, quality=4.0)
"""The zoo's models differ most in how good they are for any data set: the weights that ranked best of five tried."""


def ranks(values: np.ndarray) -> np.ndarray:
    return values.argsort(0).argsort(0).astype(float)


def spearman(one: np.ndarray, two: np.ndarray) -> float:
    return float(np.corrcoef(ranks(one), ranks(two))[0, 1])


class World:
    """Sources and targets of the simulation; see the head of the file."""

    def __init__(self, sources: int, targets: int, seed: int = 0, weights: Weights = WEIGHTS) -> None:
        self.weights = weights
        zoo = np.load(DATA / "text_model_zoo.npz")
        known = np.isfinite(zoo["accuracy"]).all(1)
        accuracy, logme = (zoo[name][known].astype(np.float64) for name in ("accuracy", "logme"))
        self.models = len(accuracy)
        moved = accuracy - accuracy.mean(0)
        quality = moved.mean(1)
        left, values, right = np.linalg.svd(moved - quality[:, None], full_matrices=False)
        factors, loadings = left[:, :RANK] * values[:RANK], right[:RANK].T
        rest = float((moved - quality[:, None] - factors @ loadings.T).std())
        rho = []
        for real, told in zip(accuracy.T, logme.T, strict=True):
            both = np.isfinite(told)
            rho += [spearman(told[both], real[both])] if both.any() else []  # ag_news has no estimates
        self.real = float(np.mean(rho))
        rng = np.random.default_rng(seed)
        picked = rng.integers(len(accuracy), size=sources)
        both = np.column_stack([factors, quality])
        both = both[picked] + 0.5 * rng.multivariate_normal(np.zeros(RANK + 1), np.cov(both.T), size=sources)
        mixed = rng.dirichlet(np.full(len(loadings), 0.5), size=targets) @ loadings
        mixed += 0.5 * rng.multivariate_normal(np.zeros(RANK), np.cov(loadings.T), size=targets)
        self.factors, self.quality, self.loadings, self.rest = both[:, :RANK], both[:, RANK], mixed, rest
        self.parameters = np.log(zoo["parameters"][known])[picked]
        self.family = [each.decode() for each in zoo["model_type"][known][picked]]
        self.learned = [each.decode() for each in zoo["trained_on"][known][picked]]
        self.licence = rng.choice(["apache-2.0", "mit", "cc-by-nc-4.0", "gpl-3.0"], sources, p=[0.55, 0.3, 0.13, 0.02])
        project = rng.normal(size=(RANK, WIDTH)) / np.sqrt(WIDTH)
        unit = np.sqrt((self.factors**2).mean()), np.sqrt((mixed**2).mean())
        shift = rng.normal(size=(sources, WIDTH)), rng.normal(size=(targets, WIDTH))
        self._guess = rng.normal(size=sources)
        self._clean = [(part / size) @ project for part, size in zip((self.factors, mixed), unit, strict=True)]
        self._shift, self.rng = shift, np.random.default_rng(seed + 1)
        self.noise = self._calibrated()
        self.embeddings, self.wanted = self._embedded(self.noise)
        self.seen = self._quality(self.noise)

    def _embedded(self, noise: float) -> tuple[np.ndarray, np.ndarray]:
        return tuple(clean + noise * shift for clean, shift in zip(self._clean, self._shift, strict=True))

    def _quality(self, noise: float) -> np.ndarray:
        seen = self.quality + noise * self.quality.std() * self._guess
        return np.clip((seen - seen.mean()) / (3 * seen.std()), -1, 1)

    def _calibrated(self) -> float:
        """The noise of embeddings for which the score's rank correlation is LogME's on the real zoo."""
        low, high = 0.0, 4.0
        chosen = self.rng.choice(len(self.quality), min(2000, len(self.quality)), replace=False)
        truths = [self.truth(t)[chosen] for t in range(min(50, len(self.loadings)))]
        for _ in range(12):
            noise = (low + high) / 2
            sources, targets = self._embedded(noise)
            some = sources[chosen] / np.linalg.norm(sources[chosen], axis=1, keepdims=True)
            rho = np.mean(
                [
                    spearman(
                        some @ (w / np.linalg.norm(w)) + self.weights.quality * self._quality(noise)[chosen], truth
                    )
                    for w, truth in zip(targets, truths, strict=False)
                ]
            )
            low, high = (noise, high) if rho > self.real else (low, noise)
        self.reached = float(rho)
        return noise

    def truth(self, target: int) -> np.ndarray:
        noise = np.random.default_rng([7, target]).normal(size=len(self.quality))
        return self.quality + self.factors @ self.loadings[target] + self.rest * noise

    def card(self, n: int) -> Card:
        told = TaskDescriptor(
            task_id=f"m{n}", domain=self.learned[n], required_skills=(self.family[n],),
            embedding=tuple(self.embeddings[n].tolist()),
        )  # fmt: skip
        statistics = {"log_parameters": float(self.parameters[n])}
        return Card(
            descriptor=told, statistics=statistics, quality=float(self.seen[n]), licence=str(self.licence[n]),
            modality="text",
        )  # fmt: skip

    def target(self, n: int) -> TaskDescriptor:
        return TaskDescriptor(task_id=f"t{n}", domain="text", embedding=tuple(self.wanted[n].tolist()))


def memory() -> float:
    """Resident now, MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def one(size: int, targets: int, url: str, seed: int, weights: Weights, saved: Path) -> None:
    world = World(size + 100, targets, seed, weights)
    if not hasattr(one, "told"):
        told = f"LogME's rho on {world.models} real models {world.real:.3f}, the score's here {world.reached:.3f}"
        print(f"{told} (noise of embeddings {world.noise:.2f})")
        print("| sources (targets) | build s | index MB | open s | add ms | shortlist ms (p95) | numpy ms (p95) | "
              "recall@50 | recall of true 50 (exact) | best true (exact) | rare licence ms | RSS, peak |")  # fmt: skip
        print("|---|---|---|---|---|---|---|---|---|---|---|---|", flush=True)
        one.told = True  # type: ignore[attr-defined]
    build = add = math.nan
    if not (saved / "hub.json").is_file():
        cards = [world.card(n) for n in range(size)]
        begun = time.process_time()
        index = HubIndex.build(cards, weights=weights, seed=seed)
        build = time.process_time() - begun
        print(f"built of {size:,} sources in {build:.1f} s", flush=True)
        del cards
        index.save(saved)
    disk = sum(file.stat().st_size for file in saved.iterdir()) / 1e6
    begun = time.process_time()
    index = HubIndex.open(saved)
    opened = time.process_time() - begun
    if len(index) != size:
        raise SystemExit(f"{saved} holds an index of {len(index):,} sources, not of {size:,}")
    more = [world.card(n) for n in range(size, size + 100) if f"m{n}" not in index]
    if more:
        index.add(more[:1])  # the first finds no room
        begun = time.process_time()
        for card in more[1:]:
            index.add([card])
        add = (time.process_time() - begun) * 1000 / len(more[1:])
    graph = TransferGraph()
    near, brute, recall, true, true_exact, best, best_exact, rare, kept = ([] for _ in range(9))
    store = open_store(url) if url else None
    for n in range(targets):
        told = world.target(n)
        begun = time.process_time()
        found = index.shortlist(told, 50)
        near.append(time.process_time() - begun)
        begun = time.process_time()
        exact = index.exact(told, 50)
        brute.append(time.process_time() - begun)
        if n < 100:
            begun = time.process_time()
            index.shortlist(told, 50, licence="gpl-3.0")
            rare.append(time.process_time() - begun)
        ours, theirs = {f.source for f in found}, {f.source for f in exact}
        recall.append(len(ours & theirs) / 50)
        truth = world.truth(n)
        top = {f"m{k}" for k in np.argpartition(-truth, 49)[:50]}
        true.append(len(ours & top) / 50)
        true_exact.append(len(theirs & top) / 50)
        for chosen, into in ((ours, best), (theirs, best_exact)):
            into.append(float(np.mean(truth < max(truth[int(s[1:])] for s in chosen))))
        graph.add_task(told)
        for each in found:
            if each.source not in graph.networkx:
                graph.add_task(index.card(each.source).descriptor)
            value = float(np.tanh(each.score))
            graph.add(TransferEdge(source=each.source, target=told.task_id, transfer_coefficient=value, found_by="hub"))
        for each in sorted(found, key=lambda f: -truth[int(f.source[1:])])[:3]:
            value = float(np.clip(truth[int(each.source[1:])], -1, 1))
            graph.add(
                TransferEdge(
                    source=each.source, target=told.task_id, transfer_coefficient=value, evidence=Evidence.MEASURED,
                    found_by="probe", uncertainty=world.rest,
                )
            )  # fmt: skip
        if store is not None:
            begun = time.perf_counter()
            keep_edges(store, graph, told.task_id, "hub")
            kept.append(time.perf_counter() - begun)
        if (n + 1) % 200 and n + 1 < targets:
            continue
        ms = [1000 * np.array(each) for each in (near, brute)]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
        times = " | ".join(f"{each.mean():.2f} ({np.percentile(each, 95):.2f})" for each in ms)
        print(
            f"| {size:,} ({n + 1}) | {build:.1f} | {disk:.1f} | {opened:.2f} | {add:.2f} | {times} | "
            f"{np.mean(recall):.4f} | "
            f"{np.mean(true):.3f} ({np.mean(true_exact):.3f}) | {np.mean(best):.4f} ({np.mean(best_exact):.4f}) | "
            f"{1000 * np.mean(rare):.2f} | {memory():.0f}, {peak:.0f} |",
            flush=True,
        )
    edges = graph.networkx.number_of_edges()
    begun = time.process_time()
    graph.metrics()
    print(
        f"graph: {len(graph.task_ids):,} tasks, {edges:,} edges, metrics {time.process_time() - begun:.2f} s",
        flush=True,
    )
    if store is not None:
        print(
            f"store {url.partition(':')[0]}: {1000 * np.mean(kept):.1f} ms a target to keep its edges (wall)",
            flush=True,
        )
        store.close()


def units() -> None:
    """Node-hours of 1,000 targets (one core a node), from what one estimate, transfer and job take here."""
    import torch
    from sklearn.datasets import load_digits

    from crosstask import Budget, Task, TransferEngine
    from crosstask.components import Job
    from crosstask.executors import ProcessExecutor
    from crosstask.points.executor import Executor

    torch.set_num_threads(1)
    data = load_digits()
    images = torch.tensor(data.images[:, None] / 16, dtype=torch.float32)
    labels = torch.tensor(data.target)
    tasks = [
        Task(
            descriptor=f"modulo{k}",
            train=(images[:900], labels[:900] % k),
            validation=(images[900:1300], labels[900:1300] % k),
            test=(images[1300:], labels[1300:] % k),
        )
        for k in (2, 3, 5, 7)
    ]
    with TransferEngine(discoverers=[], auto_discover=False, seeds=3, budget=Budget(steps=200)) as engine:
        for task in tasks:
            engine.register_task(task)
        engine.train()
        begun = time.process_time()
        engine.discover(["mean_z"], target="modulo2")
        estimate = (time.process_time() - begun) / 6
        begun = time.process_time()
        engine.discover(["probe"], target="modulo2")
        measure = (time.process_time() - begun) / 6
    overheads = {"in one process": 0.0}
    made: dict[str, Executor] = {"process": ProcessExecutor(workers=1)}
    if importlib.util.find_spec("ray") and importlib.util.find_spec("crosstask_ray"):
        from crosstask_ray import RayExecutor

        made["ray"] = RayExecutor(workers=1)
    for name, executor in made.items():
        executor.submit(Job(max, (1, 2))).result()
        begun = time.perf_counter()
        waiting = [executor.submit(Job(max, (n, 2))) for n in range(300)]
        for each in waiting:
            each.result()
        overheads[name] = (time.perf_counter() - begun) / 300
        executor.shutdown()
    print(f"estimate of a pair (mean_z) {estimate:.3f} s CPU, measured transfer (probe) {measure:.2f} s CPU")
    print(
        "| executor | ms a job | jobs of 1,000 targets | node-hours: 50 estimated, 3 measured | all pairs estimated |"
    )
    print("|---|---|---|---|---|")
    for name, overhead in overheads.items():
        few = 1000 * (50 * (estimate + overhead) + 3 * (measure + overhead)) / 3600
        every = 1000 * 100_000 * (estimate + overhead) / 3600
        print(f"| {name} | {1000 * overhead:.2f} | 53,000 | {few:.2f} | {every:,.0f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sources", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--targets", type=int, default=200)
    parser.add_argument("--store", default="", help="URL of a store in which each target's edges are kept")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--saved", default="", help="folder of an index that is kept, or was (of one size)")
    parser.add_argument("--quality", type=float, default=WEIGHTS.quality)
    parser.add_argument("--units", action="store_true")
    given = parser.parse_args()
    if given.units:
        units()
        return
    weights = attrs.evolve(WEIGHTS, quality=given.quality)
    for size in given.sources:
        with tempfile.TemporaryDirectory() as folder:
            one(size, given.targets, given.store, given.seed, weights, Path(given.saved or folder))


if __name__ == "__main__":
    main()
