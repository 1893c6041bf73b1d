"""The trunk: tokens of the modalities, attention between them, fusion to features. And a network of one task on it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from crosstask.descriptors import MultiInput
from crosstask.errors import DataError, OptionError, nearest
from crosstask.learning.modules import forward
from crosstask.options import structure
from crosstask_multimodal.encoding import SPREAD, Encoder


class Between(nn.Module):
    """Attention between the tokens of a sample (Vaswani et al. 2017, section 3.2), added to them.

    The number of heads is the largest up to `heads` that divides the width. A missing token has the weight 0 exactly,
    and stays zero. There is no normalisation: it would blow the small embedding of an id that was hardly ever seen up
    to the size of all others.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = next(count for count in range(min(heads, width), 0, -1) if width % count == 0)
        self.project, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens [N, M, E] that know of each other, and the weights [N, M, M], the mean over heads."""
        count, places, width = tokens.shape
        split = self.project(tokens).view(count, places, 3, self.heads, width // self.heads)
        query, key, value = split.permute(2, 0, 3, 1, 4)
        weights = attention(query @ key.mT / math.sqrt(width // self.heads), present[:, None, None, :])
        mixed = (weights @ value).transpose(1, 2).reshape(count, places, width)
        made = (tokens + self.dropout(self.out(mixed))) * present[:, :, None]
        return made, weights.mean(dim=1) * present[:, :, None]


def attention(scores: Tensor, present: Tensor) -> Tensor:
    """Softmax of scores [..., M] over what is present: 0 exactly for the rest, everywhere 0 where there is nothing."""
    hidden = scores.masked_fill(~present, torch.finfo(scores.dtype).min)
    return hidden.softmax(dim=-1) * present


class MultiModalTrunk(nn.Module):
    """Modalities in, features [N, hidden_dims[-1]] out.

    Each modality becomes a token (`Encoder`); the tokens attend to each other; side by side they go through a layer of
    each width of `hidden_dims` (ReLU, dropout). A missing modality is a zero there, and nobody attends to it. `heads`
    is an upper bound, see `Between`.
    """

    whole_inputs = True

    def __init__(
        self,
        ids: Mapping[str, int] | None = None,
        texts: Mapping[str, int] | None = None,
        dense: Mapping[str, int] | None = None,
        embedding_dim: int = 64,
        hidden_dims: Sequence[int] = (128, 64),
        heads: int = 4,
        dropout_rate: float = 0.2,
    ) -> None:
        super().__init__()
        width, widths = _checked(embedding_dim, hidden_dims, heads, dropout_rate)
        self.encoder = Encoder(ids or {}, texts or {}, dense or {}, width)
        self.kinds = nn.Parameter(torch.randn(len(self.modalities), width) * SPREAD)
        self.between = Between(width, heads, dropout_rate)
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise((len(self.modalities) * width, *widths)):
            layers += [nn.Linear(before, after), nn.ReLU(), nn.Dropout(dropout_rate)]
        self.fusion = nn.Sequential(*layers)

    @property
    def modalities(self) -> tuple[str, ...]:
        """Their names, in the order of the tokens."""
        return self.encoder.names

    def tokens(self, inputs: MultiInput) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens [N, M, E] after attention, which of them are there [N, M], and the weights between them [N, M, M]."""
        if not isinstance(inputs, MultiInput):
            raise DataError(
                f"the inputs must be several by name ({', '.join(self.modalities)}), got a {type(inputs).__name__}"
            )
        made, present = self.encoder(inputs)
        made = (made + self.kinds) * present[:, :, None]
        mixed, weights = self.between(made, present)
        return mixed, present, weights

    def query(self) -> Tensor:
        """Zeros [E]: a query that weighs all tokens alike."""
        return torch.zeros_like(self.kinds[0])

    def fuse(self, tokens: Tensor) -> Tensor:
        """Features of tokens [N, M, E]."""
        features: Tensor = self.fusion(tokens.flatten(1))
        return features

    def forward(self, inputs: MultiInput) -> Tensor:
        return self.fuse(self.tokens(inputs)[0])


