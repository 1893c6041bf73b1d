"""The terms of vector quantisation, and where their gradients go."""

import torch

from crosstask_losses import LossAggregator, VectorQuantizer
from crosstask_losses.testing import example_outputs
from crosstask_perceiver import Perceiver

OUTPUTS, OBSERVATIONS = example_outputs(Perceiver.reads)


def test_names_and_default_weights_are_those_of_the_specification() -> None:
    assert Perceiver.total == "perceiver_loss"
    assert Perceiver().weights() == {"lambda_recon": 1.0, "codebook": 1.0, "commitment": 0.25}


def test_values_and_sum() -> None:
    losses, _ = LossAggregator([Perceiver()]).compute_losses(OUTPUTS, OBSERVATIONS)
    inputs, codes = torch.stack(OUTPUTS["vq_inputs"]), torch.stack(OUTPUTS["vq_codes"])
    squared = (inputs - codes).pow(2).sum(-1).mean()
    made = torch.stack(OUTPUTS["perceiver_reconstructions"], 1)
    recon = (made - OBSERVATIONS).pow(2).flatten(2).sum(-1).mean() / 2
    torch.testing.assert_close(losses["vq_codebook_loss"], squared)
    torch.testing.assert_close(losses["vq_commitment_loss"], squared)
    torch.testing.assert_close(losses["perceiver_recon_loss"], recon)
    torch.testing.assert_close(losses["perceiver_loss"], recon + 1.25 * squared)


def test_codebook_and_commitment_train_one_side_each() -> None:
    """The gradients that the stop-gradients of the paper leave: 2 (e - z) / N and .25 of 2 (z - e) / N."""
    torch.manual_seed(0)
    quantizer = VectorQuantizer(5, 4)
    inputs = torch.randn(6, 2, 4, requires_grad=True)
    found = quantizer(inputs)
    outputs = {"vq_inputs": [inputs], "vq_codes": [found.codes], "vq_indices": [found.indices]}
    aggregator = LossAggregator([Perceiver()], off=["perceiver_recon_loss"])
    losses, _ = aggregator.compute_losses(outputs, torch.zeros(6, 1, 1, 2, 2))
    (on_inputs,) = torch.autograd.grad(losses["perceiver_loss"], inputs, retain_graph=True)
    difference = (inputs - found.codes).detach()
    torch.testing.assert_close(on_inputs, 0.25 * 2 * difference / 12)
    (on_codes,) = torch.autograd.grad(losses["perceiver_loss"], quantizer.codebook)
    wanted = torch.zeros(5, 4).index_add(0, found.indices.flatten(), -2 * difference.flatten(0, 1) / 12)
    torch.testing.assert_close(on_codes, wanted)


def test_perplexity_counts_codes_and_has_no_gradient() -> None:
    """Codes used 1/2, 1/4 and 1/4 of the time: 2^1.5."""
    indices = torch.tensor([[7, 7], [7, 7], [0, 3], [3, 0]])
    vectors = [torch.randn(4, 2, 4, requires_grad=True)]
    outputs = {"vq_inputs": vectors, "vq_codes": vectors, "vq_indices": [indices]}
    aggregator = LossAggregator([Perceiver()], off=["perceiver_recon_loss"])
    losses, task_losses = aggregator.compute_losses(outputs, torch.zeros(4, 1, 1, 2, 2))
    torch.testing.assert_close(losses["codebook_perplexity"], torch.tensor(2**1.5))
    assert not losses["codebook_perplexity"].requires_grad
    assert len(task_losses) == 1
    assert torch.equal(task_losses[0], 1.25 * losses["vq_codebook_loss"])
