"""What a source is known by, as one vector whose cosine with a target's is the score."""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from crosstask.descriptors import TaskDescriptor
from crosstask.errors import DataError, nearest
from crosstask.options import option, record

WORDS = 32
"""Places into which the words of a descriptor are hashed."""

Vector = NDArray[np.float32]


@record
class Card:
    """A source in the hub: its descriptor (with an embedding, if there is one), cheap statistics by name, how good it
    is for whatever target (-1 to 1; its mean coefficient on earlier targets, say), and what may be filtered by.
    """

    descriptor: TaskDescriptor
    statistics: dict[str, float] = attrs.field(factory=dict)
    quality: float = option(0.0, ge=-1, le=1, help="how good it is for any target")
    licence: str = ""
    modality: str = ""

    def __attrs_post_init__(self) -> None:
        for name, value in self.statistics.items():
            if not math.isfinite(value):
                raise DataError(
                    f"source {self.source!r}: statistic {name!r} is {value}; where it is unknown, leave it out"
                )

    @property
    def source(self) -> str:
        """The task's id."""
        return self.descriptor.task_id


@record
class Weights:
    """What the parts of the score count: the cosines of embeddings, of the descriptors' words and of the standardised
    statistics, and the source's quality.
    """

    embedding: float = option(1.0, ge=0, help="cosine of embeddings")
    words: float = option(0.25, ge=0, help="cosine of hashed words of the descriptors")
    statistics: float = option(0.25, ge=0, help="cosine of standardised statistics")
    quality: float = option(0.25, ge=0, help="the source's quality")

    def __attrs_post_init__(self) -> None:
        if not self.total:
            raise DataError("every weight of the hub's score is 0: at least one must count")

    @property
    def total(self) -> float:
        """The largest score."""
        return self.embedding + self.words + self.statistics + self.quality


@attrs.frozen(eq=False)
class Space:
    """Where sources lie: the width of embeddings, the statistics with their mean and spread, fixed when an index is
    built, so that what is added later lies in the same space. The score of a source and a target,

        w_e cos(embeddings) + w_d cos(words) + w_s cos(statistics) + w_q quality,

    is the product of the target's vector with the source's. Each source has one more number that makes all of one
    length, and is 0 in targets: products are then ordered like cosines (Bachrach et al. 2014). A part that either does
    not have counts 0.
    """

    weights: Weights
    embedding: int
    statistics: tuple[str, ...]
    mean: tuple[float, ...]
    spread: tuple[float, ...]

    @classmethod
    def of(cls, cards: Sequence[Card], weights: Weights) -> Space:
        """The space of these cards."""
        width = next((len(c.descriptor.embedding) for c in cards if c.descriptor.embedding is not None), 0)
        names = tuple(sorted({name for card in cards for name in card.statistics}))
        known = [[card.statistics[n] for card in cards if n in card.statistics] for n in names]
        mean = tuple(float(np.mean(values)) for values in known)
        spread = tuple(_spread(values) for values in known)
        return cls(weights, width, names, mean, spread)

    @property
    def width(self) -> int:
        """Numbers in a vector."""
        return self.embedding + WORDS + len(self.statistics) + 2

    def source(self, card: Card) -> Vector:
        """A source's vector [width], of length sqrt(total weight)."""
        found = self._parts(card.descriptor, card.statistics)
        found[-2] = math.sqrt(self.weights.quality) * card.quality
        found[-1] = math.sqrt(max(0.0, self.weights.total - float(found @ found)))
        return found

    def target(self, descriptor: TaskDescriptor, statistics: Mapping[str, float] | None = None) -> Vector:
        """A target's vector [width]."""
        found = self._parts(descriptor, statistics or {})
        found[-2] = math.sqrt(self.weights.quality)
        return found

    def _parts(self, descriptor: TaskDescriptor, statistics: Mapping[str, float]) -> Vector:
        who = descriptor.task_id
        found = np.zeros(self.width, np.float32)
        if descriptor.embedding is not None and self.embedding:
            own = np.asarray(descriptor.embedding, np.float32)
            if len(own) != self.embedding or not np.isfinite(own).all():
                raise DataError(
                    f"task {who!r}: the hub takes embeddings of {self.embedding} finite numbers, got {len(own)}"
                )
            found[: self.embedding] = math.sqrt(self.weights.embedding) * _unit(own)
        end = self.embedding + WORDS
        found[self.embedding : end] = math.sqrt(self.weights.words) * _unit(_hashed(descriptor))
        if unknown := [name for name in statistics if name not in self.statistics]:
            raise DataError(f"task {who!r}: unknown statistic {unknown[0]!r}{nearest(unknown[0], self.statistics)}")
        rows = zip(self.statistics, self.mean, self.spread, strict=True)
        z = np.array([(statistics[n] - m) / s if n in statistics else 0.0 for n, m, s in rows], np.float32)
        if not np.isfinite(z).all():
            raise DataError(f"task {who!r}: a statistic is not finite")
        found[end:-2] = math.sqrt(self.weights.statistics) * _unit(z)
        return found

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return attrs.asdict(self)

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Space:
        """Of plain data."""
        lists = {name: tuple(told[name]) for name in ("statistics", "mean", "spread")}
        return cls(weights=Weights(**told["weights"]), embedding=int(told["embedding"]), **lists)


def _unit(vector: Vector) -> Vector:
    wide = vector.astype(np.float64)  # the squares of single precision end at 1e38
    length = float(np.linalg.norm(wide))
    return (wide / length).astype(np.float32) if length > 0 else vector


def _spread(values: Sequence[float]) -> float:
    """The standard deviation; 1 where the values are the same but for rounding."""
    found = float(np.std(values))
    return found if found > 1e-12 * float(np.max(np.abs(values))) else 1.0


@functools.lru_cache(maxsize=100_000)
def _place(word: str) -> tuple[int, float]:
    """Where a word counts, and with which sign (Weinberger et al. 2009)."""
    digest = hashlib.blake2b(word.encode(), digest_size=8).digest()
    return int.from_bytes(digest[:4], "little") % WORDS, 1.0 if digest[4] & 1 else -1.0


def _hashed(descriptor: TaskDescriptor) -> Vector:
    found = np.zeros(WORDS, np.float32)
    told = {"type": (descriptor.task_type,), "domain": (descriptor.domain,), "skill": descriptor.required_skills,
            "knows": descriptor.domain_knowledge, "class": descriptor.classes}  # fmt: skip
    for kind, words in told.items():
        for word in words:
            place, sign = _place(f"{kind} {word}")
            found[place] += sign
    return found
