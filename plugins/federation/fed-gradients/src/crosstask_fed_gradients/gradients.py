"""The `gradients` federation."""

from __future__ import annotations

from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from crosstask.learning.gradients import MatrixGradients
from crosstask.learning.modules import forward
from crosstask.learning.objectives import called, loss_of
from crosstask.learning.training import check_loss, device_of
from crosstask.options import component, option
from crosstask.parts import Part, part
from crosstask.points.balancer import Balancer, parts
from crosstask_federation import Federation, Gathered, Local, Site, State, begun, like, named, of_form, state_of
from crosstask_federation.tensors import Tensors


@component
class FedGradients(Federation):
    """Each site sends the gradient of its mean loss (of one batch, or of all its data where the budget's batch is as
    large), and the server takes one step; the budget's steps and learning rate are not used.

    Without a `balancer` the step is that of the weighted sum, by the sites' samples: with whole sites plain gradient
    descent on all data (McMahan et al. 2017, FedSGD). A balancer is given the sites' gradients, each times its weight,
    as those of tasks, and their losses: one whose weights are all 1 changes nothing, `pcgrad`, `mgda` and others keep a
    step from hurting some sites (Hu et al. 2022). It sees every site's gradient, so that sums cannot hide them: a
    gradient can tell much of the data it is of.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset()
    shares: ClassVar[tuple[str, ...]] = ("gradients", "buffers", "loss")

    balancer: Part | None = part(
        "balancer", None, help="what combines the sites' gradients; the weighted sum by default"
    )
    learning_rate: float = option(0.1, gt=0, help="of the server's step")
    momentum: float = option(0.0, ge=0, lt=1, help="what remains of earlier steps")

    def begin(self, network: nn.Module) -> State:
        return begun(network)

    def local(self, site: Site, sent: Tensors) -> Local:
        network = site.received(sent).train()
        data = site.task.data("train").head(site.budget.samples).to(device_of(network))
        if site.budget.batch_size < len(data):
            data = data.take(torch.randperm(len(data), generator=site.generator)[: site.budget.batch_size])
        outputs = forward(network, data.inputs)
        loss = called("loss", loss_of(site.task), site.task, outputs, data.targets)
        check_loss(loss, site.task, outputs.device)
        weights = {name: p for name, p in network.named_parameters() if p.requires_grad}
        found = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
        gradients = {
            name: torch.zeros_like(p) if gradient is None else gradient
            for (name, p), gradient in zip(weights.items(), found, strict=True)
        }
        shared, kept = state_of(network)
        buffers = {n: t for n, t in shared.items() if n.startswith("buffers/")}
        return Local(named("gradients", gradients) | buffers | {"loss/mean": loss.detach().double()}, kept)

    @torch.no_grad()
    def merge(self, state: State, gathered: Gathered) -> State:
        names = list(of_form("gradients", gathered.each[0]))
        rows = torch.stack([torch.cat([e[f"gradients/{n}"].flatten() for n in names]) for e in gathered.each])
        rows = rows * gathered.weights.to(rows)[:, None]
        update = self._combined(rows, gathered)
        before = state.own.get("momentum/step")
        step = update if before is None else self.momentum * before + update
        moved, place = dict(state.shared), 0
        for name in names:
            old = state.shared[f"weights/{name}"]
            moved[f"weights/{name}"] = old - self.learning_rate * step[place : place + old.numel()].view_as(old)
            place += old.numel()
        pairs = list(zip(gathered.weights.tolist(), gathered.each, strict=True))
        kept = [name for name in state.shared if name.startswith("buffers/")]
        mean = {n: torch.stack([w * each[n].double() for w, each in pairs]).sum(0) for n in kept}
        return State(moved | like(mean, state.shared), {"momentum/step": step} if self.momentum else {})

    def _combined(self, rows: Tensor, gathered: Gathered) -> Tensor:
        """The update [D] of the sites' weighted gradients [K, D]."""
        if self.balancer is None:
            return rows.sum(0)
        balancer = cast(Balancer, self.made_of("balancer")[0])
        losses = torch.stack([each["loss/mean"] for each in gathered.each]).to(rows)
        given = MatrixGradients(rows, gathered.sites)
        return given.assemble(*parts(balancer.balance(losses, given), len(rows), balancer.origin))
