"""Complex weights: a network of them learns as the one that keeps both parts of each as real weights."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from crosstask_continual import ContinualStrategy
from crosstask_continual.testing import learned
from crosstask_replay import AGEM, GEM


class Waves(nn.Module):
    """A complex layer, kept as complex weights or as pairs of real ones, of whose answers the sizes go on."""

    def __init__(self, pairs: bool) -> None:
        super().__init__()
        drawn = torch.randn(7, 64, 2, generator=torch.Generator().manual_seed(0)) / 8
        self.shift = nn.Parameter(torch.zeros(1))  # so that the numbers of the complex ones begin at an odd place
        self.wave = nn.Parameter(drawn if pairs else torch.view_as_complex(drawn))
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.head = nn.Linear(7, 10)

    def forward(self, inputs: Tensor) -> Tensor:
        wave = self.wave if self.wave.is_complex() else torch.view_as_complex(self.wave)
        found: Tensor = self.head((inputs.flatten(1).to(wave.dtype) @ wave.T + self.shift).abs())
        return found


@pytest.mark.parametrize("kind", [AGEM, GEM])
def test_complex_weights_are_corrected_as_pairs_of_real_ones(kind: type[ContinualStrategy]) -> None:
    found, pairs, plain = (
        learned(strategy, "task", epochs=1, count=2, model=Waves(pairs)).model.state_dict()
        for strategy, pairs in ((kind(), False), (kind(), True), (None, False))
    )
    name = next(name for name in found if name.endswith("wave"))
    assert found[name].is_complex()
    torch.testing.assert_close(torch.view_as_real(found[name]), pairs[name], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found[name], plain[name], atol=1e-3), "it does something"
