"""The base of every merging method: what it is given, the walk through the tensors, and its use as a synthesizer."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import attrs
import torch
from torch import Tensor, nn

from crosstask.descriptors import MultiInput, TaskDescriptor
from crosstask.errors import DataError
from crosstask.graph import TransferGraph
from crosstask.learning.inputs import joined, kind_of
from crosstask.learning.modules import copy_of, quantised
from crosstask.learning.objectives import loss_of
from crosstask.learning.training import evaluate, predict
from crosstask.options import component, option
from crosstask.points.synthesis import Synthesizer
from crosstask.records import Interval, Provenance
from crosstask.tasks import Task
from crosstask_merging.weights import InMemory, Weights, check_alike, is_extra, load
from crosstask_synthesis.batchnorm import has_statistics, is_statistic, reestimate
from crosstask_synthesis.expectation import Make, expected_score
from crosstask_synthesis.outputs import answering, baseline, outputs_wanted, two_sided
from crosstask_synthesis.owners import strange_inputs, unfit

Inputs = Tensor | MultiInput
Score = Callable[[Mapping[str, Tensor]], float]
"""How good a model with these tensors is; higher is better."""


@attrs.define
class Ingredients:
    """What is merged: models with their weights (which sum to one), and what a method may need besides."""

    models: Sequence[Weights]
    weights: Sequence[float]
    base: Weights | None = None
    grams: Sequence[Weights] | None = None
    fishers: Sequence[Weights] | None = None
    score: Score | None = None
    _agreed: dict[str, Tensor | None] = attrs.field(factory=dict, init=False, repr=False)

    def tensors(self, name: str) -> Iterator[Tensor]:
        """A tensor of each model in turn, in at least single precision; only one of them need be in memory.

        Complex numbers are pairs of real ones, [..., 2]. What is not finite in all of them (the -inf of a mask) is 0:
        no method has to do with it, and `typed` puts it back.
        """
        for model in self.models:
            yield self._finite(model, name)

    def _finite(self, model: Weights, name: str) -> Tensor:
        tensor, agreed = exact(model.get(name)), self.agreed(name)
        return tensor if agreed is None else tensor.masked_fill(agreed, 0)

    def agreed(self, name: str) -> Tensor | None:
        """Where a tensor is not finite, the same in all models and the base; None if it is finite everywhere.

        DataError if they differ in that.
        """
        if name not in self._agreed:
            everyone = [*self.models, *([] if self.base is None else [self.base])]
            first = exact(everyone[0].get(name))
            odd = None if _all_finite(first) else ~torch.isfinite(first)
            for other in everyone[1:]:
                tensor = exact(other.get(name))
                if odd is None:
                    same = _all_finite(tensor)
                else:
                    alike = (tensor == first) | (tensor.isnan() & first.isnan())
                    same = torch.equal(~torch.isfinite(tensor), odd) and bool(alike[odd].all())
                if not same:
                    raise DataError(
                        f"these models cannot be merged: {name!r} is not finite everywhere, and not in the same way in "
                        f"{everyone[0].name} and {other.name}"
                    )
            self._agreed[name] = odd
        return self._agreed[name]

    def typed(self, name: str, merged: Tensor) -> Tensor:
        """A merged tensor as the models have it: of their type, with what all of them hold that is not finite."""
        kind, agreed = self.models[0].index[name].dtype, self.agreed(name)
        if agreed is not None:
            merged = torch.where(agreed, exact(self.models[0].get(name)), merged)
        return (torch.view_as_complex(merged.contiguous()) if kind.is_complex else merged).to(kind)

    def mean(self, name: str) -> Tensor:
        return linear(self.tensors(name), self.weights)

    def start(self, name: str) -> Tensor:
        """The base's tensor: the base model's, or the mean of the models."""
        return self.mean(name) if self.base is None else self._finite(self.base, name).clone()

    def vectors(self, name: str) -> Iterator[Tensor]:
        """The task vectors' part, model by model: what training changed."""
        start = self.start(name)
        for tensor in self.tensors(name):
            yield tensor - start

    def learned(self) -> list[str]:
        """Names of the tensors that were trained: no integers, no statistics."""
        return [n for n in self.models[0].index if self.continuous(n) and not is_statistic(n)]

    def continuous(self, name: str) -> bool:
        """Whether a tensor can be averaged: real or complex numbers, and no extra state."""
        kind = self.models[0].index[name].dtype
        return (kind.is_floating_point or kind.is_complex) and not is_extra(name)


