"""Meta-learners: learn from many small tasks how to learn the next from a few samples."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar, final

import torch
from torch import Tensor, nn

from crosstask.components import Component, hook
from crosstask.errors import DataError

if TYPE_CHECKING:
    from crosstask.descriptors import TensorData
    from crosstask.learning.episodes import Episodes


class MetaLearner(Component):
    """Trains a model over episodes so that it adapts to a new task from its support set.

    Capabilities: `encoder` (the model maps inputs to features, not to the classes of an episode, whose number may
    change from batch to batch), `regression` (episodes without classes can be learned too), `ragged` (episodes may be
    of unequal sizes: what their masks leave out changes nothing) and `support_only` (episodes need no queries; metrics
    are then of the support sets). A learner without `encoder` takes a model with one output for each class of an
    episode.
    """

    point: ClassVar[str] = "meta_learner"

    @final
    def check_episodes(self, episodes: Episodes) -> None:
        """DataError for padded episodes and for tasks without queries, unless the learner claims that it takes them.

        Every `meta_step` begins with it.
        """
        if episodes.padded and "ragged" not in self.capabilities:
            raise DataError(
                f"{self.origin} takes episodes of equal size only: these have {_range(episodes.support_counts)} "
                f"support samples and {_range(episodes.query_counts)} queries; make batches of tasks that have as many "
                "(`Episodes.equal`), or take another learner"
            )
        if "support_only" not in self.capabilities:
            without = (episodes.query_counts == 0).nonzero().flatten().tolist()
            if without:
                raise DataError(
                    f"{self.origin}: {episodes.name(without[0])} has no queries, by which this learner judges an "
                    "adaptation: give tasks as (support inputs, support targets, query inputs, query targets)"
                )

    def prepare(self, model: nn.Module, episodes: Episodes) -> nn.Module:
        """The module to train: `model` itself, or a module around it that also holds what this learner learns beside.

        Called once, before the first step; `episodes` shows what inputs look like. Every other method is given what
        this one returned.
        """
        return model

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """The optimiser of the meta-steps that suits this learner: Adam at 0.001, unless the learner says another."""
        return torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-3)

    @abstractmethod
    @hook(first=True, returns=dict)
    def meta_step(self, model: nn.Module, episodes: Episodes, optimizer: torch.optim.Optimizer) -> dict[str, float]:
        """One step of `optimizer` on a batch of episodes, in place: metrics, `loss` among them, and `accuracy` if the
        episodes have classes: both of the queries after adaptation to the support set, over all episodes.

        RunError if a loss is not finite; the weights are then as they were. DataError if the model does not fit.
        """

    @abstractmethod
    @hook(first=True)
    def adapt(self, model: nn.Module, support: TensorData, steps: int | None) -> nn.Module:
        """A model for the task of this support set, in evaluation mode; `model` itself is left as it was.

        Its outputs are scores (logits) [N, classes of the support set], classes in the order of their labels, which
        may be any integers; for regression, values. `steps`: of adaptation (None: as in training), where the learner
        has any. DataError for one class only, or for another number of classes than the model can tell apart.
        """

    @torch.no_grad()
    def predict(self, model: nn.Module, episodes: Episodes, steps: int | None) -> Tensor:
        """Scores [B, Q, ways] of the queries of each episode by its own adapted model (regression: values); 0 where an
        episode is padded.

        A learner that can adapt to all of them at once overrides this; the answers are those of `adapt`.
        """
        found = []
        for number in range(len(episodes)):
            with torch.enable_grad():
                adapted = self.adapt(model, episodes.support(number), steps)
            scores = adapted(episodes.query_inputs[number])
            if episodes.query_mask is not None:
                mask = episodes.query_mask[number].reshape(-1, *(1,) * (scores.ndim - 1))
                scores = torch.where(mask, scores, 0)
            found.append(scores)
        return torch.stack(found)


def _range(counts: Tensor) -> str:
    low, high = int(counts.min()), int(counts.max())
    return str(low) if low == high else f"{low} to {high}"
