"""A trunk as a chain of stages, and copies of it: for architectures that share more than the last features."""

from __future__ import annotations

from torch import nn

from crosstask.learning.models import Network
from crosstask.learning.modules import Headless, copy_of, redraw


def stages_of(trunk: nn.Module) -> list[nn.Module]:
    """The trunk as modules that, one after another, do what it does, sharing its weights.

    A stage is a layer with weights and whatever follows it that has none (activation, pooling, dropout) or only
    normalises; layers before the first weights belong to the first stage, which takes whatever inputs the trunk does. A
    trunk that is no `nn.Sequential` (nor `Headless` around one), or one with a `forward` of its own, is a single stage:
    nobody but its class knows the order of its parts.
    """
    network = _without_wrapper(trunk)
    entered = isinstance(network, Network)  # its own `forward` is for inputs alone
    chain = _chain(nn.Sequential(*network) if isinstance(network, Network) else network)
    if not chain:
        return [trunk]
    stages: list[list[nn.Module]] = [[]]
    weighty = False
    for layer in chain:
        opens = any(True for _ in layer.parameters()) and not _normalises(layer)
        if opens and weighty:
            stages.append([])
        weighty = weighty or opens
        stages[-1].append(layer)
    made = [stage[0] if len(stage) == 1 else nn.Sequential(*stage) for stage in stages]
    return [Network(*stages[0]), *made[1:]] if entered else made


def copies_of(trunk: nn.Module, count: int, seed: int, *, fresh: bool = True) -> list[nn.Module]:
    """`count` trunks: the given one itself and copies, whose trainable weights are drawn anew from `seed` if `fresh`
    (copies that are the same get the same gradients, and stay the same). What is frozen stays, and stays frozen.
    """
    made = [trunk]
    for number in range(1, count):
        twin = copy_of(trunk)
        if fresh:
            kept = {name: p.detach().clone() for name, p in twin.named_parameters() if not p.requires_grad}
            redraw(twin, seed + number)
            for name, parameter in twin.named_parameters():
                if name in kept:
                    parameter.data.copy_(kept[name])
        made.append(twin)
    return made


def _without_wrapper(module: nn.Module) -> nn.Module:
    return _without_wrapper(module.model) if isinstance(module, Headless) else module


def _chain(module: nn.Module) -> list[nn.Module] | None:
    """The layers of a module that calls them one after another; None if that is not known."""
    if not isinstance(module, nn.Sequential) or type(module).forward is not nn.Sequential.forward:
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
