"""The supernet of DARTS: all networks of a space in one, with weights for every choice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from crosstask.errors import OptionError
from crosstask_nas.networks import LINEAR, halvings, operation
from crosstask_search.models import ModelSpace
from crosstask_search.parameter import Parameter
from crosstask_search.space import SearchSpace

OWN = "crosstask_nas.networks:network"


class Supernet(nn.Module):
    """Every network of a space at once, differentiable in how much each choice counts: inputs [N, …] to [N, K].

    `choices` holds a vector of logits for each parameter of the networks. Per layer the outputs of the operations, all
    as wide as the widest choice, are mixed by the softmax of theirs (Liu et al. 2019, eq. 2); a width is a mask that
    passes its first channels, and the masks are mixed likewise (Wan et al. 2020); after each depth that can be chosen a
    head of its own gives logits, which are mixed too.

    OptionError for a space whose networks are built by somebody else.
    """

    def __init__(self, models: ModelSpace, space: SearchSpace, input_shape: Sequence[int], output_dim: int) -> None:
        super().__init__()
        if models.kind not in ("mlp", "conv", OWN):
            raise OptionError(
                f"darts knows the layers of 'mlp', 'conv' and {OWN!r}, not those of {models.kind!r}: use another search"
            )
        self.depths = [int(depth) for depth in space.parameters["layers"].choices]
        self.names = ["layers"]
        self.choices = nn.ParameterDict()
        self.operations = nn.ModuleList()
        self.heads = nn.ModuleList()
        usual = {"mlp": "relu", "conv": "plain3"}.get(models.kind)
        first = usual or space.parameters["operation1"].choices[0]
        self.images = first not in LINEAR
        before = input_shape[0] if self.images else int(torch.Size(input_shape).numel())
        most = max(self.depths)
        self.halved = [False] * most
        if self.images:
            self.halved = [True] * most if models.kind == "conv" else halvings(input_shape, most)
        for depth in range(1, most + 1):
            widths = space.parameters[f"width{depth}"].choices
            kinds: Sequence[str] = (usual,) if usual else space.parameters[f"operation{depth}"].choices
            widest = max(widths)
            self.operations.append(nn.ModuleList(operation(kind, before, widest) for kind in kinds))
            mask = (torch.arange(widest)[None] < torch.tensor(widths)[:, None]).to(torch.get_default_dtype())
            self.register_buffer(f"masks{depth}", mask)
            self.heads.append(nn.Linear(widest, output_dim))
            self.names += [f"width{depth}"] + ([] if usual else [f"operation{depth}"])
            before = widest
        for name in self.names:
            self.choices[name] = nn.Parameter(torch.zeros(len(_choices(space, name))))

    def weights(self) -> list[nn.Parameter]:
        """What a network trains."""
        return [p for name, p in self.named_parameters() if not name.startswith("choices.")]

    def logits(self) -> list[nn.Parameter]:
        """What is learned of the choices."""
        return [self.choices[name] for name in self.names]

    def forward(self, x: Tensor) -> Tensor:
        shares = {name: torch.softmax(self.choices[name], dim=0) for name in self.names}
        if not self.images:
            x = x.flatten(1)
        total: Tensor | None = None
        for depth, (kinds, head, half) in enumerate(
            zip(self.operations, self.heads, self.halved, strict=True), start=1
        ):
            mixed = [kind(x) for kind in cast(nn.ModuleList, kinds)]
            if len(mixed) > 1:
                x = torch.stack([s * out for s, out in zip(shares[f"operation{depth}"], mixed, strict=True)]).sum(dim=0)
            else:
                x = mixed[0]
            passed = shares[f"width{depth}"] @ self.get_buffer(f"masks{depth}")
            x = x * (passed[:, None, None] if self.images else passed)
            if half:
                x = nn.functional.max_pool2d(x, 2)
            if depth in self.depths:
                features = x.mean(dim=(2, 3)) if self.images else x
                part = shares["layers"][self.depths.index(depth)] * head(features)
                total = part if total is None else total + part
        assert total is not None
        return total


def _choices(space: SearchSpace, name: str) -> tuple[object, ...]:
    parameter: Parameter = space.parameters[name]
    return parameter.choices
