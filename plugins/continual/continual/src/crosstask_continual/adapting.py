"""Learning with an adapter: the network stays as it is, a few weights beside it and its head are trained."""

from __future__ import annotations

import torch
from torch import nn

from crosstask.components import Context
from crosstask.errors import DataError
from crosstask.learning.modules import head_name
from crosstask.points.adapter import Adapter, AdapterHandle


def adapt(context: Context, adapter: Adapter, network: nn.Module, generator: torch.Generator) -> None:
    """Attach an adapter to all of a network but its head: from now on only these two are trainable.

    The head is left to itself, since it grows and is replaced with the tasks. Weights that the adapter keeps outside
    the network become parameters of it, so that strategies see them and its `state_dict` has them. DataError where
    there is nothing but a head, or nothing that this adapter can work on.
    """
    name = head_name(network)
    if not name:
        raise DataError(f"{adapter.origin}: a model that is only a linear layer has nothing but a head to adapt")
    head = [p for p in network.get_submodule(name).parameters() if p.requires_grad]
    handle: AdapterHandle = context.call(adapter, "attach", model=network, targets=[f"!{name}"], generator=generator)
    for parameter in head:  # attaching has frozen it with all others
        parameter.requires_grad_(True)
    inside = {id(parameter) for parameter in network.parameters()}
    outside = [parameter for parameter in handle.parameters() if id(parameter) not in inside]
    for number, parameter in enumerate(outside):
        network.register_parameter(f"_adapter_{number}", parameter)
