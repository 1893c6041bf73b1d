"""Every check of the contract, and what is special about this strategist."""

from crosstask.testing import conformance
from crosstask_example_strategist import ExampleStrategist

test_conformance = conformance(ExampleStrategist)


def test_as_many_samples_are_meant_by_a_factor() -> None:
    assert ExampleStrategist(factor=2.0)._near(60, 100)
    assert not ExampleStrategist(factor=2.0)._near(40, 100)
