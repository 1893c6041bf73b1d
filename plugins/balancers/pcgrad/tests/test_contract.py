"""The contract of balancers, and what PCGrad claims."""

import pytest

from crosstask.testing.balancers import Check, checks_of
from crosstask_pcgrad import PCGrad


@pytest.mark.parametrize("check", checks_of(PCGrad), ids=lambda check: check.__name__)
def test_contract(check: Check) -> None:
    check(PCGrad)
