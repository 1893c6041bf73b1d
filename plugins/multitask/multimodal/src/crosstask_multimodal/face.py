"""The network for users, items and texts, constructed with sizes in hand."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from crosstask.descriptors import MultiInput
from crosstask.errors import DataError
from crosstask.learning.modules import evaluating
from crosstask.options import structure
from crosstask.tasks import Task
from crosstask_multimodal.multimodal import MultiModalModule
from crosstask_multimodal.trunk import MultiModalTrunk
from crosstask_multitask.sharing import Inputs, MultiTaskModule, SharingMatrix
from crosstask_multitask.task_configs import config_of, configs_of, name_of, table_of

DEFAULT_TASKS: dict[str, dict[str, Any]] = {
    "rating": {"output_dim": 1, "task_type": "regression"},
    "click": {"output_dim": 1, "task_type": "classification"},
    "category": {"output_dim": 10, "task_type": "classification"},
}


class MultiModalMultiTask(MultiTaskModule):
    """Embeddings of users, items and texts, attention between the three, fusion, and a head for each task.

        net = MultiModalMultiTask(user_vocab_size=2946, item_vocab_size=17385, text_vocab_size=6000)
        logits = net(user_ids, item_ids, text_ids)  # {"rating": [B, 1], "click": [B, 1], "category": [B, 10]}

    Answers are logits, never probabilities. Users and items run from 0, or are -1 where they are not known; texts are
    ids of words, 0 is padding and enters neither their mean nor their training. What a sample does not have (an unknown
    id, a text of padding alone) gets no attention and gives nothing to the fusion. Attention has 4 heads, or as many
    as divide `embedding_dim`. Every width of `hidden_dims` is a layer of the fusion; heads have a layer of 32 unless
    their `hidden_dims` say otherwise. DataError for an id that is not there, or inputs of other shapes.

    It is a `MultiTaskModule`, which takes inputs by task, too: `MultiTaskTrainer` trains it on the tasks of one table.
    """

    own_dims: ClassVar[tuple[int, ...]] = (32,)
    """`hidden_dims` of a task that names none."""

    def __init__(
        self,
        user_vocab_size: int,
        item_vocab_size: int,
        text_vocab_size: int,
        embedding_dim: int = 64,
        hidden_dims: Sequence[int] = (128, 64),
        task_configs: Mapping[str, Mapping[str, Any]] | None = None,
        dropout_rate: float = 0.2,
    ) -> None:
        super().__init__()
        hidden_dims = structure(hidden_dims, tuple[int, ...], "hidden_dims")
        ids = {"user_ids": user_vocab_size, "item_ids": item_vocab_size}
        trunk = MultiModalTrunk(
            ids, {"text_ids": text_vocab_size}, None, embedding_dim, hidden_dims, dropout_rate=dropout_rate
        )
        self._width, self._dropout = hidden_dims[-1], dropout_rate
        configs = configs_of(DEFAULT_TASKS if task_configs is None else task_configs)
        self.task_configs = {name: config.table(self.own_dims) for name, config in configs.items()}
        self.module = MultiModalModule(trunk, {name: self._head(config) for name, config in self.task_configs.items()})

    def _head(self, config: Mapping[str, Any]) -> nn.Module:
        widths = (self._width, *config["hidden_dims"])
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [nn.Linear(before, after), nn.ReLU(), nn.Dropout(self._dropout)]
        return nn.Sequential(*layers, nn.Linear(widths[-1], config["output_dim"]))

    def forward(
        self, user_ids: Tensor | Inputs, item_ids: Tensor | None = None, text_ids: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Logits [B, output_dim] of each task for users [B], items [B] and texts [B, L]; or, for a batch of these
        three by task (`MultiInput`), of the tasks that are asked.
        """
        if isinstance(user_ids, Mapping):
            return self.module(user_ids)
        logits: dict[str, Tensor] = self.module(dict.fromkeys(self.task_configs, _batch(user_ids, item_ids, text_ids)))
        return logits

    @torch.no_grad()
    def attention(self, user_ids: Tensor, item_ids: Tensor, text_ids: Tensor) -> dict[str, Tensor]:
        """The weights of attention, in evaluation mode: under each task's name how it weighs user, item and text
        [B, 3], and as `between` how these weigh each other [B, 3, 3]. What a sample does not have weighs 0.
        """
        with evaluating(self):
            tokens, present, between = self.module.trunk.tokens(_batch(user_ids, item_ids, text_ids))
            weights = {name: self.module.weights(name, tokens, present) for name in self.task_configs}
        return {"between": between, **weights}

    def add_task(self, task: Task | str, config: Mapping[str, Any] | None = None) -> None:
        """Give it another task, by its name and what its table in `task_configs` would be, with a new head; the answers
        of the others stay as they are. DataError for a task that it has.
        """
        if isinstance(task, Task):
            described = task.descriptor
            name, given = task.task_id, {"output_dim": described.output_dim or 1, "task_type": described.task_type}
        else:
            name, given = name_of(task), {}
        if name in self.task_configs:
            raise DataError(f"{type(self).__name__} has a task {name!r} already")
        made = config_of(name, {**given, **table_of(name, config)}).table(self.own_dims)
        self.module.add_head(name, self._head(made).to(next(self.parameters())).train(self.training))
        self.task_configs[name] = made

    def on_rows(self, inputs: Inputs, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return self.module.on_rows(inputs, rows)

    def shared_parameters(self) -> Iterator[nn.Parameter]:
        return self.module.shared_parameters()

    def task_parameters(self, task_id: str) -> Iterator[nn.Parameter]:
        return self.module.task_parameters(task_id)

    def learned(self, inputs: Inputs) -> list[SharingMatrix]:
        return self.module.learned(inputs)


def _batch(user_ids: Any, item_ids: Any, text_ids: Any) -> MultiInput:
    given = {"user_ids": user_ids, "item_ids": item_ids, "text_ids": text_ids}
    for name, ids in given.items():
        if not isinstance(ids, Tensor) or not ids.ndim:
            told = f"one of shape {tuple(ids.shape)}" if isinstance(ids, Tensor) else f"a {type(ids).__name__}"
            raise DataError(f"{name} must be a tensor of ids, got {told}")
    return MultiInput(given)
