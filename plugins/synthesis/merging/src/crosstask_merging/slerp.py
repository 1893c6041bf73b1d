"""The `slerp` synthesizer."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from crosstask.options import component, option
from crosstask_merging.merger import Ingredients, Merger


@component
class Slerp(Merger):
    """Spherical linear interpolation of each tensor, taken as one vector (Shoemake 1985).

    More than two models are taken in turn, each with its share of the weight so far, as a running mean is: for three
    or more the result depends a little on their order.
    """

    collinear: float = option(1e-4, gt=0, help="below this angle (radians) interpolation is linear")

    def tensor(self, name: str, given: Ingredients, prepared: Any) -> Tensor:
        made: Tensor | None = None
        total = 0.0
        for tensor, weight in zip(given.tensors(name), given.weights, strict=True):
            total += weight
            made = (
                tensor.clone()
                if made is None
                else slerp(made, tensor, weight / total if total else 0.0, self.collinear)
            )
        assert made is not None
        return made


def slerp(one: Tensor, other: Tensor, share: float, collinear: float = 1e-4) -> Tensor:
    """The point `share` of the way from one tensor to the other on the great circle through them; the lengths go over
    as sin((1-t)θ)/sinθ and sin(tθ)/sinθ say, θ being the angle between them.
    """
    long, wide = one.double(), other.double()  # the cosine of a small angle needs the digits
    lengths = float(long.norm()) * float(wide.norm())
    cosine = float((long * wide).sum()) / lengths if lengths else 1.0
    angle = math.acos(max(-1.0, min(1.0, cosine)))
    if angle < collinear or math.pi - angle < collinear:  # no great circle, or any
        return one * (1 - share) + other * share
    return (one * math.sin((1 - share) * angle) + other * math.sin(share * angle)) / math.sin(angle)
