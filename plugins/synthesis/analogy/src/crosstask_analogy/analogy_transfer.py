"""The `analogy_transfer` synthesizer."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from crosstask.descriptors import MultiInput, TaskDescriptor
from crosstask.errors import DataError
from crosstask.graph import TransferGraph
from crosstask.learning.architecture import architecture
from crosstask.learning.fleets import Member, Phase, Trained
from crosstask.learning.modules import head_keys, load_matching
from crosstask.learning.together import every
from crosstask.learning.training import evaluate, fit
from crosstask.learning.transferring import receive
from crosstask.options import component, option
from crosstask.points.synthesis import Synthesizer
from crosstask.records import Budget, Interval, Provenance
from crosstask.tasks import Task
from crosstask_analogy.embedding import Analogy, best_analogies
from crosstask_synthesis.batchnorm import has_statistics, is_statistic, reestimate
from crosstask_synthesis.expectation import Make, expected_score
from crosstask_synthesis.outputs import answering, baseline, outputs_wanted
from crosstask_synthesis.owners import strange_inputs, unfit

Inputs = Tensor | MultiInput
State = Mapping[str, Tensor]


@component
class AnalogyTransfer(Synthesizer):
    """A is to B as C is to the new task: the trunk's weights are C + strength (B - A) (Ilharco et al. 2023, section 5).

    The analogy is found among the sources of one architecture by where tasks lie in the space of `embed` (descriptors
    and transfer graph, or learned embeddings). B or C must have the new task's classes: the head is its own, and where
    all three have the same classes C + strength (B - A) like the trunk.

    Differences of weights mean something only between models fine-tuned from one model. Whether A, B and C are is
    measured: the mean of their trunks must keep `basin` of their accuracy above chance on their validation data. If it
    does not (models trained each for itself), B and C are fine-tuned anew from A, on their own training data, for
    `refit` steps; DataError if that is turned off or they have no data. The new task's labels are never needed.

    The confidence is by how much the analogy is nearer to the new task than the nearest single source, 0 to 1.
    """

    strength: float = option(1.0, help="factor of B - A")
    analogy: tuple[str, ...] | None = option(None, help="the tasks A, B and C (default: they are found)")
    basin: float = option(0.5, ge=0, le=1, help="share of their accuracy that the mean of their trunks must keep")
    refit: int = option(300, ge=0, help="steps of fine-tuning B and C from A if they share no basin (0: refuse)")
    learning_rate: float = option(1e-3, gt=0, help="step size of that fine-tuning")

    def synthesize(
        self, new_task: TaskDescriptor, sources: list[Task], graph: TransferGraph, inputs: Inputs | None
    ) -> nn.Module:
        strange_inputs(new_task, inputs)
        able, notes = self._able(new_task, sources, inputs)
        found, owner = self._found(new_task, able, graph)
        a, b, c = (able[name] for name in (found.a, found.b, found.c))
        kept = kept_by_mean([a, b, c])
        models = {t.task_id: t.model for t in (a, b, c)}
        if kept is not None and kept < self.basin:
            notes.insert(0, f"A, B and C share no basin (their mean keeps {kept:.0%}): B and C were fine-tuned from A")
            models |= self._refitted(a, (b, c), kept)
        weights = {name: m.state_dict() for name, m in models.items() if m is not None}
        assert owner.model is not None
        model = copy.deepcopy(models[owner.task_id] or owner.model)
        same = a.descriptor.classes == b.descriptor.classes == c.descriptor.classes
        one, two, three = (weights[t.task_id] for t in (a, b, c))
        load_matching(model, _moved(one, two, three, self.strength, same, head_keys(model)))
        if has_statistics(model) and inputs is not None:
            reestimate(model, inputs)
        model = answering(model, owner.descriptor, new_task).eval()
        nearer = 1 - (found.distance / found.nearest) ** 2 if found.nearest else 0.0
        if nearer <= 0:
            notes.insert(0, "no analogy lies nearer to the new task than a single source does: expect little")
        model.provenance = Provenance(  # type: ignore[assignment]
            strategy="analogy_transfer",
            new_task=new_task.task_id,
            sources={c.task_id: 1.0, b.task_id: self.strength, a.task_id: -self.strength},
            notes=(f"{a.task_id} is to {b.task_id} as {c.task_id} is to {new_task.task_id}", *notes),
            confidence=max(0.0, min(1.0, nearer)),
        )
        return model

    def expect(
        self, make: Make, model: nn.Module, new_task: TaskDescriptor, sources: list[Task], graph: TransferGraph,
        inputs: Inputs | None,
    ) -> tuple[Interval | None, str]:  # fmt: skip
        return expected_score(make, model, new_task, sources, graph, inputs)

    def _able(
        self, new_task: TaskDescriptor, sources: list[Task], inputs: Inputs | None
    ) -> tuple[dict[str, Task], list[str]]:
        """(tasks of the architecture that most share, why the others are left out)."""
        why = {t.task_id: reason for t in sources if (reason := unfit(new_task, t, inputs))}
        rest = [t for t in sources if t.task_id not in why]
        kinds = [architecture(t.model) for t in rest if t.model is not None]
        common = max(kinds, key=kinds.count) if kinds else ""
        why |= {t.task_id: "has another architecture" for t, k in zip(rest, kinds, strict=True) if k != common}
        able = {t.task_id: t for t in rest if t.task_id not in why}
        notes = [f"{name} left out: {reason}" for name, reason in sorted(why.items())]
        if len(able) < 3:
            told = f" ({'; '.join(notes)})" if notes else ""
            raise DataError(
                f"task {new_task.task_id!r}: an analogy needs three models of one architecture, got {len(able)}{told}"
            )
        return able, notes

    def _found(self, new_task: TaskDescriptor, able: dict[str, Task], graph: TransferGraph) -> tuple[Analogy, Task]:
        """(the analogy, the task whose head is used)."""
        if self.analogy is not None:
            if len(self.analogy) != 3 or not set(self.analogy) <= set(able):
                raise DataError(
                    f"{self.origin}: analogy must name three of {', '.join(able)}, got {list(self.analogy)}"
                )
            candidates = [Analogy(*self.analogy, distance=0.0, nearest=0.0)]
        else:
            candidates = best_analogies(new_task, [t.descriptor for t in able.values()], graph, count=10**6)
        for candidate in candidates:
            for name in (candidate.c, candidate.b):
                its = able[name].descriptor
                has_classes = set(new_task.classes) <= set(its.classes)
                if has_classes if new_task.classes else outputs_wanted(its) == outputs_wanted(new_task):
                    return candidate, able[name]
        wanted = ", ".join(new_task.classes[:8]) if new_task.classes else f"{new_task.output_dim} outputs"
        raise DataError(f"task {new_task.task_id!r}: no model has all of its outputs ({wanted}) to take the head from")

    def _refitted(self, base: Task, tasks: Sequence[Task], kept: float) -> dict[str, nn.Module]:
        """The tasks' models by name, fine-tuned anew from the base's, together where that is right."""
        for task in tasks:
            if not self.refit or not task.has_data("train"):
                raise DataError(
                    f"the models of {base.task_id!r} and {task.task_id!r} share no basin (the mean of the trunks keeps "
                    f"{kept:.0%} of the accuracy): fine-tune them from one model"
                    + ("" if task.has_data("train") else f"; {task.task_id!r} has no training data to do it here")
                )
        budget = Budget(steps=self.refit, learning_rate=self.learning_rate)

        def member(number: int) -> Member:
            task = tasks[number]
            assert base.model is not None
            seed = self.context.seed_for("analogy", base.task_id, task.task_id)
            model, _, _ = receive(base.model, task, seed, base.descriptor.classes == task.descriptor.classes)
            return Member(model, task, budget, (Phase(self.refit),), seed)

        def alone(number: int) -> nn.Module:
            one = members[number] = member(number)
            fit(one.model, one.task, budget, torch.Generator().manual_seed(one.seed), curve_split=None)
            return one.model

        def found(one: Member, _: Trained) -> nn.Module:
            return one.model

        members = [member(number) for number in range(len(tasks))]
        made = dict(every(members, members.__getitem__, alone, found))
        return {task.task_id: made[number] for number, task in enumerate(tasks)}


def _moved(a: State, b: State, c: State, strength: float, heads: bool, head: frozenset[str]) -> dict[str, Tensor]:
    """C + strength (B - A) for every learned tensor that all three have in one shape; the mean of their statistics.
    Those of the head, by name, only with `heads`.
    """
    made = {}
    for name, start in c.items():
        if (not heads and name in head) or not start.is_floating_point():
            continue
        if any(name not in other or other[name].shape != start.shape for other in (a, b)):
            continue
        moved = (a[name] + b[name] + start) / 3 if is_statistic(name) else start + strength * (b[name] - a[name])
        made[name] = moved
    return made


def kept_by_mean(tasks: list[Task]) -> float | None:
    """The share of the tasks' score above chance (`baseline`) that is left when each one's trunk is replaced by the
    mean of all trunks. None if no task has validation data.
    """
    states = [t.model.state_dict() for t in tasks if t.model is not None]
    shares = []
    for task in tasks:
        if not task.has_data("validation") or task.model is None:
            continue
        mixed = copy.deepcopy(task.model)
        head = head_keys(mixed)
        names = [n for n, v in states[0].items() if v.is_floating_point() and n not in head]
        load_matching(mixed, {n: torch.stack([s[n] for s in states]).mean(0) for n in names})
        if has_statistics(mixed):
            reestimate(mixed, task.data("validation").inputs)
        chance = baseline(task)
        if chance is None:
            continue
        own = evaluate(task.model, task, "validation") - chance
        if own > 0:
            shares.append((evaluate(mixed, task, "validation") - chance) / own)
    return max(0.0, sum(shares) / len(shares)) if shares else None
