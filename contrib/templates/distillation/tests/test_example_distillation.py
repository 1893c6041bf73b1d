"""Every check of the contract, and what is special about this distillation."""

import torch

from crosstask.testing import conformance, small_portfolio
from crosstask_example_distillation import ExampleDistillation

test_conformance = conformance(ExampleDistillation)


def test_rate_one_gives_the_mean_of_two_models() -> None:
    portfolio = small_portfolio()
    tasks = [portfolio["moons"], portfolio["halves"]]
    distiller = ExampleDistillation()
    model = distiller.apply(tasks[0].model, distiller.distill(tasks, None), 1.0)
    one, two = (task.model.state_dict()["head.weight"] for task in tasks)
    torch.testing.assert_close(model.state_dict()["head.weight"], (one + two) / 2)
