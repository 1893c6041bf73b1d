"""Sums of what sites send, so that a library can hide what each of them is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor

from crosstask_federation.tensors import Tensors, sum_of


@runtime_checkable
class SecureSum(Protocol):
    """What a library for secure sums is wrapped in: crosstask has no cryptography of its own.

    `hide` is called at the site, before anything leaves it, in the process where the site works; the object must be
    picklable. `total` is called where the server is. Only additive federations, whose server needs no more than a sum,
    work with one.
    """

    def hide(self, tensors: Tensors, site: str, sites: Sequence[str], round: int) -> Tensors:
        """What leaves `site` instead of these tensors; `sites` are all that were asked in this round."""
        ...

    def total(
        self, hidden: Sequence[Mapping[str, Tensor]], answered: Sequence[str], sites: Sequence[str], round: int
    ) -> Tensors:
        """The sum of what was hidden, of the sites that answered, in the order of `answered`. An exception where it
        cannot be had, as where too many of `sites` are missing: the run then ends with it.
        """
        ...


class PlainSum:
    """Hides nothing: the server sees what each site sends."""

    def hide(self, tensors: Tensors, site: str, sites: Sequence[str], round: int) -> Tensors:
        """The tensors as they are."""
        return tensors

    def total(
        self, hidden: Sequence[Mapping[str, Tensor]], answered: Sequence[str], sites: Sequence[str], round: int
    ) -> Tensors:
        """Their sum."""
        return sum_of(hidden)
