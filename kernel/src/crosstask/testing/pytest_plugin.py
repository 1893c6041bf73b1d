"""pytest plugin of the kernel (entry point `pytest11`): marker `conformance`, fixture `small_portfolio`.

pytest imports this in every project of the environment, so nothing heavy is imported before it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from crosstask.tasks import Portfolio


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "conformance: a check of crosstask's conformance kit (select with -m conformance)"
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if hasattr(getattr(item, "function", None), "conformance_of"):
            item.add_marker("conformance")


@pytest.fixture
def small_portfolio() -> Portfolio:
    """Five small tasks with trained models and an unseen one; see `crosstask.testing.small_portfolio`."""
    from crosstask.testing.tasks import small_portfolio as make

    return make()
