"""Points in the plane, and what can be asked about them."""

from __future__ import annotations

import torch
from torch import Tensor

from crosstask.descriptors import TaskDescriptor
from crosstask.options import component, option
from crosstask.points.source import Source
from crosstask.tasks import Portfolio, Task

SPLITS = ("train", "validation", "test")
NEEDS = {"ring": ("inside",)}


def labels(name: str, points: Tensor) -> Tensor:
    """0 or 1 for each point [N, 2]."""
    radius = points.norm(dim=1)
    found = {
        "above": points[:, 1] > 0,
        "inside": radius < 0.7,
        "ring": (radius > 0.4) & (radius < 0.9),
        "outside": radius > 0.8,
    }
    return found[name].long()


@component
class ExampleSource(Source):
    """Tasks `above`, `inside` and `ring`, and `outside`, which is held back; `samples` points in each split."""

    samples: int = option(100, ge=10, help="points in each split")
    seed: int = option(0, ge=0, help="another seed gives other points")

    def load(self) -> Portfolio:
        tasks = [self._task(name) for name in ("above", "inside", "ring")]
        return Portfolio(tasks, unseen=[self._task("outside")], name="plane")

    def _task(self, name: str) -> Task:
        generator = torch.Generator().manual_seed(self.seed)
        splits = {}
        for split in SPLITS:
            points = torch.rand(self.samples, 2, generator=generator) * 2 - 1
            splits[split] = (points, labels(name, points))
        descriptor = TaskDescriptor(
            task_id=name,
            domain="plane",
            input_shape=(2,),
            output_dim=2,
            sample_count=self.samples,
            prerequisites=NEEDS.get(name, ()),
            classes=("no", "yes"),
        )
        return Task(descriptor=descriptor, train=splits["train"], validation=splits["validation"], test=splits["test"])
