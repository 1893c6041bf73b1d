"""Who rated, or took, what: a table of interactions in memory, checked, with splits and honest negatives."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor

from crosstask.errors import DataError, OptionError, nearest

FEEDBACK = ("explicit", "implicit")
"""What a table holds: ratings, or that something was taken at all."""

SPLITS = ("random", "last")
"""How interactions of a user are divided: at random, or the latest held out."""

DRAWS = 100
"""How often a negative is drawn anew before all that are left are looked at."""


WHO = ("user", "item")
"""What is numbered."""


def _column(values: Any, what: str) -> Tensor:
    """A column of numbers as a tensor. DataError for anything else."""
    if isinstance(values, np.ndarray) and values.dtype.kind == "u":
        values = values.astype(np.int64)  # torch does not compare unsigned ones
    try:
        return torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"interactions: {what} must be numbers ({error}); names must be numbered first") from None


def _ids(values: Any, what: str) -> Tensor:
    made = _column(values, what)
    if not made.numel():
        return made.flatten().long()
    if made.ndim != 1 or made.is_floating_point() or made.is_complex() or made.dtype == torch.bool:
        raise DataError(f"interactions: {what} must be whole numbers [N], got {made.dtype} {list(made.shape)}")
    if int(made.min()) < 0:
        raise DataError(f"interactions: {what} of row {int(made.argmin())} is {int(made.min())}: ids count from 1")
    return made.long()


@attrs.frozen(eq=False)
class Interactions:
    """Rows (user, item, rating). Users and items are numbered from 1; 0 is whoever, or whatever, is not known.

    `rating` [N] is the value of explicit feedback, 1 of implicit. `time` [N]: the order of rows, where it is known.
    `text` [N, L]: ids of words, 0 is padding. `item_features` [items + 1, F] and `user_features` [users + 1, F]: side
    information by id. `user_names` and `item_names` are what the ids were called, [0] is "". `pairs`: every pair that
    any split of the table has (`user * (items + 1) + item`, sorted), so that a negative is never a pair of another
    split. DataError for columns of unequal lengths, ids out of range, ratings and times that are not finite.
    """

    user: Tensor = attrs.field(repr=False)
    item: Tensor = attrs.field(repr=False)
    rating: Tensor = attrs.field(repr=False)
    users: int
    items: int
    feedback: str = "explicit"
    time: Tensor | None = attrs.field(default=None, repr=False)
    text: Tensor | None = attrs.field(default=None, repr=False)
    item_features: Tensor | None = attrs.field(default=None, repr=False)
    user_features: Tensor | None = attrs.field(default=None, repr=False)
    user_names: tuple[str, ...] = attrs.field(default=(), repr=False)
    item_names: tuple[str, ...] = attrs.field(default=(), repr=False)
    pairs: Tensor = attrs.field(repr=False)

    @classmethod
    def of(cls, user: Any, item: Any, rating: Any = None, *, feedback: str | None = None, **more: Any) -> Interactions:
        """From columns of ids that count from 1. Without `rating` the feedback is implicit, and where it is, ratings do
        not count as values. DataError for a pair of a known user and a known item that stands there twice: one row
        would be held back and the other not.
        """
        users, items = _ids(user, "users"), _ids(item, "items")
        implicit = rating is None if feedback is None else feedback == "implicit"
        if rating is None and feedback == "explicit":
            raise DataError("interactions: explicit feedback needs ratings")
        values = torch.ones(len(users), dtype=torch.get_default_dtype())
        if rating is not None:
            given = _column(rating, "ratings").to(values)
            values = torch.where(torch.isfinite(given), 1.0, given) if implicit else given
        for what in ("time", "text", "item_features", "user_features"):
            if more.get(what) is not None:
                more[what] = _column(more[what], what)
        for what, size, ids in (("users", more.pop("users", None), users), ("items", more.pop("items", None), items)):
            highest = int(ids.max()) if len(ids) else 0
            if size is not None and highest > size:
                raise DataError(f"interactions: {what} count up to {size}, a row has {highest}")
            more[what] = highest if size is None else int(size)
        made = cls(users, items, values, feedback=feedback or FEEDBACK[implicit], **more)
        made._check_once()
        return made

    def _check_once(self) -> None:
        codes = self._codes(self.user, self.item)[(self.user > 0) & (self.item > 0)]
        ordered = codes.sort().values
        twice = (ordered[1:] == ordered[:-1]).nonzero().flatten()
        if len(twice):
            pair = int(ordered[twice[0]])
            user, item = (self.called(*each) for each in zip(WHO, divmod(pair, self.items + 1), strict=True))
            rows = (self._codes(self.user, self.item) == pair).nonzero().flatten().tolist()
            raise DataError(f"interactions: rows {rows[0]}, {rows[1]} are both of user {user}, item {item}: keep one")

    def __attrs_post_init__(self) -> None:
        if self.feedback not in FEEDBACK:
            raise OptionError(f"interactions: unknown feedback {self.feedback!r}{nearest(self.feedback, FEEDBACK)}")
        count = len(self.user)
        if not count:
            raise DataError("interactions: no rows")
        for what in ("item", "rating", "time", "text"):
            column = getattr(self, what)
            if column is None:
                continue
            if len(column) != count:
                raise DataError(f"interactions: {count} users but {len(column)} of {what}")
            if column.ndim != 1 + (what == "text"):
                wanted = "[N, L]" if what == "text" else "[N]"
                raise DataError(f"interactions: {what} must be {wanted}, got {list(column.shape)}")
        for what, size in (("user", self.users), ("item", self.items)):
            low, high = (int(end) for end in torch.aminmax(getattr(self, what)))
            if low < 0 or high > size:
                told = f"{what}s are numbered from 1 to {size} (0: unknown)"
                raise DataError(f"interactions: {told}, a row has {low if low < 0 else high}")
        if self.time is not None and not bool(torch.isfinite(self.time).all()):
            row = int((~torch.isfinite(self.time)).nonzero()[0])
            raise DataError(f"interactions: the time of row {row} is {float(self.time[row])}")
        finite = torch.isfinite(self.rating)
        if not bool(finite.all()):
            row = int((~finite).nonzero()[0])
            who = f"user {self.called('user', int(self.user[row]))}, item {self.called('item', int(self.item[row]))}"
            raise DataError(f"interactions: the rating of row {row} ({who}) is {float(self.rating[row])}")
        for what, size in (("user", self.users), ("item", self.items)):
            known = getattr(self, f"{what}_features")
            if known is not None and len(known) != size + 1:
                raise DataError(
                    f"interactions: {what}_features has {len(known)} rows, needed are {size + 1} (0: unknown)"
                )

    @pairs.default
    def _own_pairs(self) -> Tensor:
        codes: Tensor = torch.unique(self._codes(self.user, self.item))
        return codes

    def __len__(self) -> int:
        return len(self.user)

    def _codes(self, user: Tensor, item: Tensor) -> Tensor:
        return user * (self.items + 1) + item

    def take(self, rows: Tensor) -> Interactions:
        """These rows (numbers, or a mask); what all splits have together is known to each of them."""
        columns = ("user", "item", "rating", "time", "text")
        own = {name: getattr(self, name)[rows] for name in columns if getattr(self, name) is not None}
        return attrs.evolve(self, **own)

    def of_users(self, users: Iterable[int] | Tensor) -> Interactions:
        """The rows of these users. DataError for a user who has none."""
        wanted = torch.as_tensor(users if isinstance(users, Tensor) else list(users), dtype=torch.long)
        missing = wanted[~torch.isin(wanted, self.user)]
        if len(missing):
            raise DataError(f"interactions: user {self.called('user', int(missing[0]))} has none")
        return self.take(torch.isin(self.user, wanted))

    def called(self, what: str, number: int) -> str:
        """The name of a user or an item, for messages."""
        names = self.user_names if what == "user" else self.item_names
        return repr(names[number]) if 0 < number < len(names) else str(number)

    def ids(self, what: str, names: Sequence[Any], *, unknown: str = "error") -> Tensor:
        """Ids of users or items (`what`) by name; one that is not known is an error, with the nearest, or with
        `unknown="row"` the id 0.
        """
        known = self.user_names if _who(what) == "user" else self.item_names
        size = self.users if what == "user" else self.items
        places = {name: number for number, name in enumerate(known) if number} or {
            str(number): number for number in range(1, size + 1)
        }
        found = [places.get(str(name), 0) for name in names]
        if unknown == "error" and 0 in found:
            name = str(names[found.index(0)])
            raise DataError(f"unknown {what} {name!r}{nearest(name, places)}")
        return torch.tensor(found, dtype=torch.long)

    def counts(self, what: str = "user") -> Tensor:
        """Rows of each user [users + 1] or item [items + 1]."""
        size = self.users if _who(what) == "user" else self.items
        return torch.bincount(getattr(self, what), minlength=size + 1)

    def by_user(self) -> tuple[Tensor, Tensor, Tensor]:
        """(users [U] with rows, rising; rows [N] user by user, in the order of the table; where each begins [U + 1])"""
        order = torch.argsort(self.user, stable=True)
        users, counts = torch.unique_consecutive(self.user[order], return_counts=True)
        return users, order, torch.cat([counts.new_zeros(1), counts.cumsum(0)])

    def split(
        self, validation: float | int = 0.1, test: float | int = 0.2, *, how: str = "random", seed: int = 0
    ) -> dict[str, Tensor]:
        """Rows of `train`, `validation` and `test`: shares of each user's rows (a whole number: so many rows of each),
        drawn at random, or with `how="last"` the latest (the very last are the test). A user keeps one training row at
        least: the parts of a user with few rows are smaller, the test's last. Nothing depends on the order of the rows.
        """
        if how not in SPLITS:
            raise OptionError(f"split: unknown way {how!r}{nearest(how, SPLITS)}")
        if how == "last" and self.time is None:
            raise DataError("split 'last' holds out the latest interactions: it needs a column with the time")
        for name, size in (("validation", validation), ("test", test)):
            if not size >= 0 or (isinstance(size, float) and size >= 1):
                raise OptionError(f"split: {name} is a share below 1 or a number of rows, got {size}")
        generator = np.random.default_rng([seed, 7])
        codes = self._codes(self.user, self.item).numpy()
        draw = generator.random(len(self))[np.argsort(np.argsort(codes, kind="stable"), kind="stable")]
        key = draw if how == "random" else -self._moment().numpy()
        order = np.lexsort((codes, key, self.user.numpy()))
        _, counts = np.unique(self.user.numpy(), return_counts=True)
        starts = np.repeat(np.cumsum(counts) - counts, counts)
        place, have = np.arange(len(self)) - starts, np.repeat(counts, counts)

        def size_of(size: float | int) -> Any:
            return np.floor(have * size + 0.5) if isinstance(size, float) else np.full(len(have), size)

        held = np.minimum(size_of(test), have - 1)
        checked = np.minimum(size_of(validation), have - 1 - held)
        of = np.where(place < held, 2, np.where(place < held + checked, 1, 0))
        found = {}
        for number, name in enumerate(("train", "validation", "test")):
            found[name] = torch.from_numpy(np.sort(order[of == number]))
        return found

    def _moment(self) -> Tensor:
        assert self.time is not None
        return self.time.double()

    def has(self, user: Tensor, item: Tensor) -> Tensor:
        """Whether any split of the table has these pairs."""
        codes = self._codes(user, item)
        place = torch.searchsorted(self.pairs, codes).clamp_max(len(self.pairs) - 1)
        return self.pairs[place] == codes

    def left(self, user: Tensor) -> Tensor:
        """How many items each of these users has in no split."""
        last = torch.searchsorted(self.pairs, self._codes(user, torch.full_like(user, self.items)), right=True)
        return self.items - (last - torch.searchsorted(self.pairs, self._codes(user, torch.ones_like(user))))

    def has_all(self, user: Tensor) -> Tensor:
        """Whether each of these users has every item, so that there is no negative."""
        return self.left(user) == 0

    def negatives(self, user: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """`count` different items [B, count] for each of these users, none of which the user has in any split; each as
        likely as any other. DataError for a user who has too many.
        """
        if len(user) and not 0 <= int(user.min()) <= int(user.max()) <= self.users:
            stranger = int(user.min()) if int(user.min()) < 0 else int(user.max())
            raise DataError(f"unknown user {stranger}: the table has users 1 to {self.users}")
        left = self.left(user)
        if bool((left < count).any()):
            place = int((left < count).nonzero()[0])
            who = self.called("user", int(user[place]))
            raise DataError(f"user {who} has {int(left[place])} items left, and {count} negatives are asked for")
        found = torch.randint(1, self.items + 1, (len(user), count), generator=generator)
        for _ in range(DRAWS):
            wrong = self.has(user[:, None].expand_as(found), found) | _again(found)
            if not bool(wrong.any()):
                return found
            found[wrong] = torch.randint(1, self.items + 1, (int(wrong.sum()),), generator=generator)
        for row in wrong.any(1).nonzero().flatten().tolist():
            every = torch.arange(1, self.items + 1)
            free = every[~self.has(user[row].expand_as(every), every)]
            found[row] = free[torch.randperm(len(free), generator=generator)[:count]]
        return found


def _who(what: str) -> str:
    if what not in WHO:
        raise OptionError(f"interactions: there are users and items, no {what!r}{nearest(what, WHO)}")
    return what


def _again(items: Tensor) -> Tensor:
    """Which of the items [B, K] stand there a second time in their row."""
    order = items.argsort(dim=1, stable=True)
    ranked = items.gather(1, order)
    same = torch.cat([torch.zeros_like(ranked[:, :1], dtype=torch.bool), ranked[:, 1:] == ranked[:, :-1]], dim=1)
    return torch.zeros_like(same).scatter(1, order, same)
