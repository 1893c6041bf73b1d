"""Two portfolios of real tasks, and how much every task in them helps every other one, measured once and kept.

`world("digits")` and `world("omniglot")` return tasks with trained models and the measured truth. The first call trains
the sources and measures all pairs (minutes); what is finished is kept in
`places.CACHE`, so that a call that was stopped goes on and a later one takes seconds. Alone:

    python tests/benchmarks/discovery_world.py [digits] [omniglot] [--workers 2]
"""

import argparse
import sys
import time
from collections import OrderedDict
from collections.abc import Sequence

import attrs
import numpy as np
import torch
from places import CACHE, DATA
from torch import nn

from crosstask.context import LocalContext
from crosstask.descriptors import TaskDescriptor
from crosstask.executors import ProcessExecutor
from crosstask.graph import TransferGraph
from crosstask.learning.models import ModelSpec
from crosstask.learning.own_models import train_models
from crosstask.learning.training import evaluate
from crosstask.learning.transferring import key_of
from crosstask.records import Budget
from crosstask.registry import Registry
from crosstask.run import Run
from crosstask.store import Store, open_store
from crosstask.tasks import Portfolio, Task

SEEDS = 6  # two independent repeats of a probe with three seeds each

ALPHABETS = (
    "Alphabet_of_the_Magi", "Angelic", "Early_Aramaic", "Hebrew", "Syriac_(Estrangelo)", "Balinese", "Greek", "Tengwar",
    "Arcadian", "Atlantean", "Braille", "Futurama", "Latin", "Sylheti", "Anglo-Saxon_Futhorc", "Cyrillic",
)  # fmt: skip


