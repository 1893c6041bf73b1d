"""Training of the networks: what was measured is hidden in part, and predicted from the rest."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from crosstask.graph import RelationType
from crosstask.learning.modules import seeded
from crosstask_gnn.low_rank import low_ranks
from crosstask_gnn.mixed import Design, Fitted, mixed
from crosstask_gnn.network import Networks, Sight
from crosstask_gnn.pairs import Array, Mask, Pairs, standardised, within_targets

SHRINKAGE = 0.5
"""Weight of the square of what a network adds to the base, in units of the noise: a prior that the base is right."""

MANY, ENOUGH = 200, 3
"""Tasks above which no low rank is tried, and measured pairs per source and target below which."""

LARGEST = 30_000_000
"""Numbers that the strengths of all relations of the networks trained at a time may take."""


@attrs.frozen
class Shape:
    """The networks' sizes, and how long they are trained."""

    width: int = 128
    hidden: int = 256
    relations: int = 7
    layers: int = 3
    members: int = 1
    steps: int = 100
    learning_rate: float = 3e-3


@attrs.frozen(eq=False)
class Labels:
    """What else is learned: `relations` [n, n], the type of each measured pair as its place in
    `RelationType` (-1: unknown), `difficulty` [n] in [0, 1]
    (NaN: unknown).
    """

    relations: Array
    difficulty: Array

    @classmethod
    def none(cls, count: int) -> Labels:
        """Of `count` tasks, of which nothing is known."""
        return cls(np.full((count, count), -1), np.full(count, np.nan))


@attrs.frozen(eq=False)
class Forecast:
    """Of some networks: `mean` and `variance` (among them) [n, n], `relations` [n, n, 7], `difficulty` [n]; and for
    each fold what the networks that had not seen it say of its pairs [folds, n, n] (of others, the base).
    """

    mean: Array
    variance: Array
    relations: Array
    difficulty: Array
    blind: Array


@attrs.frozen(eq=False)
class Base:
    """What the networks start from: `mean` [n, n], and the variance of a measurement about it."""

    mean: Array
    noise: float

    @classmethod
    def plain(cls, fit: Fitted) -> Base:
        """The mixed model."""
        return cls(fit.mean, fit.variances.noise)

    @classmethod
    def completed(cls, pairs: Pairs, fit: Fitted) -> Base:
        """The mixed model, completed by one of low rank in what it leaves."""
        return cls.all_completed([pairs], [fit])[0]

    @classmethod
    def all_completed(cls, parts: Sequence[Pairs], fits: Sequence[Fitted], *, quick: bool = False) -> list[Base]:
        """Several at once, of the same tasks. `quick`: one start, few rounds."""
        means = [fit.mean for fit in fits]
        found = low_ranks(parts, means, starts=1, rounds=25) if quick else low_ranks(parts, means)
        return [cls(each.mean, each.noise) for each in found]


def enough(pairs: Pairs) -> bool:
    """Whether a low rank is worth trying: not where less than `ENOUGH` pairs were measured for each source and target,
    which say nothing of products, nor with more than `MANY` tasks, where it takes long.
    """
    ends = pairs.measured.any(0).sum() + pairs.measured.any(1).sum()
    return bool(pairs.count <= MANY and pairs.measured.sum() >= ENOUGH * ends)


@attrs.frozen(eq=False)
class Lesson:
    """Pairs to predict [n, n], and the base without them: what a network sees of the rest follows."""

    hidden: Mask
    base: Array


