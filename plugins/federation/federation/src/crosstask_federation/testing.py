"""For tests of federations: the smallest right ones, and digits that lie at several sites.

The digits are scikit-learn's: `digits` and what is made of it need that package.
"""

from __future__ import annotations

import functools
from typing import ClassVar

import torch
from torch import Tensor, nn

from crosstask.descriptors import TaskDescriptor
from crosstask.manifest import Extension, Plugin
from crosstask.options import component, option
from crosstask.tasks import Portfolio, Task
from crosstask_federation.contract import Federation, Gathered, Local, Site, State, begun
from crosstask_federation.plugin import PLUGIN
from crosstask_federation.splits import Split, split_task
from crosstask_federation.tensors import Tensors, like
from crosstask_federation.training import train_at, trained_at


@component
class ReferenceFederation(Federation):
    """The mean of the weights that training at each site leads to."""

    capabilities: ClassVar[frozenset[str]] = frozenset({"additive"})
    shares: ClassVar[tuple[str, ...]] = ("weights", "buffers")

    part_of_the_way: float = option(1.0, gt=0, le=1, help="to the mean")

    def begin(self, network: nn.Module) -> State:
        return begun(network, self.stays)

    def local(self, site: Site, sent: Tensors) -> Local:
        return trained_at(site, sent, self.stays)

    def merge(self, state: State, gathered: Gathered) -> State:
        found = like(gathered.total, state.shared)
        moved = {
            n: state.shared[n].lerp(t, self.part_of_the_way) if t.is_floating_point() else t for n, t in found.items()
        }
        return State(moved)


@component
class ReferencePersonal(ReferenceFederation):
    """The same, trained on at the site before it is used; its head never leaves. The server sees what each sends."""

    capabilities: ClassVar[frozenset[str]] = frozenset({"personal"})

    @property
    def stays(self) -> tuple[str, ...]:
        return ("head",)

    def merge(self, state: State, gathered: Gathered) -> State:
        pairs = list(zip(gathered.weights.tolist(), gathered.each, strict=True))
        total = {name: sum((w * each[name] for w, each in pairs), torch.zeros(())) for name in state.shared}
        return super().merge(state, Gathered(gathered.sites, gathered.weights, total))

    def model_for(self, site: Site, sent: Tensors) -> nn.Module:
        network = site.received(sent)
        train_at(site, network, steps=3)
        return network


REFERENCE = Plugin(
    "reference-federation",
    points=PLUGIN.points,
    extensions=[
        *(each for each in PLUGIN.extensions if each.point == "stage"),
        Extension(
            "federation",
            "reference",
            "crosstask_federation.testing:ReferenceFederation",
            summary="For checks.",
            default=True,
        ),
        Extension("federation", "personal", "crosstask_federation.testing:ReferencePersonal", summary="For checks."),
    ],
    api=(2, 0),
)
"""For a registry of references: `crosstask.testing.reference_registry(REFERENCE)`."""


class Counting(nn.Flatten):
    """Keeps how often it was called in training, as extra state of its own."""

    seen = 0

    def forward(self, inputs: Tensor) -> Tensor:
        self.seen += self.training
        return super().forward(inputs)

    def get_extra_state(self) -> int:
        """How often."""
        return self.seen

    def set_extra_state(self, state: int) -> None:
        """What another kept."""
        self.seen = state


@functools.cache
def _images() -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits  # deferred: only these tasks need it

    found = load_digits()
    order = torch.randperm(len(found.target), generator=torch.Generator().manual_seed(0))
    return torch.tensor(found.images / 16.0)[order, None], torch.tensor(found.target)[order]


def digits(name: str = "digits", train: int = 800, test: int = 400) -> Task:
    """Ten digits, in torch's default precision."""
    images, labels = _images()
    images = images.to(torch.get_default_dtype())
    descriptor = TaskDescriptor(task_id=name, input_shape=(1, 8, 8), output_dim=10, classes=tuple("0123456789"))
    return Task(
        descriptor=descriptor, train=(images[:train], labels[:train]),
        test=(images[train : train + test], labels[train : train + test]),
    )  # fmt: skip


def digits_at(sites: int = 3, by: str = "label", train: int = 800, test: int = 400) -> list[Task]:
    """The digits at so many sites."""
    return split_task(digits(train=train, test=test), Split(by=by, sites=sites), torch.Generator().manual_seed(0))


def two_sites() -> Portfolio:
    """Two sites of digits, of unequal sizes."""
    whole = digits()
    made = []
    for name, rows in (("small", slice(0, 120)), ("large", slice(120, 520))):
        task = whole.over(train=whole.data("train").take(rows), test=whole.data("test"))
        task.descriptor = TaskDescriptor(
            task_id=name, input_shape=(1, 8, 8), output_dim=10, classes=whole.descriptor.classes
        )
        made.append(task)
    return Portfolio(made)
