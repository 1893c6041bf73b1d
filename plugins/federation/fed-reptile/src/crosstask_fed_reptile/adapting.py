"""A model for a site: some steps of plain gradient descent on its data."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from crosstask.descriptors import TensorData
from crosstask.learning.modules import forward
from crosstask.learning.objectives import called, loss_of
from crosstask.learning.training import check_loss, device_of
from crosstask_federation import Site


def loss_at(network: nn.Module, site: Site, data: TensorData) -> Tensor:
    """The task's loss of a network on some of a site's samples."""
    outputs = forward(network, data.inputs)
    loss: Tensor = called("loss", loss_of(site.task), site.task, outputs, data.targets)
    check_loss(loss, site.task, outputs.device)
    return loss


def trained_weights(network: nn.Module) -> dict[str, nn.Parameter]:
    """Those that need a gradient, by name."""
    return {name: p for name, p in network.named_parameters() if p.requires_grad}


def gradients(loss: Tensor, of: Sequence[Tensor], *, create_graph: bool = False) -> list[Tensor]:
    """One for each tensor, zeros where the loss does not depend on it."""
    found = torch.autograd.grad(loss, list(of), create_graph=create_graph, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(of, found, strict=True)]


def adapted(site: Site, network: nn.Module, steps: int, rate: float) -> nn.Module:
    """The network after steps of gradient descent on batches of the site's data (all, if the budget's batch is as
    large), in place, in evaluation mode.
    """
    data = site.task.data("train").head(site.budget.samples).to(device_of(network))
    network.train()
    for _ in range(steps):
        own = batch_of(data, site)
        weights = list(trained_weights(network).values())
        found = gradients(loss_at(network, site, own), weights)
        with torch.no_grad():
            for weight, gradient in zip(weights, found, strict=True):
                weight.sub_(rate * gradient)
    return network.eval()


def batch_of(data: TensorData, site: Site) -> TensorData:
    """Samples drawn without repeats, as many as the budget's batch has; all, in order, if there are no more."""
    if site.budget.batch_size >= len(data):
        return data
    return data.take(torch.randperm(len(data), generator=site.generator)[: site.budget.batch_size])
