"""The contract of balancers, and what RGB claims."""

import pytest

from crosstask.testing.balancers import Check, checks_of
from crosstask_rgb import RGB


@pytest.mark.parametrize("check", checks_of(RGB), ids=lambda check: check.__name__)
def test_contract(check: Check) -> None:
    check(RGB)