def exact(tensor: Tensor) -> Tensor:
    """In at least single precision; complex numbers as pairs of real ones, [..., 2]."""
    if tensor.is_complex():
        wide = tensor if tensor.dtype in (torch.complex64, torch.complex128) else tensor.to(torch.complex64)
        return torch.view_as_real(wide.resolve_conj())
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()


def _all_finite(tensor: Tensor) -> bool:
    """The sum is not finite if an entry is not, and is quicker to look at."""
    return bool(torch.isfinite(tensor.sum())) or bool(torch.isfinite(tensor).all())


def linear(tensors: Iterator[Tensor], weights: Sequence[float]) -> Tensor:
    """Σ weight * tensor, one tensor at a time."""
    total: Tensor | None = None
    for tensor, weight in zip(tensors, weights, strict=True):
        total = tensor * weight if total is None else total.add_(tensor, alpha=weight)
    assert total is not None
    return total


@component
class Merger(Synthesizer):
    """Base of the merging methods. A method says what one merged tensor is; everything else is here.

    As a synthesizer it merges the sources that have all classes of the new task (with other classes' outputs left off
    afterwards) or, for regression, as many outputs. If these differ in their label spaces the largest group that
    agrees is taken; the others are named in the provenance's notes. DataError, with the list of what differs, if fewer
    than two are left or their tensors differ.

    Merging makes sense for models that were fine-tuned from one model: those that were trained apart lie in different
    basins, and between them is nothing. Whether they share one is measured: the share of the members' accuracy above
    chance that the merged model keeps on their validation data, or without those how often it agrees with them on
    the unlabelled inputs. It is the provenance's confidence, and below `basin` a note says so.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    """Which optional ingredients it cannot do without: base, grams, fishers, score."""

    base: str = option("mean", help="task vectors start at this task's model, or at the mean of the merged ones")
    tasks: tuple[str, ...] | None = option(None, help="merge the models of these tasks only")
    minimum: float = option(0.0, ge=-1, lt=1, help="leave out models with a transfer coefficient up to this")
    basin: float = option(0.5, ge=0, le=1, help="share of the members' accuracy that a good merge keeps")
    strict: bool = option(False, help="refuse, instead of noting, a merge that keeps less than that")

    @abstractmethod
    def tensor(self, name: str, given: Ingredients, prepared: Any) -> Tensor:
        """The merged tensor `name`, of the shape that `given.tensors(name)` has."""

    def prepare(self, given: Ingredients) -> Any:
        """What must be known of whole models before the first tensor; by default nothing."""
        return None

    def merged(self, given: Ingredients, order: Sequence[str] | None = None) -> Iterator[tuple[str, Tensor]]:
        """Every merged tensor in turn, of the models' types. Statistics are averaged; counts are the first's. Other
        whole numbers, and what is not finite (the -inf of a mask), must be the same in all.

        DataError with the list of what differs, or if something that the method needs is missing.
        """
        check_alike(given.models, given.base)
        for what in sorted(self.needs):
            if getattr(given, what) is None:
                raise DataError(f"{self.origin} needs {_NEEDED[what]}")
        prepared = self.prepare(given)
        return self._walk(given, prepared, order or list(given.models[0].index))

    def _walk(self, given: Ingredients, prepared: Any, order: Sequence[str]) -> Iterator[tuple[str, Tensor]]:
        learned = set(given.learned())
        for name in order:
            if name in learned:
                yield name, given.typed(name, self.tensor(name, given, prepared))
            elif given.continuous(name):
                yield name, given.typed(name, given.mean(name))
            else:
                yield name, given.models[0].get(name)

    def synthesize(
        self, new_task: TaskDescriptor, sources: list[Task], graph: TransferGraph, inputs: Inputs | None
    ) -> nn.Module:
        strange_inputs(new_task, inputs)
        chosen, notes = self._chosen(new_task, sources, graph, inputs)
        models = [t.model for t in chosen if t.model is not None]
        given = Ingredients(
            [InMemory(m, t.task_id) for t, m in zip(chosen, models, strict=True)], [1 / len(chosen)] * len(chosen)
        )
        if self.base != "mean":
            given.base = InMemory(self._base_model(sources), self.base)
        check_alike(given.models, given.base)
        self._add_data(given, chosen, inputs)
        model = copy_of(models[0])
        load(model, dict(self.merged(given)))
        notes += self._remarks(given)
        if has_statistics(model) and (seen := self._seen(chosen, inputs)) is not None:
            reestimate(model, seen)
            notes.append(f"BatchNorm statistics re-estimated on {len(seen)} inputs")
        kept = kept_share(model, chosen, inputs)
        if kept is not None and kept < self.basin:
            told = (
                f"the merged model keeps {kept:.0%} of what its members reach: they do not share a basin; merge models "
                "that were fine-tuned from one model"
            )
            if self.strict:
                raise DataError(f"task {new_task.task_id!r}: {told}")
            notes.insert(0, told)
        model = answering(model, chosen[0].descriptor, new_task).eval()
        model.provenance = Provenance(  # type: ignore[assignment]
            strategy=type(self).__module__.rpartition(".")[2],
            new_task=new_task.task_id,
            sources=dict(zip([t.task_id for t in chosen], given.weights, strict=True)),
            notes=tuple(notes),
            confidence=kept,
        )
        return model

    def expect(
        self, make: Make, model: nn.Module, new_task: TaskDescriptor, sources: list[Task], graph: TransferGraph,
        inputs: Inputs | None,
    ) -> tuple[Interval | None, str]:  # fmt: skip
        return expected_score(make, model, new_task, sources, graph, inputs)

    def _chosen(
        self, new_task: TaskDescriptor, sources: list[Task], graph: TransferGraph, inputs: Inputs | None
    ) -> tuple[list[Task], list[str]]:
        """(tasks to merge, why the others are not)."""
        why = {t.task_id: self._unfit(new_task, t, graph, inputs) for t in sources}
        fitting = [t for t in sources if why[t.task_id] is None]
        groups: dict[tuple[tuple[str, ...], int | None], list[Task]] = {}
        for task in fitting:
            groups.setdefault((task.descriptor.classes, task.descriptor.output_dim), []).append(task)
        best = max(groups.values(), key=lambda g: (len(g), g[0].descriptor.classes == new_task.classes), default=[])
        for task in fitting:
            if task not in best:
                why[task.task_id] = f"has another label space, {_shown(task.descriptor)}"
        notes = [f"{t} left out: {reason}" for t, reason in sorted(why.items()) if reason]
        if len(best) < 2:
            rest = f": {'; '.join(notes)}" if notes else ""
            raise DataError(
                f"task {new_task.task_id!r}: merging needs two models with its {_shown(new_task)}, "
                f"{'only ' + best[0].task_id if best else 'no source'} fits{rest}"
            )
        return best, notes

    def _unfit(self, new_task: TaskDescriptor, source: Task, graph: TransferGraph, inputs: Inputs | None) -> str | None:
        its = source.descriptor
        ends = its.task_id, new_task.task_id
        edge = graph.edge(*ends) if all(end in graph for end in ends) else None
        if self.tasks is not None and its.task_id not in self.tasks:
            return "is not among the tasks to merge"
        if why := unfit(new_task, source, inputs):
            return why
        if source.model is not None and (why := quantised(source.model)):
            return f"cannot be merged: {why}"
        if new_task.classes and (missing := [c for c in new_task.classes if c not in its.classes]):
            return f"does not know {', '.join(map(repr, missing[:3]))}{' …' if len(missing) > 3 else ''}"
        if not new_task.classes and outputs_wanted(its) != outputs_wanted(new_task):
            return f"has {its.output_dim} outputs"
        if edge is not None and edge.transfer_coefficient <= self.minimum and self.tasks is None:
            return f"is not expected to help ({edge.transfer_coefficient:+.2f})"
        return None

    def _base_model(self, sources: list[Task]) -> nn.Module:
        found = next((t.model for t in sources if t.task_id == self.base), None)
        if found is None:
            known = ", ".join(t.task_id for t in sources if t.model is not None)
            raise DataError(f"{self.origin}: base {self.base!r} is no task with a trained model; these are: {known}")
        return found

    def _add_data(self, given: Ingredients, chosen: list[Task], inputs: Inputs | None) -> None:
        """Give the ingredients what this method needs from data."""
        if "score" in self.needs:
            given.score = self._score(chosen)

    def _remarks(self, given: Ingredients) -> list[str]:
        """What of these models the method has not done its way: notes."""
        return []

    def _score(self, chosen: list[Task]) -> Score | None:
        """Minus the mean loss over the members' validation data."""
        judged = [t for t in chosen if t.has_data("validation")]
        if not judged:
            return None
        assert judged[0].model is not None
        probe = copy_of(judged[0].model)

        def score(state: Mapping[str, Tensor]) -> float:
            load(probe, state)
            return -sum(held_out_loss(probe, t) for t in judged) / len(judged)

        return score

    def _seen(self, chosen: list[Task], inputs: Inputs | None) -> Inputs | None:
        """Inputs that the merged model will work on: those given, else the members' own."""
        if inputs is not None:
            return inputs
        known = [t.data("train").inputs for t in chosen if t.has_data("train")]
        return joined([each for each in known if kind_of(each) == kind_of(known[0])]) if known else None


