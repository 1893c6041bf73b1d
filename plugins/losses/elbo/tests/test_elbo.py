"""Each term against torch.distributions or a closed form, and what goes wrong elsewhere."""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Beta, Categorical, Normal, kl_divergence
from torch.nn import functional

from crosstask.errors import DataError, OptionError, RunError
from crosstask_elbo import Elbo
from crosstask_elbo.elbo import gram
from crosstask_losses import LossAggregator
from crosstask_losses.testing import example_outputs

OUTPUTS, OBSERVATIONS = example_outputs(Elbo.reads)


def losses(
    outputs: dict[str, list[Tensor]] | None = None, observations: Tensor = OBSERVATIONS, **options: object
) -> dict[str, Tensor]:
    made = LossAggregator({"elbo": Elbo(**options)})
    return made.compute_losses(OUTPUTS if outputs is None else outputs, observations)[0]


def stacked(key: str) -> Tensor:
    return torch.stack(OUTPUTS[key])


def test_names_and_default_weights_are_those_of_the_specification() -> None:
    assert list(Elbo.weighting) == [
        "recon_loss", "kl_z", "hierarchical_kl", "attention_kl", "cluster_entropy", "gram_enc_loss",
    ]  # fmt: skip
    assert Elbo.total == "total_vae_loss"
    assert Elbo().weights() == {"lambda_recon": 1.0, "beta": 1.0, "entropy_weight": 0.1, "lambda_gram": 0.05}


def test_total_subtracts_the_entropy_and_adds_the_rest() -> None:
    """The sign of a bonus: a minus."""
    found = losses()
    added = found["recon_loss"] + found["kl_z"] + found["hierarchical_kl"] + found["attention_kl"]
    added = added - 0.1 * found["cluster_entropy"] + 0.05 * found["gram_enc_loss"]
    torch.testing.assert_close(found["total_vae_loss"], added)
    assert found["cluster_entropy"] > 0


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_gaussian_reconstruction_is_the_log_likelihood_but_for_its_constant(scale: float) -> None:
    frames = OBSERVATIONS.transpose(0, 1)
    likelihood = Normal(stacked("reconstructions"), scale).log_prob(frames) + math.log(scale * math.sqrt(2 * math.pi))
    torch.testing.assert_close(losses(scale=scale)["recon_loss"], -likelihood.sum((2, 3, 4)).mean())


def test_bernoulli_reconstruction_takes_logits() -> None:
    frames = OBSERVATIONS.transpose(0, 1)
    likelihood = -functional.binary_cross_entropy(stacked("reconstructions").sigmoid(), frames, reduction="none")
    found = losses(likelihood="bernoulli")["recon_loss"]
    torch.testing.assert_close(found, -likelihood.sum((2, 3, 4)).mean())


def test_bernoulli_refuses_observations_that_are_no_shares() -> None:
    with pytest.raises(DataError, match=r"from 0 to 1, got .* to [12]"):
        losses(observations=OBSERVATIONS + 1.0, likelihood="bernoulli")


def test_kl_is_the_sum_over_latents_and_the_mean_over_batch_and_time() -> None:
    q = Normal(stacked("z_mean"), (stacked("z_logvar") / 2).exp())
    prior = Normal(stacked("prior_mean"), (stacked("prior_logvar") / 2).exp())
    torch.testing.assert_close(losses()["kl_z"], kl_divergence(q, prior).sum(-1).mean())


def test_kl_to_the_standard_prior_where_the_model_gives_none() -> None:
    outputs = {key: value for key, value in OUTPUTS.items() if not key.startswith("prior_")}
    q = Normal(stacked("z_mean"), (stacked("z_logvar") / 2).exp())
    standard = Normal(torch.zeros(()), torch.ones(()))
    torch.testing.assert_close(losses(outputs)["kl_z"], kl_divergence(q, standard).sum(-1).mean())


def test_free_bits_are_of_each_latent_and_train_nothing_below() -> None:
    mean = torch.zeros(3, 4, 5, requires_grad=True)
    shift = torch.tensor([0.0, 0.1, 1.0, 2.0, 0.0])  # KL: half the square
    outputs = {**OUTPUTS, "z_mean": list((mean + shift).unbind(0)), "z_logvar": [torch.zeros(4, 5)] * 3}
    outputs = {key: value for key, value in outputs.items() if not key.startswith("prior_")}
    found = losses(outputs, free_bits=0.25)["kl_z"]
    torch.testing.assert_close(found, torch.tensor(3 * 0.25 + 0.5 + 2.0))
    (grad,) = torch.autograd.grad(found, mean)
    torch.testing.assert_close(grad.sum((0, 1)), torch.tensor([0.0, 0.0, 1.0, 2.0, 0.0]))


