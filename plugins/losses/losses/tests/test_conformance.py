"""The stage does what every stage must."""

import torch

from crosstask.descriptors import TaskDescriptor
from crosstask.records import Budget
from crosstask.tasks import Portfolio, Task
from crosstask.testing import conformance, reference_registry
from crosstask_losses import Losses
from crosstask_losses.testing import REFERENCE, autoencoder


def videos() -> Portfolio:
    """A task whose inputs are sequences of small frames."""
    rng = torch.Generator().manual_seed(0)
    data = torch.rand(24, 3, 1, 4, 4, generator=rng), torch.randint(0, 2, (24,), generator=rng)
    descriptor = TaskDescriptor(task_id="videos", input_shape=(3, 1, 4, 4), output_dim=2)
    return Portfolio([Task(descriptor=descriptor, train=data, test=data)])


test_conformance = conformance(
    Losses,
    options={
        "model": f"crosstask_losses.testing:{autoencoder.__name__}",
        "objectives": ["reference", "judged"],
        "budget": Budget(steps=4, batch_size=8, evaluate_every=2),
    },
    registry=reference_registry(REFERENCE),
    portfolio=videos,
)