def forecast(
    pairs: Pairs, folds: Sequence[Mask], bases: Sequence[Base], whole: Base, library: Sequence[list[Lesson]],
    design: Design, labels: Labels, shape: Shape, seed: int, device: str = "cpu",
) -> Forecast:  # fmt: skip
    """Train `shape.members` networks without each fold, and let all of them predict from everything that is known.

    A network learns what to add to the base, the models of what it sees. At every step a part of its measurements, or
    all into some targets, is hidden from it and from its base, and predicted: no network is ever shown what it is asked
    for. `bases` are those without each fold, `whole` the one with everything, `library` the lessons of each fold.
    """
    n, count = pairs.count, len(folds) * shape.members
    at_once = max(1, LARGEST // (shape.relations * n * n) // shape.members)
    found = [
        _train(pairs, folds[start : start + at_once], bases[start : start + at_once], whole,
               library[start : start + at_once], design, labels, shape, seed + start, device)
        for start in range(0, len(folds), at_once)
    ]  # fmt: skip
    added = np.sum([part["added"] for part in found], axis=0) / count
    squares = np.sum([part["squares"] for part in found], axis=0) / count
    return Forecast(
        mean=whole.mean + added,
        variance=np.maximum(squares - added**2, 0.0),
        relations=np.sum([part["relations"] for part in found], axis=0) / count,
        difficulty=np.sum([part["difficulty"] for part in found], axis=0) / count,
        blind=np.concatenate([part["blind"] for part in found]),
    )


def _train(
    pairs: Pairs, folds: Sequence[Mask], bases: Sequence[Base], whole: Base, library: Sequence[list[Lesson]],
    design: Design, labels: Labels, shape: Shape, seed: int, device: str,
) -> dict[str, Array]:  # fmt: skip
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    copies = [fold for fold in range(len(folds)) for _ in range(shape.members)]
    view = _View(pairs, bases, design, shape.members, device)
    networks = Networks(
        len(copies), pairs.count, view.nodes.shape[1], len(view.estimates), width=shape.width, hidden=shape.hidden,
        relations=shape.relations, layers=shape.layers, generator=generator,
    ).to(device)  # fmt: skip
    optimizer = torch.optim.AdamW(networks.parameters(), lr=shape.learning_rate, weight_decay=0.02, fused=True)
    course = _Course.of(view, folds, library, labels, shape.members, device)
    noise = view.noise[:, None]
    with seeded(seed):  # dropout draws from the global numbers
        for step in range(shape.steps):
            for group in optimizer.param_groups:  # warm up, then down to a tenth
                rate = min(1.0, (step + 1) / 10) * (1 - 0.9 * step / shape.steps)
                group["lr"] = shape.learning_rate * rate
            sight, wanted = course.at([course.starts[fold] + int(rng.integers(len(library[fold]))) for fold in copies])
            source, target, weight, base = wanted.source, wanted.target, wanted.weight, wanted.base
            h = networks.tasks(sight)
            added, logits = networks.pairs(h, sight, source, target)
            logits = logits + type_logits(base + noise * added.detach(), noise)
            missed = functional.smooth_l1_loss(added, wanted.wanted, reduction="none", beta=2.0)
            loss = (weight * (wanted.sure * missed + SHRINKAGE * added.square())).sum()
            loss = loss + 0.1 * _type_loss(logits, wanted.types, weight)
            loss = loss + 0.1 * _difficulty_loss(networks.hardness(h), labels.difficulty)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
    networks.eval()
    blind = np.stack([base.mean for base in bases])
    sight = view.sight([pairs.measured & ~folds[f] for f in copies], [bases[f].mean for f in copies])
    source, target, weight = _asked([folds[f] for f in copies], device)
    with torch.no_grad():
        more = (networks.pairs(networks.tasks(sight), sight, source, target)[0] * view.noise[:, None]).cpu().numpy()
    for copy, fold in enumerate(copies):  # only what was left out is asked for
        asked = tuple(ends[copy][weight[copy] > 0].cpu().numpy() for ends in (source, target))
        blind[fold][asked] += more[copy][: len(asked[0])] / shape.members
    everything = view.sight([pairs.measured] * len(copies), [whole.mean] * len(copies))
    more, relations, difficulty = view.answer(networks, everything, [whole.mean] * len(copies))
    return {
        "added": more.sum(0),
        "squares": (more**2).sum(0),
        "relations": relations.sum(0),
        "difficulty": difficulty.sum(0),
        "blind": blind,
    }


class _View:
    """What stays the same for all networks, and how they are shown the rest."""

    def __init__(self, pairs: Pairs, bases: Sequence[Base], design: Design, members: int, device: str) -> None:
        def tensor(array: Array) -> Tensor:
            return torch.tensor(array, dtype=torch.float32, device=device)

        self.pairs, self.device = pairs, device
        scores = np.concatenate([0.5 * within_targets(pairs.estimates), np.moveaxis(design.score, 2, 0)])
        features = standardised(pairs.nodes, axis=0) / max(1.0, pairs.nodes.shape[1] ** 0.5)
        self.estimates = tensor(scores)
        self.nodes = tensor(np.hstack([features, design.target, design.source]))
        spread = [base.noise**0.5 for base in bases for _ in range(members)]
        self.noise = tensor(np.array(spread))
        stated = tensor(np.nan_to_num(pairs.error))
        self.sure = 1 / (1 + (stated / self.noise[:, None, None]) ** 2)
        """[B, n, n] how much a measurement tells, by its standard error: 1 for one without any."""

    def sight(self, visible: Sequence[Mask], base: Sequence[Array], copies: Sequence[int] | None = None) -> Sight:
        """What each network sees; `copies`: what so many of them in this order would."""
        at = slice(None) if copies is None else torch.tensor(copies, device=self.device)
        scale, sure = self.noise[at, None, None], self.sure[at]
        seen = torch.tensor(np.stack(visible), dtype=torch.float32, device=self.device)
        bases = torch.tensor(np.stack(base), dtype=torch.float32, device=self.device)
        known = torch.tensor(np.nan_to_num(self.pairs.known), dtype=torch.float32, device=self.device)
        centred = (bases - bases.mean((1, 2), keepdim=True)) / (2 * scale)
        told = seen * sure
        return Sight(self.nodes, self.estimates, told * (known - bases) / scale, told, centred)

    @torch.no_grad()
    def answer(
        self, networks: Networks, sight: Sight, base: Sequence[Array], at_once: int = 200_000
    ) -> tuple[Array, Array, Array]:
        """(what to add to the base [B, n, n], probabilities of the types [B, n, n, 7], difficulties [B, n])."""
        n, copies = self.pairs.count, len(self.noise)
        h = networks.tasks(sight)
        noise = self.noise[:, None, None]
        bases = torch.tensor(np.stack(base), dtype=torch.float32, device=self.device)
        added, types = [], []
        for rows in torch.split(torch.arange(n, device=self.device), max(1, at_once // (copies * n))):
            more, logits = networks.grid(h, sight, rows)
            added.append((more * noise).cpu())
            types.append((logits + type_logits(bases[:, rows] + noise * more, noise)).softmax(3).cpu())
        return (
            torch.cat(added, 1).double().numpy(),
            torch.cat(types, 1).numpy(),
            networks.hardness(h).sigmoid().cpu().numpy(),
        )


@attrs.frozen(eq=False)
class _Asked:
    """Pairs that are asked for, [B, m] each: their ends, weights in the loss, base, what would be right to add to it in
    units of the noise, how much its measurement tells, and relation types (-1: unknown).
    """

    source: Tensor
    target: Tensor
    weight: Tensor
    base: Tensor
    wanted: Tensor
    sure: Tensor
    types: Tensor


@attrs.frozen(eq=False)
class _Course:
    """All lessons of all folds as tensors, one after the other; those of a fold begin at its place in `starts`."""

    starts: list[int]
    counts: list[int]
    sight: Sight
    asked: _Asked

    @classmethod
    def of(
        cls, view: _View, folds: Sequence[Mask], library: Sequence[list[Lesson]], labels: Labels, members: int,
        device: str,
    ) -> _Course:  # fmt: skip
        measured = view.pairs.measured
        numbers = [fold for fold, lessons in enumerate(library) for _ in lessons]
        lessons = [lesson for each in library for lesson in each]
        copies = [fold * members for fold in numbers]  # all members of a fold have the same noise
        sight = view.sight(
            [measured & ~folds[fold] & ~x.hidden for fold, x in zip(numbers, lessons, strict=True)],
            [x.base for x in lessons],
            copies,
        )
        source, target, weight = _asked([x.hidden for x in lessons], device)
        rows = torch.arange(len(lessons), device=device)[:, None]
        base = torch.tensor(np.stack([x.base for x in lessons]), dtype=torch.float32, device=device)
        base = base[rows, source, target]
        known = torch.tensor(np.nan_to_num(view.pairs.known), dtype=torch.float32, device=device)[source, target]
        place = torch.tensor(copies, device=device)
        types = torch.tensor(labels.relations, device=device)[source, target]
        sure = view.sure[place[:, None], source, target]
        asked = _Asked(source, target, weight, base, (known - base) / view.noise[place, None], sure, types)
        sizes = [len(each) for each in library]
        starts = [sum(sizes[:fold]) for fold in range(len(sizes))]
        return cls(starts, [int(lesson.hidden.sum()) for lesson in lessons], sight, asked)

    def at(self, rows: Sequence[int]) -> tuple[Sight, _Asked]:
        """One lesson for each network."""
        most = max(self.counts[row] for row in rows)
        place = torch.tensor(rows, device=self.asked.source.device)
        whole = self.sight
        sight = attrs.evolve(
            whole, residual=whole.residual[place], visible=whole.visible[place], base=whole.base[place]
        )
        fields = attrs.asdict(self.asked, recurse=False)
        return sight, _Asked(**{name: tensor[place, :most] for name, tensor in fields.items()})


def type_logits(mean: Tensor, spread: Tensor) -> Tensor:
    """[..., 7] logarithms of how probable each relation type is for a coefficient normal about `mean`: where a network
    starts from. What is both weakly similar and complementary is halved: which of them depends on the descriptors.
    """
    ends = torch.tensor((0.0, 0.2, 0.4, 0.5, 0.7, 1.0), device=mean.device)
    below = torch.special.ndtr((ends - mean[..., None]) / spread[..., None])
    negative, small, weak, middle, upper, high = torch.diff(below, prepend=torch.zeros_like(below[..., :1])).unbind(-1)
    chances = {
        RelationType.ANTAGONISTIC: negative,
        RelationType.INDEPENDENT: small,
        RelationType.WEAKLY_SIMILAR: weak / 2,
        RelationType.COMPLEMENTARY: (weak + middle) / 2,
        RelationType.MODERATELY_SIMILAR: middle / 2 + upper,
        RelationType.HIGHLY_SIMILAR: high,
        RelationType.IDENTICAL: 1 - below[..., -1],
    }
    return torch.stack([chances[kind] for kind in RelationType], dim=-1).clamp_min(1e-4).log()


def lessons(
    pairs: Pairs, fit: Fitted, design: Design, rng: np.random.Generator, *, complete: bool = False
) -> list[Lesson]:
    """Ways to hide a part of what is known: three times single pairs, the fourth time all pairs into some targets. The
    base without it has the variances of `fit`, and is completed if asked for.
    """
    seen, found = pairs.measured, []
    for number in range(8 if pairs.count <= 150 else 4):
        hidden = seen & (rng.random(seen.shape) < rng.uniform(0.2, 0.5))
        if number % 4 == 3:
            hidden = seen & (rng.random(pairs.count) < 0.4)
        if hidden.any() and (seen & ~hidden).any():
            found.append(hidden)
    found = found or [seen]
    rests = [pairs.without(hidden) for hidden in found]
    plain = [mixed(rest, fit.variances, design, spread=False) for rest in rests]
    bases = Base.all_completed(rests, plain, quick=True) if complete else [Base.plain(each) for each in plain]
    return [Lesson(hidden, base.mean) for hidden, base in zip(found, bases, strict=True)]


def _asked(hidden: Sequence[Mask], device: str) -> tuple[Tensor, Tensor, Tensor]:
    """(sources, targets, weights), each [B, m]: the pairs of every mask, their weights adding up to one, then zeros."""
    places = [np.argwhere(mask) for mask in hidden]
    most = max(map(len, places))
    ends = np.zeros((2, len(places), most), dtype=np.int64)
    weight = np.zeros((len(places), most), dtype=np.float32)
    for row, own in enumerate(places):
        ends[:, row, : len(own)] = own.T
        weight[row, : len(own)] = 1 / len(own)
    source, target = torch.tensor(ends, device=device)
    return source, target, torch.tensor(weight, device=device)


def _type_loss(logits: Tensor, types: Tensor, weight: Tensor) -> Tensor:
    loss = functional.cross_entropy(logits.permute(0, 2, 1), types.clamp_min(0), reduction="none")
    return (weight * (types >= 0) * loss).sum()


def _difficulty_loss(logits: Tensor, difficulty: Array) -> Tensor:
    given = np.flatnonzero(~np.isnan(difficulty))
    if not len(given):
        return logits.sum() * 0
    wanted = torch.tensor(difficulty[given], dtype=logits.dtype, device=logits.device)
    chosen = logits[:, torch.tensor(given, device=logits.device)]
    return functional.binary_cross_entropy_with_logits(
        chosen, wanted.expand_as(chosen), reduction="none"
    ).mean(1).sum()  # fmt: skip
