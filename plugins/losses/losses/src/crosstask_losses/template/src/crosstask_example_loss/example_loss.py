"""Changes from frame to frame."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from crosstask.options import component, option
from crosstask_losses import Given, Objective, Output


@component
class ExampleLoss(Objective):
    """`flow_loss` = lambda_flow `flow_error` - variety_weight `variety`: the change of each frame to the next, as it
    was reconstructed and as it was; and a bonus for states that differ within the batch.
    """

    total: ClassVar[str] = "flow_loss"
    weighting: ClassVar[dict[str, str]] = {"flow_error": "lambda_flow", "variety": "-variety_weight"}
    metrics: ClassVar[tuple[str, ...]] = ("largest_state",)
    reads: ClassVar[dict[str, Output]] = {
        "reconstructions": Output("B C H W", "of the observations", terms=("flow_error",)),
        "state": Output("B Z", "of the model", terms=("variety", "largest_state")),
    }

    lambda_flow: float = option(1.0, ge=0, help="weight of flow_error")
    variety_weight: float = option(0.1, ge=0, help="weight of the bonus variety")

    def term(self, name: str, given: Given) -> Tensor:
        if name == "flow_error":
            error = given.steps("reconstructions") - given.frames  # [T, B, C, H, W]
            return (error[1:] - error[:-1]).square().mean()
        state = given.steps("state")  # [T, B, Z]
        if name == "variety":
            return state.var(1, unbiased=False).mean()
        return state.abs().amax(-1).mean()
