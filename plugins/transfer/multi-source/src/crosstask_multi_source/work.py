"""What multi-source methods share: sources by the graph, starts made of them, trainings on the target, what it cost."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from crosstask.components import Context, Job
from crosstask.errors import CrosstaskError, DataError
from crosstask.graph import TransferGraph
from crosstask.learning.fleets import Member, phases_of
from crosstask.learning.modules import load_matching
from crosstask.learning.objectives import chance
from crosstask.learning.own_models import arrays_of
from crosstask.learning.together import Kept, in_fleet, remembered
from crosstask.learning.training import evaluate
from crosstask.learning.transferring import (
    drawn,
    fresh_text,
    key_of,
    receive,
    same_classes,
    source_digest,
    without_model,
)
from crosstask.points.transfer import Transfer
from crosstask.records import Budget, Cost
from crosstask.tasks import Task
from crosstask_multi_source.joint import train_jointly
from crosstask_multi_source.networks import SideBySide, linear_head, size_of, width_of


@attrs.frozen(eq=False)
class Start:
    """A model that the target is learned from. `keep_head`: its head is one for the target's own classes. `spent`: what
    making it took beyond the sources' own models, by what was made.
    """

    model: nn.Module
    sources: tuple[str, ...]
    keep_head: bool = False
    spent: Mapping[str, Cost] = attrs.field(factory=dict)


@attrs.frozen(eq=False)
class Draw:
    """Samples of the target that a training learns from, and its seed."""

    task: Task
    seed: int


# Which sources --------------------------------------------------------------------------------------------------------


def choose_sources(
    sources: Sequence[Task], target: Task, graph: TransferGraph | None, most: int
) -> tuple[list[Task], list[str]]:
    """(at most so many sources, the best first; notes on what was left out, and why).

    By the graph's coefficients, measured or predicted. Left out are those that hurt (`TransferEdge.hurts`: the interval
    of the coefficient, or without one the coefficient, lies below zero), and controls: sources that learned nothing of
    their own task. Without a graph the sources were named by the user: they stand in the user's order, and none but
    those beyond `most` is left out.
    DataError if none is left.
    """
    notes: list[str] = []
    chosen = list(sources)
    if graph is not None:
        known = {edge.source: edge for edge in graph.edges_into(target.task_id)}
        hurting = [t.task_id for t in chosen if t.task_id in known and known[t.task_id].hurts]
        nothing = [t.task_id for t in chosen if t.task_id not in hurting and learned_nothing(t)]
        for what, left in (("they hurt", hurting), ("they learned nothing of their own task", nothing)):
            if left:
                notes.append(f"left out, for {what}: {', '.join(left)}")
        chosen = [t for t in chosen if t.task_id not in (*hurting, *nothing)]
        if chosen and not any(t.task_id in known for t in chosen):
            notes.append(f"the graph knows no source of {target.task_id}: they stand in the portfolio's order")
        chosen.sort(key=lambda t: -graph.coefficient(t.task_id, target.task_id))  # stable
    if not chosen:
        raise DataError(f"no source for {target.task_id!r}: {'; '.join(notes) or 'none was given'}")
    if len(chosen) < most:
        notes.append(f"of at most {most} sources there {'is' if len(chosen) == 1 else 'are'} {len(chosen)}")
    return chosen[:most], notes


def learned_nothing(source: Task) -> bool:
    """Whether a source's model is no better on held-out data of its own task than always saying what is most frequent:
    a control, whose labels have nothing to do with its inputs. Two standard errors of a share count as no better.
    """
    split = next((s for s in ("validation", "test") if source.has_data(s)), None)
    if split is None or source.model is None:
        return False
    level = chance(source, split)
    if level is None:
        return False
    error = (max(0.0, level * (1 - level)) / len(source.data(split))) ** 0.5
    try:
        return evaluate(source.model, source, split) <= level + 2 * error
    except CrosstaskError:  # a model for other classes than the task's: nothing is known
        return False


# Learning -------------------------------------------------------------------------------------------------------------


class Work:
    """One target learned from several sources, the best first: every start and every training is made once, kept in the
    store, and counted.
    """

    def __init__(
        self, context: Context, method: Transfer, sources: Sequence[Task], target: Task, train: Budget, budget: Budget
    ) -> None:
        self.context, self.method = context, method
        self.sources, self.target = list(sources), target
        self.train, self.budget = train, budget
        self.ranked = True
        """Whether the order of the sources was measured."""
        self._starts: dict[tuple[object, ...], Start] = {}
        self._learned: dict[tuple[int, int], nn.Module] = {}
        self._held: list[object] = []  # what ids stand for

    # Starts

    def single(self, source: Task) -> Start:
        """The source's own model."""
        return self._start(("single", source.task_id), lambda: self._single(source))

    def _single(self, source: Task) -> Start:
        assert source.model is not None
        keep = same_classes(source.descriptor, self.target.descriptor)
        return Start(source.model, (source.task_id,), keep)

    def joint(self, sources: Sequence[Task]) -> Start:
        """A trunk trained on these sources at once; of one source it is that source's own model."""
        if len(sources) == 1:
            return self.single(sources[0])
        return self._start(("joint", *(s.task_id for s in sources)), lambda: self._joint(sources))

    def _joint(self, sources: Sequence[Task]) -> Start:
        without = [s.task_id for s in sources if not s.has_data("train")]
        if without:
            raise DataError(f"no joint training of {', '.join(without)}: there are no training data")
        like = [n for n, s in enumerate(sources) if same_classes(s.descriptor, self.target.descriptor)][:1]
        order = [sources[n] for n in (*like, *(n for n in range(len(sources)) if n not in like))]  # its head stays on
        model, names = sources[0].model, tuple(s.task_id for s in sources)
        assert model is not None
        seed = self.context.seed_for("joint", *sorted(names))
        prints = [s.fingerprint() for s in order]
        key = key_of("joint", fresh_text(model), prints, self.train, seed)
        known = self.context.recall("models", key)
        receiver, _, _ = receive(model, order[0], seed, keep_head=False)
        if known is None:
            job = Job(_joint_job, (model, [without_model(s, ("train",)) for s in order], self.train, seed))
            ((_, arrays),) = self.context.jobs([job])
            tensors: Mapping[str, Tensor] = {name: torch.from_numpy(array) for name, array in arrays.items()}
            self.context.remember("models", key, {"what": "joint", "sources": names, "seed": seed}, dict(tensors))
        else:
            tensors = known.tensors
        load_matching(receiver, dict(tensors))
        sizes = [len(s.data("train").head(self.train.samples)) for s in order]
        batch = min(sum(sizes), self.train.batch_size * len(order)) * self.train.accumulate
        spent = Cost(steps=self.train.steps, samples=self.train.steps * batch)
        return Start(receiver.eval(), names, bool(like), {key: spent})

    def side_by_side(self, starts: Sequence[Start], scaled: bool) -> Start:
        """The trunks of these starts beside one another; of one start itself. `scaled`: each block of features is
        brought to the size that the first one's has on the target's training data, divided by the number of blocks: a
        step of Adam then changes the logits as much as it would over the first block alone.

        A start whose head is for the target's classes brings it along: over its own features it stays as it is, and of
        several such heads the mean is taken.
        """
        if len(starts) == 1:
            return starts[0]
        return self._start(("beside", scaled, *map(id, starts)), lambda: self._beside(starts, scaled))

    def _beside(self, starts: Sequence[Start], scaled: bool) -> Start:
        self._held.append(starts)
        inputs = self.target.data("train").inputs
        widths = [width_of(start.model, inputs) for start in starts]
        sizes = [size_of(start.model, inputs[:1024]) for start in starts] if scaled else [1.0] * len(starts)
        scales = [sizes[0] / size / len(sizes) for size in sizes] if scaled else sizes
        outputs = self.target.descriptor.output_dim
        assert outputs is not None  # who measures has looked
        made = SideBySide([start.model for start in starts], widths, outputs, scales)
        heads = {n: linear_head(start.model) for n, start in enumerate(starts) if start.keep_head}
        kept = {n: head for n, head in heads.items() if head is not None and head.out_features == outputs}
        if kept:
            with torch.no_grad():
                made.head.weight.zero_()
                made.head.bias.zero_()
                ends = [sum(widths[: n + 1]) for n in range(len(widths))]
                for n, head in kept.items():
                    block = head.weight.to(made.head.weight) / scales[n] / len(kept)
                    made.head.weight[:, ends[n] - widths[n] : ends[n]] = block
                    if head.bias is not None:
                        made.head.bias.add_(head.bias.to(made.head.bias) / len(kept))
        names = tuple(dict.fromkeys(name for start in starts for name in start.sources))
        return Start(made.eval(), names, bool(kept), {k: c for start in starts for k, c in start.spent.items()})

    def _start(self, key: tuple[object, ...], make: Callable[[], Start]) -> Start:
        if key not in self._starts:
            self._starts[key] = make()
        return self._starts[key]

    # Trainings

    def draws(self, seeds: Sequence[int]) -> list[Draw]:
        """What each seed learns from: its own draw of the target's samples."""
        return [self._draw(drawn(self.target, self.budget.samples, seed), seed) for seed in seeds]

    def _draw(self, task: Task, seed: int) -> Draw:
        made = Draw(task, seed)
        self._held.append(made)
        return made

    def parts(self, draw: Draw, folds: int) -> list[Draw]:
        """A draw in as many parts: of each its samples without one part, which is its validation data. Parts are
        stratified by class.
        """
        data = draw.task.data("train")
        generator = torch.Generator().manual_seed(draw.seed)
        order = torch.randperm(len(data), generator=generator)
        if draw.task.descriptor.task_type == "classification" and data.targets.ndim == 1:
            order = order[torch.argsort(data.targets[order.to(data.targets.device)].cpu(), stable=True)]
        folds = min(folds, len(data))
        made = []
        for number in range(folds):
            out = order[number::folds].sort().values
            rest = torch.ones(len(data), dtype=torch.bool)
            rest[out] = False
            task = draw.task.over(train=data.take(rest.nonzero()[:, 0]), validation=data.take(out))
            made.append(self._draw(task, draw.seed))
        return made

    def learn(self, starts: Sequence[Start], draws: Sequence[Draw]) -> list[list[nn.Module]]:
        """What is learned from each start on each draw [draw][start] with the budget, in fleets where that is right."""
        wanted = [(start, draw) for draw in draws for start in starts if (id(start), id(draw)) not in self._learned]
        wanted = list({(id(s), id(d)): (s, d) for s, d in wanted}.values())
        self._held.extend(start for start, _ in wanted)
        digests = {number: source_digest(start.model) for number, start in {id(s): s for s, _ in wanted}.items()}
        keys = [
            key_of(
                "learned", self.method.identity(), digests[id(start)], start.keep_head, draw.task.fingerprint(),
                self.budget, draw.seed, *self.context.wrapping(),
            )
            for start, draw in wanted
        ]  # fmt: skip
        quiet = self.budget
        if quiet.patience is None:  # nobody reads the curves
            quiet = attrs.evolve(quiet, evaluate_every=quiet.steps)
        phases = phases_of(self.method, self.budget) or ()

        def planned(numbers: Sequence[int]) -> list[Member]:
            own = [wanted[number] for number in numbers]
            return [Member(start.model, draw.task, quiet, phases, draw.seed) for start, draw in own]

        def job(numbers: Sequence[int], together: bool) -> Job:
            given = [_plain(*wanted[number]) for number in numbers]
            args = (self.method, given, quiet, self.target.task_id)
            return Job(_learn_together if together else _learn_alone, args, label=self.target.task_id)

        for number, found in remembered(self.context, "models", keys, planned, job):
            self._take(*wanted[number], found.tensors)
        return [[self._learned[id(start), id(draw)] for start in starts] for draw in draws]

    def _take(self, start: Start, draw: Draw, tensors: Mapping[str, Tensor]) -> None:
        model, _, _ = receive(start.model, draw.task, draw.seed, start.keep_head)
        load_matching(model, dict(tensors))
        self._learned[id(start), id(draw)] = model.eval()

    def cost(self, starts: Iterable[Start], trainings: int = 1, more: Cost | None = None) -> Cost:
        """What learning the target from each of these starts takes, so many times each, with what making them took, and
        what came on top.
        """
        once = list({id(start): start for start in starts}.values())
        making = {key: cost for start in once for key, cost in start.spent.items()}
        return total([self.learning(trainings * len(once)), *making.values(), more or Cost()])

    def learning(self, trainings: int) -> Cost:
        """What so many trainings on the target take."""
        count, steps = len(self.target.data("train").head(self.budget.samples)), trainings * self.budget.steps
        return Cost(steps=steps, samples=steps * min(self.budget.batch_size, count) * self.budget.accumulate)


