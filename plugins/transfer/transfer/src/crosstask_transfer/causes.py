"""Why a transfer works: what the source's classes and skills bring, by taking each away beside a control.

*Classes*: the source is trained again without the samples of one class, and the transfer made again. The control is
the same with as many samples taken away at random. *Skills*: of the units that the source's head looks at, those that
serve a skill most are silenced; the control silences as many at random. An effect is what the target loses
against the mean of the controls, with the same seeds: taking away samples or units at all costs something, which is no
cause.

Effects are tested over the seeds by Student's t; of the overall effects p values are adjusted by Holm (1979), of those
on each of the target's classes by Benjamini and Hochberg (1995).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from crosstask.components import Context, Job
from crosstask.errors import DataError
from crosstask.learning.features import received
from crosstask.learning.fleets import Member, Phase, phases_of
from crosstask.learning.metrics import confidence_interval
from crosstask.learning.modules import copy_of
from crosstask.learning.objectives import metric_of
from crosstask.learning.together import every
from crosstask.learning.training import evaluate, fit, predict
from crosstask.learning.transferring import (
    drawn,
    fresh_model,
    key_of,
    receive,
    same_classes,
    scratch_seeds,
    source_digest,
    without_model,
)
from crosstask.points.transfer import Transfer
from crosstask.records import Budget, Interval
from crosstask.tasks import Portfolio, Task
from crosstask_transfer.attribution import blocks_of
from crosstask_transfer.records import Causes, Effect

Found = tuple[float, tuple[float, ...]]
"""A score, and the target's classes' recalls (none where it has no classes)."""
ALIKE = 1.25
"""Classes whose numbers of samples differ by no more than this factor share their controls."""


# Classes --------------------------------------------------------------------------------------------------------------


def class_causes(
    method: Transfer, source: Task, target: Task, train: Budget, budget: Budget, *, seeds: int, controls: int,
    split: str = "test",
) -> Causes:  # fmt: skip
    """What each class of the source brings: the source is trained again without it, for every seed.

    Costs seeds * (classes + controls * groups of classes of about one size + 1) trainings of the source, and as many
    transfers; small networks go in fleets. DataError where the source has no classes or no training data.
    """
    data = source.data("train").head(train.samples)
    names = classes_of(source)
    labels, count = data.targets, len(data)
    sizes = [int((labels == number).sum()) for number in range(len(names))]
    present = [number for number, size in enumerate(sizes) if 0 < size < count]
    if len(present) < 2:
        raise DataError(f"task {source.task_id!r}: at least two classes with training samples are needed")
    groups = _groups({number: sizes[number] for number in present})
    context, model = method.context, source.model
    assert model is not None
    keep, made = same_classes(source.descriptor, target.descriptor), fresh_model(model, source, 0)
    full = "full", 0, 0
    scores: dict[int, dict[tuple[str, int, int], Found]] = {}
    wanted: list[tuple[str, int, int]] = [full, *(("class", number, 0) for number in present)]
    wanted += [("random", size, draw) for size in dict.fromkeys(groups.values()) for draw in range(controls)]

    def left(seed: int, what: tuple[str, int, int]) -> Tensor:
        """The samples that stay."""
        kind, number, draw = what
        if kind == "class":
            return torch.nonzero(labels != number)[:, 0]
        if kind == "random":
            order = torch.randperm(count, generator=context.generator("removed", source.task_id, seed, number, draw))
            return order[: count - number].sort().values
        return torch.arange(count)

    lights = without_model(source, ("train",)), without_model(target, ("train", "validation", split))
    told = (
        "class cause", method.identity(), source.fingerprint(), target.fingerprint(), source_digest(made), train,
        budget, split, keep, groups,
    )  # fmt: skip
    jobs, waiting = [], []
    for seed in scratch_seeds(context, target, seeds):
        key = key_of(*told, wanted, seed)
        known = context.recall("transfers", key)
        if known is not None:
            scores[seed] = _read(known.payload, wanted)
            continue
        args = (method, made, *lights, train, budget, [left(seed, what) for what in wanted], seed, split, keep)
        jobs.append(Job(retrained, args, label=f"classes of {source.task_id}, seed {seed}"))
        waiting.append((seed, key))
    _work(context, jobs, waiting, wanted, scores)
    effects = [
        _effect(names[number], sizes[number], target, [
            ([own["random", groups[number], draw] for draw in range(controls)], own["class", number, 0])
            for own in scores.values()
        ])
        for number in present
    ]  # fmt: skip
    return _causes(source, target, "classes", effects, [own[full][0] for own in scores.values()], controls)


def classes_of(task: Task) -> tuple[str, ...]:
    """The names of a classification's classes. DataError for what has none."""
    if task.descriptor.task_type != "classification" or not task.has_data("train"):
        raise DataError(f"task {task.task_id!r}: a classification with training data is needed to look at its classes")
    task.data("train")
    count = task.descriptor.output_dim or 0
    count = 2 if count == 1 else count
    return task.descriptor.classes or tuple(map(str, range(count)))


