"""For tests of adapters: small ones made with `LayerAdapter`, and what the tests of this family share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from crosstask.manifest import Extension, Plugin
from crosstask.options import component, option
from crosstask.points.adapter import Adapter, AdapterHandle
from crosstask_adapters.adapted_layers import own_weight
from crosstask_adapters.handle import LayersHandle
from crosstask_adapters.layer_adapter import LayerAdapter, draw
from crosstask_adapters.targets import called, match_targets


class BiasShift(LayerAdapter):
    """b + shift: a change of a weight that merges in any order."""

    weight_space = True
    additive = True

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros_like(own_weight(layer, "bias")))

    def change(self, layer: nn.Module, name: str, value: Tensor) -> Tensor:
        return value + self.shift if name == "bias" else value

    def around(self, layer: nn.Module, inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return inner(*args, **kwargs) + self.shift


class Factor(LayerAdapter):
    """w y: a change of all weights, that cannot be merged in any order, and has no `around`."""

    weight_space = True

    def __init__(self, layer: nn.Module, start: float) -> None:
        super().__init__()
        self.factor = nn.Parameter(own_weight(layer, "weight").new_full((), start))

    def change(self, layer: nn.Module, name: str, value: Tensor) -> Tensor:
        return value * self.factor


class Wave(LayerAdapter):
    """y + a tanh(y): no change of weights."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.height = nn.Parameter(torch.zeros_like(own_weight(layer, "weight")[:, 0]))

    def reset_parameters(self) -> None:
        """A start from scratch, as torch's layers have."""
        nn.init.zeros_(self.height)

    def around(self, layer: nn.Module, inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        y = inner(*args, **kwargs)
        return y + self.height * y.tanh()


class Projections(nn.Module):
    """The two projections that all layers of a `FrozenRank` share: drawn once, never trained, and a part of its state.

    `down` [r, F] and `up` [G, r] for the widest layer; a narrower one takes the first columns and rows.
    """

    down: Tensor
    up: Tensor

    def __init__(self, r: int, inner: int, outer: int, like: Tensor, generator: torch.Generator) -> None:
        super().__init__()
        self.register_buffer("down", draw((r, inner), 1 / math.sqrt(inner), like, generator).detach())
        self.register_buffer("up", draw((outer, r), 1 / math.sqrt(r), like, generator).detach())


class FrozenRank(LayerAdapter):
    """W + diag(b) B diag(d) A with A and B frozen and the same for all layers (Kopiczko et al. 2024, equation 2)."""

    weight_space = True
    additive = True

    def __init__(self, layer: nn.Module, projections: Projections) -> None:
        super().__init__()
        weight = own_weight(layer, "weight")
        self.projections = projections
        self.inside = nn.Parameter(weight.new_full((len(projections.down),), 0.1))
        self.outside = nn.Parameter(weight.new_zeros(len(weight)))

    def change(self, layer: nn.Module, name: str, value: Tensor) -> Tensor:
        if name != "weight":
            return value
        up, down = self.projections.up[: len(value)], self.projections.down[:, : value.shape[1]]
        return value + self.outside[:, None] * (up @ (self.inside[:, None] * down))

    def around(self, layer: nn.Module, inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        down, up = self.projections.down, self.projections.up
        low = self.inside * functional.linear(args[0], down[:, : args[0].shape[-1]])
        return inner(*args, **kwargs) + self.outside * functional.linear(low, up[: len(self.outside)])


class OnLinearLayers(Adapter):
    """One `LayerAdapter` on each linear layer."""

    def attach(self, model: nn.Module, targets: Sequence[str], generator: torch.Generator) -> AdapterHandle:
        names = match_targets(model, targets, lambda name, _: self.takes(model, name), "linear layers")
        layers = {name: model.get_submodule(name) for name in names}
        return LayersHandle(model, self.parts(layers, generator))

    def takes(self, model: nn.Module, name: str) -> bool:
        """Whether it works on a layer."""
        return isinstance(model.get_submodule(name), nn.Linear)

    def parts(self, layers: dict[str, nn.Module], generator: torch.Generator) -> dict[str, LayerAdapter]:
        """An adapter for each of these layers."""
        raise NotImplementedError


@component
class Shifts(OnLinearLayers):
    """Shifts the biases of linear layers."""

    capabilities = frozenset({"mergeable"})

    def parts(self, layers: dict[str, nn.Module], generator: torch.Generator) -> dict[str, LayerAdapter]:
        return {name: BiasShift(layer) for name, layer in layers.items()}


@component
class Factors(OnLinearLayers):
    """Multiplies what linear layers give."""

    capabilities = frozenset({"mergeable"})
    hidden_dim: float = option(2.0, gt=0, help="the factor")

    def parts(self, layers: dict[str, nn.Module], generator: torch.Generator) -> dict[str, LayerAdapter]:
        return {name: Factor(layer, self.hidden_dim) for name, layer in layers.items()}


@component
class Waves(OnLinearLayers):
    """Bends what linear layers give: it cannot be merged, and sees only layers that are called."""

    def takes(self, model: nn.Module, name: str) -> bool:
        return super().takes(model, name) and called(model, name)

    def parts(self, layers: dict[str, nn.Module], generator: torch.Generator) -> dict[str, LayerAdapter]:
        return {name: Wave(layer) for name, layer in layers.items()}


@component
class FrozenRanks(OnLinearLayers):
    """Changes linear layers by a product of frozen random matrices, of which it learns scales only."""

    capabilities = frozenset({"mergeable"})
    r: int = option(4, ge=1, help="rank of the change")

    def parts(self, layers: dict[str, nn.Module], generator: torch.Generator) -> dict[str, LayerAdapter]:
        weights = [own_weight(layer, "weight") for layer in layers.values()]
        inner, outer = max(w.shape[1] for w in weights), max(len(w) for w in weights)
        shared = Projections(self.r, inner, outer, weights[0], generator)
        return {name: FrozenRank(layer, shared) for name, layer in layers.items()}


KINDS = {"shifts": Shifts, "factors": Factors, "waves": Waves, "frozen_ranks": FrozenRanks}

REFERENCE = Plugin(
    "reference-adapters",
    extensions=[
        Extension("adapter", name, f"crosstask_adapters.testing:{kind.__name__}", summary="For checks.")
        for name, kind in KINDS.items()
    ],
    api=(2, 0),
)
"""The adapters above, by name."""


def seeded(seed: int = 0) -> torch.Generator:
    """A generator of its own."""
    return torch.Generator().manual_seed(seed)


@torch.no_grad()
def drawn(model: nn.Module, seed: int = 0) -> nn.Module:
    """The model in double precision, with weights that follow from the seed alone."""
    model, generator = model.double(), seeded(seed)
    for p in model.parameters():
        p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64))
    return model