def total(costs: Iterable[Cost]) -> Cost:
    """All of them together; `parameters` are those of the largest."""
    found = list(costs)
    return Cost(
        steps=sum(c.steps for c in found),
        samples=sum(c.samples for c in found),
        parameters=max((c.parameters for c in found), default=0),
    )


@attrs.frozen(eq=False)
class _Given:
    """A start and a draw, as a job needs them."""

    model: nn.Module
    keep_head: bool
    sources: tuple[str, ...]
    task: Task
    seed: int

    def receiver(self) -> nn.Module:
        return receive(self.model, self.task, self.seed, self.keep_head)[0]

    def made(self, target: str) -> dict[str, Any]:
        return {"what": "learned", "target": target, "sources": self.sources, "seed": self.seed}


def _plain(start: Start, draw: Draw) -> _Given:
    task = without_model(draw.task, ("train", "validation"))
    return _Given(start.model, start.keep_head, start.sources, task, draw.seed)


def _joint_job(model: nn.Module, tasks: list[Task], train: Budget, seed: int) -> dict[str, Any]:
    return arrays_of(train_jointly(model, tasks, train, seed))


def _learn_together(method: Transfer, given: list[_Given], budget: Budget, target: str) -> list[Kept | None]:
    """Models learned from starts in a fleet, as a job."""
    phases = phases_of(method, budget) or ()

    def member(number: int) -> Member:
        each = given[number]
        return Member(each.receiver(), each.task, budget, phases, each.seed)

    learned = in_fleet(len(given), member, lambda one, _: arrays_of(one.model))
    return [
        None if arrays is None else (each.made(target), arrays) for each, arrays in zip(given, learned, strict=True)
    ]


def _learn_alone(method: Transfer, given: list[_Given], budget: Budget, target: str) -> list[Kept]:
    """Models learned from starts one by one, as a job."""
    found: list[Kept] = []
    for each in given:
        learner = each.receiver()
        method.learn(learner, each.model, each.task, budget, torch.Generator().manual_seed(each.seed))
        found.append((each.made(target), arrays_of(learner)))
    return found
