"""The `regmean` synthesizer."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from crosstask.descriptors import MultiInput
from crosstask.options import component, option
from crosstask.tasks import Task
from crosstask_merging.grams import grams_of
from crosstask_merging.merger import Ingredients, Merger
from crosstask_merging.weights import InMemory, Weights


@component
class RegMean(Merger):
    """Each linear layer is the least-squares fit to what the models' own layers answer on what comes into them:
    W = (Σ G)⁻¹ Σ G Wᵢ with G the Gram matrix of each model's inputs, its entries off the diagonal times `alpha`
    (Jin et al. 2023, equation 2 and section 4.2).

    Convolutions are linear in their patches. The bias takes part as the weight of a constant input. What is no such
    layer, or one of complex numbers (a note names those), is averaged. The Gram matrices are of each model's training
    inputs, else of the unlabelled ones; for files they are read from files. Where no input ever went, `ridge` pulls the
    fit to the mean.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"grams"})

    alpha: float = option(0.9, ge=0, le=1, help="factor of the Gram matrices' entries off the diagonal")
    ridge: float = option(1e-6, ge=0, help="pull to the mean, as a share of the Gram matrix' mean diagonal")
    samples: int = option(1024, ge=1, help="inputs per model on which Gram matrices are taken")

    def _add_data(self, given: Ingredients, chosen: list[Task], inputs: Tensor | MultiInput | None) -> None:
        found: list[Weights] = []
        for task in chosen:
            seen = task.data("train").inputs if task.has_data("train") else inputs
            if seen is None:
                return
            assert task.model is not None
            found.append(InMemory(grams_of(task.model, seen[: self.samples]), task.task_id))
        given.grams = found

    def _remarks(self, given: Ingredients) -> list[str]:
        odd = [name for name in given.learned() if given.models[0].index[name].dtype.is_complex]
        more = f" and {len(odd) - 3} more" if len(odd) > 3 else ""
        return [f"averaged, not fitted, as complex numbers: {', '.join(odd[:3])}{more}"] if odd else []

    def prepare(self, given: Ingredients) -> dict[str, Tensor]:
        """Layers that are done: a layer's weight and bias are found together, and asked for one after the other."""
        return {}

    def tensor(self, name: str, given: Ingredients, prepared: Any) -> Tensor:
        layer, _, part = name.rpartition(".")
        assert given.grams is not None
        if part not in ("weight", "bias") or any(layer not in gram.index for gram in given.grams):
            return given.mean(name)
        if name in prepared:
            found: Tensor = prepared.pop(name)
            return found
        index = given.models[0].index
        if f"{layer}.weight" not in index or index[name].dtype.is_complex:  # a bias beside a weight tied to another's
            return given.mean(name)
        biased = f"{layer}.bias" in index
        shape = index[f"{layer}.weight"].shape
        size = given.grams[0].index[layer].shape[0] - (not biased)

        def rows() -> Iterable[tuple[Tensor, Tensor]]:
            biases = given.tensors(f"{layer}.bias") if biased else itertools.repeat(None)
            members = zip(given.tensors(f"{layer}.weight"), given.grams or (), strict=True)
            for (weight, gram), bias in zip(members, biases, strict=False):
                wide = weight.double().flatten(1)
                if bias is not None:
                    wide = torch.cat([wide, bias.double()[:, None]], dim=1)
                yield wide, gram.get(layer)[:size, :size].to(wide)

        fitted = regmean(rows(), given.weights, self.alpha, self.ridge)
        if biased:
            weight, bias = fitted[:, :-1], fitted[:, -1]
            prepared[f"{layer}.bias" if part == "weight" else f"{layer}.weight"] = (
                bias if part == "weight" else weight.reshape(shape)
            )
            return weight.reshape(shape) if part == "weight" else bias
        return fitted.reshape(shape)


def regmean(rows: Iterable[tuple[Tensor, Tensor]], weights: Sequence[float], alpha: float, ridge: float) -> Tensor:
    """argmin over W of Σ weight tr((W - Wᵢ) G̃ᵢ (W - Wᵢ)ᵀ) + ridge |W - mean|², one model at a time.

    `rows` are (Wᵢ [out, in], Gᵢ [in, in]); G̃ = alpha G + (1 - alpha) diag(G).
    """
    left = right = mean = None
    for (wide, gram), weight in zip(rows, weights, strict=True):
        shrunk = (alpha * gram + (1 - alpha) * torch.diag(gram.diagonal())) * weight
        if left is None or right is None or mean is None:
            left, right, mean = shrunk, shrunk @ wide.T, wide * weight
        else:
            left, right, mean = left + shrunk, right + shrunk @ wide.T, mean + wide * weight
    assert left is not None
    assert right is not None
    assert mean is not None
    pull = max(ridge * float(left.diagonal().mean()), torch.finfo(left.dtype).tiny)
    eye = torch.eye(len(left), dtype=left.dtype, device=left.device)
    return torch.linalg.solve(left + pull * eye, right + pull * mean.T).T.contiguous()
