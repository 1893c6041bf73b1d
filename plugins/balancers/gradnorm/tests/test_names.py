"""Weights by name, against GradNorm as autograd would train it with one optimiser for each weight."""

import torch

from crosstask.learning.gradients import MatrixGradients
from crosstask_gradnorm import GradNorm


def test_a_subset_changes_the_weights_of_its_own_tasks_only() -> None:
    generator = torch.Generator().manual_seed(0)
    weights = {name: torch.ones((), dtype=torch.float64, requires_grad=True) for name in "abc"}
    trained = {name: torch.optim.Adam([weight], lr=0.025) for name, weight in weights.items()}
    initial: dict[str, torch.Tensor] = {}
    balancer = GradNorm(alpha=0.5)
    for drawn in ("ab", "bc", "ca", "ba", "abc", "cb"):
        matrix = torch.randn(len(drawn), 5, generator=generator, dtype=torch.float64)
        losses = torch.rand(len(drawn), generator=generator, dtype=torch.float64) + 0.1
        answer = balancer.balance(losses, MatrixGradients(matrix, tuple(drawn)))
        expected = torch.stack([weights[name].detach().clone() for name in drawn])
        torch.testing.assert_close(answer, expected)
        progress = torch.stack(
            [loss / initial.setdefault(name, loss) for name, loss in zip(drawn, losses, strict=True)]
        )
        scaled = torch.stack([weights[name] for name in drawn]) * matrix.norm(dim=1)
        target = (scaled.mean() * (progress / progress.mean()) ** 0.5).detach()
        for name in drawn:
            trained[name].zero_grad()
        (scaled - target).abs().sum().backward()
        together = expected.sum()
        for name in drawn:
            trained[name].step()
        factor = together / torch.stack([weights[name].detach() for name in drawn]).sum()
        for name in drawn:
            weights[name].data *= factor
    assert balancer.weights.keys() == set("abc")
