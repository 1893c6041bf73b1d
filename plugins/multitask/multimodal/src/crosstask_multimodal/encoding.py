"""One token for each modality of a sample: of an id, of a text (ids of words) or of numbers."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from crosstask.descriptors import MultiInput
from crosstask.errors import DataError, OptionError, nearest
from crosstask.options import structure

PADDING = 0
"""The id of no word, in texts of unlike lengths."""

UNKNOWN = -1
"""The id of somebody (or something) that is not known: this modality is missing in the sample."""

SPREAD = 0.1
"""Standard deviation of fresh embeddings: one of an id that is hardly ever seen should not say much."""


class Table(nn.Embedding):
    """Embeddings that start small; the row of the padding, where there is one, is zero and stays so."""

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=SPREAD)
        self._fill_padding_idx_with_zero()


class Encoder(nn.Module):
    """A sample's modalities as tokens [N, M, E], and which of them it has, bool [N, M]; the others are zero.

    `ids` and `texts` are numbers of different ids by modality, `dense` numbers of values. An id is missing where it is
    `UNKNOWN`, a text where it has no word; padding does not enter the mean of a text's words.
    """

    def __init__(
        self,
        ids: Mapping[str, int],
        texts: Mapping[str, int],
        dense: Mapping[str, int],
        embedding_dim: int,
    ) -> None:
        super().__init__()
        sizes = {}
        for told, given in (("ids", ids), ("texts", texts), ("values", dense)):
            for name, size in given.items():
                if name in sizes:
                    raise OptionError(f"modality {name!r} is described twice")
                sizes[name] = structure(size, int, f"the number of {told} of modality {name!r}")
                if sizes[name] < 1:
                    raise OptionError(f"modality {name!r} needs at least 1 of its {told}, got {size}")
        if not sizes:
            raise OptionError("there is no modality: name some ids, texts or numbers")
        self.names, self.sizes = tuple(sizes), sizes
        self.ids, self.texts = frozenset(ids), frozenset(texts)
        parts: dict[str, nn.Module] = {}
        for name, size in sizes.items():
            if name in dense:
                parts[_key(name)] = nn.Linear(size, embedding_dim)
            else:
                parts[_key(name)] = Table(size, embedding_dim, padding_idx=PADDING if name in texts else None)
        self.parts = nn.ModuleDict(parts)

    def forward(self, inputs: MultiInput) -> tuple[Tensor, Tensor]:
        for name in inputs.parts:
            if name not in self.sizes:
                raise DataError(f"unknown modality {name!r}{nearest(name, self.names)}")
        tokens, present = [], []
        for name in self.names:
            if name not in inputs.parts:
                raise DataError(f"the inputs have no {name!r}{nearest(name, inputs.parts)}")
            token, known = self._encode(name, inputs.parts[name])
            tokens.append(token)
            present.append(known)
        return torch.stack(tokens, dim=1), torch.stack(present, dim=1)

    def _encode(self, name: str, values: Tensor) -> tuple[Tensor, Tensor]:
        part = self.parts[_key(name)]
        if name not in self.ids and name not in self.texts:
            return self._numbers(name, part, values)
        if values.is_floating_point() or values.is_complex() or values.dtype == torch.bool:
            raise DataError(f"{name}: ids must be whole numbers, got {values.dtype}")
        form = 1 if name in self.ids else 2
        if values.ndim != form:
            wanted = "[N]" if form == 1 else "[N, L]"
            raise DataError(f"{name}: ids must have the shape {wanted}, got {tuple(values.shape)}")
        lowest, size = (UNKNOWN if form == 1 else PADDING), self.sizes[name]
        if values.numel():
            low, high = (int(end) for end in torch.aminmax(values))
            if low < lowest or high >= size:
                wrong = high if high >= size else low
                also = f", or {UNKNOWN} where it is not known" if form == 1 else f" ({PADDING} is padding)"
                raise DataError(f"{name}: there is no id {wrong}: they run from 0 to {size - 1}{also}")
        if form == 1:
            known = values != UNKNOWN
            return part(values.clamp_min(0)) * known[:, None], known
        words = values != PADDING
        count = words.sum(dim=1)
        # Rows of padding are zero, but not to the gradient of somebody who changes them: they are left out.
        total = (part(values) * words[:, :, None]).sum(dim=1)
        return total / count.clamp_min(1)[:, None], count > 0

    def _numbers(self, name: str, part: nn.Module, values: Tensor) -> tuple[Tensor, Tensor]:
        flat = values.flatten(1) if values.ndim > 1 else values[:, None]
        if flat.shape[1] != self.sizes[name]:
            raise DataError(f"{name}: {self.sizes[name]} values of each sample are expected, got {flat.shape[1]}")
        token: Tensor = part(flat.to(next(part.parameters()).dtype))
        return token, torch.ones(len(flat), dtype=torch.bool, device=flat.device)


def _key(name: str) -> str:
    """A module name for any name: torch allows no dots, and some names are taken."""
    return "of " + name.replace("%", "%25").replace(".", "%2E")
