"""A small recurrent video model: slots that attend, a Gaussian state with a mixture prior, a quantised bottleneck."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from crosstask.errors import DataError
from crosstask_losses import VectorQuantizer

Outputs = dict[str, list[Tensor]]


class VideoModel(nn.Module):
    """`model(observations [B, T, C, H, W], actions [B, T, A] or None)` gives all that `elbo`, `perceiver`, `predictive`
    and `adversarial` read.

    In each step two convolutions make features of the frame; S slots, asked by the state of a GRU, attend to them; what
    they see and the state give q(z|x), the state alone its prior, the expected attention and its next movement. z and
    the state are decoded to the frame (logits), the quantised slots to another one (values). Sides must be multiples
    of four.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        *,
        latents: int = 8,
        slots: int = 2,
        width: int = 32,
        components: int = 6,
        codes: int = 32,
        actions: int = 0,
    ) -> None:
        super().__init__()
        channels, high, wide = shape
        if high % 4 or wide % 4:
            raise DataError(f"VideoModel: height and width must be multiples of four, got {high} and {wide}")
        self.slots, self.width, self.side = slots, width, (high // 2, wide // 2)
        self.small = (high // 4, wide // 4)
        places = self.side[0] * self.side[1]
        self.encoder = nn.Sequential(
            nn.Conv2d(channels, 16, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(16, width, 3, padding=1), nn.ReLU()
        )
        rows, columns = (torch.linspace(-1, 1, side) for side in self.side)
        grid = torch.stack(torch.meshgrid(rows, columns, indexing="ij")).flatten(1)  # [2, hw]
        # each place says where it is: what a slot sees is then where it looks, too
        self.positions = nn.Parameter((torch.randn(width, 2) @ grid).view(width, *self.side))
        self.queries = nn.Linear(width, slots * width)
        self.bias = nn.Parameter(0.5 * torch.randn(slots, places))  # slots that begin alike stay alike
        self.glance = nn.Sequential(nn.Conv2d(width, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten())
        known = (slots + 1) * width + 8 * self.small[0] * self.small[1]
        self.posterior = nn.Sequential(nn.Linear(known, 64), nn.ReLU(), nn.Linear(64, 2 * latents))
        self.prior = nn.Linear(width, 2 * latents)
        self.expectation = nn.Linear(width, slots * places)
        self.movement = nn.Linear(width, 2 * slots)
        self.cell = nn.GRUCell(latents + actions, width)
        self.start = nn.Parameter(torch.zeros(width))
        self.clusters = nn.Linear(latents, components)
        self.component_means = nn.Parameter(torch.randn(components, latents))
        self.component_logvars = nn.Parameter(torch.zeros(components, latents))
        self.sticks = nn.Parameter(torch.full((2, components - 1), 0.5413))  # softplus of it is 1
        self.decoder = _decoder(latents + width, self.small, channels, start=-2.0)  # most pixels are dark
        self.perceiver = nn.ModuleDict(
            {
                "quantizer": VectorQuantizer(codes, width, inputs=0.1 * torch.randn(codes, width)),
                "decoder": _decoder(slots * width, self.small, channels),
            }
        )

    def forward(self, observations: Tensor, actions: Tensor | None = None) -> Outputs:
        outputs: Outputs = {}
        state = self.start.expand(len(observations), -1)
        for number, frame in enumerate(observations.unbind(1)):
            found, z = self._step(frame, state)
            for name, value in found.items():
                outputs.setdefault(name, []).append(value)
            moved = z if actions is None else torch.cat([z, actions[:, number]], 1)
            state = self.cell(moved, state)
        stick_a, stick_b = functional.softplus(self.sticks)
        constants = {"component_means": self.component_means, "component_logvars": self.component_logvars}
        constants |= {"stick_a": stick_a, "stick_b": stick_b}
        return outputs | {name: [value] for name, value in constants.items()}

    def _step(self, frame: Tensor, state: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        batch = len(frame)
        features = self.encoder(frame)
        places = (features + self.positions).flatten(2)  # [B, D, hw]
        queries = self.queries(state).view(batch, self.slots, self.width)
        attention = (queries @ places / self.width**0.5 + self.bias).softmax(-1)  # [B, S, hw]
        seen = attention @ places.mT  # [B, S, D]
        mean, logvar = self.posterior(torch.cat([seen.flatten(1), self.glance(features), state], 1)).chunk(2, 1)
        logvar = logvar.clamp(-8, 4)
        prior_mean, prior_logvar = self.prior(state).chunk(2, 1)
        z = mean + (logvar / 2).exp() * torch.randn_like(mean)
        made = self.decoder(torch.cat([z, state], 1))
        coded = self.perceiver["quantizer"](seen)
        found = {
            "reconstructions": made,
            "fakes": made.sigmoid(),
            "z_mean": mean,
            "z_logvar": logvar,
            "prior_mean": prior_mean,
            "prior_logvar": prior_logvar.clamp(-8, 4),
            "cluster_logits": self.clusters(z),
            "attention": attention.view(batch, self.slots, *self.side),
            "attention_prior": (self.expectation(state).view(batch, self.slots, -1) + self.bias)
            .softmax(-1)
            .view(batch, self.slots, *self.side),
            "predicted_movement": self.movement(state).view(batch, self.slots, 2),
            "encoder_features": features,
            "reconstruction_features": self.encoder(made.sigmoid()),
            "perceiver_reconstructions": self.perceiver["decoder"](coded.output.flatten(1)),
            "vq_inputs": seen,
            "vq_codes": coded.codes,
            "vq_indices": coded.indices,
        }
        return found, z


def _decoder(numbers: int, small: tuple[int, int], channels: int, start: float = 0.0) -> nn.Sequential:
    """Numbers to frames four times as large as `small`, which begin near `start`."""
    last = nn.ConvTranspose2d(16, channels, 4, stride=2, padding=1)
    with torch.no_grad():
        last.bias.fill_(start)  # type: ignore[union-attr]
    return nn.Sequential(
        nn.Linear(numbers, 16 * small[0] * small[1]),
        nn.ReLU(),
        nn.Unflatten(1, (16, *small)),
        nn.ConvTranspose2d(16, 16, 4, stride=2, padding=1),
        nn.ReLU(),
        last,
    )


def video_model(shape: Any, **arguments: Any) -> VideoModel:
    """For inputs (T, C, H, W), or a table of `observations` (T, C, H, W) and `actions` (T, A): what a recipe names."""
    if isinstance(shape, dict):
        return VideoModel(tuple(shape["observations"][1:]), **{"actions": shape["actions"][-1], **arguments})
    return VideoModel(tuple(shape[1:]), **arguments)