def test_hierarchical_kl_is_that_of_the_truncated_mixture() -> None:
    """Against torch's divergences; the prior of the components from draws of the sticks."""
    a, b = OUTPUTS["stick_a"][0].detach(), OUTPUTS["stick_b"][0].detach()
    concentration, sharing = 1.5, 7
    q = Normal(stacked("z_mean")[:, :, None], (stacked("z_logvar")[:, :, None] / 2).exp())
    component = Normal(OUTPUTS["component_means"][0], (OUTPUTS["component_logvars"][0] / 2).exp())
    share = stacked("cluster_logits").softmax(-1)
    inside = (share * kl_divergence(q, component).sum(-1)).sum(-1).mean()
    torch.manual_seed(0)
    sticks = Beta(a, b).sample((400_000,))
    log_prior = (
        torch.cat([sticks.log(), torch.zeros(len(sticks), 1)], 1)
        + torch.cat([torch.zeros(len(sticks), 1), (1 - sticks).log().cumsum(1)], 1)
    ).mean(0)
    of_clusters = (-Categorical(share).entropy() - (share * log_prior).sum(-1)).mean()
    prior = Beta(torch.ones(3), torch.full((3,), concentration))
    of_sticks = kl_divergence(Beta(a, b), prior).sum() / sharing
    found = losses(concentration=concentration, sharing=sharing)["hierarchical_kl"]
    torch.testing.assert_close(found, inside + of_clusters + of_sticks, rtol=2e-3, atol=1e-2)


def test_one_component_without_sticks_is_a_plain_divergence() -> None:
    outputs = {
        **OUTPUTS,
        "cluster_logits": [torch.randn(4, 1)] * 3,
        "stick_a": [torch.ones(0)],
        "stick_b": [torch.ones(0)],
    }
    outputs |= {"component_means": [torch.zeros(1, 5)], "component_logvars": [torch.zeros(1, 5)]}
    outputs = {key: value for key, value in outputs.items() if not key.startswith("prior_")}
    found = losses(outputs)
    torch.testing.assert_close(found["hierarchical_kl"], found["kl_z"])
    assert found["cluster_entropy"] == 0


def test_sticks_that_are_not_one_less_than_the_components_are_refused() -> None:
    outputs = {**OUTPUTS, "stick_a": [torch.ones(4)], "stick_b": [torch.ones(4)]}
    with pytest.raises(DataError, match="4 components have 3 sticks, got 4"):
        losses(outputs)


def test_attention_kl_is_that_of_categorical_maps_summed_over_slots() -> None:
    maps, expected = stacked("attention").flatten(3), stacked("attention_prior").flatten(3)
    wanted = kl_divergence(Categorical(maps), Categorical(expected)).sum(-1).mean()
    torch.testing.assert_close(losses()["attention_kl"], wanted)
    alone = {key: value for key, value in OUTPUTS.items() if key != "attention_prior"}
    even = (math.log(20) - Categorical(maps).entropy()).sum(-1).mean()
    torch.testing.assert_close(losses(alone)["attention_kl"], even)


def test_attention_on_a_single_place_is_finite() -> None:
    sharp = torch.zeros(4, 3, 4, 5)
    sharp[..., 0, 0] = 1
    outputs = {key: value for key, value in OUTPUTS.items() if key != "attention_prior"} | {"attention": [sharp] * 3}
    torch.testing.assert_close(losses(outputs)["attention_kl"], torch.tensor(3 * math.log(20)))


def test_maps_that_do_not_sum_to_one_are_refused() -> None:
    outputs = {**OUTPUTS, "attention": [value * 20 for value in OUTPUTS["attention"]]}
    with pytest.raises(DataError, match=r"term 'attention_kl'.*softmax over both.*from 20 to 20"):
        losses(outputs)


def test_cluster_entropy_is_of_the_mean_and_falls_where_all_choose_alike() -> None:
    even = losses({**OUTPUTS, "cluster_logits": [torch.zeros(4, 4)] * 3})["cluster_entropy"]
    torch.testing.assert_close(even, torch.tensor(math.log(4)))
    sure = torch.full((4, 4), -1e4)
    apart = losses({**OUTPUTS, "cluster_logits": [sure + 2e4 * torch.eye(4)] * 3})["cluster_entropy"]
    torch.testing.assert_close(apart, torch.tensor(math.log(4)))
    alike = sure.clone()
    alike[:, 0] = 1e4
    same = losses({**OUTPUTS, "cluster_logits": [alike] * 3})
    assert same["cluster_entropy"] == 0
    assert same["total_vae_loss"].isfinite()


def test_gram_loss_compares_products_of_channels_and_its_target_has_no_gradient() -> None:
    observed, made = stacked("encoder_features"), stacked("reconstruction_features")
    grams = [torch.einsum("tbfpq,tbgpq->tbfg", each, each) / each[0, 0].numel() for each in (observed, made)]
    torch.testing.assert_close(gram(observed), grams[0])
    found = losses()["gram_enc_loss"]
    torch.testing.assert_close(found, (grams[1] - grams[0]).square().mean())
    used = torch.autograd.grad(found, OUTPUTS["encoder_features"], allow_unused=True)
    assert used == (None,) * 3


def test_infinite_variance_is_named() -> None:
    outputs = {**OUTPUTS, "z_logvar": [torch.full((4, 5), 1e4)] * 3}
    with pytest.raises(RunError, match="loss Elbo: term 'kl_z' is inf"):
        losses(outputs)


def test_options_are_checked() -> None:
    with pytest.raises(OptionError, match="likelihood cannot be 'gausian'; did you mean 'gaussian'"):
        Elbo(likelihood="gausian")
