"""The contract of balancers, and what GradNorm claims."""

import pytest

from crosstask.testing.balancers import Check, checks_of
from crosstask_gradnorm import GradNorm


@pytest.mark.parametrize("check", checks_of(GradNorm), ids=lambda check: check.__name__)
def test_contract(check: Check) -> None:
    check(GradNorm)
