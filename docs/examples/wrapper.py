import torch

from crosstask import Balancer, Registry, Wrapper, component, hookimpl
from crosstask.run import Run


@component
class Equal(Balancer):
    def balance(self, losses, gradients):
        return torch.ones_like(losses)


@component
class Halved(Wrapper):
    """Every balancer's weights, halved."""

    @hookimpl(wrapper=True)
    def balance(self):
        weights = yield
        return weights / 2


balancer, parameter = Equal(), torch.nn.Parameter(torch.ones(2))
with Run(Registry(), observers=[Halved()]) as run:
    run.add(balancer)
    weights = balancer.backward([parameter[0], parameter[1]], [parameter])
assert weights.tolist() == [0.5, 0.5]
