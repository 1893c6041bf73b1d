"""BatchNorm's statistics, estimated anew."""

from __future__ import annotations

import torch
from torch import nn

from crosstask_synthesis.batchnorm import has_statistics, is_statistic, reestimate


def test_statistics_estimated_anew_are_the_mean_over_batches() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3, momentum=0.2), nn.Dropout(0.5))
    inputs = torch.randn(40, 2, generator=torch.Generator().manual_seed(0))
    model[1].running_mean.fill_(9.0)
    weights = model[0].weight.clone()
    reestimate(model, inputs, batch_size=10)
    hidden = model[0](inputs).detach()
    assert torch.allclose(model[1].running_mean, hidden.mean(0), atol=1e-5)
    wanted = torch.stack([part.var(0) for part in hidden.split(10)]).mean(0)
    assert torch.allclose(model[1].running_var, wanted, atol=1e-5)
    assert (model[1].momentum, model[1].training, model[2].training) == (0.2, True, True)
    assert torch.equal(model[0].weight, weights)
    assert has_statistics(model)
    assert not has_statistics(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, track_running_stats=False)))
    assert [is_statistic(name) for name in ("1.running_var", "1.weight", "running_mean")] == [True, False, True]
