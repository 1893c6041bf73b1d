"""The sharing: one trunk over all modalities, and for each task a query that weighs them, and a head."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from crosstask.descriptors import MultiInput
from crosstask.errors import DataError
from crosstask.learning.modules import Headless, evaluating
from crosstask.options import component, option
from crosstask.tasks import SPLITS, Task
from crosstask_multimodal.trunk import MultiModalNetwork, MultiModalTrunk, Places, attention
from crosstask_multitask.headed import HeadedModule, HeadMaker, Rows, key
from crosstask_multitask.heads import features_of
from crosstask_multitask.sharing import Inputs, MultiTaskModule, Sharing, SharingMatrix

SHOWN = 64
"""Modalities (or places) up to which a matrix of them can be looked at."""


class MultiModalModule(HeadedModule):
    """A trunk that gives tokens of modalities, and for each task a query over them and a head on their fusion.

    A task takes the tokens times their weight under its query, softmax(q·token / √E), times their number: a query that
    is zero, as each is at first, leaves them as they are. With `own_attention` false all tasks take them so.
    """

    def __init__(
        self,
        trunk: MultiModalTrunk | Places,
        heads: Mapping[str, nn.Module],
        maker: HeadMaker | None = None,
        *,
        own_attention: bool = True,
    ) -> None:
        super().__init__(heads)
        self.trunk, self.maker, self.own_attention = trunk, maker or HeadMaker(), own_attention
        self.queries = nn.ParameterDict()
        for task_id in self.tasks if own_attention else ():
            self._give_query(task_id)

    def _give_query(self, task_id: str) -> None:
        self.queries[key(task_id)] = nn.Parameter(self.trunk.query())

    def weights(self, task_id: str, tokens: Tensor, present: Tensor) -> Tensor:
        """How a task weighs the tokens [N, M, E] of each sample, [N, M]: they sum to 1 over those that are present."""
        if not self.own_attention:
            return present / present.sum(dim=1, keepdim=True).clamp_min(1)
        scores = tokens @ self.queries[key(task_id)] / math.sqrt(tokens.shape[-1])
        return attention(scores, present)

    def represent(self, batch: Tensor | MultiInput, rows: Rows) -> dict[str, Tensor]:
        tokens, present, _ = self.trunk.tokens(batch)  # type: ignore[arg-type]
        if not self.own_attention:
            features = self.trunk.fuse(tokens)
            return {task: features[places] for task, places in rows.items()}
        weighed = []
        for task, places in rows.items():
            own, there = tokens[places], present[places]
            weights = self.weights(task, own, there) * there.sum(dim=1, keepdim=True)
            weighed.append(own * weights[:, :, None])
        fused = self.trunk.fuse(torch.cat(weighed))
        return dict(zip(rows, fused.split([len(each) for each in weighed]), strict=True))

    def shared_parameters(self) -> Iterator[nn.Parameter]:
        return self.trunk.parameters()

    def task_parameters(self, task_id: str) -> Iterator[nn.Parameter]:
        yield from super().task_parameters(task_id)
        if self.own_attention:
            yield self.queries[key(task_id)]

    def make_parts(self, task: Task) -> nn.Module:
        made = _head(self.maker, task, self.trunk)
        self.add_head(task.task_id, made)
        return made

    def add_head(self, task_id: str, head: nn.Module) -> None:
        """Give it another task, with this head."""
        self.heads[key(task_id)] = head
        if self.own_attention:
            self._give_query(task_id)

    @torch.no_grad()
    def learned(self, inputs: Inputs) -> list[SharingMatrix]:
        """How each task weighs the modalities, and how much these take of each other, the mean over the inputs."""
        by_task: dict[str, Tensor] = {}
        between: list[Tensor] = []
        with evaluating(self):
            for task, batch in inputs.items():
                tokens, present, weights = self.trunk.tokens(batch)
                by_task[task] = self.weights(task, tokens, present).mean(dim=0)
                between.append(weights.mean(dim=0))
        names = self.trunk.modalities or tuple(f"place {n}" for n in range(len(next(iter(by_task.values()), ()))))
        if not 1 < len(names) <= SHOWN:
            return []
        found = [
            SharingMatrix(
                name="Attention of each task over the modalities",
                rows=tuple(by_task),
                columns=names,
                values=tuple(tuple(row.tolist()) for row in by_task.values()),
                told="share of the task's attention; a modality that a sample does not have gets none",
            )
        ]
        if self.trunk.modalities:
            values = torch.stack(between).mean(dim=0).tolist()
            found.append(
                SharingMatrix(
                    name="Attention between the modalities",
                    rows=names,
                    columns=names,
                    values=tuple(map(tuple, values)),
                    told="share of the row's attention that goes to the column, the mean over heads",
                )
            )
        return found


@component
class MultiModal(Sharing):
    """One trunk over all inputs of a sample; each task weighs its modalities by a query of its own.

    The trunk is that of a `crosstask_multimodal.network` (embeddings, attention between the modalities, fusion): all of
    it is shared. Any other trunk stands in for it: its features are one modality, those of places (a sequence, a map)
    one for each, and their fusion is the mean under the task's weights. Heads and queries are the tasks' own. `learned`
    says how each task weighs the modalities. DataError for a trunk that would take ids as quantities.
    """

    hidden: int = option(0, ge=0, help="width of a ReLU layer in each head; 0 for none")
    own_attention: bool = option(True, help="each task weighs the modalities itself; otherwise all take them as one")

    def build(self, tasks: list[Task], trunk: nn.Module) -> MultiTaskModule:
        if not tasks:
            raise DataError("multimodal: no tasks to build heads for")
        shared = _giving_tokens(trunk, tasks[0])
        maker = HeadMaker(self.hidden, self.context.seed, "multimodal")
        heads = {task.task_id: _head(maker, task, shared) for task in tasks}
        return MultiModalModule(shared, heads, maker, own_attention=self.own_attention)


def _head(maker: HeadMaker, task: Task, trunk: MultiModalTrunk | Places) -> nn.Module:
    """A head on the trunk's features. Without data nothing says which of the inputs are ids, and none are made up."""
    if isinstance(trunk, Places) or any(task.has_data(split) for split in SPLITS):
        return maker.make(task, trunk)
    with torch.no_grad(), evaluating(trunk):
        return maker.fitting(task, trunk.fuse(trunk.query().expand(2, len(trunk.modalities), -1)))


def _giving_tokens(trunk: nn.Module, task: Task) -> MultiModalTrunk | Places:
    """The trunk itself where it is multimodal, or what makes tokens of its features."""
    inner = trunk.model if isinstance(trunk, Headless) else trunk
    if isinstance(inner, MultiModalNetwork):
        inner = inner.trunk
    if isinstance(inner, MultiModalTrunk):
        return inner
    split = next((each for each in SPLITS if task.has_data(each)), None)
    inputs: Tensor | MultiInput | None = None if split is None else task.data(split).inputs
    embeds = any(isinstance(module, nn.Embedding | nn.EmbeddingBag) for module in trunk.modules())
    if isinstance(inputs, MultiInput) and not embeds:
        ids = [name for name, part in inputs.parts.items() if not part.is_floating_point()]
        if ids:
            raise DataError(
                f"multimodal: the trunk has no embeddings and would take the ids of {', '.join(ids)} as quantities: "
                'give [model] kind = "crosstask_multimodal:network" with their vocab_sizes'
            )
    return Places(trunk, features_of(trunk, task))
