"""Progressive layered extraction, and customized gate control."""

from __future__ import annotations

from torch import nn

from crosstask.errors import DataError
from crosstask.options import component, option
from crosstask.tasks import Task
from crosstask_multitask.experts import GateInput, check_gate_input, divided, example_of, parts_of, passed
from crosstask_multitask.headed import HeadMaker
from crosstask_multitask.sharing import MultiTaskModule, Sharing
from crosstask_ple.extraction import Extraction, Source


@component
class CGC(Sharing):
    """Customized gate control: experts that all tasks share and experts of each task alone, copies of the trunk, and
    for each task a gate over its own and the shared ones (Tang et al. 2020, equations 1 to 4).

    y^k(x) = t^k(g^k(x)), g^k(x) = w^k(x) S^k(x), w^k(x) = softmax(W_g^k x), and S^k(x) what the task's and the
    shared experts give. Gates have biases. The first shared expert is the given trunk, the others are drawn anew from
    the seed. DataError for a task without output_dim, a trunk that has too few layers, gates that would look at ids.
    """

    shared_experts: int = option(2, ge=1, help="copies of the trunk that all tasks share, in each level")
    task_experts: int = option(1, ge=1, help="copies of the trunk that each task has of its own, in each level")
    gate_sees: GateInput = option(
        "inputs",
        help="what a gate looks at: inputs, every number that enters the experts (several inputs side by side); "
        "pooled, maps averaged over their places; features, the mean of what the shared experts give",
    )
    shared_stages: int = option(
        0, ge=0, help="so many first layers of the trunk are not copied: experts and gates begin after them"
    )
    hidden: int = option(0, ge=0, help="width of a ReLU layer in each head; 0 for none")

    def build(self, tasks: list[Task], trunk: nn.Module) -> MultiTaskModule:
        who = type(self).__name__
        if not tasks:
            raise DataError(f"{who}: no tasks to build experts and heads for")
        bottom, *parts = parts_of(trunk, divided(trunk, self.shared_stages, self._levels(), who))
        entering, sources = passed(bottom, example_of(trunk, tasks[0])), []
        check_gate_input(self.gate_sees, parts[0], entering, who)
        for part in parts:
            sources.append(Source(part, entering))
            entering = passed(part, entering)
        maker = HeadMaker(self.hidden, self.context.seed, who.lower())
        module = Extraction(bottom, sources, (self.shared_experts, self.task_experts), self.gate_sees, maker)
        for task in tasks:
            module.add_task(task)
        module.close()
        return module

    def _levels(self) -> int:
        return 1


@component
class PLE(CGC):
    """Progressive layered extraction: CGC in several levels, each on some of the trunk's layers (Tang et al. 2020,
    section 4.3, equations 5 and 6).

    In level j a task's gate weighs its own and the shared experts by what the task's gate gave in level j - 1:
    g^{k,j}(x) = w^{k,j}(g^{k,j-1}(x)) S^{k,j}(x), y^k(x) = t^k(g^{k,N}(x)). A gate of the shared part weighs the
    experts of all tasks and the shared ones, and gives what the shared experts of the next level take; the last level
    has none. A task that is added later has experts and gates of its own, which the shared part does not look at: so
    the others' answers stay as they are.
    """

    levels: int = option(2, ge=1, help="the trunk's layers are cut in so many levels; 1 is CGC")

    def _levels(self) -> int:
        return self.levels
