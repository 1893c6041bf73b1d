"""Every check of the contract, and what is special about this detector."""

from crosstask.testing import conformance
from crosstask_example_detector import ExampleDetector
from crosstask_monitoring import rows_of

test_conformance = conformance(ExampleDetector)


def test_it_counts_in_a_row() -> None:
    found = ExampleDetector().read(rows_of([0.9], 100), rows_of([0.9, 0.5, 0.9, 0.5, 0.5], 100), (0.0, 1.0))
    assert found.statistic == (0, 1, 0, 1, 2)
    assert found.alarm == 4
