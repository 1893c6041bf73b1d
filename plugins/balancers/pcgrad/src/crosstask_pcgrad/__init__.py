"""Gradient surgery for multi-task learning."""

from crosstask_pcgrad.pcgrad import PCGrad

__all__ = ["PCGrad"]
