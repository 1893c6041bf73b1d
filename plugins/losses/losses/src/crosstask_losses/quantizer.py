"""Vector quantisation with a straight-through gradient."""

from __future__ import annotations

import attrs
import torch
from torch import Tensor, nn

from crosstask.errors import DataError
from crosstask.options import structure


@attrs.frozen(eq=False)
class Quantized:
    """`output` [..., D]: the codes, whose gradient passes straight to the inputs; `codes` [..., D]: the same values
    with a gradient to the codebook; `indices` [...] of the codes.
    """

    output: Tensor
    codes: Tensor
    indices: Tensor


class VectorQuantizer(nn.Module):
    """The nearest of `codes` learned vectors for each vector, with a straight-through gradient (van den Oord, Vinyals,
    Kavukcuoglu 2017, arXiv:1711.00937, equations 1 and 2).

    Nothing is trained here: the codebook by the loss |sg[z] - e|² on `codes`, the inputs by the commitment
    |z - sg[e]|²; the objective `perceiver` has both. Codes start uniform in [-1/K, 1/K], as in the paper's code; with
    `inputs=` they start as a random choice of such inputs [N, D], which leaves fewer of them unused.
    """

    def __init__(self, codes: int, dim: int, *, inputs: Tensor | None = None) -> None:
        super().__init__()
        codes, dim = structure(codes, int, "VectorQuantizer: codes"), structure(dim, int, "VectorQuantizer: dim")
        if codes < 1 or dim < 1:
            raise DataError(f"VectorQuantizer: codes and dim must be at least 1, got {codes} and {dim}")
        start = torch.empty(codes, dim).uniform_(-1 / codes, 1 / codes)
        if inputs is not None:
            if inputs.ndim != 2 or inputs.shape[1] != dim or not len(inputs):
                raise DataError(f"VectorQuantizer: inputs must be [N, {dim}], got {list(inputs.shape)}")
            start = inputs.detach()[torch.randint(len(inputs), (codes,))].clone()
        self.codebook = nn.Parameter(start)

    def forward(self, inputs: Tensor) -> Quantized:
        """For vectors [..., D]. DataError if they are of another size."""
        dim = self.codebook.shape[1]
        if inputs.ndim < 1 or inputs.shape[-1] != dim:
            raise DataError(f"VectorQuantizer: inputs must be vectors [..., {dim}], got {list(inputs.shape)}")
        if not inputs.is_floating_point():
            raise DataError(f"VectorQuantizer: inputs must be floating-point numbers, got {inputs.dtype}")
        flat = inputs.detach().reshape(-1, dim).to(self.codebook.dtype)  # half of it tells near codes apart badly
        indices = torch.cdist(flat[None], self.codebook.detach()[None])[0].argmin(-1).view(inputs.shape[:-1])
        codes = self.codebook[indices]
        return Quantized(inputs + (codes - inputs).detach(), codes, indices)
