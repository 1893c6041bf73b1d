"""Mixtures of experts that all tasks share: each task has a gate of its own, which weighs them, and a head."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from crosstask.descriptors import MultiInput
from crosstask.errors import DataError
from crosstask.options import component, option
from crosstask.tasks import Task
from crosstask_multitask.experts import (
    Chain,
    Experts,
    GateInput,
    check_gate_input,
    divided,
    example_of,
    experts_of,
    looked_at,
    mixed,
    parameters_of,
    parts_of,
    passed,
    taken,
)
from crosstask_multitask.headed import HeadedModule, HeadMaker, Rows, key
from crosstask_multitask.sharing import Inputs, MultiTaskModule, Sharing, SharingMatrix

GateMaker = Callable[[Tensor, int, int], nn.Module]
"""Called with what gates look at (an example), the number of experts and a seed."""


class Mixture(HeadedModule):
    """A first part of the trunk (perhaps none of it), experts on what it gives, and for each task a gate and a head.

    Where no sample of a batch gives an expert any weight, it is not computed in evaluation mode: of gates that come to
    choose some, only those cost anything.
    """

    def __init__(self, bottom: Chain, experts: Experts, gate_sees: GateInput, make_gate: GateMaker, maker: HeadMaker):
        super().__init__({})
        self.bottom, self.experts, self.gates = bottom, experts, nn.ModuleDict()
        self.gate_sees, self._make_gate, self.maker = gate_sees, make_gate, maker

    def represent(self, batch: Tensor | MultiInput, rows: Rows) -> dict[str, Tensor]:
        entering = self.bottom(batch)
        experts = self.experts(entering) if self.training or self.gate_sees == "features" else None
        seen = looked_at(self.gate_sees, entering, experts)
        weights = {task: self.gates[key(task)](taken(seen, places)) for task, places in rows.items()}
        if experts is None:
            used = torch.stack([(each > 0).any(0) for each in weights.values()]).any(0)
            if not bool(used.all()):
                some = used.nonzero()[:, 0].tolist() or [0]
                weights = {task: each[:, some] for task, each in weights.items()}
                experts = self.experts(entering, some)
            else:
                experts = self.experts(entering)
        return {task: mixed(weights[task], taken(experts, places, 1)) for task, places in rows.items()}

    @torch.no_grad()
    def learned(self, inputs: Inputs) -> list[SharingMatrix]:
        rows = []
        for task, batch in inputs.items():
            entering = self.bottom(batch)
            experts = self.experts(entering) if self.gate_sees == "features" else None
            seen = looked_at(self.gate_sees, entering, experts)
            rows.append(tuple(self.gates[key(task)](seen).mean(0).tolist()))
        names = tuple(f"expert {number + 1}" for number in range(self.experts.count))
        told = "the mean weight that the gate of each task gives each expert"
        return [
            SharingMatrix(name="Experts of each task", rows=tuple(inputs), columns=names, values=tuple(rows), told=told)
        ]

    def shared_parameters(self) -> Iterator[nn.Parameter]:
        return parameters_of([self.bottom, self.experts])

    def task_parameters(self, task_id: str) -> Iterator[nn.Parameter]:
        return parameters_of([self.gates[key(task_id)], self.heads[key(task_id)]])

    def make_parts(self, task: Task) -> nn.Module:
        first = _First(self.bottom, self.experts)
        head = self.maker.make(task, first)
        entering = passed(self.bottom, example_of(first, task))
        experts = passed(self.experts, entering) if self.gate_sees == "features" else None
        seen = looked_at(self.gate_sees, entering, experts).to(next(head.parameters()))
        self.gates[key(task.task_id)] = self._make_gate(
            seen, self.experts.count, self.maker.seed_for(task, "gate")
        ).train(self.training)
        return head


class _First(nn.Module):
    """The first expert as a trunk."""

    whole_inputs = True

    def __init__(self, bottom: Chain, experts: Experts) -> None:
        super().__init__()
        self.bottom, self.experts = bottom, experts

    def forward(self, batch: Tensor | MultiInput) -> Tensor:
        features: Tensor = self.experts(self.bottom(batch), [0])[0]
        return features


@component
class MixtureSharing(Sharing):
    """Builds mixtures: what such architectures have in common."""

    experts: int = option(4, ge=2, help="how many copies of the trunk the tasks share")
    gate_sees: GateInput = option(
        "inputs",
        help="what a gate looks at: inputs, every number that enters the experts (several inputs side by side); "
        "pooled, maps averaged over their places; features, the mean of what the experts give",
    )
    shared_stages: int = option(
        0, ge=0, help="so many first layers of the trunk are not copied: experts and gates begin after them"
    )
    hidden: int = option(0, ge=0, help="width of a ReLU layer in each head; 0 for none")

    @abstractmethod
    def gate(self, seen: Tensor, experts: int, seed: int) -> nn.Module:
        """A gate for a task: what it looks at [N, F] (an example is `seen`) in, weights of the experts [N, E] out."""

    def build(self, tasks: list[Task], trunk: nn.Module) -> MultiTaskModule:
        who = type(self).__name__
        if not tasks:
            raise DataError(f"{who}: no tasks to build gates and heads for")
        maker = HeadMaker(self.hidden, self.context.seed, who.lower())
        bottom, top = parts_of(trunk, divided(trunk, self.shared_stages, 1, who))
        example = example_of(trunk, tasks[0])
        entering = passed(bottom, example)
        check_gate_input(self.gate_sees, top, entering, who)
        experts = experts_of(top, self.experts, maker.seed_for("experts"), entering)
        module = Mixture(bottom, experts, self.gate_sees, self.gate, maker)
        for task in tasks:
            module.add_task(task)
        return module
