"""Every check of the contract, and what is special about this world."""

from crosstask.testing import conformance
from crosstask_example_world import ExampleWorld

test_conformance = conformance(ExampleWorld)


def test_walking_to_the_right_pays() -> None:
    (environment,) = ExampleWorld(lengths=[3]).environments().values()
    made = environment.make()
    made.reset(seed=0)
    assert [made.step(1)[1] for _ in range(3)] == [0, 0, 1]
