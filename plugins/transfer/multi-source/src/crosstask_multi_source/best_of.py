"""The choice among ways to learn a target from several sources, and the best single source, by validation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import attrs
import torch
from torch import Tensor, nn

from crosstask.errors import DataError, RunError
from crosstask.learning.objectives import metric_of
from crosstask.learning.training import predict
from crosstask.options import component, option
from crosstask.parts import Part, part
from crosstask.records import Cost
from crosstask.tasks import Task
from crosstask_multi_source.methods import Ensemble, MultiSource, several, weights
from crosstask_multi_source.records import SINGLE, Candidate, MultiSourceResult
from crosstask_multi_source.work import Draw, Start, Work

ENOUGH = 200
"""Validation samples with which a share of them is known to three or four points."""
RESAMPLES = 100

CANDIDATES: tuple[Any, ...] = (
    "concat", "joint", "concat_joint", "ensemble", {"use": "ensemble", "members": ["joint", "concat_joint"]}, "soup",
)  # fmt: skip

Judged = list[tuple[Tensor, Tensor]]
"""Of each draw what was answered [N, …] and what is right."""


@attrs.frozen(eq=False)
class Tried:
    """A candidate's models for each draw that it is judged on, and what they answered. `method`: of a single source
    none.
    """

    name: str
    method: MultiSource | None
    starts: list[Start]
    modules: list[nn.Module]
    judged: Judged
    more: Cost


@component
class BestOf(MultiSource):
    """Whichever of the `candidates` does best on the target's validation data, or the best single source.

    Of few validation samples (or none) the target's training samples are divided into `folds`, stratified by class, and
    each is answered by models that have not seen it. A candidate must be better than the best single source by `margin`
    standard errors (bootstrap over the samples); ties and noise go to the single source. The test data are not looked
    at. Where the graph has not measured all chosen sources, the best single one is found in the same way.
    """

    chooses: ClassVar[bool] = True

    most: int = option(8, ge=1, help="look at so many sources at most; each candidate takes as many as it says")
    candidates: tuple[Part, ...] = part("transfer", CANDIDATES, help="what the single source is beside")
    judge_on: str = option(
        "auto",
        choices=("auto", "validation", "folds"),
        help=f"validation data, or folds of the training samples; auto: folds below {ENOUGH} validation samples",
    )
    folds: int = option(5, ge=2, help="parts of the training samples")
    margin: float = option(1.0, ge=0, help="standard errors by which a candidate must be better than the single source")

    def starts(self, work: Work) -> list[Start]:
        """The best single source's model: what is there without a choice."""
        return [work.single(work.sources[0])]

    def measured(self, work: Work, notes: Sequence[str], draws: Sequence[Draw], split: str) -> MultiSourceResult:
        target, notes = work.target, list(notes)
        inside = self._divided(work, draws)
        judged_on = f"{len(target.data('validation'))} validation samples" if inside is None else (
            f"{len(inside[0])} folds of {len(draws[0].task.data('train'))} training samples")  # fmt: skip
        alone = work.sources[:1] if work.ranked else work.sources
        singles = [self._tried(s.task_id, [work.single(s)], None, work, draws, inside) for s in alone]
        if len(singles) > 1:
            order = sorted(range(len(singles)), key=lambda n: -_score(singles[n].judged, target))
            work.sources, singles = [alone[n] for n in order], [singles[n] for n in order]
            notes.append(f"the best single source was found on {judged_on}: {work.sources[0].task_id}")
        best = attrs.evolve(singles[0], name=SINGLE)
        tried, refused = [best], []
        for method in several(self, "candidates"):
            name = called(method)
            try:
                starts = method.starts(work)
                if starts == best.starts:
                    refused.append(Candidate(name=name, reason="with these sources it is the single transfer"))
                else:
                    tried.append(self._tried(name, starts, method, work, draws, inside))
            except (DataError, RunError) as error:
                refused.append(Candidate(name=name, reason=str(error)))
        trainings = 1 if inside is None else len(inside[0])
        table = [self._row(each, best, work, draws) for each in tried]
        able = [n for n, row in enumerate(table) if row.gain is not None and row.error is not None
                and row.gain > self.margin * row.error and row.gain > 0]  # fmt: skip
        number = max(able, key=lambda n: table[n].gain or 0.0, default=0)
        winner = tried[number]
        modules, more = winner.modules, winner.more
        if inside is not None:
            modules, more = self._final(winner, work, draws)
        every = [start for each in (*singles, *tried) for start in each.starts]
        done = self.result(work, draws, modules, work.cost(winner.starts, more=more), winner.starts, notes, split)
        ends = {id(start) for start in (*winner.starts, *best.starts)} if inside is not None else ()
        search = work.cost(every, trainings, more=work.learning(len(ends)))
        return attrs.evolve(
            done,
            chosen=winner.name,
            candidates=(*table, *refused),
            judged_on=judged_on,
            search=attrs.evolve(search, parameters=sum(weights(each.modules[0]) for each in tried)),
        ).with_model(done.model)

    def _divided(self, work: Work, draws: Sequence[Draw]) -> list[list[Draw]] | None:
        """Of each draw its folds; None where there are validation data to judge on."""
        target, held = work.target, work.target.has_data("validation")
        count = len(target.data("validation")) if held else 0
        if self.judge_on == "validation" and not held:
            raise DataError(f"task {target.task_id!r} has no validation data to judge on: judge_on = 'folds'")
        if self.judge_on == "validation" or (self.judge_on == "auto" and count >= ENOUGH):
            return None
        few = min(len(draw.task.data("train")) for draw in draws)
        if few < 2 * self.folds:
            raise DataError(f"task {target.task_id!r}: {few} training samples are too few for {self.folds} folds")
        return [work.parts(draw, self.folds) for draw in draws]

    def _tried(
        self,
        name: str,
        starts: list[Start],
        method: MultiSource | None,
        work: Work,
        draws: Sequence[Draw],
        inside: list[list[Draw]] | None,
    ) -> Tried:
        modules, judged, more = [], [], Cost()
        for own in [[draw] for draw in draws] if inside is None else inside:
            outputs = []
            for draw, models in zip(own, work.learn(starts, own), strict=True):
                module = models[0]
                if method is not None:
                    module, more, _ = method.joined(models, work, draw)
                modules.append(module)
                outputs.append(predict(module, draw.task.data("validation").inputs))
            judged.append((torch.cat(outputs), torch.cat([d.task.data("validation").targets for d in own])))
        return Tried(name, method, starts, modules, judged, more)

    def _final(self, winner: Tried, work: Work, draws: Sequence[Draw]) -> tuple[list[nn.Module], Cost]:
        """The winner learned from all samples of each draw."""
        method, learned = winner.method, work.learn(winner.starts, draws)  # by name there may be several
        if method is None:
            return [models[0] for models in learned], Cost()
        made = [method.joined(models, work, draw) for models, draw in zip(learned, draws, strict=True)]
        return [module for module, _, _ in made], made[0][1]

    def _row(self, each: Tried, best: Tried, work: Work, draws: Sequence[Draw]) -> Candidate:
        gain, error = compared(each.judged, best.judged, work.target, draws[0].seed)
        cost = attrs.evolve(work.cost(each.starts, more=each.more), parameters=weights(each.modules[0]))
        names = tuple(dict.fromkeys(name for start in each.starts for name in start.sources))
        value = _score(each.judged, work.target)
        return Candidate(name=each.name, sources=names, validation=value, gain=gain, error=error, cost=cost)


