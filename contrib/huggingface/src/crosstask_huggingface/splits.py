"""Splits of data sets, read batch by batch when they are asked for; texts as padded tensors, all of one length."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor

from crosstask.errors import DataError, OptionError

BATCH = 1000
"""Samples that are read and tokenised at a time."""
EXACT = 2**53
"""Up to here double precision has all whole numbers."""


@attrs.define
class Tokens:
    """How texts become numbers: the tokeniser, the longest that a text may be, and which of its answers are kept."""

    tokenizer: Any
    max_length: int | None = None
    fields: tuple[str, ...] = ()
    words: bool = False
    """Whether a text is a list of words."""

    def __attrs_post_init__(self) -> None:
        if self.tokenizer.pad_token_id is None:
            raise OptionError(
                "the tokeniser has no token to pad with: set `tokenizer.pad_token`, for example to its eos_token"
            )
        most = int(self.tokenizer.model_max_length)
        if self.max_length is None and most < 1_000_000:  # transformers' own sign for unknown is 1e30
            self.max_length = most

    def encode(self, texts: Sequence[Sequence[Any]]) -> Any:
        """A batch of texts (columns of them: one, or two that belong together) as lists of numbers, not padded."""
        return self.tokenizer(
            *[list(column) for column in texts],
            truncation=self.max_length is not None,
            max_length=self.max_length,
            padding=False,
            is_split_into_words=self.words,
        )

    def names(self) -> tuple[str, ...]:
        """Which tensors a model gets."""
        sample = self.encode([[["a"]] if self.words else ["a"]])
        given = tuple(name for name in sample if name in ("input_ids", "token_type_ids", "attention_mask"))
        given = given if "attention_mask" in given else (*given, "attention_mask")
        if unknown := [name for name in self.fields if name not in given]:
            raise OptionError(f"the tokeniser gives no {unknown[0]!r}; it gives {', '.join(given)}")
        return self.fields or given

    def padded(self, encoded: Mapping[str, Sequence[Sequence[int]]], length: int) -> dict[str, Tensor]:
        """Tensors [N, length] of a batch."""
        counts = [len(ids) for ids in encoded["input_ids"]]
        left = self.tokenizer.padding_side == "left"
        fill = {"input_ids": self.tokenizer.pad_token_id, "token_type_ids": self.tokenizer.pad_token_type_id}
        made = {}
        for name in self.names():
            rows = np.full((len(counts), length), fill.get(name, 0), dtype=np.int64)
            for row, count in enumerate(counts):
                place = slice(length - count, length) if left else slice(count)
                rows[row, place] = encoded[name][row] if name in encoded else 1  # a mask that it does not give
            made[name] = torch.from_numpy(rows)
        return made

    def spread(self, encoded: Any, labels: Sequence[Sequence[int]], length: int) -> Tensor:
        """Labels [N, length] of words at their first tokens; -100 at all other places."""
        rows = torch.full((len(labels), length), -100)
        left = self.tokenizer.padding_side == "left"
        for row, own in enumerate(labels):
            words = encoded.word_ids(row)
            start = length - len(words) if left else 0
            before = None
            for place, word in enumerate(words):
                if word is not None and word != before:
                    rows[row, start + place] = own[word]
                before = word
        return rows


@attrs.define(eq=False)
class TextSplit:
    """One split of a task: called, it gives its batches, tokenised and padded to `length`."""

    data: Any
    tokens: Tokens
    texts: tuple[str, ...]
    target: str
    kind: str
    classes: tuple[str, ...] = ()
    length: int = 0

    def longest(self) -> int:
        """Tokens of the longest text: each is tokenised for this."""
        return max((len(ids) for batch in self._read() for ids in self._encoded(batch)["input_ids"]), default=0)

    def __call__(self) -> Iterator[tuple[dict[str, Tensor], Any]]:
        for batch in self._read():
            encoded = self._encoded(batch)
            yield self.tokens.padded(encoded, self.length), self._targets(batch[self.target], encoded)

    def _read(self) -> Iterator[dict[str, list[Any]]]:
        yield from self.data.select_columns([*self.texts, self.target]).with_format(None).iter(batch_size=BATCH)

    def _encoded(self, batch: Mapping[str, list[Any]]) -> Any:
        for name in self.texts:
            wrong = next((text for text in batch[name] if not isinstance(text, list if self.tokens.words else str)), "")
            if wrong != "":
                what = "a list of words" if self.tokens.words else "text"
                raise DataError(f"column {name!r} must hold {what}, got {wrong!r}")
        return self.tokens.encode([batch[name] for name in self.texts])

    def _targets(self, column: list[Any], encoded: Any) -> Any:
        if self.kind == "token_classification":
            for row, labels in enumerate(column):
                count = 1 + max((word for word in encoded.word_ids(row) if word is not None), default=-1)
                if len(labels or ()) < count:
                    raise DataError(f"column {self.target!r} has {len(labels or ())} labels for {count} words")
            return self.tokens.spread(encoded, column, self.length)
        return targets_of(column, self.kind, self.classes)


@attrs.define(eq=False)
class PlainSplit:
    """One split of a task without texts: called, it gives its batches. Several columns of numbers are one input."""

    data: Any
    inputs: tuple[str, ...]
    target: str
    kind: str
    classes: tuple[str, ...] = ()

    def __call__(self) -> Iterator[tuple[Any, Any]]:
        columns = self.data.select_columns([*self.inputs, self.target]).with_format(None)
        for batch in columns.iter(batch_size=BATCH):
            yield self._inputs(batch), targets_of(batch[self.target], self.kind, self.classes)

    def _inputs(self, batch: Mapping[str, list[Any]]) -> Any:
        made = {name: _array(name, batch[name]) for name in self.inputs}
        if all(array.ndim == 1 for array in made.values()):
            return np.stack([array.astype(np.float64) for array in made.values()], 1)
        return made if len(made) > 1 else made[self.inputs[0]]


def _array(name: str, column: Sequence[Any]) -> Any:
    """A column as an array [N, ...]; of images, [N, channels, rows, columns]."""
    images = all(hasattr(value, "getbands") for value in column)
    try:
        array = np.stack([np.asarray(value) for value in column])
    except ValueError:
        raise DataError(f"column {name!r} has samples of different sizes: bring all to one size") from None
    if array.dtype.kind not in "biuf":
        raise DataError(f"column {name!r} holds no numbers: name the inputs= that are, or give a tokenizer for texts")
    return np.moveaxis(array, -1, 1) if images and array.ndim == 4 else array


def targets_of(column: Sequence[Any], kind: str, classes: Sequence[str]) -> Any:
    """A column as targets: NaN, or None among names, where there is none; sets of labels as rows of 0 and 1."""
    if kind == "multilabel":
        return _indicators(column, len(classes))
    if any(isinstance(value, str) for value in column):
        return np.array(column, dtype=object)
    width = max((len(value) for value in column if isinstance(value, list | tuple)), default=0)
    nothing = [float("nan")] * width if width else float("nan")
    unlabelled = kind == "classification" and bool(classes)  # -1 is what `datasets` has in splits without labels
    values = [nothing if v is None or (unlabelled and v == -1) else v for v in column]
    if kind == "classification" and (large := [v for v in values if isinstance(v, int) and abs(v) > EXACT]):
        raise DataError(f"label {large[0]} is too large to be told from the next: have labels as text, or as classes")
    try:
        return torch.tensor(values, dtype=torch.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"targets cannot be made a tensor: {error}") from None


def _indicators(column: Sequence[Any], count: int) -> Tensor:
    rows = torch.zeros(len(column), count or max((len(value) for value in column if value is not None), default=0))
    for row, labels in enumerate(column):
        if labels is None:
            rows[row] = float("nan")
        elif not count:  # it has a place for each label already
            if len(labels) != rows.shape[1]:
                raise DataError(
                    f"lists of labels without names must have a place, 0 or 1, for each label; here is one of "
                    f"{len(labels)} and one of {rows.shape[1]}"
                )
            rows[row] = torch.tensor(labels, dtype=rows.dtype)
        elif wrong := [label for label in labels if not 0 <= label < count]:
            raise DataError(f"label {wrong[0]} is none of the {count} classes")
        elif len(labels):
            rows[row, torch.tensor(labels)] = 1
    return rows