class Places(nn.Module):
    """Any other trunk as one that gives tokens: its features [N, F] are one modality, those of places [N, L, F] or of
    maps [N, F, H, W] one for each place. Their fusion is the mean.
    """

    whole_inputs = True
    modalities: tuple[str, ...] = ()
    nothing: Tensor

    def __init__(self, trunk: nn.Module, features: Tensor) -> None:
        super().__init__()
        self.trunk = trunk
        self.register_buffer("nothing", torch.zeros_like(_tokens(features)[0, 0]), persistent=False)

    def query(self) -> Tensor:
        return self.nothing.clone()

    def tokens(self, inputs: Tensor | MultiInput) -> tuple[Tensor, Tensor, Tensor]:
        made = _tokens(forward(self.trunk, inputs))
        present = torch.ones(made.shape[:2], dtype=torch.bool, device=made.device)
        return made, present, torch.eye(made.shape[1], device=made.device).expand(len(made), -1, -1)

    def fuse(self, tokens: Tensor) -> Tensor:
        return tokens.mean(dim=1)

    def forward(self, inputs: Tensor | MultiInput) -> Tensor:
        return self.fuse(self.tokens(inputs)[0])


def _tokens(features: Tensor) -> Tensor:
    """Features [N, F], of places [N, L, F] or of maps [N, F, ...] as tokens [N, M, F]."""
    placed = features.flatten(2).mT if features.ndim > 3 else features
    return placed[:, None] if placed.ndim == 2 else placed


class MultiModalNetwork(nn.Module):
    """A trunk and a linear head: the network of one task."""

    whole_inputs = True

    def __init__(self, trunk: MultiModalTrunk, width: int, outputs: int) -> None:
        super().__init__()
        self.trunk, self.head = trunk, nn.Linear(width, outputs)

    def forward(self, inputs: MultiInput) -> Tensor:
        outputs: Tensor = self.head(self.trunk(inputs))
        return outputs


def network(
    input_shapes: Mapping[str, Sequence[int]],
    output_dim: int,
    vocab_sizes: Mapping[str, int] | None = None,
    embedding_dim: int = 64,
    hidden_dims: Sequence[int] = (128, 64),
    heads: int = 4,
    dropout_rate: float = 0.2,
) -> MultiModalNetwork:
    """A network for a table with several inputs, as a recipe names it:

        [model]
        kind = "crosstask_multimodal:network"
        arguments = { vocab_sizes = { user_ids = 2946, item_ids = 17385, text_ids = 6000 } }

    What is in `vocab_sizes` are ids: one of each sample (shape ()), or those of the words of a text (shape (L,), where
    0 is padding). Every other input is numbers. DataError for a task with a single input.
    """
    if not isinstance(input_shapes, Mapping):
        raise DataError(
            f"a multimodal network needs several inputs by name, got a single one of shape {tuple(input_shapes)}"
        )
    sizes = structure(vocab_sizes or {}, dict[str, int], "vocab_sizes")
    for name in sizes:
        if name not in input_shapes:
            raise DataError(f"vocab_sizes: the task has no input {name!r}{nearest(name, input_shapes)}")
        if len(input_shapes[name]) > 1:
            raise DataError(
                f"vocab_sizes: {name!r} has the shape {tuple(input_shapes[name])}: ids are one of each sample, shape "
                "(), or those of a text, shape (L,)"
            )
    ids = {name: size for name, size in sizes.items() if not input_shapes[name]}
    texts = {name: size for name, size in sizes.items() if input_shapes[name]}
    dense = {name: math.prod(shape) for name, shape in input_shapes.items() if name not in sizes}
    trunk = MultiModalTrunk(ids, texts, dense, embedding_dim, hidden_dims, heads, dropout_rate)
    return MultiModalNetwork(trunk, list(hidden_dims)[-1], output_dim)


def _checked(embedding_dim: Any, hidden_dims: Any, heads: Any, dropout_rate: Any) -> tuple[int, tuple[int, ...]]:
    width: int = structure(embedding_dim, int, "embedding_dim")
    widths: tuple[int, ...] = structure(hidden_dims, tuple[int, ...], "hidden_dims")
    if not widths:
        raise OptionError("hidden_dims must name at least one layer")
    for told, size in (("embedding_dim", width), ("heads", structure(heads, int, "heads")),
                       *(("hidden_dims", size) for size in widths)):  # fmt: skip
        if size < 1:
            raise OptionError(f"{told} must be at least 1, got {size}")
    if not 0 <= structure(dropout_rate, float, "dropout_rate") < 1:
        raise OptionError(f"dropout_rate must be at least 0 and less than 1, got {dropout_rate}")
    return width, widths