def called(method: MultiSource) -> str:
    """A candidate's name; of an ensemble also of what."""
    if isinstance(method, Ensemble) and method.members:
        return f"{method.name} of {SINGLE}, {', '.join(called(m) for m in several(method, 'members'))}"
    return method.name


def _score(judged: Judged, target: Task) -> float:
    """The mean over the draws of the target's metric."""
    metric = metric_of(target)
    return sum(float(metric(outputs, targets)) for outputs, targets in judged) / len(judged)


def compared(ours: Judged, theirs: Judged, target: Task, seed: int) -> tuple[float, float]:
    """(by how much the score of one is better than that of the other, the standard error of this by bootstrap over the
    samples, the same for both).
    """
    metric, generator = metric_of(target), torch.Generator().manual_seed(seed)
    gain = _score(ours, target) - _score(theirs, target)
    found = []
    for _ in range(RESAMPLES):
        total = 0.0
        for (one, right), (other, _) in zip(ours, theirs, strict=True):
            index = torch.randint(len(right), (len(right),), generator=generator).to(right.device)
            total += float(metric(one[index], right[index])) - float(metric(other[index], right[index]))
        found.append(total / len(ours))
    drawn = torch.tensor([value for value in found if value == value], dtype=torch.float64)
    return gain, float(drawn.std()) if len(drawn) > 1 else float("inf")
