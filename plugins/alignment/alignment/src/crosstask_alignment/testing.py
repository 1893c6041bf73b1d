"""For tests of alignments: the smallest right ones, and shifted digits to align.

The digits are scikit-learn's: `digits` and what is made of it need that package.
"""

from __future__ import annotations

import functools
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from crosstask.descriptors import TaskDescriptor
from crosstask.manifest import Extension, Plugin
from crosstask.options import component, option
from crosstask.tasks import Portfolio, Task
from crosstask_alignment.contract import Alignment
from crosstask_alignment.critics import Critic, domain_losses
from crosstask_alignment.domains import mean_over_pairs
from crosstask_alignment.plugin import PLUGIN
from crosstask_alignment.reversal import reversal_strength


@component
class ReferenceAlignment(Alignment):
    """The squared difference of means and of mean squares."""

    scale: float = option(1.0, gt=0, help="factor of the term")

    def misalignment(self, features: Tensor, domain: Tensor, outputs: Tensor | None, progress: float) -> Tensor:
        def apart(x: Tensor, y: Tensor) -> Tensor:
            means = (x.mean(0) - y.mean(0)).square().mean()
            return means + (x.square().mean(0) - y.square().mean(0)).square().mean()

        return self.scale * mean_over_pairs(apart, features, domain)


@component
class ReferenceCritic(Alignment):
    """A critic that sees features and the model's probabilities side by side."""

    capabilities: ClassVar[frozenset[str]] = frozenset({"conditional", "scheduled"})

    def critic(self, features: int, n_domains: int, n_classes: int | None) -> nn.Module:
        return Critic(features + (n_classes or 0), (32,), n_domains)

    def misalignment(self, features: Tensor, domain: Tensor, outputs: Tensor | None, progress: float) -> Tensor:
        assert self.network is not None
        assert outputs is not None
        seen = torch.cat([features, functional.softmax(outputs.detach(), dim=1).to(features.dtype)], dim=1)
        return domain_losses(self.network(seen, reversal_strength(progress)), domain).mean()


REFERENCE = Plugin(
    "reference-alignment",
    points=PLUGIN.points,
    extensions=[
        Extension(
            "alignment",
            "reference",
            "crosstask_alignment.testing:ReferenceAlignment",
            summary="For checks.",
            default=True,
        ),
        Extension("alignment", "critic", "crosstask_alignment.testing:ReferenceCritic", summary="For checks."),
    ],
    api=(2, 0),
)
"""For a registry of references: `crosstask.testing.reference_registry(REFERENCE)`."""


@functools.cache
def _images() -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits  # deferred: only these tasks need it

    found = load_digits()
    order = torch.randperm(len(found.target), generator=torch.Generator().manual_seed(0))
    return torch.tensor(found.images / 16.0, dtype=torch.float32)[order, None], torch.tensor(found.target)[order]


def digits(name: str = "digits") -> Task:
    """Ten digits, 800 images to learn from and 400 for the test: `digits` as they are, others turned by 90 degrees
    (`rotated`) or with dark and bright exchanged (`inverted`); no image is in two tasks' training data.
    """
    images, labels = _images()
    if name != "digits":
        images, labels = images.flip(0), labels.flip(0)
    images = {"rotated": images.rot90(1, (2, 3)), "inverted": 1 - images}.get(name, images)
    descriptor = TaskDescriptor(task_id=name, input_shape=(1, 8, 8), output_dim=10, classes=tuple("0123456789"))
    return Task(descriptor=descriptor, train=(images[:800], labels[:800]), test=(images[800:1200], labels[800:1200]))


def shifted() -> Portfolio:
    """`digits` and `inverted`."""
    return Portfolio([digits(), digits("inverted")])