def _names(target: Task) -> tuple[str, ...]:
    """The target's classes; none where it has none."""
    return classes_of(target) if target.descriptor.task_type == "classification" else ()


def _groups(sizes: dict[int, int]) -> dict[int, int]:
    """For each class how many samples its controls take away: the mean of the classes of about its size."""
    order = sorted(sizes, key=lambda number: sizes[number])
    found: dict[int, int] = {}
    group: list[int] = []
    for number in [*order, None]:
        if number is not None and (not group or sizes[number] <= ALIKE * sizes[group[0]]):
            group.append(number)
            continue
        mean = round(sum(sizes[each] for each in group) / len(group))
        found |= dict.fromkeys(group, mean)
        group = [] if number is None else [number]
    return found


def retrained(
    method: Transfer, like: nn.Module, source: Task, target: Task, train: Budget, budget: Budget,
    kept: Sequence[Tensor], seed: int, split: str, keep: bool,
) -> list[Found]:  # fmt: skip
    """Transfers from the source trained on each of these choices of its samples, as a job."""
    data = source.data("train").head(train.samples)
    train = attrs.evolve(train, samples=None, patience=None)
    tasks = [source.over(train=data.take(index)) for index in kept]

    def member(number: int) -> Member:
        return Member(fresh_model(like, source, seed), tasks[number], train, (Phase(train.steps),), seed)

    def alone(number: int) -> nn.Module:
        made = fresh_model(like, source, seed)
        fit(made, tasks[number], train, torch.Generator().manual_seed(seed), curve_split=None)
        return made

    planned = [Member(like, task, train, (Phase(train.steps),), seed) for task in tasks]
    models = dict(every(planned, member, alone, lambda one, _: one.model))
    return transferred(method, [models[number] for number in range(len(tasks))], target, budget, seed, split, keep)


# Skills ---------------------------------------------------------------------------------------------------------------


