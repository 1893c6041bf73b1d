"""The contract's checks, for adapters made of `LayerAdapter`; a state that leaves buffers out fails one of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from crosstask.options import component
from crosstask.testing import conformance, run_checks
from crosstask_adapters import LayersHandle
from crosstask_adapters.testing import Factors, FrozenRanks, Shifts, Waves

test_conformance = conformance(Shifts)
test_conformance_where_order_matters = conformance(Factors)
test_conformance_unmerged = conformance(Waves)
test_conformance_with_frozen_projections = conformance(FrozenRanks)
test_conformance_of_rank_one = conformance(FrozenRanks, options={"r": 1})


class ParametersOnly(LayersHandle):
    """A state without what was drawn and is not trained."""

    def named_tensors(self) -> dict[str, Tensor]:
        return dict(self.named_parameters())


@component
class Forgetful(FrozenRanks):
    """Loses its projections."""

    def attach(self, model: nn.Module, targets: Sequence[str], generator: torch.Generator) -> Any:
        handle = super().attach(model, targets, generator)
        handle.__class__ = ParametersOnly
        return handle


def test_a_state_without_the_frozen_projections_is_caught() -> None:
    failed = {outcome.name: outcome.message for outcome in run_checks(Forgetful) if outcome.status == "failed"}
    assert list(failed) == ["check_state_round_trip"]
    assert "drew other weights" in failed["check_state_round_trip"]