@torch.no_grad()
def stirred(handle: Any, seed: int = 7, scale: float = 1.0) -> LayersHandle:
    """An adapter with weights that do something: normally distributed, with this standard deviation."""
    generator = seeded(seed)
    for p in handle.parameters():
        p.copy_(scale * torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p.dtype))
    assert isinstance(handle, LayersHandle)
    return handle


def digits() -> tuple[Tensor, Tensor]:
    """scikit-learn's digits: pixels in 0..1 [1797, 64] and labels [1797]."""
    from sklearn.datasets import load_digits  # deferred: not all who test adapters want scikit-learn

    data = load_digits()
    return torch.tensor(data.data / 16, dtype=torch.float32), torch.tensor(data.target)


def mlp(seed: int = 0) -> nn.Sequential:
    """A small network for them: two hidden layers of 64, drawn as torch draws layers."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def learn(
    model: nn.Module, parameters: Iterable[nn.Parameter], x: Tensor, y: Tensor, *, rate: float, steps: int
) -> None:
    """Train these parameters with Adam on batches of 64, the same ones each time."""
    optimizer, generator = torch.optim.Adam(parameters, lr=rate), seeded()
    for _ in range(steps):
        rows = torch.randint(len(x), (64,), generator=generator)
        optimizer.zero_grad()
        functional.cross_entropy(model(x[rows]), y[rows]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()


@torch.no_grad()
def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """The share of samples whose label the model gives."""
    return float((model(x).argmax(1) == y).float().mean())