_NEEDED = {
    "base": "a base model",
    "grams": "inputs for each model (its training data, or unlabelled ones), or stored Gram matrices",
    "fishers": "inputs for each model (its training data, or unlabelled ones), or stored Fisher information",
    "score": "held-out data: no source has validation data to judge a merge on",
}


def held_out_loss(model: nn.Module, task: Task) -> float:
    data = task.data("validation")
    return float(loss_of(task)(predict(model, data.inputs), data.targets))


def kept_share(model: nn.Module, members: Sequence[Task], inputs: Inputs | None) -> float | None:
    """The share of its members' score above chance (`baseline`) that a merged model keeps on their validation data, in
    [0, 1]; without those, how often it gives the same class as they do on the inputs. None if there is neither.
    """
    found = []
    for task in members:
        assert task.model is not None
        if task.has_data("validation"):
            chance = baseline(task)
            own = 0.0 if chance is None else evaluate(task.model, task, "validation") - chance
            if chance is not None and own > 0:
                found.append((evaluate(model, task, "validation") - chance) / own)
        elif inputs is not None and task.descriptor.task_type == "classification":
            chance = 1 / max(2, outputs_wanted(task.descriptor))
            one, other = (two_sided(predict(each, inputs)).argmax(1) for each in (model, task.model))
            same = (one == other).double().mean()
            found.append((float(same) - chance) / (1 - chance))
    return max(0.0, min(1.0, sum(found) / len(found))) if found else None


def _shown(task: TaskDescriptor) -> str:
    if not task.classes:
        return f"{task.output_dim} outputs"
    names = ", ".join(task.classes[:10])
    return f"classes ({names}{', …' if len(task.classes) > 10 else ''})"
