"""Book-Crossing: romances rated with the help of other books, users in four domains, three tasks over ids and titles.

    OMP_NUM_THREADS=1 nice -n 10 python tests/benchmarks/cross_domain.py --seeds 3
    OMP_NUM_THREADS=1 python tests/benchmarks/cross_domain.py --only transfer

Domains are groups of publishers (`GROUPS`), so that most users are in several. `romance` is the target, all other
publishers are the source. Half of the target's ratings are the test; of the rest some are known, of which a fifth
decides when to stop. Errors are root mean squares on the scale 1 to 10. Networks have their default sizes, and the same
batches and steps. Beside them: the mean, and biases of users and items by ridge (Koren et al. 2009, equation 3), of the
target's ratings alone and of both domains'.

`tasks`: one table of ratings and of books that were read or not (as many drawn at random); rating, reading and category
(the publisher, of ten; two of ten books have it in the test alone). Together, each alone, without titles, and without
the tasks' own attention.
"""

import argparse
import re
import statistics
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import attrs
import numpy as np
import torch
from places import DATA
from torch import Tensor, nn

from crosstask.context import LocalContext
from crosstask.descriptors import MultiInput, TaskDescriptor
from crosstask.learning.objectives import auroc, mse
from crosstask.points.balancer import Balancer
from crosstask.records import Budget
from crosstask.registry import Registry
from crosstask.tasks import Portfolio, Task
from crosstask_cross_domain import CrossDomainTransferNetwork, MultiDomainAttentionNetwork
from crosstask_multimodal import MultiModalMultiTask
from crosstask_multitask.trainer import MultiTaskTrainer

GROUPS = {
    "romance": ("harlequin", "silhouette", "jove", "mira", "avon", "zebra", "leisure", "topaz", "love spell"),
    "crime": ("signet", "berkley", "ace", "pocket", "dell", "fawcett", "minotaur", "mysterious"),
    "literature": ("vintage", "penguin", "perennial", "harperperennial", "scribner", "picador", "anchor", "knopf",
                   "farrar", "houghton", "plume", "back bay", "little"),
}  # fmt: skip
BATCH, EVERY, RATE = 256, 25, 0.003

Rows = tuple[Tensor, Tensor, Tensor]
"""Users, items (both from 0), ratings."""


def book_crossing() -> dict[str, np.ndarray]:
    raw = np.load(DATA / "book_crossing.npz")
    return {name: raw[name] for name in raw.files}


def group_of(publishers: np.ndarray) -> np.ndarray:
    """Of each item the name of its group; "other" for the rest."""
    names = [name.decode("utf-8", "replace").lower() for name in publishers]
    found = [next((g for g, starts in GROUPS.items() if name.startswith(starts)), "other") for name in names]
    return np.array(found)


def rmse(predicted: Tensor, ratings: Tensor) -> float:
    return float((predicted.reshape(-1).detach() - ratings).square().mean().sqrt())


def biases(train: Rows, test: Rows, shrink: float = 10.0) -> Tensor:
    """Mean plus a bias of the user and one of the item, shrunken by so many ratings."""
    users, items, ratings = train
    count = 1 + int(max(users.max(), test[0].max())), 1 + int(max(items.max(), test[1].max()))
    mean, of_user, of_item = ratings.mean(), torch.zeros(count[0]), torch.zeros(count[1])
    for _ in range(10):
        for which, other, own in ((items, of_user[users], of_item), (users, of_item[items], of_user)):
            left = ratings - mean - other
            own.copy_(
                torch.zeros_like(own).index_add_(0, which, left) / (torch.bincount(which, minlength=len(own)) + shrink)
            )
    return mean + of_user[test[0]] + of_item[test[1]]


def trained(
    tables: list[nn.Parameter],
    others: list[nn.Parameter],
    step: Callable[[torch.Generator], Tensor],
    measure: Callable[[], tuple[float, float]],
    seed: int,
    steps: int,
) -> float:
    """The test error at the step whose error where it is decided was least. `step` gives a loss, `measure` both errors.
    Tables of embeddings learn faster and decay: most rows have few ratings.
    """
    groups = [{"params": tables, "lr": 0.01, "weight_decay": 3e-4}, {"params": others, "lr": 0.002}]
    optimizer = torch.optim.Adam([group for group in groups if group["params"]])
    generator, best = torch.Generator().manual_seed(seed), (float("inf"), float("inf"))
    for number in range(1, steps + 1):
        optimizer.zero_grad(set_to_none=True)
        step(generator).backward()
        optimizer.step()
        if number % EVERY == 0:
            best = min(best, measure())
    return best[1]


