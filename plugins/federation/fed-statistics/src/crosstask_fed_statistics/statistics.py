"""The `statistics` federation."""

from __future__ import annotations

from typing import ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from crosstask.errors import DataError, RunError
from crosstask.learning.features import inseparable, received
from crosstask.learning.modules import head_found, head_name
from crosstask.options import component, option
from crosstask_federation import Federation, Gathered, Local, Site, State, begun, named, of_form
from crosstask_federation.tensors import Tensors

BATCH = 4096


@component
class FedStatistics(Federation):
    """A linear head on the frozen trunk that the sites begin with, in closed form from what is summed over the sites:
    n, Σ x, Σ x xᵀ and, by class (by output), Σ x y, in double precision. It is that of all data in one place up to
    rounding, whoever has which samples, after one round; further rounds change nothing.

    `ridge`: least squares of one-hot classes (or values) with `penalty` n |W|², the intercept not penalised (Hoerl,
    Kennard 1970). `lda`: Gaussian classes with a common covariance, shrunk by `shrinkage` to a multiple of the
    identity, and the classes' shares (Fisher 1936), for classes only.

    A trunk that is not trained helps little: begin with a published model (the stage's `source`). A sum over one sample
    is that sample's features: sites refuse to answer with fewer than `least` samples, and n is known to the server.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"additive"})
    shares: ClassVar[tuple[str, ...]] = ("sums",)
    weighted: ClassVar[bool] = False

    head: str = option("ridge", choices=("ridge", "lda"), help="how the head follows from the sums")
    penalty: float = option(
        1e-3, gt=0, help="of the squared weights, beside a loss that is a mean over samples (ridge)"
    )
    shrinkage: float = option(0.01, ge=0, le=1, help="of the common covariance to a multiple of the identity (lda)")
    least: int = option(10, ge=2, help="fewest samples of a site that answers")

    def begin(self, network: nn.Module) -> State:
        state = begun(network)
        head = head_found(network).module
        own: Tensors = {}
        for part in ("weight", "bias"):
            name = f"weights/{head}.{part}"
            linear = head is not None and isinstance(network.get_submodule(head), nn.Linear)
            if not linear or name not in state.shared:
                raise DataError(
                    f"{self.origin}: the head of {type(network).__name__} must be a linear layer with a bias, both "
                    "trainable"
                )
            own |= named(part, {name: torch.zeros(())})  # where the head is, for the server
        return State(state.shared, own)

    def local(self, site: Site, sent: Tensors) -> Local:
        network = site.received(sent)
        data = site.task.data("train").head(site.budget.samples)
        if len(data) < self.least:
            raise DataError(f"{len(data)} samples, fewer than {self.least}: their sums would tell too much of each")
        if reason := inseparable(network, data.inputs):
            raise DataError(f"no head can be had in closed form: {reason}")
        rows = torch.cat([features.flatten(1) for features, _ in received(network, data.inputs, BATCH)]).double()
        wanted = self._wanted(site, data.targets, _outputs(network))
        sums = {
            "n": torch.tensor(float(len(rows)), dtype=torch.float64),
            "x": rows.sum(0),
            "xx": rows.T @ rows,
            "y": wanted.sum(0),
            "xy": rows.T @ wanted,
        }
        return Local(named("sums", sums))

    def _wanted(self, site: Site, targets: Tensor, outputs: int) -> Tensor:
        """What the head is to answer [N, outputs]."""
        kind = site.task.descriptor.task_type
        if kind == "classification" and outputs > 1:
            return functional.one_hot(targets, outputs).double()
        if kind == "regression" and self.head == "ridge":
            return targets.reshape(len(targets), -1).double()
        wanted = "classes with an output each, or of values" if self.head == "ridge" else "classes with an output each"
        raise DataError(f"a head by {self.head!r} is of {wanted}; the task is a {kind} with {outputs} outputs")

    def merge(self, state: State, gathered: Gathered) -> State:
        sums = of_form("sums", gathered.total)
        weight, bias = self._ridge(sums) if self.head == "ridge" else self._lda(sums)
        made = {}
        for part, value in (("weight", weight), ("bias", bias)):
            for name in of_form(part, state.own):
                made[name] = value.to(state.shared[name].dtype)
        return State(state.shared | made, state.own)

    def _ridge(self, sums: Tensors) -> tuple[Tensor, Tensor]:
        """(weight [C, F], bias [C]) that minimise mean |W x + b - y|² + penalty |W|²."""
        mean, wanted = sums["x"] / sums["n"], sums["y"] / sums["n"]
        spread = sums["xx"] / sums["n"] - mean.outer(mean)
        common = sums["xy"] / sums["n"] - mean.outer(wanted)
        weight = torch.linalg.solve(spread + self.penalty * torch.eye(len(mean), dtype=mean.dtype), common).T
        return weight, wanted - weight @ mean

    def _lda(self, sums: Tensors) -> tuple[Tensor, Tensor]:
        """(weight [C, F], bias [C]) of log probabilities of the classes; one that nobody has is never chosen."""
        counts, there = sums["y"], sums["y"] > 0
        means = torch.where(there, sums["xy"] / counts.clamp_min(1), 0.0).T
        within = (sums["xx"] - (means * counts[:, None]).T @ means) / sums["n"]
        scale = within.diagonal().mean()
        if not bool(scale > 0):
            raise RunError(f"{self.origin}: features do not vary within classes")
        eye = torch.eye(len(within), dtype=within.dtype)
        found = (1 - self.shrinkage) * within + max(self.shrinkage, 1e-9) * scale * eye
        weight = torch.linalg.solve(found, means.T).T
        bias = (counts.clamp_min(1e-300) / sums["n"]).log() - (weight * means).sum(1) / 2
        return weight, bias


def _outputs(network: nn.Module) -> int:
    """Of its head, a linear layer."""
    return cast(nn.Linear, network.get_submodule(head_name(network))).out_features
