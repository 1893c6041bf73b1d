"""The `fisher_merge` synthesizer."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from crosstask.descriptors import MultiInput
from crosstask.learning.fisher import fisher_diagonal
from crosstask.options import component, option
from crosstask.reading import DENSE
from crosstask.tasks import Task
from crosstask_merging.merger import Ingredients, Merger, exact
from crosstask_merging.weights import InMemory, Weights


@component
class FisherMerge(Merger):
    """Σ weight F θ / Σ weight F, F the diagonal Fisher information of each model (Matena and Raffel 2022, equation 3).

    The Fisher information is exact (the model's own distribution, not the labels; drawn from it where every place has
    a label, and for values that of the data), on the first `samples` of each
    model's training inputs, else of the unlabelled ones; for files it is read from files with the models' names. Each
    model's is divided by its mean, so that a model that is less sure counts no more than another. Where it is zero
    everywhere, the merged weight is the mean.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"fishers"})

    samples: int = option(256, ge=1, help="inputs per model on which the Fisher information is taken")
    floor: float = option(1e-3, gt=0, help="added to the Fisher information, whose mean is 1")

    def _add_data(self, given: Ingredients, chosen: list[Task], inputs: Tensor | MultiInput | None) -> None:
        found: list[Weights] = []
        for task in chosen:
            seen = task.data("train").inputs if task.has_data("train") else inputs
            if seen is None:
                return
            assert task.model is not None
            seen, kind = seen[: self.samples], task.descriptor.task_type
            how, targets = "expected", None
            if kind not in ("classification", "multilabel"):
                how, targets = "sampled" if kind in DENSE else "data", task.data("train").targets[: self.samples]
            fisher = fisher_diagonal(
                task.model, seen, targets, labels=how, multilabel=kind == "multilabel",
                generator=self.context.generator("fisher_merge", task.task_id),
            )  # fmt: skip
            found.append(InMemory(fisher, task.task_id))
        given.fishers = found

    def prepare(self, given: Ingredients) -> list[float]:
        """The mean of each model's Fisher information."""
        assert given.fishers is not None
        means = []
        for fisher in given.fishers:
            parts = [fisher.get(n) for n in given.learned() if _tells(fisher, n)]
            count = sum(p.numel() for p in parts)
            means.append(sum(float(p.double().sum()) for p in parts) / max(1, count))
        return means

    def tensor(self, name: str, given: Ingredients, prepared: Any) -> Tensor:
        assert given.fishers is not None
        if not all(_tells(fisher, name) for fisher in given.fishers):
            return given.mean(name)
        above: Tensor | None = None
        below: Tensor | None = None
        rows = zip(given.tensors(name), given.weights, given.fishers, prepared, strict=True)
        for tensor, weight, fisher, mean in rows:
            share = exact(fisher.get(name)).to(tensor) / (mean or 1.0) + self.floor
            if share.dim() < tensor.dim():  # of a complex weight, for both its parts
                share = share[..., None]
            if above is None or below is None:
                above, below = weight * share * tensor, weight * share
            else:
                above.add_(share * tensor, alpha=weight)
                below.add_(share, alpha=weight)
        assert above is not None
        assert below is not None
        return above / below


def _tells(fisher: Weights, name: str) -> bool:
    """Whether it says something of a tensor: information is a real number."""
    return name in fisher.index and not fisher.index[name].dtype.is_complex
