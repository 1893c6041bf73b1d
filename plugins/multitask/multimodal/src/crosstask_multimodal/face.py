"""The network for users, items and texts, constructed with sizes in hand."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from crosstask.descriptors import MultiInput
from crosstask.errors import DataError, OptionError, nearest
from crosstask.learning.modules import evaluating
from crosstask.options import option, record, structure
from crosstask_multimodal.multimodal import MultiModalModule
from crosstask_multimodal.trunk import MultiModalTrunk

DEFAULT_TASKS: dict[str, dict[str, Any]] = {
    "rating": {"output_dim": 1, "task_type": "regression"},
    "click": {"output_dim": 1, "task_type": "classification"},
    "category": {"output_dim": 10, "task_type": "classification"},
}


@record
class TaskConfig:
    """What a task's head is: its outputs, and ReLU layers of these widths before them."""

    output_dim: int = option(1, ge=1, help="logits; 1 for a classification is a single logit of two classes")
    task_type: str = option("regression", help="regression, classification or multilabel")
    hidden_dims: tuple[int, ...] = option((32,), ge=1, help="widths of the head's layers")

    def __attrs_post_init__(self) -> None:
        if self.task_type not in KINDS:
            raise OptionError(f"task_type {self.task_type!r} is unknown{nearest(self.task_type, KINDS)}")


KINDS = ("regression", "classification", "multilabel")


class MultiModalMultiTask(nn.Module):
    """Embeddings of users, items and texts, attention between the three, fusion, and a head for each task.

        net = MultiModalMultiTask(user_vocab_size=2946, item_vocab_size=17385, text_vocab_size=6000)
        logits = net(user_ids, item_ids, text_ids)  # {"rating": [B, 1], "click": [B, 1], "category": [B, 10]}

    Answers are logits, never probabilities. Users and items run from 0, or are -1 where they are not known; texts are
    ids of words, 0 is padding and enters neither their mean nor their training. What a sample does not have (an unknown
    id, a text of padding alone) gets no attention and gives nothing to the fusion. Attention has 4 heads, or as many
    as divide `embedding_dim`. Every width of `hidden_dims` is a layer of the fusion; heads have a layer of 32 unless
    their `hidden_dims` say otherwise. DataError for an id that is not there, or inputs of other shapes.

    `module` is the same as a `MultiTaskModule`, which `MultiTaskTrainer` trains on the tasks of one table.
    """

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
        ids = {"user_ids": user_vocab_size, "item_ids": item_vocab_size}
        trunk = MultiModalTrunk(
            ids, {"text_ids": text_vocab_size}, None, embedding_dim, hidden_dims, dropout_rate=dropout_rate
        )
        self._width, self._dropout = list(hidden_dims)[-1], dropout_rate
        given = DEFAULT_TASKS if task_configs is None else task_configs
        if not given:
            raise OptionError("task_configs: there is no task")
        self.task_configs = {name: _config(name, told) for name, told in given.items()}
        heads = {name: self._head(config) for name, config in self.task_configs.items()}
        self.module = MultiModalModule(trunk, heads)

    def _head(self, config: TaskConfig) -> nn.Module:
        widths = (self._width, *config.hidden_dims)
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [nn.Linear(before, after), nn.ReLU(), nn.Dropout(self._dropout)]
        return nn.Sequential(*layers, nn.Linear(widths[-1], config.output_dim))

    def forward(self, user_ids: Tensor, item_ids: Tensor, text_ids: Tensor) -> dict[str, Tensor]:
        """Logits [B, output_dim] of each task, for users [B], items [B] and texts [B, L]."""
        batch = _batch(user_ids, item_ids, text_ids)
        logits: dict[str, Tensor] = self.module(dict.fromkeys(self.task_configs, batch))
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

    def add_task(self, name: str, config: Mapping[str, Any] | None = None) -> None:
        """Give it another task, with a new head; the answers of the others stay as they are. DataError for a task that
        it has.
        """
        if name in self.task_configs:
            raise DataError(f"the network has a task {name!r} already")
        made = _config(name, config or {})
        like = next(self.parameters())
        self.module.add_head(name, self._head(made).to(like).train(self.training))
        self.task_configs[name] = made

    def shared_parameters(self) -> Iterator[nn.Parameter]:
        """What all tasks train."""
        return self.module.shared_parameters()

    def task_parameters(self, name: str) -> Iterator[nn.Parameter]:
        """What only this task trains: its head, and its query over the modalities."""
        return self.module.task_parameters(name)


def _config(name: str, told: Mapping[str, Any]) -> TaskConfig:
    found: TaskConfig = structure(told, TaskConfig, f"task_configs: {name}")
    return found


def _batch(user_ids: Tensor, item_ids: Tensor, text_ids: Tensor) -> MultiInput:
    given = {"user_ids": user_ids, "item_ids": item_ids, "text_ids": text_ids}
    for name, ids in given.items():
        if not isinstance(ids, Tensor) or not ids.ndim:
            raise DataError(f"{name} must be a tensor of ids, got {ids if isinstance(ids, Tensor) else type(ids)}")
    return MultiInput(given)
