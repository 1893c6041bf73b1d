"""What the options of several compositions have in common."""

from __future__ import annotations

from crosstask.components import Component
from crosstask.errors import OptionError


def need_parts(component: Component, parts: tuple[object, ...], at_least: int = 1) -> None:
    """OptionError if there are fewer parts than `at_least`."""
    if len(parts) < at_least:
        raise OptionError(f"{type(component).__name__}: parts must name at least {at_least}, got {len(parts)}")


def fitting(component: Component, name: str, values: tuple[float, ...], parts: tuple[object, ...]) -> None:
    """OptionError unless `values` is empty or has one positive sum and one value for each part."""
    if values and len(values) != len(parts):
        raise OptionError(f"{type(component).__name__}: {name} must be one per part ({len(parts)}), got {len(values)}")
    if values and sum(values) <= 0:
        raise OptionError(f"{type(component).__name__}: {name} must not all be zero")
