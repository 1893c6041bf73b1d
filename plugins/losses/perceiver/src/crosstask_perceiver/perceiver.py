"""The terms of a vector-quantised bottleneck."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from crosstask import component, option
from crosstask_losses.contract import Objective
from crosstask_losses.given import Given, Output

VQ = ("vq_codebook_loss", "vq_commitment_loss")


@component
class Perceiver(Objective):
    """`perceiver_loss` = lambda_recon `perceiver_recon_loss` + `vq_codebook_loss` + commitment `vq_commitment_loss`.

    - `perceiver_recon_loss`: half the squared error of the frames decoded from the codes, summed over pixels.
    - `vq_codebook_loss`: |sg[z] - e|², which moves the chosen codes to the vectors that chose them.
    - `vq_commitment_loss`: |z - sg[e]|², which keeps the vectors near their codes (equation 3 of the paper, its β .25).
      Both are the mean over the vectors, and the sum over their D numbers.
    - `codebook_perplexity`: exp of the entropy of how often codes were chosen, in batch and time: as many codes are in
      even use. A metric; it has no gradient.

    The reconstruction trains what is before the codes through the straight-through estimator, which is the model's
    business: `crosstask_losses.VectorQuantizer` gives all that is read here.
    """

    total: ClassVar[str] = "perceiver_loss"
    weighting: ClassVar[dict[str, str]] = {
        "perceiver_recon_loss": "lambda_recon",
        "vq_codebook_loss": "codebook",
        "vq_commitment_loss": "commitment",
    }
    metrics: ClassVar[tuple[str, ...]] = ("codebook_perplexity",)
    reads: ClassVar[dict[str, Output]] = {
        "perceiver_reconstructions": Output("B C H W", "decoded from the codes", terms=("perceiver_recon_loss",)),
        "vq_inputs": Output("B M D", "the vectors before they are quantised", terms=VQ),
        "vq_codes": Output("B M D", "their codes, with a gradient to the codebook", terms=VQ),
        "vq_indices": Output("B M", "which codes these are", "index", ("codebook_perplexity",)),
    }

    lambda_recon: float = option(1.0, ge=0, help="weight of perceiver_recon_loss")
    codebook: float = option(1.0, ge=0, help="weight of vq_codebook_loss; 0 for a codebook that follows averages")
    commitment: float = option(0.25, ge=0, help="weight of vq_commitment_loss")

    def term(self, name: str, given: Given) -> Tensor:
        if name == "perceiver_recon_loss":
            error = given.steps("perceiver_reconstructions") - given.frames
            return error.square().sum((2, 3, 4)).mean() / 2
        if name == "codebook_perplexity":
            counts = torch.bincount(given.steps("vq_indices").flatten()).to(given.frames.dtype)
            share = counts / counts.sum()
            return (-torch.special.xlogy(share, share).sum()).exp()
        inputs, codes = given.steps("vq_inputs"), given.steps("vq_codes")
        pair = (inputs.detach(), codes) if name == "vq_codebook_loss" else (inputs, codes.detach())
        return (pair[0] - pair[1]).square().sum(-1).mean()
