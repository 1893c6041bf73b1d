"""A wrapper of the family's hook."""

from __future__ import annotations

import math
from collections.abc import Generator

from torch import Tensor

from crosstask.components import wraps
from crosstask.options import component, option
from crosstask.points.wrapper import Wrapper


@component
class Cautious(Wrapper):
    """Lowers a score by `doubt` standard errors of a share of as many samples, not below 0: few samples may be luck."""

    doubt: float = option(1.0, ge=0, help="standard errors to take off; 0: nothing changes")

    @wraps("example_family.measure")
    def lower(self, targets: Tensor) -> Generator[None, float, float]:
        score = yield
        error = math.sqrt(score * (1 - score) / len(targets))
        return max(0.0, score - self.doubt * error)
