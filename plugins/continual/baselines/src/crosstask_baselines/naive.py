"""The `naive` strategy."""

from __future__ import annotations

from typing import ClassVar

from crosstask.options import component
from crosstask_continual import ContinualStrategy


@component
class Naive(ContinualStrategy):
    """Nothing against forgetting: what every strategy must beat."""

    capabilities: ClassVar[frozenset[str]] = frozenset()
    unsuited: ClassVar[dict[str, str]] = dict.fromkeys(
        ("task", "domain", "class"), "it is the baseline that does nothing against it"
    )
