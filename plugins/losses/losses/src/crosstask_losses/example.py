import torch

from crosstask import component, option
from crosstask_losses import LossAggregator, Objective, Output


@component
class Smooth(Objective):
    """The state changes little from step to step, and is not zero."""

    total = "smooth_loss"
    weighting = {"change": "smoothness", "variety": "-variety_weight"}  # a bonus is subtracted
    reads = {"state": Output("B Z", "of the model")}

    smoothness: float = option(1.0, ge=0, help="weight of change")
    variety_weight: float = option(0.1, ge=0, help="weight of the bonus variety")

    def term(self, name, given):
        state = given.steps("state")  # [T, B, Z]; what is missing or of another shape is said in the term's name
        if name == "change":
            return (state[1:] - state[:-1]).square().sum(-1).mean()
        return state.var(1, unbiased=False).sum(-1).mean()


rng = torch.Generator().manual_seed(0)
observations = torch.rand(8, 5, 1, 4, 4, generator=rng)  # [B, T, C, H, W]
encoder = torch.nn.Linear(16, 3)
outputs = {"state": [encoder(frame.flatten(1)) for frame in observations.unbind(1)]}
aggregator = LossAggregator({"smooth": Smooth(smoothness=0.5)})
losses, task_losses = aggregator.compute_losses(outputs, observations, variety_weight=0.2)
expected = 0.5 * losses["change"] - 0.2 * losses["variety"]
assert torch.allclose(losses["smooth_loss"], expected)
assert task_losses.names == ("smooth",)
task_losses[0].backward()
