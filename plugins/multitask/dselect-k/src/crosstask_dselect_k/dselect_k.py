"""DSelect-k."""

from __future__ import annotations

from torch import Tensor, nn

from crosstask.errors import OptionError
from crosstask.learning.modules import seeded
from crosstask.options import component, option
from crosstask_dselect_k.gate import SelectorGate
from crosstask_multitask.mixture import MixtureSharing


@component
class DSelectK(MixtureSharing):
    """As MMoE, but each task comes to use only `selectors` of the experts: Hazimeh et al. (2021).

    A selector chooses among E experts by ⌈log2 E⌉ smooth bits (equations 3 to 5), which are exactly 0 or 1 once they
    are far enough from the middle; `entropy` pushes them there. The gate adds the gradient of that penalty itself, to
    its own parameters alone, in every backward pass: losses, trainer and balancer know nothing of it (under float16 the
    loss is scaled and it is not, so there it acts by as much less). `static` selects the same experts for all inputs of
    a task. In evaluation mode experts without weight for any sample of a batch are not computed.
    """

    selectors: int = option(2, ge=1, help="k, how many experts each task comes to use")
    entropy: float = option(0.1, ge=0, help="weight of the selectors' entropy, which makes them choose; 0 for none")
    gamma: float = option(1.0, gt=0, help="width of the smooth step: outside it a bit has no gradient")
    static: bool = option(False, help="select by task alone, not by input")

    def __attrs_post_init__(self) -> None:
        if self.selectors > self.experts:
            raise OptionError(f"DSelectK: {self.selectors} selectors cannot choose among {self.experts} experts")

    def gate(self, seen: Tensor, experts: int, seed: int) -> nn.Module:
        with seeded(seed):
            made = SelectorGate(seen.shape[1], experts, self.selectors, self.gamma, self.entropy, self.static)
        return made.to(seen)
