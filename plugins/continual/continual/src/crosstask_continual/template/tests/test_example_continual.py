"""Every check of the contract, and what is special about this strategy."""

from crosstask.learning import ModelSpec
from crosstask.testing import conformance, small_portfolio
from crosstask_continual import ContinualLearner
from crosstask_example_continual import ExampleContinual

test_conformance = conformance(ExampleContinual)


def test_a_few_samples_of_each_task_are_kept() -> None:
    tasks, strategy = small_portfolio(), ExampleContinual(keep=3)
    model = ModelSpec(hidden=(8,)).build(tasks["moons"].descriptor, seed=0)
    learner = ContinualLearner(model, strategy, scenario="domain")
    for name in ("moons", "turned"):
        learner.train_task(tasks[name], num_epochs=1)
    assert strategy.kept[2].tolist() == [0, 0, 0, 1, 1, 1]
