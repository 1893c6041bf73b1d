"""The terms of a variational bound for video: reconstruction, latent, mixture and attention divergences."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from crosstask import component, option
from crosstask.errors import DataError
from crosstask_losses.contract import Objective
from crosstask_losses.given import Given, Output

CLUSTERS = ("hierarchical_kl", "cluster_entropy")


@component
class Elbo(Objective):
    """`total_vae_loss` = lambda_recon `recon_loss` + beta (`kl_z` + `hierarchical_kl` + `attention_kl`) -
    entropy_weight `cluster_entropy` + lambda_gram `gram_enc_loss`: per frame and sequence, that is summed over pixels
    and latents, and the mean over batch and time. In nats, but for a constant of the Gaussian likelihood.

    - `recon_loss`: -log p(x|z). Gaussian: Σ (x - x̂)² / 2 scale²; Bernoulli: `reconstructions` are logits.
    - `kl_z`: KL(q(z|x) || p(z)), both diagonal Gaussians; the prior is the standard one unless the model gives one, of
      the state before for instance. With `free_bits` each latent's mean over batch and time counts as at least so much
      (Kingma et al. 2016, equation 15).
    - `hierarchical_kl`: to a Dirichlet process Gaussian mixture, truncated at K components (Blei and Jordan 2006):
      Σ_k q(k) KL(q(z|x) || N_k) + KL(q(k|x) || p(k)) + KL(q(v) || p(v)) / `sharing`, with sticks v_k ~ Beta(1,
      `concentration`), q(v_k) = Beta(stick_a, stick_b), and E log p(k) = E log v_k + Σ_{j<k} E log(1 - v_j). With
      `kl_z` beside it z is held to both priors: switch `kl_z` off for the mixture alone.
    - `attention_kl`: KL of the slots' maps to those that the model expected; to even ones where it gives none.
    - `cluster_entropy`: of the mean q(k) over batch and time, from 0 to log K. A bonus: all components stay in use.
    - `gram_enc_loss`: mean squared difference of Gram matrices F Fᵀ / (F p q) of the encoder's features of what was
      observed and reconstructed (Gatys et al. 2016). The former is a target and has no gradient.
    """

    total: ClassVar[str] = "total_vae_loss"
    weighting: ClassVar[dict[str, str]] = {
        "recon_loss": "lambda_recon",
        "kl_z": "beta",
        "hierarchical_kl": "beta",
        "attention_kl": "beta",
        "cluster_entropy": "-entropy_weight",
        "gram_enc_loss": "lambda_gram",
    }
    reads: ClassVar[dict[str, Output]] = {
        "reconstructions": Output("B C H W", "of the observations (Bernoulli: logits)", terms=("recon_loss",)),
        "z_mean": Output("B Z", "mean of q(z|x)", terms=("kl_z", "hierarchical_kl")),
        "z_logvar": Output("B Z", "logarithm of its variances", terms=("kl_z", "hierarchical_kl")),
        "prior_mean": Output("B Z", "mean of p(z); zero by default", terms=("kl_z",), optional=True),
        "prior_logvar": Output("B Z", "logarithm of its variances; zero", terms=("kl_z",), optional=True),
        "cluster_logits": Output("B K", "of q(k|x)", terms=CLUSTERS),
        "component_means": Output("K Z", "of the mixture", terms=CLUSTERS[:1], constant=True),
        "component_logvars": Output("K Z", "of the mixture", terms=CLUSTERS[:1], constant=True),
        "stick_a": Output("J", "of q(v) = Beta(a, b); J = K - 1", "positive", CLUSTERS[:1], constant=True),
        "stick_b": Output("J", "of q(v); J = K - 1", "positive", CLUSTERS[:1], constant=True),
        "attention": Output("B S h w", "where each slot looks", "map", ("attention_kl",)),
        "attention_prior": Output("B S h w", "where it was expected to", "map", ("attention_kl",), optional=True),
        "encoder_features": Output("B F p q", "of the observations", terms=("gram_enc_loss",)),
        "reconstruction_features": Output("B F p q", "of the reconstructions", terms=("gram_enc_loss",)),
    }

    lambda_recon: float = option(1.0, ge=0, help="weight of recon_loss")
    beta: float = option(1.0, ge=0, help="weight of the divergences; usually annealed")
    entropy_weight: float = option(0.1, ge=0, help="weight of the bonus cluster_entropy")
    lambda_gram: float = option(0.05, ge=0, help="weight of gram_enc_loss")
    likelihood: str = option("gaussian", choices=("gaussian", "bernoulli"), help="of a pixel")
    scale: float = option(1.0, gt=0, help="standard deviation of a pixel, Gaussian")
    free_bits: float = option(0.0, ge=0, help="nats of each latent that cost nothing")
    concentration: float = option(1.0, gt=0, help="of the Dirichlet process: the larger, the more components")
    sharing: int = option(1, ge=1, help="sequences that share one set of sticks: all of the training data, usually")

    def term(self, name: str, given: Given) -> Tensor:
        return _TERMS[name](self, given)


def _recon(own: Elbo, given: Given) -> Tensor:
    found, frames = given.steps("reconstructions"), given.frames
    if own.likelihood == "gaussian":
        cost = (found - frames).square() / (2 * own.scale**2)
    else:
        low, high = frames.aminmax()
        if low < 0 or high > 1:
            raise DataError(
                f"{own.origin}: a Bernoulli likelihood needs observations from 0 to 1, got {low:.3g} to {high:.3g}"
            )
        cost = functional.binary_cross_entropy_with_logits(found, frames.to(found), reduction="none")
    return cost.sum((2, 3, 4)).mean()


def _kl_z(own: Elbo, given: Given) -> Tensor:
    mean, logvar = given.steps("z_mean"), given.steps("z_logvar")
    zero = torch.zeros_like(mean)
    prior = [given.steps(key) if given.has(key) else zero for key in ("prior_mean", "prior_logvar")]
    each = gaussian_kl(mean, logvar, *prior).mean((0, 1))  # [Z]
    return each.clamp_min(own.free_bits).sum() if own.free_bits else each.sum()


def gaussian_kl(mean: Tensor, logvar: Tensor, prior_mean: Tensor, prior_logvar: Tensor) -> Tensor:
    """KL(N(mean, exp logvar) || N(prior_mean, exp prior_logvar)) of each latent."""
    difference = logvar - prior_logvar
    return 0.5 * (difference.exp() - 1 - difference + (mean - prior_mean).square() * (-prior_logvar).exp())


def _hierarchical(own: Elbo, given: Given) -> Tensor:
    mean, logvar = given.steps("z_mean"), given.steps("z_logvar")
    log_share = given.steps("cluster_logits").log_softmax(-1)  # [T, B, K]
    means, logvars = given.constant("component_means"), given.constant("component_logvars")
    a, b = given.constant("stick_a"), given.constant("stick_b")
    if len(a) != len(means) - 1:
        raise DataError(f"{own.origin}: {len(means)} components have {len(means) - 1} sticks, got {len(a)}")
    share = log_share.exp()
    inside = gaussian_kl(mean[:, :, None], logvar[:, :, None], means, logvars).sum(-1)  # [T, B, K]
    both = torch.digamma(a + b)
    stays, passes = torch.digamma(a) - both, torch.digamma(b) - both  # E log v, E log(1 - v)
    nothing = a.new_zeros(1)
    prior = torch.cat([stays, nothing]) + torch.cat([nothing, passes.cumsum(0)])
    of_sequences = (share * (inside + log_share - prior)).sum(-1).mean()
    log_beta = torch.lgamma(a) + torch.lgamma(b) - torch.lgamma(a + b)
    # of Beta(1, c), whose normaliser is 1/c
    sticks = -log_beta - math.log(own.concentration) + (a - 1) * stays + (b - own.concentration) * passes
    return of_sequences + sticks.sum() / own.sharing


def _attention(own: Elbo, given: Given) -> Tensor:
    maps = given.steps("attention")
    tiny = torch.finfo(maps.dtype).tiny
    size = maps.shape[-2] * maps.shape[-1]
    expected = given.steps("attention_prior") if given.has("attention_prior") else torch.full_like(maps, 1 / size)
    ratio = maps.clamp_min(tiny).log() - expected.clamp_min(tiny).log()
    return (maps * ratio).sum((2, 3, 4)).mean()


def _entropy(own: Elbo, given: Given) -> Tensor:
    share = given.steps("cluster_logits").softmax(-1).mean((0, 1))  # [K]
    return -torch.special.xlogy(share, share.clamp_min(torch.finfo(share.dtype).tiny)).sum()


def _gram(own: Elbo, given: Given) -> Tensor:
    observed, made = given.steps("encoder_features").detach(), given.steps("reconstruction_features")
    return (gram(made) - gram(observed)).square().mean()


def gram(features: Tensor) -> Tensor:
    """[..., F, F] of features [..., F, p, q], over the number of their values."""
    rows = features.flatten(-2)
    return rows @ rows.mT / (rows.shape[-2] * rows.shape[-1])


_TERMS = {
    "recon_loss": _recon,
    "kl_z": _kl_z,
    "hierarchical_kl": _hierarchical,
    "attention_kl": _attention,
    "cluster_entropy": _entropy,
    "gram_enc_loss": _gram,
}
