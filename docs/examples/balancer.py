import torch

from crosstask import Balancer, component, option


@component
class Largest(Balancer):
    """Prefers the task with the largest loss."""

    power: float = option(8.0, gt=0, help="how sharply")

    def balance(self, losses, gradients):
        return torch.softmax(self.power * losses, dim=0)


shared = torch.nn.Parameter(torch.ones(2))
balancer = Largest()
weights = balancer.backward({"near": shared[0] ** 2, "far": 3 * shared[1] ** 2}, [shared])
assert balancer.last.names == ("near", "far")  # in `balance`: gradients.names, under which state is kept
assert weights.argmax() == 1
assert shared.grad[1] > shared.grad[0]
