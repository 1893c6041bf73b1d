"""Averaged weights by hand and beside TorchJD's; random weights; the hybrid of IMTL."""

import pytest
import torch
from torch import Tensor, nn

from crosstask import PluginError
from crosstask.context import LocalContext
from crosstask.learning.gradients import MatrixGradients
from crosstask_jacobian import CRMOGM, MGDA, RGW, GradDrop, UPGrad


def draw(tasks: int, size: int, seed: int) -> Tensor:
    return torch.randn(tasks, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_weights_follow_those_of_the_balancer() -> None:
    balancer, mean = CRMOGM(balancer=MGDA(), alpha=0.7), None
    for seed in range(5):
        gradients = MatrixGradients(draw(3, 6, seed))
        new = MGDA().balance(torch.ones(3).double(), gradients)
        assert isinstance(new, Tensor)
        mean = new if mean is None else 0.7 * mean + 0.3 * new
        torch.testing.assert_close(balancer.balance(torch.ones(3).double(), gradients), mean)
    assert balancer.average == pytest.approx(dict(zip("012", mean.tolist(), strict=True)))


def test_values_of_torchjd() -> None:
    jd = pytest.importorskip("torchjd.aggregation")
    projector = pytest.importorskip("torchjd.linalg").QuadprogProjector(norm_eps=0.0, reg_eps=1e-11)
    peer = jd.CRMOGMWeighting(jd.UPGradWeighting(projector=projector), alpha=0.9)
    ours = CRMOGM(balancer="upgrad")
    for seed in range(4):
        matrix = draw(4, 20, seed)
        found = ours.balance(torch.ones(4).double(), MatrixGradients(matrix))
        torch.testing.assert_close(found, peer(matrix @ matrix.T), rtol=1e-4, atol=1e-6)


def test_each_task_over_its_own_steps() -> None:
    balancer = CRMOGM(balancer={"use": "fixed", "weights": {"a": 1.0, "b": 2.0, "c": 3.0}}, alpha=0.5)
    balancer.average = {"a": 3.0, "b": 0.0}
    found = balancer.balance(torch.ones(2).double(), MatrixGradients(draw(2, 4, 0), ("c", "a")))
    torch.testing.assert_close(found, torch.tensor([3.0, 2.0]).double())
    assert balancer.average == {"a": 2.0, "b": 0.0, "c": 3.0}


def test_weights_of_losses_stay_those_of_losses() -> None:
    """A weighting's own parameters are trained, and the heads get its weights, as without the average."""
    outer = CRMOGM(balancer="uncertainty")
    assert outer.weighs_losses
    assert not CRMOGM(balancer=UPGrad()).weighs_losses
    trunk, head = nn.Parameter(torch.tensor([1.0, 2.0])), nn.Parameter(torch.tensor(3.0))
    weights = outer.backward({"a": (head * trunk).square().sum(), "b": trunk.sum()}, [trunk], [head])
    assert head.grad is not None
    torch.testing.assert_close(head.grad, weights[0] * 2 * head.detach() * trunk.detach().square().sum())
    assert sum(p.grad is not None for p in outer.parameters()) == 2


def test_a_direction_has_no_weights() -> None:
    with pytest.raises(PluginError, match="GradDrop answers with a direction, and has no weights"):
        CRMOGM(balancer=GradDrop()).combine(draw(2, 3, 0))


def test_rgw_draws_as_the_softmax_of_normals_and_leaves_heads_alone() -> None:
    balancer = RGW()
    balancer.bind(LocalContext(seed=3))
    drawn = torch.stack(
        [balancer.balance(torch.ones(3).double(), MatrixGradients(draw(3, 2, 0))) for _ in range(2000)]  # type: ignore[misc]
    )
    torch.testing.assert_close(drawn.mean(dim=0), torch.full((3,), 1 / 3).double(), rtol=0, atol=0.02)
    own = torch.randn(200_000, 3, generator=torch.Generator().manual_seed(0)).softmax(1)
    assert float(drawn.std()) == pytest.approx(float(own.std()), rel=0.05)
    assert not balancer.weighs_losses
    trunk, head = nn.Parameter(torch.ones(2)), nn.Parameter(torch.tensor(3.0))
    balancer.backward([head * trunk.sum(), trunk.square().sum()], [trunk], [head])
    assert float(head.grad) == 2.0  # type: ignore[arg-type]


def test_the_hybrid_of_imtl_is_a_sequence() -> None:
    """LibMTL's `IMTL`, for shared parameters: losses are scaled by exp(s), and IMTL-G balances their gradients."""
    sequence = pytest.importorskip("crosstask_composition.balancers").Sequence(parts=["imtl_l", "imtl_g"])
    (scaling, _) = sequence.made_of("parts")
    matrix, losses = draw(3, 8, 5), torch.tensor([0.5, 2.0, 1.0], dtype=torch.float64)
    sequence.balance(losses, MatrixGradients(matrix))
    for number, parameter in enumerate(scaling.parameters()[:3]):
        parameter.data.fill_(0.3 * number)
    weights = sequence.balance(losses, MatrixGradients(matrix))
    scaled = matrix * (0.3 * torch.arange(3.0).double()).exp()[:, None]
    unit = scaled / scaled.norm(dim=1, keepdim=True)
    apart, units = scaled[:1] - scaled[1:], unit[:1] - unit[1:]
    alpha = scaled[0] @ units.T @ torch.linalg.inv(apart @ units.T)
    alpha = torch.cat([1 - alpha.sum()[None], alpha])
    torch.testing.assert_close(weights @ matrix, alpha @ scaled)