@attrs.frozen
class World:
    """Tasks with their models, and the truth: arrays [source, target], NaN on the diagonal.

    `coefficients`, `scores` [n, n, SEEDS] and `scratch` [n, SEEDS]: one value per seed; the seeds of a target are the
    same for all its sources. The first half of them and the second are the two repeats. `estimates`: raw values [n, n]
    of every estimator, from as few samples of the target as the probe has. `seconds`: CPU time of one pair, to measure
    it (a probe with SEEDS / 2 seeds, its control not counted) and to estimate it (by `mean_z` of eight).
    """

    name: str
    portfolio: Portfolio
    probe: dict[str, object]
    coefficients: np.ndarray
    scores: np.ndarray
    scratch: np.ndarray
    estimates: dict[str, np.ndarray]
    seconds: dict[str, float]

    @property
    def names(self) -> list[str]:
        return self.portfolio.ids

    @property
    def truth(self) -> np.ndarray:
        """The mean coefficient over all seeds [n, n]."""
        return self.coefficients.mean(axis=2)

    @property
    def repeats(self) -> tuple[np.ndarray, np.ndarray]:
        """Two independent measurements of the truth."""
        return self.coefficients[..., : SEEDS // 2].mean(axis=2), self.coefficients[..., SEEDS // 2 :].mean(axis=2)


def encoder(shape: tuple[int, ...], outputs: int, widths: Sequence[int] = (32, 64)) -> nn.Module:
    """Two blocks of convolution, batch norm, ReLU and pooling, and a linear head on what is left of the image."""
    layers: list[nn.Module] = []
    before = shape[0]
    for width in widths:
        layers += [nn.Conv2d(before, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        layers += [nn.MaxPool2d(2)]
        before = width
    size = before * (shape[1] // 4) * (shape[2] // 4)
    return nn.Sequential(OrderedDict(trunk=nn.Sequential(*layers, nn.Flatten()), head=nn.Linear(size, outputs)))


def digits() -> Portfolio:
    """The twelve tasks of the source plugin `digits`."""
    loaded: Portfolio = Registry.installed().create("source", "digits").load()  # type: ignore[attr-defined]
    return Portfolio(loaded, name="digits")


def omniglot() -> Portfolio:
    """22 tasks on 14 x 14 images: 16 alphabets, two of them changed (turned by 90 degrees, inverted), MNIST's digits
    and their parity, and two controls: an alphabet with shuffled labels, and one with noise in place of its images.

    12 drawers of each character to train on, 8 to judge on. Shuffled labels are drawn anew for both splits.
    """
    raw = np.load(DATA / "omniglot28.npz")
    names = [str(name) for name in raw["alphabet_names"]]
    rng = np.random.default_rng(0)

    def alphabet(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        own = raw["alphabet"] == names.index(name)
        images = raw["images"][own].astype(np.float32).reshape(-1, 14, 2, 14, 2).mean(axis=(2, 4)) / 255
        return images, raw["character"][own].astype(np.int64) - 1, raw["drawer"][own] <= 12

    def task(task_id: str, images: np.ndarray, labels: np.ndarray, train: np.ndarray, **about: object) -> Task:
        order = rng.permutation(len(labels))
        images, labels, train = images[order, None], labels[order], train[order]
        descriptor = TaskDescriptor(
            task_id=task_id,
            input_shape=(1, 14, 14),
            output_dim=int(labels.max()) + 1,
            sample_count=int(train.sum()),
            **about,  # type: ignore[arg-type]
        )
        return Task(
            descriptor=descriptor, train=(images[train], labels[train]), validation=(images[~train], labels[~train])
        )

    tasks = [task(name, *alphabet(name), domain=f"omniglot/{name}") for name in ALPHABETS]
    images, labels, train = alphabet("Greek")
    tasks.append(task("Greek turned", np.rot90(images, axes=(1, 2)), labels, train, domain="omniglot/Greek"))
    images, labels, train = alphabet("Latin")
    tasks.append(task("Latin inverted", 1 - images, labels, train, domain="omniglot/Latin"))
    mnist = np.load(DATA / "mnist_20k_10k.npz")
    images = mnist["x_train"][:800].astype(np.float32).reshape(-1, 14, 2, 14, 2).mean(axis=(2, 4)) / 255
    labels, train = mnist["y_train"][:800].astype(np.int64), np.arange(800) < 400
    tasks.append(task("MNIST", images, labels, train, domain="mnist"))
    tasks.append(task("MNIST parity", images, labels % 2, train, domain="mnist"))
    images, labels, train = alphabet("Keble")
    shuffled = labels.copy()
    for part in (train, ~train):
        shuffled[part] = rng.permutation(shuffled[part])
    tasks.append(task("shuffled labels", images, shuffled, train, domain="control"))
    noise = rng.random(images.shape, dtype=np.float32)
    tasks.append(task("random inputs", noise, labels, train, domain="control"))
    return Portfolio(tasks, name="omniglot")


PORTFOLIOS = {"digits": digits, "omniglot": omniglot}
MODELS = {"digits": ModelSpec(hidden=(64, 64)), "omniglot": ModelSpec(kind="discovery_world:encoder")}
SOURCES = {
    "digits": Budget(steps=300, learning_rate=3e-3),
    "omniglot": Budget(steps=300, learning_rate=3e-3, batch_size=64),
}
PROBES: dict[str, dict[str, object]] = {
    "digits": {"seeds": SEEDS, "samples": 50, "steps": 60, "evaluate_every": 60},
    # The learning rate at which 5 shots from scratch and by LP-FT both do best, of 1e-3, 3e-3, 1e-2
    "omniglot": {"seeds": SEEDS, "shots": 5, "steps": 100, "batch_size": 32, "learning_rate": 1e-3}
    | {"evaluate_every": 100},
}
ESTIMATORS = ("logme", "leep", "nce", "hscore", "transrate", "gbc", "cka", "knn", "ridge", "fisher")
SAMPLES: dict[str, dict[str, object]] = {"digits": {"samples": 50}, "omniglot": {"shots": 5}}


def world(name: str, workers: int = 2, seed: int = 0) -> World:
    """A portfolio with trained models and the measured truth, from the cache where it is there."""
    portfolio = PORTFOLIOS[name]()
    setting = key_of(name, MODELS[name], SOURCES[name], PROBES[name], seed, [t.fingerprint() for t in portfolio])
    path = CACHE / f"{name}-{setting[:8]}.npz"
    CACHE.mkdir(parents=True, exist_ok=True)
    store = open_store(str(path.with_suffix(".db")))
    with Run(Registry.installed(), seed=seed, store=store, executor=ProcessExecutor(workers=workers)) as run:
        train_models(run, MODELS[name], list(portfolio), SOURCES[name])
        if not path.exists():
            probe = run.component("discovery", "probe", PROBES[name])
            run.call(probe, "discover", portfolio=portfolio, graph=_empty(portfolio))
            np.savez(path, **_collected(store, portfolio))  # type: ignore[arg-type]
        details = path.with_name(f"{path.stem}-estimates-{key_of(ESTIMATORS, SAMPLES[name])[:8]}.npz")
        if not details.exists():
            np.savez(details, **_estimated(name, run, portfolio))  # type: ignore[arg-type]
    store.close()
    found, more = np.load(path), np.load(details)
    assert found["names"].tolist() == portfolio.ids
    return World(
        name,
        portfolio,
        PROBES[name],
        found["coefficients"],
        found["scores"],
        found["scratch"],
        estimates={e: more[e] for e in ESTIMATORS},
        seconds={what: float(more[what]) for what in ("measure", "estimate")},
    )


def _empty(portfolio: Portfolio) -> TransferGraph:
    return TransferGraph(task.descriptor for task in portfolio)


def _estimated(name: str, run: Run, portfolio: Portfolio) -> dict[str, np.ndarray]:
    """Raw estimates of all pairs, and the CPU seconds of a pair estimated and of one measured."""
    place = {task_id: number for number, task_id in enumerate(portfolio.ids)}
    found = {e: np.full((len(place), len(place)), np.nan) for e in ESTIMATORS}
    mean_z = run.component("discovery", "mean_z", {"estimators": ESTIMATORS, "keep": False, **SAMPLES[name]})
    for edge in run.call(mean_z, "discover", portfolio=portfolio, graph=_empty(portfolio)):
        for estimator in ESTIMATORS:
            if estimator in edge.estimates:
                found[estimator][place[edge.source], place[edge.target]] = edge.estimates[estimator]
    quick = LocalContext().component("discovery", "mean_z", SAMPLES[name])
    start = time.process_time()
    quick.discover(portfolio, _empty(portfolio))  # type: ignore[attr-defined]
    estimate = (time.process_time() - start) / (len(place) * (len(place) - 1))
    # Measured anew, in this process: a few pairs with targets of all kinds, the controls known before
    ids = portfolio.ids
    pairs = [(ids[n - 1], ids[n]) for n in range(0, len(ids), max(1, len(ids) // 6))]
    options = PROBES[name] | {"seeds": SEEDS // 2}
    context = LocalContext(seed=1)
    probe = context.component("discovery", "probe", options)
    probe.discover(portfolio.restricted(pairs), _empty(portfolio))  # type: ignore[attr-defined]
    context._memory = {k: v for k, v in context._memory.items() if v.payload.get("what") == "scratch"}
    start = time.process_time()
    probe.discover(portfolio.restricted(pairs), _empty(portfolio))  # type: ignore[attr-defined]
    measure = (time.process_time() - start) / len(pairs)
    return found | {"measure": np.array(measure), "estimate": np.array(estimate)}


def _collected(store: Store, portfolio: Portfolio) -> dict[str, np.ndarray]:
    """The values of every seed, from the store's transfer history."""
    place = {task_id: number for number, task_id in enumerate(portfolio.ids)}
    shape = (len(place), len(place), SEEDS)
    coefficients, scores, scratch = np.full(shape, np.nan), np.full(shape, np.nan), np.full(shape[1:], np.nan)
    for _, entry in store.entries("transfers"):
        if entry.get("seeds") == SEEDS and "coefficient" in entry:
            at = place[entry["source"]], place[entry["target"]]
            coefficients[at] = entry["coefficient"]["values"]
            scores[at] = entry["score"]["values"]
            scratch[at[1]] = entry["scratch_score"]["values"]
    return {"names": np.array(portfolio.ids), "coefficients": coefficients, "scores": scores, "scratch": scratch}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*", default=list(PORTFOLIOS))
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.names:
        start = time.perf_counter()
        found = world(name, options.workers)
        print(f"{name}: {len(found.names)} tasks, {time.perf_counter() - start:.0f} s")
        accuracy = {t.task_id: evaluate(t.model, t, "validation") for t in found.portfolio}  # type: ignore[arg-type]
        for number, task_id in enumerate(found.names):
            column = found.truth[:, number]
            best = np.nanargmax(column)
            print(
                f"  {task_id:24} source {accuracy[task_id]:.2f} scratch {found.scratch[number].mean():.3f} "
                f"with transfer mean {np.nanmean(found.scores[:, number]):.3f} "
                f"best {np.nanmax(found.scores.mean(axis=2)[:, number]):.3f} from {found.names[best]}"
            )


if __name__ == "__main__":
    sys.exit(main())
