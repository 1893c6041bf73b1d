"""A trunk as a chain of stages, and copies of it: for architectures that share more than the last features."""

from __future__ import annotations

import copy

from torch import nn

from crosstask.learning.modules import Headless, redraw


def stages_of(trunk: nn.Module) -> list[nn.Module]:
    """The trunk as modules that, one after another, do what it does, sharing its weights.

    A stage is a layer with weights and whatever follows it that has none (activation, pooling, dropout) or only
    normalises; layers before the first weights belong to the first stage. A trunk that is no `nn.Sequential` (nor
    `Headless` around one, nor one whose only child is one) is a single stage: nobody but its class knows the order of
    its parts.
    """
    chain = _chain(trunk)
    if chain is None:
        return [trunk]
    stages: list[list[nn.Module]] = [[]]
    weighty = False
    for layer in chain:
        opens = any(True for _ in layer.parameters()) and not _normalises(layer)
        if opens and weighty:
            stages.append([])
        weighty = weighty or opens
        stages[-1].append(layer)
    return [stage[0] if len(stage) == 1 else nn.Sequential(*stage) for stage in stages] if stages[0] else [trunk]


def copies_of(trunk: nn.Module, count: int, seed: int, *, fresh: bool = True) -> list[nn.Module]:
    """`count` trunks: the given one itself and copies, whose trainable weights are drawn anew from `seed` if `fresh`
    (copies that are the same get the same gradients, and stay the same). What is frozen stays, and stays frozen.
    """
    made = [trunk]
    for number in range(1, count):
        twin = copy.deepcopy(trunk)
        if fresh:
            kept = {name: p.detach().clone() for name, p in twin.named_parameters() if not p.requires_grad}
            redraw(twin, seed + number)
            for name, parameter in twin.named_parameters():
                if name in kept:
                    parameter.data.copy_(kept[name])
        made.append(twin)
    return made


def _chain(module: nn.Module) -> list[nn.Module] | None:
    """The layers of a module that calls them one after another; None if that is not known."""
    if isinstance(module, Headless):
        return _chain(module.model)
    if not isinstance(module, nn.Sequential):
        return None
    found: list[nn.Module] = []
    for child in module:
        inner = _chain(child)
        found += [child] if inner is None else inner
    return [layer for layer in found if not isinstance(layer, nn.Identity)]


_NORMALISERS = (
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
    nn.LocalResponseNorm,
    nn.PReLU,  # an activation with a slope to learn
)


def _normalises(layer: nn.Module) -> bool:
    return isinstance(layer, _NORMALISERS)
