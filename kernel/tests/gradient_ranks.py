"""What each rank of test_gradient_ranks.py does; started by torchrun."""

import os
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, distributed, nn

from crosstask.errors import RunError
from crosstask.learning.gradients import TaskGradients
from crosstask.options import component, option, state
from crosstask.points.balancer import Balancer, Direction

ASKS = ("nothing", "gramian", "matrix", "features")


@component
class ByNorm(Balancer):
    """Weights from losses, Gram matrix or matrix, and a pull toward what was before: all that can go wrong."""

    asks: str = option("gramian", help="what is asked")
    before: Tensor | None = state()

    def balance(self, losses: Tensor, gradients: TaskGradients) -> Tensor | Direction:
        if self.asks == "nothing":
            return losses / losses.sum()
        if self.asks == "matrix":
            weights = 1 / gradients.matrix.norm(dim=1)
        else:
            weights = 1 / gradients.gramian.diagonal().sqrt()
        if self.before is not None and len(self.before) == gradients.assemble(weights, None).numel():
            weights = weights + gradients.dot(self.before).tanh()
        self.before = gradients.assemble(weights, None)
        return Direction(weights=weights, vector=0.1 * self.before)


def problem() -> tuple[nn.Module, nn.ModuleList, Tensor]:
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 5)).double()
    heads = nn.ModuleList(nn.Linear(5, 2) for _ in range(3)).double()
    return trunk, heads, torch.randn(3, 8, 6).double()


def train(asks: str, rank: int, ranks: int, found: bool) -> list[Tensor]:
    """Three steps on this rank's part of each batch; all parameters."""
    trunk, heads, batches = problem()
    optimizer = torch.optim.Adam([*trunk.parameters(), *heads.parameters()], lr=0.05)
    balancer = ByNorm(asks="gramian" if asks == "features" else asks)
    for batch in batches:
        features = trunk(batch.chunk(ranks)[rank])
        losses = [((head(features) - n) ** 2).mean() for n, head in enumerate(heads)]
        optimizer.zero_grad()
        shared = None if found else trunk.parameters()
        balancer.backward(losses, shared, features=features if asks == "features" else ())
        optimizer.step()
    return [p.detach() for p in [*trunk.parameters(), *heads.parameters()]]


def refuse_other_parameters(rank: int) -> None:
    trunk, heads, batches = problem()
    features = trunk(batches[0])
    losses = [head(features).sum() for head in heads]
    shared = list(trunk.parameters())[rank:]
    with pytest.raises(RunError, match="ranks differ"):
        ByNorm().backward(losses, shared, [])


def sharded(rank: int, ranks: int) -> None:
    """FSDP2: weighing losses works as on one process, task gradients are refused."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    trunk, heads, batches = problem()
    model = nn.ModuleDict({"trunk": trunk, "heads": heads})
    features = trunk(batches[0])
    weights = torch.arange(1.0, 4.0).double()
    whole = sum(w * ((head(features) - n) ** 2).mean() for w, (n, head) in zip(weights, enumerate(heads), strict=True))
    expected = torch.autograd.grad(whole, list(model.parameters()))

    @component
    class Weighing(Balancer):
        weighs_losses = True

        def balance(self, losses: Tensor, gradients: TaskGradients) -> Tensor:
            return weights

    mesh = init_device_mesh("cpu", (ranks,))
    fully_shard(trunk, mesh=mesh)
    for head in heads:
        fully_shard(head, mesh=mesh)
    for balancer, works in ((Weighing(), True), (ByNorm(), False)):
        model.zero_grad()
        features = trunk(batches[0].chunk(ranks)[rank])
        losses = [((head(features) - n) ** 2).mean() for n, head in enumerate(heads)]
        if works:
            balancer.backward(losses)
            for parameter, gradient in zip(model.parameters(), expected, strict=True):
                torch.testing.assert_close(parameter.grad.full_tensor(), gradient)
        else:
            with pytest.raises(RunError, match="FSDP2"):
                balancer.backward(losses, trunk.parameters())


def main() -> None:
    distributed.init_process_group("gloo")
    rank, ranks = distributed.get_rank(), distributed.get_world_size()
    folder = Path(sys.argv[1])
    for asks in ASKS:
        for found in (False, True):
            torch.save(train(asks, rank, ranks, found), folder / f"{asks}-{found}-{rank}")
    refuse_other_parameters(rank)
    sharded(rank, ranks)
    distributed.destroy_process_group()


if __name__ == "__main__":
    assert "RANK" in os.environ, "start this with torchrun"
    main()
