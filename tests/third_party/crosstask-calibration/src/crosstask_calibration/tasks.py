"""Tasks of the recipe: scikit-learn's handwritten digits under three labellings."""

from __future__ import annotations

import torch
from crosstask import Portfolio, Task, TaskDescriptor
from sklearn.datasets import load_digits


def digits(rows: int = 900) -> Portfolio:
    """Ten digits, parity, and whether there is a loop."""
    pixels, digit = load_digits(return_X_y=True)
    inputs = torch.tensor(pixels[:rows], dtype=torch.float32) / 16
    labels = torch.tensor(digit[:rows])
    kinds = {"ten": labels, "even": labels % 2, "loop": torch.isin(labels, torch.tensor([0, 6, 8, 9])).long()}
    third = rows // 3
    return Portfolio(
        Task(
            descriptor=TaskDescriptor(task_id=name, input_shape=(64,), output_dim=int(kind.max()) + 1, domain="digits"),
            train=(inputs[:third], kind[:third]),
            validation=(inputs[third : 2 * third], kind[third : 2 * third]),
            test=(inputs[2 * third :], kind[2 * third :]),
        )
        for name, kind in kinds.items()
    )
