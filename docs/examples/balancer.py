import torch

from crosstask import Balancer, component, option


@component
class Largest(Balancer):
    """Prefers the task with the largest loss."""

    power: float = option(8.0, gt=0, help="how sharply")

    def balance(self, losses, gradients):
        return torch.softmax(self.power * losses, dim=0)


shared = torch.nn.Parameter(torch.ones(2))
weights = Largest().backward([shared[0] ** 2, 3 * shared[1] ** 2], [shared])
assert weights.argmax() == 1
assert shared.grad[1] > shared.grad[0]
