"""A network with a column for each task."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from crosstask.errors import DataError
from crosstask.learning.modules import COMPILED, copy_of, seeded, trainable, uncompiled
from crosstask_continual.heads import resize_head

Layer = nn.Linear | nn.Conv2d


class Lateral(nn.Module):
    """What earlier columns bring to a layer: U relu(V α h) of all their activations h before the layer.

    Rusu et al. (2016), equation 2: α is learned and starts small, V reduces to `width` features (for a convolution it
    is one of size 1), and U is a layer like the one that it feeds.
    """

    def __init__(self, layer: Layer, columns: int, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((columns,), 0.1))
        self.reduce: nn.Module
        self.feed: nn.Module
        if isinstance(layer, nn.Conv2d):
            like: Any = layer  # torch types sizes more loosely on the layer than on its constructor
            shape = (like.kernel_size, like.stride, like.padding, like.dilation)
            self.reduce = nn.Conv2d(columns * layer.in_channels, width, 1)
            self.feed = nn.Conv2d(width, layer.out_channels, *shape, bias=False)
        else:
            self.reduce = nn.Linear(columns * layer.in_features, width)
            self.feed = nn.Linear(width, layer.out_features, bias=False)
        self.axis = 1 if isinstance(layer, nn.Conv2d) else -1

    def forward(self, before: list[Tensor]) -> Tensor:
        """`before`: the activations of each earlier column, shaped as the layer's own inputs."""
        scaled = [scale * h for scale, h in zip(self.scale, before, strict=True)]
        out: Tensor = self.feed(functional.relu(self.reduce(torch.cat(scaled, dim=self.axis))))
        return out


class ProgressiveNetwork(nn.Module):
    """Columns of one architecture; each but the newest is frozen, and feeds those after it through `laterals`.

    Called with (inputs, task_ids): a sample is answered by its task's column (tasks still to come: the newest), or all
    by the newest where tasks are not `told`. Outputs [N, `outputs`]; those that a column does not have are zero.

    Linear and two-dimensional convolution layers have laterals, but for the first. DataError where there are fewer
    than two of them, or one is used twice in a pass.
    """

    takes_tasks = True

    def __init__(self, template: nn.Module, outputs: int, width: int, *, told: bool = True) -> None:
        super().__init__()
        self.template = copy_of(template).requires_grad_(False)
        self.outputs, self.width, self.told = outputs, width, told
        self.columns = nn.ModuleList()
        self.laterals = nn.ModuleList()
        self.names = [n for n, m in template.named_modules() if isinstance(m, Layer)]
        if len(self.names) < 2:
            raise DataError(
                f"progressive: {type(template).__name__} has {len(self.names)} linear or convolution layers; columns "
                "are connected between layers, so that two are needed"
            )

    def widen(self, outputs: int, seed: int) -> None:
        """The next column gets so many outputs: those before it have all that their tasks need."""
        self.outputs = outputs

    def add(self, seed: int, outputs: int) -> None:
        """A new column, drawn from `seed` (the first has the template's weights); those before are frozen."""
        self.columns.requires_grad_(False)
        self.laterals.requires_grad_(False)
        place = len(self.columns)
        if place == 0:
            resize_head(trainable(self.template), outputs, seed)
            self.template.requires_grad_(False)
        column = trainable(copy_of(self.template))
        fed = nn.ModuleList()
        if place:
            resize_head(column, outputs, seed)
            with seeded(seed):
                for module in column.modules():
                    reset = getattr(module, "reset_parameters", None)
                    if callable(reset) and COMPILED not in module._modules:  # what it was made of has its turn
                        reset()
                for name in self.names[1:]:
                    layer: Any = column.get_submodule(name)
                    fed.append(Lateral(layer, place, self.width).to(layer.weight))
        self.columns.append(column)
        self.laterals.append(fed)
        self.train(self.training)

    def train(self, mode: bool = True) -> ProgressiveNetwork:
        """Only the newest column trains: the others stay as they were learned, batch statistics too."""
        super().train(mode)
        for frozen in (self.template, *list(self.columns)[:-1], *list(self.laterals)[:-1]):
            frozen.eval()
        return self

    def forward(self, inputs: Tensor, task_ids: Tensor | None = None) -> Tensor:
        """`inputs` [N, …], `task_ids` [N]: numbers of tasks in the order in which they came."""
        newest = len(self.columns) - 1
        if task_ids is None or not self.told:
            return self._columns(inputs, newest)[-1]
        tasks = task_ids.clamp_max(newest)
        wanted: list[int] = tasks.unique().tolist()
        found = self._columns(inputs, max(wanted))
        if len(wanted) == 1:
            return found[-1]
        return torch.stack(found)[tasks, torch.arange(len(inputs), device=inputs.device)]

    def _columns(self, inputs: Tensor, last: int) -> list[Tensor]:
        """The outputs of each column up to `last`."""
        entering: list[dict[str, Tensor]] = []
        found = []
        for number, column in enumerate(self.columns[: last + 1]):
            lateral: Any = self.laterals[number]
            entering.append({})
            handles = []
            for place, name in enumerate(self.names):
                brings = lateral[place - 1] if number and place else None
                handles.append(column.get_submodule(name).register_forward_hook(_hook(name, brings, entering)))
            try:
                with uncompiled():
                    out = column(inputs)
            finally:
                for handle in handles:
                    handle.remove()
            found.append(functional.pad(out, (0, self.outputs - out.shape[1])))
        return found


def _hook(name: str, lateral: nn.Module | None, entering: list[dict[str, Tensor]]) -> Any:
    """Notes what enters a layer of the last column in `entering`, and adds what the columns before it bring."""

    def feed(_: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if name in entering[-1]:
            raise DataError(
                f"progressive: layer {name!r} is used twice in one pass; each column's layers must be used once"
            )
        entering[-1][name] = given[0]
        if lateral is None:
            return output
        added: Tensor = output + lateral([column[name] for column in entering[:-1]])
        return added

    return feed