def skill_causes(
    method: Transfer, source: Task, target: Task, portfolio: Portfolio, budget: Budget, *, seeds: int, controls: int,
    share: float, split: str = "test",
) -> Causes:  # fmt: skip
    """What each skill that the source requires brings: the units that serve it most are silenced, for every seed.

    A unit (a row of the last weights before the head) serves a task as far as the task's classes explain its variance,
    and a skill as far as it serves the portfolio's tasks that require it more than those that do not. `share` of the
    units are taken. DataError where no unit can be told, or the source requires no skill.
    """
    context, model = method.context, source.model
    assert model is not None
    skills = source.descriptor.required_skills
    if not skills:
        raise DataError(f"task {source.task_id!r}: its descriptor requires no skill (required_skills)")
    serving = serving_units(source, portfolio)
    names, rows = unit_weights(model)
    count = min(rows - 1, max(1, round(share * rows)))
    keep = same_classes(source.descriptor, target.descriptor)
    wanted: list[tuple[str, int, int]] = [("full", 0, 0), *(("skill", number, 0) for number in range(len(skills)))]
    wanted += [("random", 0, draw) for draw in range(controls)]
    taken = [serving[skill].topk(count).indices.sort().values for skill in skills]
    light = without_model(target, ("train", "validation", split))
    told = (
        "skill cause", method.identity(), source_digest(model), source.task_id, target.fingerprint(), budget, split,
        keep, [units.tolist() for units in taken], names,
    )  # fmt: skip
    scores: dict[int, dict[tuple[str, int, int], Found]] = {}
    jobs, waiting = [], []
    for seed in scratch_seeds(context, target, seeds):
        key = key_of(*told, wanted, seed)
        known = context.recall("transfers", key)
        if known is not None:
            scores[seed] = _read(known.payload, wanted)
            continue
        chance = [torch.randperm(rows, generator=context.generator("units", source.task_id, seed, draw))[:count]
                  for draw in range(controls)]  # fmt: skip
        units = [torch.zeros(0, dtype=torch.long), *taken, *chance]
        args = (method, model, light, budget, names, units, seed, split, keep)
        jobs.append(Job(without_units, args, label=f"skills of {source.task_id}, seed {seed}"))
        waiting.append((seed, key))
    _work(context, jobs, waiting, wanted, scores)
    effects = [
        _effect(skill, count, target, [([own["random", 0, draw] for draw in range(controls)], own["skill", number, 0])
                                       for own in scores.values()])
        for number, skill in enumerate(skills)
    ]  # fmt: skip
    whole = [own["full", 0, 0][0] for own in scores.values()]
    return _causes(source, target, "skills", effects, whole, controls)


def unit_weights(model: nn.Module) -> tuple[tuple[str, ...], int]:
    """(names of the last weights before the head, a row for each unit; the number of units)."""
    blocks = blocks_of(model)
    state = model.state_dict()
    for keys in reversed(list(blocks.values())):
        weights = [key for key in keys if state[key].ndim >= 2]
        if weights:
            prefix, rows = weights[-1].rpartition(".")[0], len(state[weights[-1]])
            own = [
                key for key in keys if key.rpartition(".")[0] == prefix and state[key].ndim and len(state[key]) == rows
            ]
            return tuple(own), rows
    raise DataError(f"a {type(model).__name__} has no weights before its head whose units could be told apart")


def serving_units(source: Task, portfolio: Portfolio) -> dict[str, Tensor]:
    """By skill: how much each unit [U] serves it. DataError where a skill is in no task that the source can look at."""
    model = source.model
    assert model is not None
    _, rows = unit_weights(model)
    found: dict[str, tuple[Tensor, tuple[str, ...]]] = {}
    for task in portfolio:
        shape = task.descriptor.input_shape
        if task.descriptor.task_type != "classification" or not task.has_data("train"):
            continue
        data = task.data("train")
        if shape and source.descriptor.input_shape and task.descriptor.input_shape != source.descriptor.input_shape:
            continue
        features = torch.cat([given for given, _ in received(model, data.inputs, 4096)]).flatten(1)
        if features.shape[1] % rows:
            told = f"its head receives {features.shape[1]} numbers from {rows} units"
            raise DataError(f"task {source.task_id!r}: the units before the head cannot be told apart: {told}")
        per_unit = explained(features, data.targets).reshape(rows, -1).mean(1)
        found[task.task_id] = per_unit, task.descriptor.required_skills
    serving = {}
    for skill in source.descriptor.required_skills:
        with_it = [each for each, skills in found.values() if skill in skills]
        others = [each for each, skills in found.values() if skill not in skills]
        if not with_it:
            raise DataError(f"skill {skill!r}: no task with data of {source.task_id!r}'s shape requires it")
        own = torch.stack(with_it).mean(0)
        serving[skill] = own - torch.stack(others).mean(0) if others else own
    return serving


