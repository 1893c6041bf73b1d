"""Two processes are one with the whole batch: Krum chooses, and the mean is trimmed, by the means over the ranks."""

import multiprocessing
from pathlib import Path

import torch
from torch import Tensor, distributed, nn

from crosstask_robust import Krum, TrimmedMean


def gradients(rank: int, ranks: int) -> dict[str, Tensor]:
    """What each balancer leaves in `.grad` on this rank's part of the batch."""
    draws = torch.Generator().manual_seed(0)
    weight, inputs = torch.randn(4, 3, generator=draws), torch.randn(8, 4, generator=draws)
    targets = torch.randn(5, 8, generator=draws)
    found = {}
    for balancer in (Krum(selected=2), TrimmedMean(), TrimmedMean(share=0.0)):
        shared = nn.Parameter(weight.clone())
        features = inputs.chunk(ranks)[rank] @ shared
        losses = [(features.sum(1) * (1 + n) - row.chunk(ranks)[rank]).square().mean() for n, row in enumerate(targets)]
        balancer.backward(losses, [shared], [])
        assert shared.grad is not None
        found[repr(balancer)] = shared.grad
    return found


def one(rank: int, folder: Path) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{folder}/ranks", rank=rank, world_size=2)
    torch.save(gradients(rank, 2), folder / f"{rank}.pt")
    distributed.destroy_process_group()


def test_two_ranks_are_one_process(tmp_path: Path) -> None:
    processes = [multiprocessing.get_context("fork").Process(target=one, args=(rank, tmp_path)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    expected = gradients(0, 1)
    assert len(expected) == 3
    for rank in range(2):
        for name, gradient in torch.load(tmp_path / f"{rank}.pt").items():
            torch.testing.assert_close(gradient, expected[name])
