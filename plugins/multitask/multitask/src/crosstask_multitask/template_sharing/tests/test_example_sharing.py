"""Every check of the contract, and what is special about this sharing."""

from crosstask.learning import Headless
from crosstask.testing import conformance, small_portfolio
from crosstask_example_sharing import ExampleSharing

test_conformance = conformance(ExampleSharing)


def test_each_task_has_a_layer_of_its_own() -> None:
    tasks = list(small_portfolio())
    module = ExampleSharing(hidden=3).build(tasks, Headless(tasks[0].model))
    assert [p.shape[0] for p in module.task_parameters("quarters")] == [3, 3, 4, 4]
