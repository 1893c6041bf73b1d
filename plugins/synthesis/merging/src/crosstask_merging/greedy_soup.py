"""The `greedy_soup` synthesizer."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from crosstask.options import component
from crosstask_merging.merger import Ingredients, Merger, linear
from crosstask_merging.weights import each


@component
class GreedySoup(Merger):
    """The mean of some of the models (Wortsman et al. 2022, recipe 1).

    From the best on, each model is added if the score of the mean does not fall; the score is minus the mean loss on
    the members' validation data, or for files the function given. Two models are in memory while it is measured. The
    provenance's weights are those of the models that were taken. It merges tensor by tensor, from files too;
    `crosstask.learning.averaging.greedy_mean` is the same for modules in memory.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"score"})

    def prepare(self, given: Ingredients) -> list[int]:
        assert given.score is not None
        alone = [given.score(dict(each(model))) for model in given.models]
        order = sorted(range(len(alone)), key=lambda number: -alone[number])
        taken, best = [order[0]], alone[order[0]]
        soup = dict(each(given.models[order[0]]))
        for number in order[1:]:
            share, tried = 1 / (len(taken) + 1), {}
            for name, tensor in soup.items():
                other = given.models[number].get(name)
                whole = not given.continuous(name)
                tried[name] = tensor if whole else (tensor * (1 - share) + other * share).to(tensor.dtype)
            if (score := given.score(tried)) >= best:
                taken, best, soup = [*taken, number], score, tried
        given.weights = [1 / len(taken) if n in taken else 0.0 for n in range(len(given.models))]
        return taken

    def tensor(self, name: str, given: Ingredients, prepared: Any) -> Tensor:
        models = [given.models[number] for number in prepared]
        taken = Ingredients(models, [1 / len(models)] * len(models))
        return linear(taken.tensors(name), taken.weights)