def some(rows: Rows, count: int, generator: torch.Generator) -> Rows:
    index = torch.randint(len(rows[0]), (count,), generator=generator)
    return rows[0][index], rows[1][index], rows[2][index]


# --- Cross-domain transfer --------------------------------------------------------------------------------------------


def halves(seed: int, kept: int) -> tuple[Rows, Rows, Rows, Rows]:
    """(source, target to train, target to decide, target to test), books numbered in each domain."""
    data = book_crossing()
    users, items, ratings = data["ratings"].T.astype(np.int64)
    romance = group_of(data["item_publisher"])[items] == "romance"
    order = np.random.default_rng(seed).permutation(np.flatnonzero(romance))
    test, rest = order[: len(order) // 2], order[len(order) // 2 :][:kept]
    number = np.zeros(1 + items.max(), dtype=np.int64)
    for own in (np.unique(items[romance]), np.unique(items[~romance])):
        number[own] = np.arange(len(own))

    def rows(index: np.ndarray) -> Rows:
        columns = (torch.from_numpy(each[index]) for each in (users, number[items], ratings))
        user, item, rating = columns
        return user, item, rating.float()

    fifth = len(rest) // 5
    return rows(np.flatnonzero(~romance)), rows(rest[fifth:]), rows(rest[:fifth]), rows(test)


def transfer(seed: int, kept: int, steps: int) -> dict[str, float]:
    source, train, decide, test = halves(seed, kept)
    books = 1 + max(int(rows[1].max()) for rows in (train, decide, test))
    sizes = {"other": (2946, 1 + int(source[1].max())), "romance": (2946, books)}
    both = (
        torch.cat([train[0], source[0]]),
        torch.cat([train[1], source[1] + books]),
        torch.cat([train[2], source[2]]),
    )
    middle, spread = float(train[2].mean()), float(train[2].std())
    share = len(train[0]) / len(source[0])  # every rating counts the same
    found = {
        "mean of the target": rmse(torch.full_like(test[2], middle), test[2]),
        "biases, target only": rmse(biases(train, test), test[2]),
        "biases, both domains": rmse(biases(both, test), test[2]),
    }

    def scaled(ratings: Tensor) -> Tensor:
        return (ratings - middle) / spread

    def run(*, shared_users: bool, with_source: bool, weight: float) -> float:
        torch.manual_seed(seed)
        net = CrossDomainTransferNetwork(
            {"other": sizes["other"]}, {"romance": sizes["romance"]}, shared_users=shared_users
        )

        def step(generator: torch.Generator) -> Tensor:
            net.train()
            own, other = some(train, BATCH, generator), some(source, BATCH, generator)
            if not with_source:
                return mse(net.predict("romance", own[0], own[1]), scaled(own[2]))
            outputs = net("other", "romance", other[0], other[1], own[0], own[1])
            losses = net.losses(
                outputs, scaled(other[2]), scaled(own[2]), lambda_alignment=weight, lambda_domain=weight
            )
            return torch.stack([loss * (share if name == "target" else 1) for name, loss in losses.items()]).sum()

        @torch.no_grad()
        def measure() -> tuple[float, float]:
            net.eval()
            errors = [rmse(net.predict("romance", r[0], r[1]) * spread + middle, r[2]) for r in (decide, test)]
            return errors[0], errors[1]

        tables = [*net.users.parameters(), *net.items.parameters()]
        others = [p for p in net.parameters() if all(p is not table for table in tables)]
        return trained(tables, others, step, measure, seed, steps)

    found["network, target only"] = run(shared_users=False, with_source=False, weight=0)
    found["network, both domains, users apart"] = run(shared_users=False, with_source=True, weight=0.1)
    found["network, both domains, users shared, not aligned"] = run(shared_users=True, with_source=True, weight=0)
    found["network, both domains, users shared, aligned"] = run(shared_users=True, with_source=True, weight=0.1)
    return found


# --- Attention over domains -------------------------------------------------------------------------------------------


def profiles(users: Tensor, ratings: Tensor, mean: float, whose: Tensor, without: Tensor | None) -> Tensor:
    """[N, 4] of what each of `whose` has rated: how many (logarithm), mean shrunken, spread, whether any. `without` are
    ratings [N] of these rows themselves, which are taken out.
    """
    count, total, square = (
        torch.zeros(2946).index_add_(0, users, (ratings - mean) ** power)[whose] for power in (0, 1, 2)
    )
    if without is not None:
        count, total, square = count - 1, total - (without - mean), square - (without - mean) ** 2
    average = total / count.clamp_min(1)
    deviation = (square / count.clamp_min(1) - average**2).clamp_min(0).sqrt()
    return torch.stack([count.log1p() / 3, total / (count + 3), deviation / 2, (count > 0).float()], dim=1)


def attention(seed: int, kept: int, steps: int) -> dict[str, float]:
    data = book_crossing()
    users, items, ratings = (torch.from_numpy(column.astype(np.int64)) for column in data["ratings"].T)
    values, groups = ratings.float(), group_of(data["item_publisher"])[items]
    order = np.random.default_rng(seed).permutation(np.flatnonzero(groups == "romance"))
    parts = order[: len(order) // 2], order[len(order) // 2 :][:kept]
    test, rest = (torch.from_numpy(part) for part in parts)
    decide, train = rest[: len(rest) // 5], rest[len(rest) // 5 :]
    mean = float(values[train].mean())
    names = ("romance", "crime", "literature", "other")

    def features(rows: Tensor, own: bool) -> tuple[dict[str, Tensor], Tensor]:
        found = {}
        for name in names:
            known = train if name == "romance" else torch.from_numpy(np.flatnonzero(groups == name))
            without = values[rows] if own and name == "romance" else None
            found[name] = profiles(users[known], values[known], float(values[known].mean()), users[rows], without)
        mask = torch.stack([found[name][:, 3] > 0 for name in names], dim=1)
        mask[:, 0] = True  # of the book something is always known
        count = torch.bincount(items[train], minlength=20000)[items[rows]].float() - float(own)
        total = torch.zeros(20000).index_add_(0, items[train], values[train] - mean)[items[rows]]
        total = total - (values[rows] - mean) * float(own)
        year = torch.from_numpy(data["item_year"].astype(np.float32))[items[rows]]
        book = torch.stack([total / (count + 5), count.log1p(), ((year - 1995) / 10).clamp(-3, 1)], dim=1)
        found["romance"] = torch.cat([found["romance"], book], dim=1)
        return found, mask

    made = {"train": features(train, True), "decide": features(decide, False), "test": features(test, False)}
    flat = {name: torch.cat([*each.values(), torch.ones(len(mask), 1)], dim=1) for name, (each, mask) in made.items()}
    ridge = torch.linalg.solve(
        flat["train"].T @ flat["train"] + 5 * torch.eye(flat["train"].shape[1]),
        flat["train"].T @ (values[train] - mean),
    )
    found = {"ridge on all features": rmse(flat["test"] @ ridge + mean, values[test])}

    def run(*, alone: bool) -> float:
        torch.manual_seed(seed)
        net = MultiDomainAttentionNetwork({name: made["train"][0][name].shape[1] for name in names})

        def predicted(which: str, rows: Tensor | slice) -> dict[str, Tensor]:
            given, mask = made[which]
            mask = mask[rows] & torch.tensor([True, *[not alone] * 3])
            return net("romance", {name: each[rows] for name, each in given.items()}, mask)

        def step(generator: torch.Generator) -> Tensor:
            net.train()
            rows = torch.randint(len(train), (BATCH,), generator=generator)
            return net.losses(predicted("train", rows), values[train][rows] - mean)["rating"]

        @torch.no_grad()
        def measure() -> tuple[float, float]:
            net.eval()
            both = (("decide", decide), ("test", test))
            errors = [rmse(predicted(n, slice(None))["predictions"] + mean, values[rows]) for n, rows in both]
            return errors[0], errors[1]

        return trained([], list(net.parameters()), step, measure, seed, steps)

    return found | {"attention over four domains": run(alone=False), "the query alone": run(alone=True)}


# --- Three tasks over ids and titles ----------------------------------------------------------------------------------


def titles(raw: np.ndarray, longest: int = 8) -> tuple[Tensor, int]:
    """Ids of the words of each title [N, longest], and how many ids there are; words of at least three titles."""
    words = [re.findall(r"[a-z0-9]+", title.decode("utf-8", "replace").lower())[:longest] for title in raw]
    counts = Counter(word for title in words for word in set(title))
    number = {word: n for n, word in enumerate((w for w, c in counts.items() if c >= 3), start=1)}
    rows = [[number[w] for w in title if w in number] for title in words]
    return torch.tensor([(row + [0] * longest)[:longest] for row in rows]), 1 + len(number)


def table(seed: int, reads: int) -> tuple[Portfolio, int, float, Rows, Rows]:
    """The tasks over one table; how many ids of words; the spread of ratings; those to train and to test."""
    data, rng = book_crossing(), np.random.default_rng(seed)
    rated, history = data["ratings"].astype(np.int64), data["history"].astype(np.int64)
    read = history[rng.choice(len(history), reads, replace=False)]
    known = set((history[:, 0] * 20000 + history[:, 1]).tolist())
    drawn = np.stack([rng.choice(history[:, 0], 2 * reads), rng.integers(1, 17385, 2 * reads)], axis=1)
    unread = drawn[[u * 20000 + i not in known for u, i in drawn.tolist()]][:reads]
    users, items = np.concatenate([rated[:, :2], read, unread]).T
    count, nan = len(users), np.full(len(users), np.nan)
    rating, reading = nan.copy(), nan.copy()
    rating[: len(rated)] = rated[:, 2]
    reading[len(rated) :] = np.repeat([1, 0], [len(read), len(unread)])
    order = rng.permutation(count)
    splits = {"train": order[: 8 * count // 10], "validation": order[8 * count // 10 : 9 * count // 10],
              "test": order[9 * count // 10 :]}  # fmt: skip
    publisher = data["item_publisher"]
    ten = [name for name, _ in Counter(publisher.tolist()).most_common(11) if name][:10]
    kind = np.array([ten.index(p) if p in ten else -1 for p in publisher.tolist()])
    of_item = rng.choice(3, len(kind), p=[0.7, 0.1, 0.2])  # whose category is for which split
    mask = np.stack([~np.isnan(rating), ~np.isnan(reading), np.zeros(count, bool)], axis=1)
    for split, (_, rows) in enumerate(splits.items()):
        mask[rows, 2] = (kind[items[rows]] >= 0) & (of_item[items[rows]] == split)
    text, size = titles(data["item_title"])
    mean, spread = rated[:, 2].mean(), rated[:, 2].std()
    portfolio = Portfolio.from_table(
        {"user_ids": torch.from_numpy(users), "item_ids": torch.from_numpy(items), "text_ids": text[items]},
        {"rating": (rating - mean) / spread, "reading": np.nan_to_num(reading).astype(np.int64),
         "category": np.maximum(kind[items], 0)},
        mask=mask,
        descriptors={
            "rating": TaskDescriptor(task_id="rating", task_type="regression", output_dim=1),
            "reading": TaskDescriptor(task_id="reading", output_dim=1),
            "category": TaskDescriptor(task_id="category", output_dim=10),
        },
        splits={name: rows.tolist() for name, rows in splits.items()},
    )  # fmt: skip

    def ratings(split: str) -> Rows:
        rows = splits[split][~np.isnan(rating[splits[split]])]
        return torch.from_numpy(users[rows]), torch.from_numpy(items[rows]), torch.from_numpy(rating[rows]).float()

    return portfolio, size, float(spread), ratings("train"), ratings("test")


KINDS: dict[str, dict[str, Any]] = {
    "rating": {},
    "reading": {"task_type": "classification"},
    "category": {"output_dim": 10, "task_type": "classification"},
}


@torch.no_grad()
def judged(net: MultiModalMultiTask, tasks: list[Task], spread: float, *, text: bool) -> dict[str, float]:
    """RMSE of ratings (1 to 10), AUC of reading, accuracy of the category."""
    net.eval()
    found = {}
    for task in tasks:
        data = task.data("test")
        outputs = torch.cat([net(**_shown(part, text).parts)[task.task_id] for part in data.inputs.split(4096)])
        if task.task_id == "rating":
            found["rating"] = rmse(outputs, data.targets.float()) * spread
        elif task.task_id == "reading":
            found["reading"] = float(auroc(outputs, data.targets))
        else:
            found["category"] = float((outputs.argmax(1) == data.targets).float().mean())
    return found


def _shown(inputs: Any, text: bool) -> Any:
    return inputs if text else MultiInput(inputs.parts | {"text_ids": torch.zeros_like(inputs.parts["text_ids"])})


def without_text(task: Task) -> Task:
    splits = {split: task.data(split) for split in ("train", "validation", "test")}
    return task.over(**{split: attrs.evolve(data, inputs=_shown(data.inputs, False)) for split, data in splits.items()})


def tasks(seed: int, reads: int, steps: int) -> dict[str, dict[str, float]]:
    portfolio, words, spread, known, unknown = table(seed, reads)
    chosen = list(portfolio)
    rows = {task.task_id: len(task.data("train")) for task in chosen}
    whole = int(0.8 * (62656 + 2 * reads))

    def run(
        some: list[Task], *, text: bool = True, own_attention: bool = True, balancer: str = "equal"
    ) -> dict[str, float]:
        torch.manual_seed(seed)
        net = MultiModalMultiTask(2947, 17385, words, task_configs={t.task_id: KINDS[t.task_id] for t in some})
        net.module.own_attention = own_attention
        batch = 2 * BATCH if len(some) > 1 else max(1, 2 * BATCH * rows[some[0].task_id] // whole)
        budget = Budget(
            steps=steps, batch_size=batch, learning_rate=RATE, weight_decay=1e-4, evaluate_every=50, patience=100
        )
        made = Registry.installed().create("balancer", balancer)
        assert isinstance(made, Balancer)
        shown = some if text else [without_text(task) for task in some]
        MultiTaskTrainer(net, shown, made, budget, LocalContext(seed)).fit()
        return judged(net, some, spread, text=text)

    reading = portfolio["reading"]
    popular = torch.bincount(reading.data().inputs.parts["item_ids"][reading.data().targets == 1], minlength=17385)
    test = reading.data("test")
    category = portfolio["category"]
    most = int(torch.bincount(category.data().targets).argmax())
    score = popular[test.inputs.parts["item_ids"]].float()[:, None]
    alone: dict[str, float] = {}
    for task in chosen:
        alone |= run([task])
    return {
        "biases; popularity; most frequent": {
            "rating": rmse(biases(known, unknown), unknown[2]),
            "reading": float(auroc(score, test.targets)),
            "category": float((category.data("test").targets == most).float().mean()),
        },
        "each alone": alone,
        "together, equal": run(chosen),
        "together, uncertainty": run(chosen, balancer="uncertainty"),
        "together, equal, one attention for all": run(chosen, own_attention=False),
        "together, equal, without titles": run(chosen, text=False),
    }


# --- The tables -------------------------------------------------------------------------------------------------------


def told(values: list[float]) -> str:
    return f"{statistics.mean(values):.3f} ± {statistics.stdev(values) if len(values) > 1 else 0:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--only", choices=("transfer", "attention", "tasks"))
    parser.add_argument("--kept", type=int, nargs="+", default=[1000], help="ratings that are known of the target")
    parser.add_argument("--reads", type=int, default=20000, help="books that were read, and as many that were not")
    parser.add_argument("--steps", type=int, default=600, help="half as many for the tasks, of twice the batch")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    for name, part in (("transfer", transfer), ("attention", attention)):
        for kept in chosen.kept if chosen.only in (None, name) else ():
            begun = time.process_time()
            each = [part(seed, kept, chosen.steps) for seed in range(chosen.seeds)]
            print(f"\n| {name}, {kept} ratings of the target | RMSE |\n|---|---|")
            for row in each[0]:
                print(f"| {row} | {told([one[row] for one in each])} |")
            print(f"{time.process_time() - begun:.0f} CPU seconds", flush=True)
    if chosen.only in (None, "tasks"):
        begun = time.process_time()
        every = [tasks(seed, chosen.reads, chosen.steps // 2) for seed in range(chosen.seeds)]
        print("\n| tasks | rating, RMSE | reading, AUC | category, accuracy |\n|---|---|---|---|")
        for row in every[0]:
            print(f"| {row} | " + " | ".join(told([one[row][task] for one in every]) for task in KINDS) + " |")
        print(f"{time.process_time() - begun:.0f} CPU seconds")


if __name__ == "__main__":
    main()
