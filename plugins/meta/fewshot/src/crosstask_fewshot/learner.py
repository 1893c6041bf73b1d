"""Few-shot learning on one's own data, without a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from crosstask.learning.episodes import Episodes, relabel
from crosstask.points.meta_learner import MetaLearner
from crosstask_meta.trainer import BaseMetaLearner


class FewShotLearner:
    """An encoder trained on episodes by one of the algorithms, and then used to classify from a few samples.

        learner = FewShotLearner("prototypical", encoder)
        learner.train_episode(support_x, support_y, query_x, query_y)
        labels = learner.predict(support_x, support_y, query_x)

    `algorithm`: the name of a meta-learner, a table with `use` and its options, or one made already. A learner that
    takes a classifier (`maml`) is given one instead of an encoder. Labels may be any integers, and come back as they
    are.
    """

    def __init__(self, algorithm: str | dict[str, Any] | MetaLearner, encoder: nn.Module, *, seed: int = 0) -> None:
        self._trainer = BaseMetaLearner(encoder, algorithm, seed=seed)
        self.algorithm = self._trainer.learner

    @property
    def encoder(self) -> nn.Module:
        """What is trained, with what the algorithm put beside it."""
        return self._trainer.trained

    def train_episode(self, support_x: Any, support_y: Any, query_x: Any, query_y: Any) -> dict[str, float]:
        """One step on one episode: metrics, `loss` and `accuracy` among them."""
        return self._trainer.meta_train_step([(support_x, support_y, query_x, query_y)])

    def train_batch(self, episodes: Episodes | Sequence[Sequence[Any]]) -> dict[str, float]:
        """One step on several episodes, all at once."""
        return self._trainer.meta_train_step(episodes)

    def predict(self, support_x: Any, support_y: Any, query_x: Any, num_steps: int | None = None) -> Tensor:
        """The label [Q] of each query, one of those in `support_y`."""
        classes, _ = relabel(torch.as_tensor(support_y))
        return classes[self.scores(support_x, support_y, query_x, num_steps).argmax(1).to(classes.device)]

    @torch.no_grad()
    def scores(self, support_x: Any, support_y: Any, query_x: Any, num_steps: int | None = None) -> Tensor:
        """Scores [Q, classes], classes in the order of their labels."""
        adapted = self._trainer.adapt_to_task(support_x, support_y, num_steps)
        return self._trainer.forward_with_weights(query_x, adapted)
