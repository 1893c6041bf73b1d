"""For tests of objectives: the smallest right ones, and ordinary outputs for whatever an objective reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from crosstask.manifest import Extension, Plugin
from crosstask.options import component, option, state
from crosstask_losses.contract import Objective
from crosstask_losses.given import Given, Output
from crosstask_losses.plugin import PLUGIN

SIZES = {"B": 4, "T": 3, "C": 2, "H": 6, "W": 5, "K": 4, "J": 3, "Z": 5, "M": 3, "D": 4, "S": 3, "h": 4, "w": 5}
"""Of the letters in `reads`; every other is 3."""


def example_outputs(reads: Mapping[str, Output], seed: int = 0, **sizes: int) -> tuple[dict[str, list[Tensor]], Tensor]:
    """Random outputs for what an objective reads, and observations [B, T, C, H, W] from 0 to 1; all with gradients."""
    known, rng = {**SIZES, **sizes}, torch.Generator().manual_seed(seed)
    observations = torch.rand([known[letter] for letter in "BTCHW"], generator=rng)
    outputs = {}
    for key, declared in reads.items():
        shape = [int(letter) if letter.isdigit() else known.get(letter, 3) for letter in declared.letters]
        count = 1 if declared.constant else known["T"]
        outputs[key] = [_example(declared.kind, shape, rng) for _ in range(count)]
    return outputs, observations


def _example(kind: str, shape: list[int], rng: torch.Generator) -> Tensor:
    if kind == "index":
        return torch.randint(0, 4, shape, generator=rng)
    made = torch.randn(shape, generator=rng)
    if kind == "positive":
        made = made.abs() + 0.5
    elif kind == "map":
        made = made.flatten(-2).softmax(-1).view(shape)
    return made.requires_grad_()


@component
class ReferenceObjective(Objective):
    """A reconstruction, and a bonus for large states."""

    total: ClassVar[str] = "reference_loss"
    weighting: ClassVar[dict[str, str]] = {"error": "error_weight", "size": "-size_weight"}
    metrics: ClassVar[tuple[str, ...]] = ("largest",)
    reads: ClassVar[dict[str, Output]] = {
        "reconstructions": Output("B C H W", "of the observations", terms=("error",)),
        "state": Output("B Z", "any", terms=("size", "largest")),
        "centre": Output("Z", "of the states; zero by default", terms=("size",), constant=True, optional=True),
    }

    error_weight: float = option(1.0, ge=0, help="weight of error")
    size_weight: float = option(0.1, ge=0, help="weight of the bonus size")

    def term(self, name: str, given: Given) -> Tensor:
        if name == "error":
            return (given.steps("reconstructions") - given.frames).square().mean()
        state = given.steps("state")
        if name == "largest":
            return state.abs().amax(-1).mean()
        return (state - (given.constant("centre") if given.has("centre") else 0.0)).square().sum(-1).mean()


@component
class ReferenceApart(Objective):
    """A critic of its own: a linear judge of frames, trained apart."""

    total: ClassVar[str] = "judged_loss"
    weighting: ClassVar[dict[str, str]] = {"judged": "judged_weight"}
    apart: ClassVar[tuple[str, ...]] = ("judge_loss",)
    reads: ClassVar[dict[str, Output]] = {"made": Output("B C H W", "frames of the model")}

    judged_weight: float = option(1.0, ge=0, help="weight of judged")

    judge: Tensor | None = state(None)

    def term(self, name: str, given: Given) -> Tensor:
        made, frames = given.steps("made").flatten(2), given.frames.flatten(2)
        if not isinstance(self.judge, nn.Parameter):  # there is none yet, or one from a state
            start = torch.randn(frames.shape[-1], generator=self.context.generator("judge"))
            self.judge = nn.Parameter((start if self.judge is None else self.judge).to(frames))
        if name == "judged":
            return -(made @ self.judge.detach()).mean()
        return self._judge_loss(made, frames, self.judge)

    def _judge_loss(self, made: Tensor, frames: Tensor, judge: Tensor) -> Tensor:
        return (made.detach() @ judge).square().mean() + (frames @ judge - 1).square().mean()

    def parameters(self) -> list[nn.Parameter]:
        return [self.judge] if isinstance(self.judge, nn.Parameter) else []


class Autoencoder(nn.Module):
    """Frames to a state and back, for the two objectives above."""

    def __init__(self, numbers: int, state: int = 4) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(numbers, state), nn.Linear(state, numbers)

    def forward(self, observations: Tensor, actions: Tensor | None = None) -> dict[str, list[Tensor]]:
        frames = observations.unbind(1)
        states = [self.encoder(frame.flatten(1)) for frame in frames]
        if actions is not None:
            states = [state + move.sum(-1, keepdim=True) for state, move in zip(states, actions.unbind(1), strict=True)]
        made = [self.decoder(state).view_as(frame) for state, frame in zip(states, frames, strict=True)]
        return {"reconstructions": made, "state": states, "made": made}


def autoencoder(shape: Any, state: int = 4) -> Autoencoder:
    """For inputs (T, C, H, W), or such with actions."""
    frame = shape["observations"][1:] if isinstance(shape, dict) else shape[1:]
    return Autoencoder(int(torch.tensor(frame).prod()), state)


REFERENCE = Plugin(
    "reference-losses",
    points=PLUGIN.points,
    extensions=[
        *PLUGIN.extensions,
        Extension("loss", "reference", "crosstask_losses.testing:ReferenceObjective", summary="For checks."),
        Extension("loss", "judged", "crosstask_losses.testing:ReferenceApart", summary="For checks."),
    ],
    api=(2, 0),
)
"""For a registry of references: `crosstask.testing.reference_registry(REFERENCE)`."""
