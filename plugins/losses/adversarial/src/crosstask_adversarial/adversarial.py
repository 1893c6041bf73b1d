"""The terms of a game between a generator and a discriminator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import attrs
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from crosstask import component, option
from crosstask.errors import DataError, told
from crosstask.learning.modules import evaluating, seeded
from crosstask.registry import load
from crosstask_losses.contract import Objective
from crosstask_losses.given import Given, Output


@component
class Adversarial(Objective):
    """`adversarial_loss` = lambda_gan (`generator_loss` + `feature_matching_loss`); `discriminator_loss` apart.

    With D(x) the logits of the discriminator, large for what was observed, the means over all frames of

        non_saturating   generator softplus(-D(fake))      discriminator softplus(-D(real)) + softplus(D(fake))
        hinge            -D(fake)                          relu(1 - D(real)) + relu(1 + D(fake))
        least_squares    (D(fake) - 1)² / 2                (D(real) - 1)² / 2 + D(fake)² / 2

    - `feature_matching_loss`: mean over D's layers of the mean |f(real) - f(fake)|, the observed ones as targets.
    - `discriminator_loss` trains D alone: the fakes come without their graph. It is in the dict of losses and not in
      those for the balancer. The generator's terms in turn give D's weights no gradient.

    Off unless it is named: `LossAggregator(["elbo", "adversarial"])`. D is made for the first frames that are seen, and
    `parameters()` are its weights:

        losses["discriminator_loss"].backward()

    D gives logits, or (logits, a list of features) for feature matching. It is run twice in each step, on the fakes
    with and without their graph. Where no gradients are recorded it is in evaluation mode.
    """

    total: ClassVar[str] = "adversarial_loss"
    weighting: ClassVar[dict[str, str]] = {"generator_loss": "lambda_gan", "feature_matching_loss": "lambda_gan"}
    apart: ClassVar[tuple[str, ...]] = ("discriminator_loss",)
    reads: ClassVar[dict[str, Output]] = {
        "fakes": Output("B C H W", "frames that the model made, in the range of the observations"),
    }

    lambda_gan: float = option(0.1, ge=0, help="weight of what the generator learns")
    form: str = option("non_saturating", choices=("non_saturating", "hinge", "least_squares"), help="of the game")
    discriminator: str | nn.Module = option(
        "crosstask_adversarial.network:discriminator",
        help="a module, or module:function that makes one, called with the shape of a frame (C, H, W)",
    )

    _network: nn.Module | None = attrs.field(default=None, init=False, repr=False)
    _waiting: dict[str, Tensor] | None = attrs.field(default=None, init=False, repr=False)

    def term(self, name: str, given: Given) -> Tensor:
        fakes, frames = given.steps("fakes").flatten(0, 1), given.frames.flatten(0, 1)
        network = self._made(frames)
        if torch.is_grad_enabled():
            return self._term(name, network, fakes, frames)
        with evaluating(network):
            return self._term(name, network, fakes, frames)

    def _term(self, name: str, network: nn.Module, fakes: Tensor, frames: Tensor) -> Tensor:
        if name == "discriminator_loss":
            real, fake = self._run(network, frames)[0], self._run(network, fakes.detach())[0]
            return _DISCRIMINATOR[self.form](real, fake)
        fixed = {key: weight.detach() for key, weight in network.named_parameters()}
        logits, features = self._run(network, fakes, fixed)
        if name == "generator_loss":
            return _GENERATOR[self.form](logits)
        if not features:
            raise DataError(
                f"{self.origin}: feature_matching_loss needs a discriminator that gives (logits, a list of features); "
                "or off=['feature_matching_loss']"
            )
        with torch.no_grad():
            _, targets = self._run(network, frames, fixed)
        # detached, too: the first features may be the frames themselves
        return torch.stack([(f - t.detach()).abs().mean() for f, t in zip(features, targets, strict=True)]).mean()

    def parameters(self) -> list[nn.Parameter]:
        return [] if self._network is None else [p for p in self._network.parameters() if p.requires_grad]

    def _made(self, frames: Tensor) -> nn.Module:
        if self._network is None:
            shape = tuple(frames.shape[1:])
            if isinstance(self.discriminator, nn.Module):
                made: Any = self.discriminator
            else:
                function = load(self.discriminator, self.origin)
                with seeded(self.context.seed_for("discriminator")):
                    try:
                        made = function(shape)
                    except Exception as error:  # the user's own code
                        raise DataError(
                            f"{self.origin}: {self.discriminator} fails for frames {shape}: {told(error)}"
                        ) from error
            if not isinstance(made, nn.Module):
                raise DataError(f"{self.origin}: {self.discriminator} made a {type(made).__name__}, not a torch module")
            self._network = made.to(device=frames.device, dtype=frames.dtype)
            if self._waiting is not None:
                self._network.load_state_dict(self._waiting)
        return self._network

    def _run(
        self, network: nn.Module, frames: Tensor, weights: dict[str, Tensor] | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """Logits and features."""
        try:
            answer = network(frames) if weights is None else functional_call(network, weights, (frames,))
        except RuntimeError as error:
            shape = tuple(frames.shape[1:])
            raise DataError(f"{self.origin}: its discriminator cannot take frames {shape}: {told(error)}") from error
        logits, features = answer if isinstance(answer, tuple) else (answer, [])
        if not isinstance(logits, Tensor) or len(logits) != len(frames):
            raise DataError(
                f"{self.origin}: its discriminator must give logits, a row for each of {len(frames)} frames"
            )
        return logits, list(features)

    def state_dict(self) -> dict[str, Any]:
        """D's weights; none before it was made."""
        kept = self._waiting if self._network is None else self._network.state_dict()
        return {"discriminator": {name: value.detach().clone() for name, value in (kept or {}).items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore them, now or when D is made."""
        if set(state) != {"discriminator"}:
            raise DataError(f"{self.origin}: state has {sorted(state)}, expected ['discriminator']")
        self._waiting = dict(state["discriminator"]) or None
        if self._network is not None and self._waiting is not None:
            self._network.load_state_dict(self._waiting)


_GENERATOR: dict[str, Callable[[Tensor], Tensor]] = {
    "non_saturating": lambda fake: functional.softplus(-fake).mean(),
    "hinge": lambda fake: -fake.mean(),
    "least_squares": lambda fake: (fake - 1).square().mean() / 2,
}

_DISCRIMINATOR: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "non_saturating": lambda real, fake: functional.softplus(-real).mean() + functional.softplus(fake).mean(),
    "hinge": lambda real, fake: functional.relu(1 - real).mean() + functional.relu(1 + fake).mean(),
    "least_squares": lambda real, fake: ((real - 1).square().mean() + fake.square().mean()) / 2,
}
