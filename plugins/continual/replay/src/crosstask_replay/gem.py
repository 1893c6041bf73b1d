"""The `gem` strategy."""

from __future__ import annotations

from typing import ClassVar

import attrs
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crosstask.errors import RunError
from crosstask.learning.gradients.solvers import UnitGramian, nonnegative_qp
from crosstask.options import component, option, state
from crosstask.tasks import Task
from crosstask_continual import Batch, ContinualModel, ContinualStrategy
from crosstask_replay.buffer import batch_from, columns_of, draw

Array = NDArray[np.float64]


def projection_weights(gramian: Array, along: Array, margin: float = 0.0, rounding: float = 2.3e-16) -> Array:
    """The v that solve GEM's dual (Lopez-Paz and Ranzato 2017, equation 11): min ½ vᵀGGᵀv + (Gg)ᵀv with v >= margin.

    `gramian` [T, T] is GGᵀ of the earlier tasks' gradients and `along` [T] is Gg; g + Gᵀv is then the vector nearest to
    g with no negative product with a row of G, and beyond it with a margin, as in the authors' code.
    A task without a gradient has weight 0. `rounding`: the precision of the products.
    """
    units = UnitGramian.from_array(gramian, rounding)
    if not len(units.norms):
        return np.zeros(len(along))
    # In units: u = |g_k| v_k, and w = u - |g_k| margin >= 0
    least = margin * units.norms
    linear = along[units.live] / units.norms + units.cosines @ least
    return units.weights(nonnegative_qp(units.cosines, linear[:, None])[:, 0] + least)


@component
class GEM(ContinualStrategy):
    """Gradient episodic memory (Lopez-Paz and Ranzato 2017): no step may raise the loss of any earlier task's samples.

    Where the gradient g points against that of a task's memory, it becomes the nearest one that points against none:
    g + Gᵀv, with the rows of G the tasks' gradients and v from the dual quadratic program (equation 11). `margin` is
    the least of each v then (the paper's memory strength): it favours steps that earlier tasks gain by. Each step
    costs a pass for each earlier task; `agem` needs one for all of them.

    Tasks share the memory evenly: when one ends, those before it keep less.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"task", "domain", "class"})

    buffer_size: int = option(1000, ge=1, help="samples kept, of all tasks together")
    margin: float = option(0.5, ge=0, help="least weight of each earlier task's gradient where the step is projected")
    replay_size: int | None = option(None, ge=1, help="samples of each task's memory in each step (all by default)")
    memory: dict[str, Tensor] = state(factory=dict)
    _generator: torch.Generator | None = attrs.field(default=None, init=False, repr=False)
    _rows: list[Tensor] = attrs.field(factory=list, init=False, repr=False)

    def task_begins(self, model: ContinualModel, task: Task) -> None:
        self._generator = model.generator
        tasks = self.memory.get("task_ids", torch.empty(0)).cpu()
        self._rows = [(tasks == number).nonzero()[:, 0] for number in tasks.unique().tolist()]

    def after_backward(self, model: ContinualModel) -> None:
        if not self._rows:
            return
        parameters = [p for p in model.parameters() if p.requires_grad]
        ours = torch.cat([_flat(torch.zeros_like(p) if p.grad is None else p.grad) for p in parameters])
        theirs = torch.stack([self._gradient(model, parameters, rows) for rows in self._rows])
        along = _array(theirs @ ours)
        if not (along < 0).any() and np.isfinite(along).all():
            return
        gramian = _array(theirs @ theirs.t())
        if not (np.isfinite(along).all() and np.isfinite(gramian).all()):
            raise RunError(
                f"{self.origin}: a gradient is not finite: the model has diverged; try a smaller learning rate"
            )
        weights = projection_weights(gramian, along, self.margin, torch.finfo(ours.dtype).eps)
        ours = ours + torch.as_tensor(weights).to(ours) @ theirs
        sizes = [p.numel() * (2 if p.is_complex() else 1) for p in parameters]
        for p, part in zip(parameters, ours.split(sizes), strict=True):
            own = part.clone()
            p.grad = torch.view_as_complex(own.view(*p.shape, 2)) if p.is_complex() else own.view_as(p)

    def _gradient(self, model: ContinualModel, parameters: list[torch.nn.Parameter], rows: Tensor) -> Tensor:
        """The gradient of the mean loss of (some of) one task's memory, as one vector."""
        if self.replay_size is not None and self.replay_size < len(rows):
            assert self._generator is not None
            rows = rows[draw(self.replay_size, len(rows), self._generator)]
        batch: Batch = batch_from(self.memory, rows)
        loss = model.loss(model(batch.inputs, batch.task_ids), batch)
        found = torch.autograd.grad(loss, parameters, allow_unused=True)
        parts = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]
        return torch.cat([_flat(part) for part in parts]).detach()

    def task_ends(self, model: ContinualModel, task: Task) -> None:
        data = model.data(task)
        share = max(1, self.buffer_size // (len(self._rows) + 1))
        chosen = torch.randperm(len(data), generator=model.generator)[:share].to(data.targets.device)
        new = {name: column[chosen] for name, column in columns_of(data).items()}
        kept = torch.cat([rows[:share] for rows in self._rows]) if self._rows else None  # they stand in random order
        if kept is not None:
            kept = kept.to(data.targets.device)
            new = {name: torch.cat([self.memory[name][kept], column]) for name, column in new.items()}
        self.memory = new
        self._generator, self._rows = None, []


def _flat(gradient: Tensor) -> Tensor:
    """As one vector, of complex numbers with both parts of each."""
    return (torch.view_as_real(gradient.resolve_conj()) if gradient.is_complex() else gradient).flatten()


def _array(values: Tensor) -> Array:
    return values.detach().to("cpu", torch.float64).numpy()