def explained(features: Tensor, labels: Tensor) -> Tensor:
    """The share of each feature's variance [F] that classes explain (the correlation ratio, Fisher 1925)."""
    values = features.double()
    centred = values - values.mean(0)
    between = torch.zeros(values.shape[1], dtype=torch.float64)
    for label in set(labels.tolist()):
        own = centred[labels == label]
        between += len(own) * own.mean(0).square()
    return between / centred.square().sum(0).clamp_min(1e-12)


def without_units(
    method: Transfer, model: nn.Module, target: Task, budget: Budget, names: Sequence[str], units: Sequence[Tensor],
    seed: int, split: str, keep: bool,
) -> list[Found]:  # fmt: skip
    """Transfers from the source without each of these choices of units, whose weights are 0, as a job."""
    sources = []
    for rows in units:
        made = copy_of(model)
        state = {name: value.clone() for name, value in model.state_dict().items()}
        for name in names:
            state[name][rows] = 0
        made.load_state_dict(state)
        sources.append(made)
    return transferred(method, sources, target, budget, seed, split, keep)


# Both -----------------------------------------------------------------------------------------------------------------


def transferred(
    method: Transfer, sources: Sequence[nn.Module], target: Task, budget: Budget, seed: int, split: str, keep: bool
) -> list[Found]:
    """One transfer from each of these sources, all with one seed: the same samples, batches and fresh head."""
    task = drawn(target, budget.samples, seed)
    budget = attrs.evolve(budget, evaluate_every=budget.steps, patience=None)  # nobody looks at the curve
    phases = phases_of(method, budget) or ()

    def member(number: int) -> Member:
        receiver, _, _ = receive(sources[number], task, seed, keep)
        return Member(receiver, task, budget, phases, seed)

    def alone(number: int) -> Found:
        learner = member(number).model
        method.learn(learner, sources[number], task, budget, torch.Generator().manual_seed(seed))
        return _judged(learner, task, split)

    planned = [Member(source, task, budget, phases, seed) for source in sources]
    found = dict(every(planned, member, alone, lambda one, _: _judged(one.model, task, split)))
    return [found[number] for number in range(len(sources))]


def _judged(model: nn.Module, task: Task, split: str) -> Found:
    score = evaluate(model, task, split)
    if task.descriptor.task_type != "classification":
        return score, ()
    data = task.data(split)
    outputs = predict(model, data.inputs)
    answers = (outputs[:, 0] > 0).long() if outputs.shape[1] == 1 else outputs.argmax(1)
    right = (answers == data.targets).double()
    recalls = [right[data.targets == number] for number in range(len(classes_of(task)))]
    return score, tuple(float(own.mean()) if len(own) else math.nan for own in recalls)


def _work(
    context: Context, jobs: list[Job], waiting: list[tuple[int, str]], wanted: list[tuple[str, int, int]],
    scores: dict[int, dict[tuple[str, int, int], Found]],
) -> None:  # fmt: skip
    context.tell("stage_started", stage="explain", total=len(jobs))
    for index, found in context.jobs(jobs):
        seed, key = waiting[index]
        plain = [[score, [None if math.isnan(each) else each for each in own]] for score, own in found]
        context.remember("transfers", key, {"what": "causes", "scores": plain})
        scores[seed] = dict(zip(wanted, found, strict=True))
        context.tell("stage_progress", stage="explain", detail=jobs[index].label)
    context.tell("stage_finished", stage="explain", result=None)
    for seed in sorted(scores):  # in one order, whatever was known
        scores[seed] = scores.pop(seed)


def _read(payload: Any, wanted: Sequence[tuple[str, int, int]]) -> dict[tuple[str, int, int], Found]:
    found = [(float(score), tuple(math.nan if each is None else float(each) for each in own))
             for score, own in payload["scores"]]  # fmt: skip
    return dict(zip(wanted, found, strict=True))


