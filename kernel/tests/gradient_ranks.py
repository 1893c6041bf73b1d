"""What each rank of test_gradient_ranks.py does; started by torchrun."""

import os
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, distributed, nn

from crosstask.errors import RunError
from crosstask.learning.gradients import TaskGradients, gradients_of
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


class Recurrent(nn.Module):
    """Uses its layer twice, the first use for all losses, the second for some: rows of a loss are of several uses."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 6)

    def forward(self, batch: Tensor) -> list[Tensor]:
        once = self.layer(batch).tanh()
        twice = self.layer(once).tanh()
        return [(once**2).mean(), (twice**2).mean() * 3, (once * twice).mean(), (twice - 1).abs().mean()]


def losses_of(kind: str, batch: Tensor) -> tuple[list[Tensor], list[nn.Parameter]]:
    trunk, heads, _ = problem()
    if kind == "several uses":
        torch.manual_seed(1)
        module = Recurrent().double()
        return module(batch), list(module.parameters())
    if kind == "sequences":  # products of three dimensions
        batch = batch[:, None, :] * torch.arange(1.0, 4.0).double()[:, None]
    features = trunk(batch)
    return [((head(features) - n) ** 2).mean() for n, head in enumerate(heads)], list(trunk.parameters())


def layers(rank: int, ranks: int) -> None:
    """Rows that are exchanged give what the whole batch gives, whatever is asked, in every order."""
    for kind, count in (("one use", 2), ("several uses", 1), ("sequences", 2)):
        batch = problem()[2][0]
        whole, shared = losses_of(kind, batch)
        rows = [torch.autograd.grad(loss, shared, retain_graph=True) for loss in whole]
        matrix = torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])
        weights, vector = torch.randn(len(whole)).double(), torch.randn(matrix.shape[1]).double()
        for tensor in (weights, vector):
            distributed.broadcast(tensor, 0)
        for mode, unformed in (("layers", count), ("matrix", 0)):
            for first in ("gramian", "dot", "assemble", "matrix"):
                losses, shared = losses_of(kind, batch.chunk(ranks)[rank])
                gradients = gradients_of(losses, shared, (), mode=mode, group=None)
                answers = {
                    "gramian": (lambda g: g.gramian, matrix @ matrix.T),
                    "dot": (lambda g, vector=vector: g.dot(vector), matrix @ vector),
                    "assemble": (lambda g, weights=weights: g.assemble(weights, None), weights @ matrix),
                    "matrix": (lambda g: g.matrix, matrix),
                }
                for name in [first, *answers]:
                    ask, expected = answers[name]
                    torch.testing.assert_close(ask(gradients), expected, rtol=1e-9, atol=1e-12)
                    if name == first != "matrix":
                        assert f"{unformed} linear layers unformed" in gradients.chosen, gradients.chosen


def unequal_parts(rank: int) -> None:
    """Where ranks have other numbers of rows they cannot exchange them: the gradients are formed, and meant."""
    batch = problem()[2][0]
    losses, shared = losses_of("one use", batch[:3] if rank else batch[3:])
    gradients = gradients_of(losses, shared, (), mode="layers", group=None)
    both = []
    for part in (batch[3:], batch[:3]):
        alone, of = losses_of("one use", part)
        both.append(gradients_of(alone, of, (), mode="matrix", group=False).matrix)
    mean = (both[0] + both[1]) / 2
    torch.testing.assert_close(gradients.gramian, mean @ mean.T)
    assert "0 linear layers unformed" in gradients.chosen


def other_layers(rank: int) -> None:
    """Each rank's samples went through another of two alike layers: what they have in common is nothing to multiply."""
    torch.manual_seed(0)
    experts, batch = nn.ModuleList(nn.Linear(3, 4) for _ in range(2)).double(), torch.randn(2, 5, 3).double()
    parts = []
    for part, expert in zip(batch, experts, strict=True):
        rows = [torch.autograd.grad(loss, list(experts.parameters()), allow_unused=True, materialize_grads=True)
                for loss in (expert(part).square().mean(), expert(part).exp().mean())]  # fmt: skip
        parts.append(torch.stack([torch.cat([g.flatten() for g in row]) for row in rows]))
    mean = (parts[0] + parts[1]) / 2
    answer = experts[rank](batch[rank])
    losses = [answer.square().mean(), answer.exp().mean()]
    for mode in ("layers", "auto"):
        gradients = gradients_of(losses, experts.parameters(), (), mode=mode, group=None)
        torch.testing.assert_close(gradients.gramian, mean @ mean.T)
        torch.testing.assert_close(gradients.matrix, mean)


def tiny_rows(rank: int, ranks: int) -> None:
    """Squares of lengths that leave single precision are found by all ranks, though only one sees such rows."""
    torch.manual_seed(0)
    layer, batch = nn.Linear(4, 4), torch.randn(4, 4)
    results = []
    for part, group in ((batch.chunk(ranks)[rank], None), (batch, False)):
        faint = torch.ones(len(part), 1)
        if group is None and rank == 1:
            faint = faint * 0
        if group is False:
            faint[len(part) // 2 :] = 0
        losses = [(layer(part) * faint).mean() * 1e-20, layer(part).mean()]
        results.append(gradients_of(losses, list(layer.parameters()), (), mode="layers", group=group).gramian)
    assert results[0].dtype is torch.float64
    assert float(results[0][0, 0]) > 0
    torch.testing.assert_close(*results, rtol=1e-5, atol=0)


def refuse_a_sink(rank: int) -> None:
    """DDP that looks for unused parameters returns everything out of one node."""
    trunk, heads, batches = problem()

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk, self.heads = trunk, heads

        def forward(self, batch: Tensor) -> list[Tensor]:
            features = self.trunk(batch)
            return [(head(features) ** 2).mean() for head in self.heads]

    plain = nn.parallel.DistributedDataParallel(Both())
    with plain.no_sync():
        ByNorm().backward(plain(batches[0]))
    led = nn.parallel.DistributedDataParallel(Both(), find_unused_parameters=True)
    with led.no_sync(), pytest.raises(RunError, match="leads all losses through one node"):
        ByNorm().backward(led(batches[0]))


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
    layers(rank, ranks)
    unequal_parts(rank)
    other_layers(rank)
    tiny_rows(rank, ranks)
    refuse_a_sink(rank)
    refuse_other_parameters(rank)
    sharded(rank, ranks)
    distributed.destroy_process_group()


if __name__ == "__main__":
    assert "RANK" in os.environ, "start this with torchrun"
    main()
