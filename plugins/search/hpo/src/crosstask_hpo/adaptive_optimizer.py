"""`AdaptiveOptimizer`: a torch optimiser that finds its learning rate while it trains."""

from __future__ import annotations

import collections
import copy
import math
import statistics
import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from crosstask.errors import OptionError, RunError, nearest

BASES: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "rmsprop": torch.optim.RMSprop,
    "sgd": lambda parameters, lr: torch.optim.SGD(parameters, lr=lr, momentum=0.9),
}

MEMORY = 0.8
"""How much of the smoothed signal a step keeps."""
SURE = 0.05
"""A smoothed cosine up to this far from 0 says nothing."""
GROWTH = 1.2
FASTEST = 0.15
"""The rate's logarithm changes by at most this much per step, and by this factor more while the trend lasts."""
CUT = 0.1
"""What a rollback leaves of the rate."""
LOST = 0.2
"""A wreck has lost this share of the progress since the first loss,"""
BLOWN_UP = 1.3
"""or, before there was any, this many times the first loss (mean of three)."""
FORGIVEN = 1.01
"""A rate that once did damage is approached again at this factor per step: the damage may have been chance."""
TREND = 50
"""Losses in a trend."""


class AdaptiveOptimizer:
    """A base optimiser whose learning rate follows the hypergradient, with a way back for weights it has wrecked.

        optimizer = AdaptiveOptimizer(model, "adam", learning_rate=1e-6)
        for inputs, targets in batches:
            optimizer.zero_grad()
            loss = loss_function(model(inputs), targets)
            loss.backward()
            optimizer.step(loss)

    The loss after a step falls with the rate's logarithm by the inner product of the new gradient and the step that was
    taken (Baydin et al. 2018, eq. 5, on the logarithm); its cosine, smoothed over steps, is the signal. While it is
    clearly positive the rate grows, while negative it shrinks: by the factor exp(`meta_learning_rate`) at first, and by
    one that grows as long as the trend lasts and starts anew when it turns (as in Rprop: Riedmiller & Braun 1993), so
    that a start that is wrong by six orders of magnitude is left in some hundred steps.

    The guard: every `patience` steps the mean loss is compared with the best so far. If it is clearly worse, or a loss
    is not finite, weights and optimiser go back to where that was, the rate is cut to a tenth of what did the damage,
    and may not come near that again. A smaller rate alone does not help weights that a large one has wrecked.

    `step(loss, validation)`: with a function that returns a validation loss (a batch of held-out data is enough) the
    signal and the guard follow that instead, which is what protects against fitting noisy labels ever faster. It costs
    one more forward and backward pass every `validate_every` steps.

    It rescues a bad rate; it does not beat one that was tuned. `use_meta_learning=False`: the base optimiser, with
    statistics. OptionError for an unknown base, a rate or a setting out of range.
    """

    def __init__(
        self,
        model: nn.Module | Iterable[nn.Parameter],
        base_optimizer: str | Callable[..., torch.optim.Optimizer] = "adam",
        use_meta_learning: bool = True,
        meta_learning_rate: float = 0.001,
        *,
        learning_rate: float = 1e-3,
        guard: bool = True,
        patience: int = 20,
        validate_every: int = 5,
    ) -> None:
        if isinstance(base_optimizer, str):
            if base_optimizer not in BASES:
                raise OptionError(f"base_optimizer cannot be {base_optimizer!r}{nearest(base_optimizer, BASES)}")
            base_optimizer = BASES[base_optimizer]
        for name, value in (("learning_rate", learning_rate), ("meta_learning_rate", meta_learning_rate)):
            if not (math.isfinite(value) and value > 0):
                raise OptionError(f"{name} must be a positive number, got {value}")
        for name, count in (("patience", patience), ("validate_every", validate_every)):
            if count < 1:
                raise OptionError(f"{name} must be at least 1, got {count}")
        given = model.parameters() if isinstance(model, nn.Module) else model
        self.parameters = [p for p in given if p.requires_grad]
        if not self.parameters:
            raise OptionError("the model has no parameter that needs a gradient")
        self.buffers = list(model.buffers()) if isinstance(model, nn.Module) else []
        self.base = base_optimizer(self.parameters, lr=learning_rate)
        self.use_meta_learning, self.meta_learning_rate = use_meta_learning, meta_learning_rate
        self.guard, self.patience, self.validate_every = guard, patience, validate_every
        self.initial_rate = self.rate = learning_rate
        self.ceiling = math.inf
        self.steps = 0
        self.rollbacks = 0
        self.signal = 0.0
        self._speed = meta_learning_rate
        self._sign = 0
        self._moved: list[Tensor] | None = None
        self._gradients: list[tuple[weakref.ref[Tensor], int] | None] = [None] * len(self.parameters)
        self._recent: list[float] = []
        self._first = self._best = math.inf
        self._since = self._window = 0
        self._snapshot: dict[str, Any] | None = None
        self._losses: collections.deque[float] = collections.deque(maxlen=200)
        self._rates: list[float] = []

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Those of the base optimiser; its `lr` is the current rate."""
        return self.base.param_groups

    def zero_grad(self, set_to_none: bool = True) -> None:
        """As torch's."""
        self.base.zero_grad(set_to_none=set_to_none)
        self._note_gradients()  # zeros are no gradient

    def step(self, loss_value: Tensor | float, validation: Callable[[], Tensor] | None = None) -> None:
        """One step with the gradients in `.grad`, which `backward()` of the training loss `loss_value` has left there.

        After a rollback the weights are others than the gradients are of: no step is taken then. OptionError for a loss
        that is no number; RunError if no parameter has got a gradient since the last step.
        """
        value = _one_number(loss_value)
        self._require_gradient()
        try:
            self._step(value, validation)
        finally:
            self._note_gradients()

    def _require_gradient(self) -> None:
        for p, seen in zip(self.parameters, self._gradients, strict=True):
            if p.grad is not None and (seen is None or seen[0]() is not p.grad or seen[1] != p.grad._version):
                return
        done = f"since step {self.steps}" if self.steps else "yet"
        raise RunError(f"no parameter has got a gradient {done}: call backward() on the loss before step(loss)")

    def _note_gradients(self) -> None:
        """Which gradients are there now, and how often they were written: what is there later is old then."""
        self._gradients = [None if p.grad is None else (weakref.ref(p.grad), p.grad._version) for p in self.parameters]

    def _step(self, value: float, validation: Callable[[], Tensor] | None) -> None:
        self._losses.append(value)
        if not self.use_meta_learning:
            self._rates.append(self.rate)
            self.base.step()
            self.steps += 1
            return
        gradients: list[Tensor | None] | None = [p.grad for p in self.parameters]
        if validation is not None:
            gradients = None
            if self._since < self.patience or self.steps % self.validate_every == 0 or not math.isfinite(value):
                held = validation()
                if not (isinstance(held, Tensor) and held.requires_grad and held.numel() == 1):
                    raise OptionError(
                        "validation must return the validation loss as a tensor of one element with a gradient, got "
                        f"{held!r}"
                    )
                value = float(held.detach())
                gradients = list(torch.autograd.grad(held, self.parameters, allow_unused=True))
        if gradients is not None:
            if self.guard and self._wrecked(value):
                self._roll_back()
                return
            self._adapt(gradients, 1 if validation is None else min(self.validate_every, 3))
        before = [p.detach().clone() for p in self.parameters]
        for group in self.base.param_groups:
            group["lr"] = self.rate
        self.base.step()
        self._moved = [old - p.detach() for old, p in zip(before, self.parameters, strict=True)]
        self._rates.append(self.rate)
        self.steps += 1
        self._since += 1
        self.ceiling *= FORGIVEN

    def _adapt(self, gradients: list[Tensor | None], strength: int) -> None:
        """Change the rate by the cosine of the gradient and the last step; a rarer signal counts more."""
        if self._moved is None:
            return
        pairs = [(g, m) for g, m in zip(gradients, self._moved, strict=True) if g is not None]
        products = torch.stack([torch.stack([(g * m).sum(), (g * g).sum(), (m * m).sum()]) for g, m in pairs])
        inner, gg, mm = products.double().sum(dim=0).tolist()
        if not (gg > 0 and mm > 0):
            return
        self.signal = MEMORY * self.signal + (1 - MEMORY) * inner / math.sqrt(gg * mm)
        sign = 0 if abs(self.signal) <= SURE else int(math.copysign(1, self.signal))
        if sign == self._sign != 0:
            self._speed = min(self._speed * GROWTH, FASTEST)
        elif sign == -self._sign:
            self._speed = self.meta_learning_rate
        self._sign = sign or self._sign
        self.rate = min(self.rate * math.exp(sign * strength * self._speed), self.ceiling)

    def _wrecked(self, value: float) -> bool:
        """Whether the weights must go back; else they may become what one goes back to."""
        if self._snapshot is None:
            if not math.isfinite(value):
                raise RunError(f"the first loss is {value}: there are no weights to go back to")
            self._first = self._best = value
            self._take_snapshot()
            return False
        self._recent.append(value)
        if not math.isfinite(value):
            return True
        if self._best == self._first > 0 and statistics.fmean(self._recent[-3:]) > BLOWN_UP * self._first:
            return True
        margin = max(LOST * (self._first - self._best), 0.05 * abs(self._first))
        if self._since // self.patience == self._window or len(self._recent) < 3:
            return False
        self._window = self._since // self.patience
        mean = statistics.fmean(self._recent)
        error = statistics.pstdev(self._recent) / math.sqrt(len(self._recent))
        self._recent = []
        if mean - 2 * error > self._best + margin:
            return True
        if mean < self._best:
            self._best = mean
            self._take_snapshot()
        return False

    def _take_snapshot(self) -> None:
        self._snapshot = {
            "parameters": [p.detach().clone() for p in self.parameters],
            "buffers": [b.detach().clone() for b in self.buffers],
            "base": copy.deepcopy(self.base.state_dict()),
        }

    def _roll_back(self) -> None:
        """Back to the best weights, with a tenth of the rate."""
        assert self._snapshot is not None
        with torch.no_grad():
            for p, kept in zip(self.parameters, self._snapshot["parameters"], strict=True):
                p.copy_(kept)
            for b, kept in zip(self.buffers, self._snapshot["buffers"], strict=True):
                b.copy_(kept)
        self.base.load_state_dict(copy.deepcopy(self._snapshot["base"]))
        self.ceiling = self.rate * 3 * CUT
        self.rate *= CUT
        self.rollbacks += 1
        self._speed, self._sign, self.signal = self.meta_learning_rate, 0, 0.0
        self._moved, self._recent, self._since, self._window = None, [], 0, 0

    def trend(self) -> tuple[str, float]:
        """("improving", "flat" or "worsening", slope per step) of the last losses, by a line fitted to them.

        Flat: the slope is less than two standard errors from 0. Too few losses are flat.
        """
        losses = list(self._losses)[-TREND:]
        count = len(losses)
        if count < 10 or not all(map(math.isfinite, losses)):
            return "flat", 0.0
        middle, mean = (count - 1) / 2, statistics.fmean(losses)
        spread = sum((i - middle) ** 2 for i in range(count))
        slope = sum((i - middle) * (loss - mean) for i, loss in enumerate(losses)) / spread
        rest = sum((loss - mean - slope * (i - middle)) ** 2 for i, loss in enumerate(losses))
        error = math.sqrt(rest / (count - 2) / spread)
        if abs(slope) <= 2 * error or slope == 0:
            return "flat", slope
        return ("improving" if slope < 0 else "worsening"), slope

    @property
    def converged(self) -> bool:
        """Whether the last hundred losses are no better than the hundred before, beyond what chance explains."""
        losses = list(self._losses)
        if len(losses) < 200 or not all(map(math.isfinite, losses)):
            return False
        before, now = losses[:100], losses[100:]
        error = math.sqrt((statistics.pvariance(before) + statistics.pvariance(now)) / 100)
        return statistics.fmean(before) - statistics.fmean(now) <= max(2 * error, 1e-3 * abs(statistics.fmean(before)))

    def get_optimization_stats(self) -> dict[str, Any]:
        """Steps, rates, losses, trend, convergence, rollbacks: plain data."""
        trend, slope = self.trend()
        return {
            "steps": self.steps,
            "learning_rate": self.rate,
            "initial_learning_rate": self.initial_rate,
            "highest_allowed_rate": self.ceiling if math.isfinite(self.ceiling) else None,
            "learning_rates": list(self._rates),
            "loss": self._losses[-1] if self._losses else None,
            "best_loss": self._best if math.isfinite(self._best) else None,
            "signal": self.signal,
            "trend": trend,
            "slope": slope,
            "converged": self.converged,
            "rollbacks": self.rollbacks,
        }

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides how it goes on (not the model's weights)."""
        kept = {name: copy.deepcopy(getattr(self, name)) for name in _KEPT}
        return {"base": copy.deepcopy(self.base.state_dict()), "losses": list(self._losses), **kept}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned; OptionError for a dict of another shape."""
        wanted = {"base", "losses", *_KEPT}
        if set(state) != wanted:
            raise OptionError(f"state has {sorted(state)}, expected {sorted(wanted)}")
        self.base.load_state_dict(state["base"])
        self._losses = collections.deque(state["losses"], maxlen=self._losses.maxlen)
        for name in _KEPT:
            setattr(self, name, copy.deepcopy(state[name]))


def _one_number(loss: Any) -> float:
    if isinstance(loss, Tensor) and loss.numel() == 1:
        return float(loss.detach())
    shown = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else repr(loss)
    if isinstance(loss, Tensor | str) or not hasattr(loss, "__float__"):
        raise OptionError(f"step takes the value of the loss, one number, got {shown}")
    return float(loss)


_KEPT = (
    "initial_rate", "rate", "ceiling", "steps", "rollbacks", "signal",
    "_speed", "_sign", "_moved", "_recent", "_since", "_window", "_first", "_best", "_snapshot", "_rates",
)  # fmt: skip
