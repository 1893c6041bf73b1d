"""Components made of components. Two points use the same names, so import them from their modules."""

from crosstask_composition import balancers, curricula, discovery, samplers, wrappers

__all__ = ["balancers", "curricula", "discovery", "samplers", "wrappers"]
