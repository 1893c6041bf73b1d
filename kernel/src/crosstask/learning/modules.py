"""Module surgery: finding and replacing heads, matching trunks, freezing."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from crosstask.errors import DataError


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Inside, torch's global random numbers start from `seed`; outside, they go on as if nothing had happened."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


def head_name(model: nn.Module) -> str:
    """Name of the head: the module called `head`, else the last linear layer. DataError if there is neither."""
    modules = dict(model.named_modules())
    if "head" in modules:
        return "head"
    linear: list[str] = [name for name, module in modules.items() if isinstance(module, nn.Linear)]
    if not linear:
        raise DataError(
            f"{type(model).__name__} has no module named 'head' and no linear layer: its head cannot be found"
        )
    return linear[-1]


def head_of(model: nn.Module) -> nn.Module:
    """The head itself; see `head_name`."""
    return model.get_submodule(head_name(model))


def trunk_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Every parameter outside the head."""
    inside = {id(p) for p in head_of(model).parameters()}
    return [p for p in model.parameters() if id(p) not in inside]


def replace_head(model: nn.Module, output_dim: int, seed: int) -> nn.Linear:
    """Put a new linear head of `output_dim` outputs in place of the old one and return it."""
    name = head_name(model)
    old = model.get_submodule(name)
    last = next((m for m in reversed(list(old.modules())) if isinstance(m, nn.Linear)), None)
    first = next((m for m in old.modules() if isinstance(m, nn.Linear)), None)
    if last is None or first is None:
        raise DataError(f"the head {name!r} of {type(model).__name__} has no linear layer to replace")
    with seeded(seed):
        new = nn.Linear(first.in_features, output_dim, bias=last.bias is not None)
    new = new.to(device=last.weight.device, dtype=last.weight.dtype)
    if name == "":
        raise DataError("a model that is only a linear layer has no trunk to keep; wrap it in a module with a 'head'")
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, new)
    return new


def load_matching(model: nn.Module, state: dict[str, Tensor]) -> tuple[list[str], list[str]]:
    """Copy every tensor of `state` whose name and shape fit into `model`; returns (copied, left out) names."""
    own = model.state_dict()
    fits = {k: v for k, v in state.items() if k in own and own[k].shape == v.shape}
    model.load_state_dict(fits, strict=False)
    return sorted(fits), sorted(set(own) - set(fits))


@contextlib.contextmanager
def frozen(parameters: list[nn.Parameter]) -> Iterator[None]:
    """Inside, these parameters need no gradient; afterwards each is as it was."""
    before = [p.requires_grad for p in parameters]
    for p in parameters:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p, required in zip(parameters, before, strict=True):
            p.requires_grad_(required)


class Headless(nn.Module):
    """A model without its head: maps inputs to the features [N, F] that the head of `model` would receive."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = copy.deepcopy(model)
        name = head_name(model)
        parent, _, child = name.rpartition(".")
        setattr(self.model.get_submodule(parent), child, nn.Identity())

    def forward(self, inputs: Tensor) -> Tensor:
        out: Tensor = self.model(inputs)
        return out


class Selected(nn.Module):
    """A model of which only some outputs are used, in another order: outputs[:, places]."""

    places: Tensor
    """Numbers of the outputs that are used, in their new order."""

    def __init__(self, model: nn.Module, places: Sequence[int]) -> None:
        super().__init__()
        self.model = model
        device = next((p.device for p in model.parameters()), None)
        self.register_buffer("places", torch.tensor(places, device=device))

    def forward(self, inputs: Tensor) -> Tensor:
        out: Tensor = self.model(inputs)
        return out[:, self.places]


def for_classes(model: nn.Module, known: Sequence[str], wanted: Sequence[str]) -> nn.Module:
    """`model`, whose outputs are the classes `known`, with the outputs `wanted`: itself where they are the same."""
    if not wanted or tuple(known) == tuple(wanted):
        return model
    return Selected(model, [list(known).index(name) for name in wanted])
