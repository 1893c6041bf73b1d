"""The `skills` discoverer: what one descriptor says of another."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import ClassVar

from crosstask.descriptors import TaskDescriptor
from crosstask.graph import Evidence, TransferEdge, TransferGraph
from crosstask.options import component, option
from crosstask.points.discovery import Discoverer
from crosstask.tasks import Portfolio
from crosstask_discovery.pairs import edge_between


@component
class Skills(Discoverer):
    """Estimates how much one task helps another from their descriptors alone; needs neither data nor models.

    The coefficient is highest * share^sharpness, where the share is a weighted mean of what the descriptors allow to
    compare, each in [0, 1] and seen from the target: the share of its skills, of its knowledge and of its class names
    that the source has, the share of the path of its domain (`digits/rotated`) that they have in common, and how near
    the input shapes are. The share is of what the *target* needs: a task that needs little gets all of it from one
    that knows much, and not the other way round. Tasks of different types share at most `other_type` of it.

    The uncertainty is `spread` (measured, see the README), and the larger the less there was to compare. Nothing in a
    descriptor can show that a task hurts another one, so no coefficient is negative: measure that.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"descriptors_only"})

    skills: float = option(3.0, ge=0, help="weight of the shared skills")
    knowledge: float = option(1.0, ge=0, help="weight of the shared domain knowledge")
    classes: float = option(2.0, ge=0, help="weight of the shared class names")
    domain: float = option(2.0, ge=0, help="weight of the shared part of the domain")
    dimensions: float = option(1.0, ge=0, help="weight of the likeness of the input shapes")
    other_type: float = option(0.5, ge=0, le=1, help="factor for tasks of different types")
    highest: float = option(0.9, gt=0, le=1, help="coefficient of a task that has all that the target needs")
    sharpness: float = option(3.0, gt=0, help="power of the share; large: a part of what is needed helps little")
    spread: float = option(0.3, gt=0, help="standard error where everything could be compared")

    def discover(self, portfolio: Portfolio, graph: TransferGraph) -> list[TransferEdge]:
        return [self._edge(s.descriptor, t.descriptor) for s, t in portfolio.pairs()]

    def _edge(self, source: TaskDescriptor, target: TaskDescriptor) -> TransferEdge:
        coefficient, known = self.similarity(source, target)
        error = self.spread / max(known, 0.25) ** 0.5
        return edge_between(source, target, coefficient, error, evidence=Evidence.ESTIMATED, found_by="skills")

    def similarity(self, source: TaskDescriptor, target: TaskDescriptor) -> tuple[float, float]:
        """(coefficient, share of the weights of which the descriptors said something)."""
        found = [
            (self.skills, contained(target.required_skills, source.required_skills)),
            (self.knowledge, contained(target.domain_knowledge, source.domain_knowledge)),
            (self.classes, contained(target.classes, source.classes)),
            (self.domain, common_path(target.domain, source.domain)),
            (self.dimensions, alike_inputs(source, target)),
        ]
        known = sum(weight for weight, share in found if share is not None)
        total = sum(weight for weight, _ in found)
        if known == 0:
            return 0.0, 0.0
        mean = sum(weight * share for weight, share in found if share is not None) / known
        factor = 1.0 if source.task_type == target.task_type else self.other_type
        return self.highest * factor * mean**self.sharpness, known / total


def contained(needed: Sequence[str], known: Sequence[str]) -> float | None:
    """The share of `needed` that is in `known`; None if either side names nothing."""
    if not needed or not known:
        return None
    return len(set(needed) & set(known)) / len(set(needed))


def common_path(one: str, other: str) -> float | None:
    """The length of the common beginning of two paths over that of the longer one; None for the default
    `general`.
    """
    if "general" in (one, other):
        return None
    ours, theirs = one.split("/"), other.split("/")
    same = list(itertools.takewhile(lambda pair: pair[0] == pair[1], zip(ours, theirs, strict=False)))
    return len(same) / max(len(ours), len(theirs))


def alike_inputs(one: TaskDescriptor, other: TaskDescriptor) -> float | None:
    """`alike` of the input shapes; of several inputs the mean over all names that either has, 0 for one that only one
    of them has. None where one does not say its shapes; 0 for one input beside several.
    """
    ours, theirs = one.input_shapes, other.input_shapes
    if not ours and not theirs:
        return alike(one.input_shape, other.input_shape)
    if not ours or not theirs:
        return 0.0 if one.input_shape or other.input_shape else None
    names = {*ours, *theirs}
    return sum(alike(ours[name], theirs[name]) or 0.0 for name in names if name in ours and name in theirs) / len(names)


def alike(one: tuple[int, ...], other: tuple[int, ...]) -> float | None:
    """1 for equal shapes, 0 for other numbers of axes, else the product of smaller over larger per axis."""
    if not one or not other:
        return None
    if len(one) != len(other):
        return 0.0
    ratio = 1.0
    for a, b in zip(one, other, strict=True):
        ratio *= min(a, b) / max(a, b)
    return ratio
