"""Which adapter, how large, and where."""

from __future__ import annotations

import enum
from typing import Any

import attrs

from crosstask.errors import OptionError
from crosstask.manifest import DEFAULT
from crosstask.options import option, record


class AdapterType(enum.StrEnum):
    """The usual kinds of adapter, by the names of their components. Whatever else is registered goes by its name."""

    LINEAR = "linear"
    """Bottlenecks without a nonlinearity."""
    LORA = "lora"
    ADAPTER = "bottleneck"
    """The adapter of Houlsby et al. (2019); `adapter` means the same."""
    PREFIX = "prefix"
    BITFIT = "bitfit"
    COMPACTER = "compacter"
    MULTIMODAL = "multimodal"

    @classmethod
    def _missing_(cls, value: object) -> AdapterType | None:
        return cls.ADAPTER if value == "adapter" else None


def component_name(kind: str) -> str:
    """The component that a type means."""
    return AdapterType.ADAPTER.value if kind == "adapter" else str(kind)


def _named(kind: Any) -> str:
    if not isinstance(kind, str):
        raise OptionError(f"AdapterConfig: adapter_type must be an AdapterType or the name of an adapter, got {kind!r}")
    return component_name(kind)


@record
class AdapterConfig:
    """Which adapter, how large, and where. What is None is the adapter's own default."""

    adapter_type: str = attrs.field(
        default=DEFAULT,
        converter=_named,
        metadata={
            "help": "an AdapterType or any component of point `adapter`; the one that a manifest marks by default"
        },
    )
    input_dim: int | None = option(None, ge=1, help="adapt only layers that take this many features or channels")
    hidden_dim: int | None = option(None, ge=1, help="width of adapters that have one")
    lora_r: int | None = option(None, ge=1, help="rank of low-rank adapters")
    lora_alpha: float | None = option(None, gt=0, help="strength of low-rank adapters")
    target_modules: tuple[str, ...] = option(
        (), help="modules to adapt: names, their ends, patterns; `!name`: not this"
    )
    modules_to_save: tuple[str, ...] = option((), help="modules, such as a head, of which the adapter has its own copy")
    options: dict[str, Any] = option(factory=dict, help="the component's other options")

    def component_options(self) -> dict[str, Any]:
        """The options of the component that these fields mean."""
        named = {"hidden_dim": self.hidden_dim, "r": self.lora_r, "alpha": self.lora_alpha}
        return dict(self.options) | {name: value for name, value in named.items() if value is not None}
