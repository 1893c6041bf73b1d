"""Networks made of several: trunks side by side under one head, and the mean of whole models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from crosstask.descriptors import MultiInput, TaskDescriptor
from crosstask.errors import DataError
from crosstask.learning.features import inseparable, received
from crosstask.learning.model_files import how_made, made_again, needs_its_owner
from crosstask.learning.modules import Head, Headless, copy_of, forward, head_of, know, seeded


class SideBySide(nn.Module):
    """Trunks whose features [N, F1], [N, F2], … stand beside one another under one linear head.

    `widths` are F1, F2, …; each block is multiplied by its `scale`, a constant. The trunks are copies, of any
    architecture, brought to the device and the type of the first.
    """

    whole_inputs = True
    scales: Tensor
    """What each block is multiplied by [trunks]."""

    def __init__(
        self, models: Sequence[nn.Module], widths: Sequence[int], outputs: int, scales: Sequence[float] = ()
    ) -> None:
        super().__init__()
        kind = next(models[0].parameters())
        self.trunks = nn.ModuleList(Headless(model).to(kind.device, kind.dtype) for model in models)
        self.register_buffer("scales", torch.tensor(list(scales) or [1.0] * len(models)).to(kind))
        with seeded(0):
            self.head = nn.Linear(sum(widths), outputs, device=kind.device, dtype=kind.dtype)
        know(self, head=Head("head"))
        if any(map(needs_its_owner, models)):
            know(self, into=f"SideBySide([{_classes(models)}], {list(widths)}, {outputs})")
        else:  # a file can then say how it is made
            parts = [how_made(model) for model in models]
            spec = {"kind": f"{__name__}:side_by_side", "arguments": {"parts": parts, "widths": list(widths)}}
            shapes = TaskDescriptor(task_id="side by side", input_shape=(1,), output_dim=outputs)
            know(self, made={"spec": spec, "descriptor": shapes.to_json()})

    def features(self, inputs: Tensor | MultiInput) -> Tensor:
        """What the head receives [N, F1 + F2 + …]."""
        found = [forward(trunk, inputs) for trunk in self.trunks]
        parts = [part * scale for part, scale in zip(found, self.scales.unbind(), strict=True)]
        return torch.cat(parts, dim=1).to(self.scales.dtype)  # a model may widen what it answers

    def forward(self, inputs: Tensor | MultiInput) -> Tensor:
        logits: Tensor = self.head(self.features(inputs))
        return logits


class Mean(nn.Module):
    """The mean of what several models answer; they are copies."""

    whole_inputs = True

    def __init__(self, models: Sequence[nn.Module]) -> None:
        super().__init__()
        self.models = nn.ModuleList(copy_of(model) for model in models)
        know(self, head=Head(None, unknown="the mean of whole models has none; distil it into one model"))
        know(self, into=f"Mean([{_classes(models)}])")

    def forward(self, inputs: Tensor | MultiInput) -> Tensor:
        return torch.stack([forward(model, inputs) for model in self.models]).mean(0)


def width_of(model: nn.Module, inputs: Tensor | MultiInput) -> int:
    """How many features the head of a model receives for a sample. DataError where they are not one vector."""
    features, _ = next(received(model, inputs[:2], 2))
    if features.ndim != 2:
        raise DataError(
            f"the head of {type(model).__name__} receives features of shape {tuple(features.shape[1:])}: side by side "
            "takes one vector for each sample"
        )
    return features.shape[1]


def size_of(model: nn.Module, inputs: Tensor | MultiInput) -> float:
    """The root of the mean square of a model's features on these inputs; 1 where they are all zero."""
    squares = torch.cat([features.double().square().mean(1) for features, _ in received(model, inputs, 1024)])
    return float(squares.mean().sqrt()) or 1.0


def linear_head(model: nn.Module) -> nn.Linear | None:
    """The head of a model where it is a single linear layer."""
    try:
        head = head_of(model)
    except DataError:
        return None
    return head if type(head) is nn.Linear else None


def mean_of(models: Sequence[nn.Module], inputs: Tensor | MultiInput) -> nn.Module:
    """A network that gives the mean of the models' logits: one with their trunks side by side, and a head that adds up
    theirs, where each ends with a linear layer on a vector of features; else a `Mean`. `inputs` are some samples.
    """
    if len(models) == 1:
        return models[0]
    heads = [linear_head(model) for model in models]
    known = [head for head in heads if head is not None and head.weight.is_floating_point()]
    if len(known) < len(models) or any(inseparable(model, inputs) for model in models):
        return Mean(models)
    made = SideBySide(models, [head.in_features for head in known], known[0].out_features)
    with torch.no_grad():
        made.head.weight.copy_(torch.cat([head.weight.to(made.head.weight) for head in known], dim=1) / len(known))
        made.head.bias.copy_(torch.stack([_bias(head).to(made.head.bias) for head in known]).mean(0))
    return made.train(models[0].training)


def _bias(head: nn.Linear) -> Tensor:
    return torch.zeros_like(head.weight[:, 0]) if head.bias is None else head.bias


# Files ----------------------------------------------------------------------------------------------------------------


def _classes(models: Sequence[nn.Module]) -> str:
    """`Net(...), Other(...)`: the models that whoever has their classes must make."""
    return ", ".join(f"{type(model).__name__}(...)" for model in models)


def side_by_side(
    input_shape: object, output_dim: int, *, parts: Sequence[Mapping[str, Any]], widths: Sequence[int]
) -> nn.Module:
    """The network that a file tells of, with fresh weights."""
    return SideBySide([made_again(dict(part), f"trunk {n}") for n, part in enumerate(parts)], widths, output_dim)
