"""Objectives: what a model is to be good at, as terms with names and weights."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn

from crosstask.components import Component, hook
from crosstask.errors import PluginError
from crosstask_losses.given import Given, Output


class Objective(Component):
    """Terms that together are one loss. A `LossAggregator` computes them, adds them up and gives the sums to a
    balancer; which terms are on, and with which weights, is said to it.

        @component
        class Smooth(Objective):
            total = "smooth_loss"
            weighting = {"change": "smoothness"}
            reads = {"z": Output("B Z", "the state")}
            smoothness: float = option(0.1, ge=0, help="weight of change")

            def term(self, name, given):
                z = given.steps("z")  # [T, B, Z]
                return (z[1:] - z[:-1]).square().sum(-1).mean()

    A term is the mean over the batch (and over time), a scalar with a graph. Every weight is an option of the component
    by the name that `weighting` says; a bonus, of which more is better, has a minus before it (`"-entropy_weight"`) and
    is subtracted.

    `metrics` are figures beside the terms: they are computed without a graph and train nothing. `apart` are losses that
    train the objective's own `parameters()`, such as a discriminator's: they stand in the dict of losses, and never
    among those that a balancer is given.
    """

    point: ClassVar[str] = "loss"

    total: ClassVar[str]
    """What the weighted sum of its terms is called."""
    weighting: ClassVar[Mapping[str, str]]
    """Term -> the option that holds its weight, after a minus for a bonus."""
    metrics: ClassVar[tuple[str, ...]] = ()
    """Figures that train nothing."""
    apart: ClassVar[tuple[str, ...]] = ()
    """Losses of its own parameters."""
    reads: ClassVar[Mapping[str, Output]] = {}
    """Every entry of `outputs` that some term reads."""

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        for name in ("total", "weighting"):
            if not getattr(cls, name, None):
                raise PluginError(f"{cls.__name__} must say its `{name}`: see Objective")
        names = [cls.total, *cls.weighting, *cls.metrics, *cls.apart]
        if twice := [name for name in names if names.count(name) > 1]:
            raise PluginError(f"{cls.__name__}: {twice[0]!r} names two things")

    @abstractmethod
    @hook(first=True, returns=Tensor)
    def term(self, name: str, given: Given) -> Tensor:
        """A term, metric or loss apart by its name, a scalar. Read outputs with `given.steps(key)` ([T, B, …]) and
        `given.constant(key)`: they say what is missing or of another shape.
        """

    def parameters(self) -> list[nn.Parameter]:
        """Parameters that the losses apart train, for an optimiser of their own; there may be more after the first
        time that losses were computed.
        """
        return []

    def weights(self) -> dict[str, float]:
        """The weights that its options say, by name."""
        return {name: float(getattr(self, name)) for name in self.weight_names()}

    @classmethod
    def weight_names(cls) -> tuple[str, ...]:
        """Of its terms, each once."""
        return tuple(dict.fromkeys(weight.removeprefix("-") for weight in cls.weighting.values()))