def _effect(name: str, removed: int, target: Task, runs: list[tuple[list[Found], Found]]) -> Effect:
    """What is lost without it against the mean of the controls, over the seeds."""
    lost = [sum(score for score, _ in plain) / len(plain) - without for plain, (without, _) in runs]
    each = {}
    for number, called in enumerate(_names(target)):
        own = [sum(recalls[number] for _, recalls in plain) / len(plain) - without[number]
               for plain, (_, without) in runs]  # fmt: skip
        if not any(map(math.isnan, own)):
            each[called] = own
    return Effect(
        name=name, removed=removed, lost=confidence_interval(lost, metric_of(target).gains), p_value=paired_t(lost),
        control=sum(score for plain, _ in runs for score, _ in plain) / sum(len(plain) for plain, _ in runs),
        by_class={called: confidence_interval(own, (-1.0, 1.0)) for called, own in each.items()},
        class_p={called: paired_t(own) for called, own in each.items()},
    )  # fmt: skip


def _causes(source: Task, target: Task, kind: str, effects: list[Effect], full: list[float], controls: int) -> Causes:
    metric = metric_of(target)
    adjusted = holm([effect.p_value for effect in effects])
    cells = [(place, called) for place, effect in enumerate(effects) for called in effect.class_p]
    rates = dict(zip(cells, benjamini_hochberg([effects[at].class_p[called] for at, called in cells]), strict=True))
    effects = [
        attrs.evolve(effect, adjusted=adjusted[place],
                     class_adjusted={called: rates[place, called] for called in effect.class_p})
        for place, effect in enumerate(effects)
    ]  # fmt: skip
    score: Interval = confidence_interval(full, metric.range)
    return Causes(
        kind=kind, source=source.task_id, target=target.task_id, metric=metric.told, score=score, seeds=len(full),
        controls=controls, target_classes=_names(target), effects=tuple(effects),
    )  # fmt: skip


# Tests ----------------------------------------------------------------------------------------------------------------


def paired_t(differences: Sequence[float]) -> float:
    """The two-sided p value of Student's t test that the mean is 0; 1 for fewer than two, or where all are 0."""
    count = len(differences)
    mean = sum(differences) / count
    if count < 2 or not any(differences):
        return 1.0
    variance = sum((each - mean) ** 2 for each in differences) / (count - 1)
    if variance <= 1e-24:
        return 0.0
    return student_tail(abs(mean) / math.sqrt(variance / count), count - 1)


def student_tail(t: float, freedom: int) -> float:
    """The probability of a Student's t as far from 0 as this (Abramowitz, Stegun 1964, 26.7.3 and 26.7.4)."""
    angle = math.atan(t / math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    if freedom % 2:
        total, term = 0.0, cosine
        for number in range(3, freedom + 1, 2):
            total += term
            term *= cosine * cosine * (number - 1) / number
        inside = 2 / math.pi * (angle + sine * total)
    else:
        total, term = 0.0, 1.0
        for number in range(2, freedom + 1, 2):
            total += term
            term *= cosine * cosine * (number - 1) / number
        inside = sine * total
    return min(1.0, max(0.0, 1 - inside))


def holm(values: Sequence[float]) -> list[float]:
    """p values adjusted so that the chance of any false finding is at most the level (Holm 1979)."""
    order, found, least = sorted(range(len(values)), key=lambda n: values[n]), [0.0] * len(values), 0.0
    for rank, number in enumerate(order):
        least = max(least, min(1.0, (len(values) - rank) * values[number]))
        found[number] = least
    return found


def benjamini_hochberg(values: Sequence[float]) -> list[float]:
    """p values adjusted so that the share of false ones among the findings is at most the level on average."""
    order, found, most = sorted(range(len(values)), key=lambda n: values[n]), [1.0] * len(values), 1.0
    for rank in range(len(values), 0, -1):
        number = order[rank - 1]
        most = min(most, values[number] * len(values) / rank)
        found[number] = most
    return found
