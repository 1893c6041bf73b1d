"""Every check of the contract, and what is special about this source."""

from crosstask.testing import conformance
from crosstask_example_source import ExampleSource

test_conformance = conformance(ExampleSource)


def test_labels_are_right() -> None:
    portfolio = ExampleSource(samples=50).load()
    data = portfolio["inside"].data("test")
    assert (data.targets == (data.inputs.norm(dim=1) < 0.7)).all()
    assert [task.task_id for task in portfolio.unseen] == ["outside"]
