"""Hidden units brought into the same order: networks that compute the same can hold it in any order."""

from __future__ import annotations

import itertools

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from crosstask.learning.modules import copy_of, forward

Layer = nn.Linear | nn.Conv2d


def align(model: nn.Module, reference: nn.Module, sweeps: int = 20, seed: int = 0) -> tuple[nn.Module, bool]:
    """(a copy of `model` whose hidden units are in the order of `reference`'s, whether its architecture allowed it).

    Weight matching (Ainsworth et al. 2023, algorithm 1): layer by layer the permutation that brings the weights nearest
    while the others are kept, until none changes. It is for chains of linear and convolution layers, with
    normalisations between them; whether a model is one is tested: the copy must give the model's own outputs on random
    inputs. If it does not the copy is left as the model is.
    """
    made = copy_of(model)
    chain, theirs = _chain(made), _chain(reference)
    fits = len(chain) == len(theirs) and all(
        a.weight.shape == b.weight.shape for a, b in zip(chain[:-1], theirs, strict=False)
    )
    if not fits or len(chain) < 2 or not _linked(chain):
        return made, False
    for _ in range(sweeps):
        changed = [_match(chain, theirs, place, made) for place in range(len(chain) - 1)]
        if not any(changed):
            break
    if not _same(model, made, chain[0], seed):
        return copy_of(model), False
    return made, True


def _chain(model: nn.Module) -> list[Layer]:
    return [m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d)]


def _linked(chain: list[Layer]) -> bool:
    """Whether each layer's inputs are (a multiple of) the outputs of the one before."""
    pairs = itertools.pairwise(chain)
    return all(b.weight.shape[1] % a.weight.shape[0] == 0 and getattr(b, "groups", 1) == 1 for a, b in pairs)


def _columns(layer: Layer, units: int) -> Tensor:
    """The weights by incoming unit: [units, everything else]."""
    weight = layer.weight.detach()
    return weight.reshape(weight.shape[0], units, -1).transpose(0, 1).flatten(1)


@torch.no_grad()
def _match(chain: list[Layer], theirs: list[Layer], place: int, model: nn.Module) -> bool:
    """Permute the units between two layers; whether anything changed."""
    layer, following = chain[place], chain[place + 1]
    units = layer.weight.shape[0]
    gain = layer.weight.flatten(1) @ theirs[place].weight.flatten(1).T
    own, other = layer.bias, theirs[place].bias
    if own is not None and other is not None:
        gain = gain + torch.outer(own, other)
    if following.weight.shape == theirs[place + 1].weight.shape:  # the last layer may be a head for other classes
        gain = gain + _columns(following, units) @ _columns(theirs[place + 1], units).T
    rows, columns = linear_sum_assignment(gain.double().cpu().numpy(), maximize=True)
    order = torch.empty(units, dtype=torch.long)
    order[torch.as_tensor(columns)] = torch.as_tensor(rows)
    if torch.equal(order, torch.arange(units)):
        return False
    order = order.to(layer.weight.device)
    for owner in (layer, *_between(model, layer, following)):
        for tensor in itertools.chain(owner.parameters(recurse=False), owner.buffers(recurse=False)):
            if tensor.ndim and tensor.shape[0] == units:
                tensor.copy_(tensor[order].clone())
    weight = following.weight
    blocks = weight.reshape(weight.shape[0], units, -1)[:, order]
    weight.copy_(blocks.reshape(weight.shape).clone())
    return True


def _between(model: nn.Module, layer: nn.Module, following: nn.Module) -> list[nn.Module]:
    """The normalisation layers between two layers."""
    modules = list(model.modules())
    start, end = modules.index(layer), modules.index(following)
    return [m for m in modules[start + 1 : end] if isinstance(m, _NormBase)]


@torch.no_grad()
def _same(one: nn.Module, other: nn.Module, first: Layer, seed: int) -> bool:
    """Whether two models give the same outputs on random inputs that their first layer accepts."""
    generator = torch.Generator().manual_seed(seed)
    shape = (4, first.in_features) if isinstance(first, nn.Linear) else (4, first.in_channels, 32, 32)
    inputs = torch.randn(shape, generator=generator).to(first.weight)
    try:
        expected, found = (forward(copy_of(each).eval(), inputs) for each in (one, other))
    except Exception:  # inputs of another shape, or several, are needed: nothing was shown
        return False
    scale = expected.abs().mean().clamp_min(1e-6)
    return bool(torch.allclose(expected / scale, found / scale, atol=1e-4))
