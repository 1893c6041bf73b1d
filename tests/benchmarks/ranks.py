"""A balanced step on two ranks: linear layers' rows exchanged, or every gradient formed and its mean taken.

    torchrun --standalone --nproc-per-node 2 tests/benchmarks/ranks.py

One thread a rank, gloo, interleaved: wall time of a step (ranks wait for one another), CPU time of rank 0, and beside
them one process with the whole batch. Losses of `tasks` heads on a trunk of three linear layers, PCGrad's Gram matrix.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, distributed, nn

from crosstask.learning.gradients import gradients_of

CASES = [(8, 64, 512), (8, 256, 512), (20, 64, 512), (20, 256, 1024), (8, 512, 256)]
"""(tasks, samples of the whole batch, width)."""


def case(tasks: int, samples: int, width: int) -> Callable[[int, int, str, object], Callable[[], str]]:
    torch.manual_seed(0)
    layers = [nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)]
    trunk, heads = nn.Sequential(*layers), nn.ModuleList(nn.Linear(width, 10) for _ in range(tasks))
    batch, shared = torch.randn(samples, width), list(trunk.parameters())

    def step(rank: int, ranks: int, mode: str, group: object) -> Callable[[], str]:
        part = batch.chunk(ranks)[rank]

        def run() -> str:
            features = trunk(part)
            losses: list[Tensor] = [((head(features) - n) ** 2).mean() for n, head in enumerate(heads)]
            gradients = gradients_of(losses, shared, None, mode=mode, group=group, retain_graph=False)  # type: ignore[arg-type]
            weights = 1 / gradients.gramian.diagonal().sqrt()
            gradients.write(weights, None, False)
            for parameter in [*shared, *heads.parameters()]:
                parameter.grad = None
            return gradients.chosen

        return run

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    rank, ranks = distributed.get_rank(), distributed.get_world_size()
    if rank == 0:
        print(f"| tasks | batch | width | way | ms a step | CPU ms of rank 0 |\n{'|---' * 6}|")
    for tasks, samples, width in CASES:
        step = case(tasks, samples, width)
        ways = {
            "formed": step(rank, ranks, "matrix", None),
            "exchanged": step(rank, ranks, "layers", None),
            "auto": step(rank, ranks, "auto", None),
            "one process, whole batch": step(0, 1, "auto", False),
        }
        taken: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for _ in range(rounds + 1):
            for name, run in ways.items():
                alone = name.startswith("one")
                distributed.barrier()
                if alone and rank:
                    continue
                wall, cpu = time.perf_counter(), time.process_time()
                run()
                taken[name].append((time.perf_counter() - wall, time.process_time() - cpu))
        if rank == 0:
            for name, times in taken.items():
                wall, cpu = (1e3 * statistics.median(column) for column in zip(*times[1:], strict=True))
                print(f"| {tasks} | {samples} | {width} | {name} | {wall:.1f} | {cpu:.1f} |", flush=True)
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
