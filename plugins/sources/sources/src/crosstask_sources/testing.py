"""What the tests of sources share."""

from __future__ import annotations

from crosstask.tasks import Portfolio


def fingerprints(portfolio: Portfolio) -> list[str]:
    """The data of every task, those held back too, as text that differs where anything differs."""
    return [task.fingerprint() for task in [*portfolio, *portfolio.unseen]]


def by_chance(agreed: int, total: int, classes: int) -> bool:
    """Whether so many of `total` labels agree with others as labels drawn at random do: within four standard errors.

    For negative controls, whose labels must have nothing to do with the data in any split.
    """
    share = 1 / classes
    return bool(abs(agreed / total - share) < 4 * (share * (1 - share) / total) ** 0.5)
