"""Layers of experts, shared ones and each task's own, with gates that weigh them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import cast

import attrs
import torch
from torch import Tensor, nn

from crosstask.descriptors import MultiInput
from crosstask.tasks import Task
from crosstask_multitask.experts import (
    Chain,
    Experts,
    GateInput,
    experts_of,
    gate_for,
    looked_at,
    mixed,
    parameters_of,
    passed,
    taken,
)
from crosstask_multitask.headed import HeadedModule, HeadMaker, Rows, key
from crosstask_multitask.sharing import Inputs, SharingMatrix

Batch = Tensor | MultiInput


class Level(nn.Module):
    """Experts of all tasks, those of each task, a gate for each; before the last level a gate of the shared part."""

    def __init__(self, shared: Experts) -> None:
        super().__init__()
        self.shared, self.own, self.gates = shared, nn.ModuleDict(), nn.ModuleDict()
        self.gate: nn.Module | None = None


@attrs.frozen(eq=False)
class Source:
    """What experts of a level are copies of, and what enters it (an example)."""

    part: Chain
    entering: Batch


class Extraction(HeadedModule):
    """Levels of experts on a first part of the trunk (perhaps none of it), and a head for each task.

    A gate of a task sees that task's input of the level and weighs its own experts and the shared ones. The gate of the
    shared part sees the shared input and weighs all experts, those of the tasks that were there when the module was
    built. So what these tasks have before the last level is trained by all of them: it is shared.
    """

    def __init__(self, bottom: Chain, sources: Sequence[Source], counts: tuple[int, int], gate_sees: GateInput,
                 maker: HeadMaker) -> None:  # fmt: skip
        super().__init__({})
        self.bottom, self.gate_sees, self.maker = bottom, gate_sees, maker
        self._sources, self._own_count = list(sources), counts[1]
        self.members: list[str] = []
        """The tasks whose experts the gates of the shared part weigh."""
        self.levels = nn.ModuleList(
            Level(experts_of(source.part, counts[0], maker.seed_for(f"shared {number}"), source.entering))
            for number, source in enumerate(sources)
        )

    @property
    def _levels(self) -> list[Level]:
        return [cast(Level, level) for level in self.levels]

    def close(self) -> None:
        """Make the shared gates, over the experts of all tasks that there are; tasks may still be added."""
        self.members = self.tasks
        for number, (level, source) in enumerate(zip(self._levels[:-1], self._sources, strict=False)):
            count = level.shared.count + len(self.members) * self._own_count
            seen = self._seen(level, source.entering)
            level.gate = gate_for(seen, count, self.maker.seed_for(f"shared gate {number}")).train(self.training)

    def represent(self, batch: Batch, rows: Rows) -> dict[str, Tensor]:
        return self._pass(batch, rows, lambda *_: None)

    def _pass(self, batch: Batch, rows: Rows, told: Callable[[int, str, Tensor], None]) -> dict[str, Tensor]:
        shared = self.bottom(batch)
        deep = len(self.levels) > 1
        # A member's experts are needed for all rows as long as the shared part looks at them.
        own = dict.fromkeys(self.members, shared) if deep else {}
        whole = set(own)
        for task in rows:
            if task not in own:
                own[task] = taken(shared, rows[task])
        for number, level in enumerate(self._levels):
            last = number == len(self.levels) - 1
            if last:
                own = {task: taken(own[task], rows[task]) if task in whole else own[task] for task in rows}
            features = level.shared(shared)
            mine = {task: level.own[key(task)](inputs) for task, inputs in own.items()}
            needed = [task for task in own if task in rows or number < len(self.levels) - 2]
            following = {}
            for task in needed:
                at = features if task in whole and not last else taken(features, rows[task], 1)
                seen = looked_at(self.gate_sees, own[task], at)
                weights = level.gates[key(task)](seen)
                told(number, task, weights)
                following[task] = mixed(weights, torch.cat([mine[task], at]))
            if not last:
                assert level.gate is not None
                every = torch.cat([features, *(mine[task] for task in self.members)])
                shared = mixed(level.gate(looked_at(self.gate_sees, shared, features)), every)
            own = following
        return own

    @torch.no_grad()
    def learned(self, inputs: Inputs) -> list[SharingMatrix]:
        means: dict[int, list[tuple[float, ...]]] = {}

        def told(number: int, task: str, weights: Tensor) -> None:
            if task in wanted:
                means.setdefault(number, []).append(tuple(weights.mean(0).tolist()))

        for task, batch in inputs.items():
            wanted = {task}
            self._pass(batch, {task: slice(None)}, told)
        names = [f"own {number + 1}" for number in range(self._own_count)]
        names += [f"shared {number + 1}" for number in range(self._levels[0].shared.count)]
        what = "the mean weight that the gate of each task gives its own experts and the shared ones"
        return [
            SharingMatrix(name=f"Experts of each task in level {number + 1}", rows=tuple(inputs), columns=tuple(names),
                          values=tuple(rows), told=what)
            for number, rows in means.items()
        ]  # fmt: skip

    # --- Whose parameters are whose

    def shared_parameters(self) -> Iterator[nn.Parameter]:
        yield from self.bottom.parameters()
        for level in self._levels:
            yield from level.shared.parameters()
            yield from parameters_of([level.gate] if level.gate is not None else [])
        for task in self.members:
            yield from parameters_of(self._parts(task, of_all=True))

    def task_parameters(self, task_id: str) -> Iterator[nn.Parameter]:
        own = [self.heads[key(task_id)], *self._parts(task_id, of_all=False)]
        return parameters_of(own if task_id in self.members else [*own, *self._parts(task_id, of_all=True)])

    def _parts(self, task: str, *, of_all: bool) -> list[nn.Module]:
        """A member's experts and gates that reach the shared part, or those that do not."""
        found: list[nn.Module] = []
        last = len(self.levels) - 1
        for number, level in enumerate(self._levels):
            # Experts of the last level and gates of the last two lead to the task's own head only.
            found += [level.own[key(task)]] if (number < last) == of_all else []
            found += [level.gates[key(task)]] if (number < last - 1) == of_all else []
        return found

    # --- Tasks

    def make_parts(self, task: Task) -> nn.Module:
        head = self.maker.make(task, _Shared(self.bottom, self.levels))
        like = next(head.parameters())
        for number, (level, source) in enumerate(zip(self._levels, self._sources, strict=True)):
            seed = self.maker.seed_for(task, f"experts {number}")
            own = experts_of(source.part, self._own_count, seed, source.entering, given=False).to(like.device)
            seen = self._seen(level, source.entering)
            gate = gate_for(seen, self._own_count + level.shared.count, self.maker.seed_for(task, f"gate {number}"))
            level.own[key(task.task_id)] = own.train(self.training)
            level.gates[key(task.task_id)] = gate.train(self.training)
        return head

    def _seen(self, level: Level, entering: Batch) -> Tensor:
        entering = entering.to(next(level.shared.parameters()).device)
        experts = passed(level.shared, entering) if self.gate_sees == "features" else None
        return looked_at(self.gate_sees, entering, experts).to(next(level.shared.parameters()))


class _Shared(nn.Module):
    """The first shared expert of each level, one after another: a trunk."""

    whole_inputs = True

    def __init__(self, bottom: Chain, levels: nn.ModuleList) -> None:
        super().__init__()
        self.bottom, self.levels = bottom, levels

    def forward(self, batch: Batch) -> Tensor:
        batch = self.bottom(batch)
        for level in self.levels:
            batch = cast(Level, level).shared(batch, [0])[0]
        assert isinstance(batch, Tensor)
        return batch
