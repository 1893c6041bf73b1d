"""The `compacter` adapter."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from crosstask.errors import DataError, OptionError
from crosstask.options import component, option
from crosstask.points.adapter import Adapter
from crosstask_adapters import LayersHandle, draw, match_targets
from crosstask_bottleneck_adapters.places import WHAT, OutputAdapter, fits, sublayers, width_of


def kronecker_sum(slow: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """The sum over i of slow[i] ⊗ (left[i] @ right[i]): [n * a, n * b] from slow [n, n, n], left [n, a, k] and right
    [n, k, b] (Karimi Mahabadi et al. 2021, equation 6).
    """
    n, a, b = len(slow), left.shape[1], right.shape[2]
    return torch.einsum("ijk,iab->jakb", slow, left @ right).reshape(n * a, n * b)


class CompacterLayer(OutputAdapter):
    """y + gelu(y D + a) U + b, where D [F, hidden] and U [hidden, F] are sums of Kronecker products of the shared slow
    matrices [n, n] with matrices of rank k of this layer. U starts at zero.
    """

    def __init__(self, width: int, hidden: int, rank: int, slow: nn.Parameter, generator: torch.Generator) -> None:
        super().__init__()
        n = len(slow)
        bound = 1 / math.sqrt(rank)
        self.slow = slow
        self.down_left = draw((n, width // n, rank), bound / math.sqrt(width // n), slow, generator)
        self.down_right = draw((n, rank, hidden // n), bound, slow, generator)
        self.down_bias = nn.Parameter(slow.new_zeros(hidden))
        self.up_left = draw((n, hidden // n, rank), bound, slow, generator)
        self.up_right = nn.Parameter(slow.new_zeros(n, rank, width // n))
        self.up_bias = nn.Parameter(slow.new_zeros(width))

    def reset_parameters(self) -> None:
        """A start from scratch, as torch's layers have."""
        for drawn in (self.slow, self.down_left, self.down_right, self.up_left):
            bound = 1 / math.sqrt(drawn.shape[1])
            nn.init.uniform_(drawn, -bound, bound)
        for zero in (self.down_bias, self.up_right, self.up_bias):
            nn.init.zeros_(zero)

    def more(self, y: Tensor) -> Tensor:
        down = kronecker_sum(self.slow, self.down_left, self.down_right)
        up = kronecker_sum(self.slow, self.up_left, self.up_right)
        hidden = functional.gelu(functional.linear(y, down.t(), self.down_bias))
        return functional.linear(hidden, up.t(), self.up_bias)


@component
class Compacter(Adapter):
    """Bottlenecks with a hundredth of the weights: their matrices are sums of n Kronecker products, the n x n factors
    shared by all layers, the others of low rank (Karimi Mahabadi et al. 2021, section 3).

    Widths must be multiples of `n`: with targets a DataError, by its own choice such layers are left out.
    """

    hidden_dim: int = option(64, ge=1, help="width of the hidden layer; a multiple of n")
    n: int = option(4, ge=1, help="Kronecker products in a sum")
    rank: int = option(1, ge=1, help="rank of each layer's own factors")

    def __attrs_post_init__(self) -> None:
        if self.hidden_dim % self.n:
            raise OptionError(f"Compacter: hidden_dim must be a multiple of n={self.n}, got {self.hidden_dim}")

    def attach(self, model: nn.Module, targets: Sequence[str], generator: torch.Generator) -> LayersHandle:
        ends = sublayers(model)

        def choose(names: list[str]) -> list[str]:
            return [name for name in ends(names) if width_of(model.get_submodule(name)) % self.n == 0]

        names = match_targets(model, targets, fits(model), WHAT, choose)
        like = next(model.get_submodule(names[0]).parameters())
        slow = draw((self.n, self.n, self.n), 1 / math.sqrt(self.n), like, generator)
        parts = {}
        for name in names:
            width = width_of(model.get_submodule(name))
            if width % self.n:
                raise DataError(f"compacter: {name!r} gives {width} features, which is no multiple of n={self.n}")
            parts[name] = CompacterLayer(width, self.hidden_dim, self.rank, slow, generator)
        return LayersHandle(model, parts)
