"""What an adapter does at one layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from crosstask_adapters.switches import Switch


class LayerAdapter(nn.Module):
    """What an adapter does at one layer. Give `around`, or `change`, or both.

    With `weight_space` the adapter is a change of the layer's parameters: `change` says of which, and it can be merged.
    `around`, if also given, must do the same at a call of the layer, and is used where that is possible. Without
    `weight_space`, `around` says it all.
    """

    weight_space: ClassVar[bool] = False
    """Whether it is a change of the layer's parameters."""
    additive: ClassVar[bool] = False
    """Whether `change` adds something that does not depend on the value: such adapters merge in any order."""
    replaces: ClassVar[bool] = False
    """Whether it puts values in place of the layer's own: it then acts before those that change them."""
    joint: ClassVar[bool] = False
    """Whether `jointly` is given instead of `around`: the adapters of this kind on a layer act as one, innermost."""
    plainly: ClassVar[bool] = False
    """Whether `around` is given and says it all."""
    switch: Switch
    """Whether it takes part in the forward pass."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.plainly = cls.around is not LayerAdapter.around and not cls.joint

    def change(self, layer: nn.Module, name: str, value: Tensor) -> Tensor:
        """The adapted value of the layer's parameter `name`; `value` itself where nothing changes."""
        return value

    def around(self, layer: nn.Module, inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The layer's answer to these arguments, where `inner(*args, **kwargs)` is the answer without this adapter."""
        return inner(*args, **kwargs)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """While it is merged a model's weights say it all, and with its tensors beside them it would count twice."""
        if getattr(self, "switch", None) is not None and self.switch.merged and "destination" in kwargs:
            return kwargs["destination"]
        return super().state_dict(*args, **kwargs)

    @classmethod
    def jointly(
        cls, parts: Sequence[Any], layer: nn.Module, inner: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        """As `around`, for all these adapters of one kind at once."""
        raise NotImplementedError(f"{cls.__name__} has `joint` but no `jointly`")

    @classmethod
    def mixed(cls, parts: Sequence[Any], choice: Tensor, inner: Callable[..., Any], x: Tensor) -> Tensor | None:
        """The layer's answer to x [N, ...] with `parts[choice[i]]` for sample i, without any where choice [N] is -1:
        all at once. None if this can only be done one adapter after the other.
        """
        return None


class OwnWeights(LayerAdapter):
    """An adapter that replaces a layer's parameters by its own copies: for heads, which each adapter has its own of."""

    weight_space = True
    replaces = True

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.own = nn.ParameterDict(
            {name: nn.Parameter(p.detach().clone()) for name, p in layer._parameters.items() if p is not None}
        )

    def change(self, layer: nn.Module, name: str, value: Tensor) -> Tensor:
        return cast(Tensor, self.own.get(name, value))

    def around(self, layer: Any, inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return layer._direct(layer, layer._own() | dict(self.own), *args, **kwargs)


def draw(shape: Sequence[int], bound: float, like: Tensor, generator: torch.Generator) -> nn.Parameter:
    """A parameter with entries uniform in [-bound, bound], on the device and in the dtype of `like`."""
    value = torch.empty(*shape).uniform_(-bound, bound, generator=generator)  # drawn the same for any device
    return nn.Parameter(value.to(like.device, like.dtype))
