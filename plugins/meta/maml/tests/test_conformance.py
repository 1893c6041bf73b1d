"""Each does what the contract of meta-learners says, and leaves the weights that a plain loop over the tasks leaves."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from crosstask.learning.episodes import Episodes
from crosstask.testing import conformance
from crosstask_maml import ANIL, MAML, MAMLFirstOrder, MetaSGD


def loop(
    rate: float, steps: int, second: bool, weights: tuple[float, ...], adapts: str = ""
) -> Callable[[nn.Module, Episodes, torch.optim.Optimizer], None]:
    """A meta-step of MAML written down as in the paper: one task after the other, one parameter after the other."""

    def meta_step(model: nn.Module, episodes: Episodes, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        for number in range(len(episodes)):
            support, query = episodes.support(number), episodes.query(number)
            own: dict[str, Tensor] = dict(model.named_parameters())
            total = torch.zeros(())
            for step in range(steps):
                moving = [name for name in own if name.startswith(adapts)]
                loss = functional.cross_entropy(functional_call(model, own, (support.inputs,)), support.targets)
                found = torch.autograd.grad(loss, [own[name] for name in moving], create_graph=second)
                own = own | {n: own[n] - rate * g for n, g in zip(moving, found, strict=True)}
                outputs = functional_call(model, own, (query.inputs,))
                total = total + weights[step] * functional.cross_entropy(outputs, query.targets)
            (total / len(episodes)).backward()
        optimizer.step()

    return meta_step


def meta_sgd(model: nn.Module, episodes: Episodes, optimizer: torch.optim.Optimizer) -> None:
    """One inner step with a rate for every weight."""
    optimizer.zero_grad()
    named, rates = dict(model.model.named_parameters()), model.rates
    for number in range(len(episodes)):
        support, query = episodes.support(number), episodes.query(number)
        loss = functional.cross_entropy(model.model(support.inputs), support.targets)
        found = torch.autograd.grad(loss, list(named.values()), create_graph=True)
        own = {name: p - a * g for (name, p), a, g in zip(named.items(), rates, found, strict=True)}
        outputs = functional_call(model.model, own, (query.inputs,))
        (functional.cross_entropy(outputs, query.targets) / len(episodes)).backward()
    optimizer.step()


test_maml = conformance(MAML, options={"lr_inner": 0.1, "num_inner_steps": 2}, twin=loop(0.1, 2, True, (0, 1)))
test_maml_of_the_loop = conformance(
    MAML, options={"lr_inner": 0.1, "path": "loop", "num_inner_steps": 1}, twin=loop(0.1, 1, True, (1,))
)
test_first_order = conformance(
    MAMLFirstOrder, options={"lr_inner": 0.1, "num_inner_steps": 2}, twin=loop(0.1, 2, False, (0, 1))
)
test_per_step = conformance(
    MAML,
    options={"lr_inner": 0.1, "num_inner_steps": 3, "per_step": 100},
    twin=loop(0.1, 3, True, (1 / 3, 1 / 3, 1 / 3)),
)
test_anil = conformance(ANIL, options={"lr_inner": 0.1, "num_inner_steps": 2}, twin=loop(0.1, 2, True, (0, 1), "4."))
test_meta_sgd = conformance(MetaSGD, options={"lr_inner": 0.1}, twin=meta_sgd)
