"""The `ratings` source."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from crosstask.descriptors import MultiInput, TaskDescriptor
from crosstask.errors import DataError, OptionError
from crosstask.options import component, option
from crosstask.points.source import Source
from crosstask.tasks import Portfolio, Task
from crosstask_ratings.loading import TABLES, load_ratings
from crosstask_sources.interactions import FEEDBACK, SPLITS, Interactions
from crosstask_sources.randomness import rng_for

PRIOR = 5.0
"""How many average ratings stand behind the mean of an item with few."""


@component
class Ratings(Source):
    """Tasks from a CSV, Parquet or NPZ file of ratings; README.md shows the layouts.

    `tasks="table"`: `rating` (a value, of explicit feedback) and `reading` (whether the user has the item: a single
    logit) over one table, with sampled negatives that no split of the table has, `negatives` for each row; inputs are
    several, by name: `user_ids`, `item_ids`, and `text_ids`, `user_features`, `item_features` where the file has them.

    `tasks="users"`: each user with `least` ratings or more, at most `users` of them, is a task `user <name>`: the
    ratings of items by what is known of these: side information, the mean of what others gave (shrunk), and how many
    they are, on a logarithmic scale. A part `held_out` of the users goes in as unseen: none of theirs is in the means.
    """

    file: str = option("ratings.csv", help="CSV, Parquet or NPZ; relative to here, $CROSSTASK_DATA or ../shared/data")
    user: str = option("user", help="column of the users")
    item: str = option("item", help="column of the items")
    rating: str | None = option("rating", help="column of the ratings; of implicit feedback there is none")
    feedback: str | None = option(None, choices=(None, *FEEDBACK), help="implicit: ratings do not count as values")
    time: str | None = option(None, help="column with the time")
    text: str | None = option(None, help="column with a text, or `item_title` of the packed layout")
    user_columns: tuple[str, ...] = option((), help="side information on users")
    item_columns: tuple[str, ...] = option((), help="side information on items")
    table: str = option("ratings", choices=TABLES, help="of the packed layout: which array")
    delimiter: str = option(",", help="of CSV files")
    encoding: str = option("utf-8", help="of CSV files")
    tasks: str = option("table", choices=("table", "users"), help="one table of all users, or each user as a task")
    split: str = option("random", choices=SPLITS, help="last: the latest of each user are held out")
    validation: float = option(0.1, ge=0, lt=1, help="share of each user's rows")
    test: float = option(0.2, gt=0, lt=1, help="share of each user's rows")
    negatives: int = option(1, ge=0, help="of `reading`: for each row; 0: no such task")
    least: int = option(10, ge=3, help="ratings of a user who is a task")
    users: int = option(50, ge=1, help="users as tasks, at most")
    held_out: float = option(0.2, ge=0, lt=1, help="share of the users that is held back")
    words: int = option(5000, ge=1, help="ids of words")
    seed: int = option(0, ge=0, help="of splits, negatives and the choice of users")

    def interactions(self) -> Interactions:
        """The whole table."""
        return load_ratings(
            self.file, user=self.user, item=self.item, rating=self.rating, feedback=self.feedback, time=self.time,
            text=self.text, user_columns=self.user_columns, item_columns=self.item_columns, table=self.table,
            delimiter=self.delimiter, encoding=self.encoding, words=self.words,
        )  # fmt: skip

    def load(self) -> Portfolio:
        table = self.interactions()
        return self._users(table) if self.tasks == "users" else self._table(table)

    def _splits(self, table: Interactions) -> dict[str, Tensor]:
        return table.split(self.validation, self.test, how=self.split, seed=self.seed)

    def _table(self, table: Interactions) -> Portfolio:
        """`rating` and `reading` over the rows and as many negatives as asked for; these go where their row goes."""
        if not self.negatives and table.feedback == "implicit":
            raise OptionError("source 'ratings': of implicit feedback there is `reading` alone, which needs negatives")
        generator = torch.Generator().manual_seed(int(rng_for(self.seed, "negatives").integers(2**62)))
        splits, count = self._splits(table), len(table)
        users, order, starts = table.by_user()
        drawn = torch.empty(count, self.negatives, dtype=torch.long)
        for user, start, end in zip(users, starts[:-1].tolist(), starts[1:].tolist(), strict=True):
            try:
                own = table.negatives(user[None], (end - start) * self.negatives, generator)
            except DataError as error:
                told = "ask for fewer `negatives`; with 0 there is no task `reading`"
                raise DataError(f"source 'ratings': {error}: {told}") from None
            drawn[order[start:end]] = own.view(end - start, self.negatives)
        user = torch.cat([table.user, table.user.repeat_interleave(self.negatives)])
        item = torch.cat([table.item, drawn.flatten()])
        parts: dict[str, Tensor] = {"user_ids": user, "item_ids": item}
        if table.text is not None:
            parts["text_ids"] = torch.cat([table.text, self._text(table)[drawn.flatten()]])
        for name, ids in (("user_features", user), ("item_features", item)):
            known = getattr(table, name)
            if known is not None:
                parts[name] = known[ids]
        has = torch.arange(len(user)) < count
        targets: dict[str, Tensor] = {}
        descriptors: dict[str, TaskDescriptor] = {}
        if table.feedback == "explicit":
            targets["rating"] = torch.cat([table.rating, table.rating.new_full((len(user) - count,), float("nan"))])
            descriptors["rating"] = TaskDescriptor(
                task_id="rating", task_type="regression", output_dim=1, required_skills=("taste",), domain="ratings"
            )
        if self.negatives:
            targets["reading"] = has.long()
            descriptors["reading"] = TaskDescriptor(
                task_id="reading", output_dim=1, required_skills=("taste",), domain="ratings"
            )
        rows = {
            split: torch.cat([own, (count + own[:, None] * self.negatives + torch.arange(self.negatives)).flatten()])
            for split, own in splits.items()
            if len(own)
        }
        return Portfolio.from_table(MultiInput(parts), targets, descriptors=descriptors, splits=rows, name="ratings")

    def _text(self, table: Interactions) -> Tensor:
        """A text of each item [items + 1, L]: that of its first row."""
        assert table.text is not None
        found = torch.zeros(table.items + 1, table.text.shape[1], dtype=torch.long)
        found[table.item.flip(0)] = table.text.flip(0)
        return found

    def _users(self, table: Interactions) -> Portfolio:
        if table.feedback == "implicit":
            raise OptionError("source 'ratings': tasks = 'users' learns ratings; of implicit feedback there are none")
        counts = table.counts()
        enough = (counts >= self.least).nonzero().flatten().numpy()
        held = round(self.held_out * min(self.users, len(enough)))
        chosen = rng_for(self.seed, "users").permutation(enough)[: self.users]
        if len(chosen) - held < 1:
            raise DataError(
                f"source 'ratings': no user has {self.least} ratings (`least`); the most is {int(counts.max())}"
            )
        unseen = set(chosen[:held].tolist())
        splits = self._splits(table)
        train = torch.zeros(len(table), dtype=torch.bool)
        train[splits["train"]] = True
        seen = train & ~torch.isin(table.user, torch.tensor(sorted(unseen), dtype=torch.long))
        portfolio = Portfolio(name="ratings by user")
        features = self._features(table, seen)
        of_split = torch.zeros(len(table), dtype=torch.long)
        for number, split in enumerate(("train", "validation", "test")):
            of_split[splits[split]] = number
        for user in chosen.tolist():
            own = table.user == user
            data: dict[str, Any] = {}
            for number, split in enumerate(("train", "validation", "test")):
                rows = (own & (of_split == number)).nonzero().flatten()
                if len(rows):
                    data[split] = (features[rows], table.rating[rows])
            name = f"user {table.user_names[user] or user}"
            descriptor = TaskDescriptor(
                task_id=name, task_type="regression", output_dim=1, input_shape=(features.shape[1],), domain="ratings",
                sample_count=len(data["train"][1]), required_skills=("taste",),
            )  # fmt: skip
            portfolio.add(Task(descriptor=descriptor, **data), unseen=user in unseen)
        return portfolio

    def _features(self, table: Interactions, seen: Tensor) -> Tensor:
        """What is known of the item of each row [N, F]; of the means a rating of the training does not see itself."""
        mean = table.rating[seen].mean()
        away = torch.where(seen, table.rating - mean, 0.0)
        sums = torch.zeros(table.items + 1).index_add(0, table.item, away)[table.item] - away
        counts = torch.zeros(table.items + 1).index_add(0, table.item, seen.to(away.dtype))[table.item] - seen.to(
            away.dtype
        )
        own = torch.stack([sums / (counts + PRIOR), torch.log1p(counts)], dim=1)
        return own if table.item_features is None else torch.cat([own, table.item_features[table.item]], dim=1)
