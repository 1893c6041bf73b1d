"""A task's own network: made by its factory or by a `ModelSpec`, looked at once, restored from its weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor, nn

from crosstask.components import Context, Job
from crosstask.descriptors import TensorData
from crosstask.errors import CrosstaskError, DataError, told
from crosstask.learning.doubts import A_FEW, by_labels, one_class, probabilities, raw_values
from crosstask.learning.fleets import Member, Phase, Trained
from crosstask.learning.functional import kept_buffers
from crosstask.learning.metrics import moved
from crosstask.learning.models import ModelSpec
from crosstask.learning.modules import (
    copy_of,
    evaluating,
    know,
    load_tensors,
    locate_head,
    origin_of,
    seeded,
    trainable,
    without_values,
)
from crosstask.learning.objectives import chance, metric_of
from crosstask.learning.together import Kept, and_others, in_fleet, remembered
from crosstask.learning.training import device_of, evaluate, fit, misfit
from crosstask.learning.transferring import fresh_model, key_of, without_model
from crosstask.logs import logger
from crosstask.records import Budget
from crosstask.tasks import SPLITS, Task

Architecture = ModelSpec | nn.Module
"""What networks are made after: a specification, or a module of which fresh copies are made."""

GLANCE, GLANCE_OF_LARGE, LARGE = 256, 64, 1_000_000
"""How many samples show whether a model has learned its task, and how many if it has more parameters than the third."""


def prepare_model(task: Task) -> None:
    """Look at a task's own model once: two samples go through it, its head is found, its factory is kept with it.

    DataError says what does not fit, and what would. Without data, a random input of the descriptor's shape shows the
    head, if the model takes it.
    """
    model = task.model
    if model is None:
        return
    given: object = model
    if not isinstance(given, nn.Module):
        raise DataError(f"task {task.task_id!r}: its model must be a torch module, got a {type(given).__name__}")
    if reason := without_values(model):
        raise DataError(f"task {task.task_id!r}: {reason}")
    if task.build is not None:
        know(model, build=task.build)
    _look(model, task)
    if reason := without_values(model, lazy=False):
        told = "; samples of the task did not come by it: leave it out, or give it sizes" if task.has_data() else ""
        raise DataError(f"task {task.task_id!r}: {reason}{told}")


def _look(model: nn.Module, task: Task) -> None:
    """Send an example through a model and find its head."""
    split = next((each for each in SPLITS if task.has_data(each)), None)
    if split is not None:
        if reason := misfit(model, task, split):
            raise DataError(f"task {task.task_id!r}: {reason}")
        example = task.data(split).take(slice(2)).inputs.to(device_of(model))
    elif task.descriptor.input_shape:
        generator = torch.Generator().manual_seed(0)
        example = torch.randn(2, *task.descriptor.input_shape, generator=generator).to(device_of(model))
    else:
        return
    try:
        locate_head(model, example, task.head)
    except DataError as error:
        if task.head is not None:
            raise DataError(f"task {task.task_id!r}: head: {error}") from None
    except Exception:  # a model that takes no such input; where there are data, they have been tried
        return


def doubted(task: Task) -> str | None:
    """A sentence where a task's own model is hardly better than chance on the task's data (those of validation, test
    or training, the first that there are), where the model was given and answers with probabilities
    (`crosstask.learning.doubts`), where there is no better model and the task's values are far from standardised, or
    where the training samples are all of one class; None where nothing of it is so, or nobody can say.

    One pass of at most `GLANCE` samples in evaluation mode. Networks that have learned nothing score around chance, not
    at it: what counts is a tenth of the way from there to the best score, and for shares twice their standard error, or
    half of the way. Nothing stays of it: no mode, buffer or random number is another afterwards; nothing is raised.
    """
    said: list[str | None] = [one_class(task)]
    if task.model is None:
        said.append(_raw_values(task))
    elif (seen := _glanced(task)) is not None:
        model, made = task.model, origin_of(task.model)
        # What was made here is asked after its training whether it has learned (`advise`), and nothing else
        ending = None if made.made or made.built else _quietly(probabilities, task, model, seen[1].take(slice(A_FEW)))
        said.append(ending)
        # Where each label is yes or no by the sign of an answer, probabilities are at chance, whatever was learned
        hardly = None if ending and by_labels(task) else _quietly(_hardly_better, task, *seen)
        if hardly is not None:
            said += [hardly, _raw_values(task)]
    told = [each for each in said if each]
    return f"task {task.task_id!r}: {'; '.join(told)}" if told else None


def _raw_values(task: Task) -> str | None:
    """What is said of a task's values, for a fresh network of its own if it has a factory or a model."""

    def fresh() -> nn.Module:
        return _built(task, 0) if task.model is None or task.build is not None else fresh_model(task.model, task, 0)

    return _quietly(raw_values, task, None if task.model is None and task.build is None else fresh)


def _glanced(task: Task) -> tuple[str, TensorData] | None:
    """Samples that a model is looked at with, and of which split they are."""
    split = next((each for each in ("validation", "test", "train") if task.has_data(each)), None)
    if task.model is None or split is None:
        return None
    data = task.data(split)
    count = GLANCE_OF_LARGE if sum(p.numel() for p in task.model.parameters()) > LARGE else GLANCE
    return split, data.take(torch.randperm(len(data), generator=torch.Generator().manual_seed(0))[:count])


def _quietly(look: Callable[..., str | None], *given: Any) -> str | None:
    """What a look at a model finds; nothing where the user's own code fails, or there are too few samples for the
    metric: who uses the model hears of it.
    """
    try:
        return look(*given)
    except Exception:
        return None


def _hardly_better(task: Task, split: str, part: TensorData) -> str | None:
    """Whether a model is hardly better than chance on some samples; see `doubted`."""
    model = task.model
    assert model is not None
    seen = task.over(train=task.data("train") if task.has_data() else part, test=part)
    with seeded(0), evaluating(model), kept_buffers(model):
        score = evaluate(model, seen)
    nothing, metric = chance(seen), metric_of(task)
    if nothing is None:
        return None
    spread = 2 * math.sqrt(max(0.0, nothing * (1 - nothing)) / len(part)) if metric.range == (0, 1) else 0.0
    # With few of some class chance is near the best score, and its error wider than what is left
    if score > moved(nothing, 0.1, metric.best) + spread or score >= moved(nothing, 0.5, metric.best):
        return None
    return (
        f"its model is hardly better than chance ({metric.told} {score:.3g} on {len(part)} {split} samples, chance "
        f"{nothing:.3g}): if it has not learned the task, register the task without it"
    )


def own_network(spec: ModelSpec, task: Task, seed: int) -> nn.Module:
    """A task's own network, untrained: by its factory, or as `spec` says. DataError if it does not fit the task."""
    if task.build is None:
        return spec.build(task.descriptor, seed)
    model = _built(task, seed)
    know(model, built=True)
    return model


def _built(task: Task, seed: int) -> nn.Module:
    """A network of a task's factory, looked at; DataError if it does not fit the task, or is in use."""
    assert task.build is not None
    with seeded(seed):
        try:
            model = task.build()
        except CrosstaskError:
            raise
        except Exception as error:  # the user's own code
            raise DataError(f"task {task.task_id!r}: its build fails: {told(error)}") from error
    if isinstance(model, nn.Module) and origin_of(model).built:
        raise DataError(
            f"task {task.task_id!r}: build returned a module that is in use already: it must make a new one"
        )
    made = task.over(**{s: task.data(s) for s in SPLITS if task.has_data(s)})
    made.model = model
    prepare_model(made)
    return model


def network_like(architecture: Architecture, task: Task, seed: int) -> nn.Module:
    """A fresh network for a task: as the specification says, or of the module's architecture."""
    if isinstance(architecture, ModelSpec):
        return own_network(architecture, task, seed)
    return fresh_model(architecture, task, seed)


def restored(architecture: Architecture, task: Task, seed: int, state: Mapping[str, Tensor], device: str) -> nn.Module:
    """The network for a task with these weights."""
    model = network_like(architecture, task, seed)
    load_tensors(model, state)
    return model.to(device)


def arrays_of(model: nn.Module) -> dict[str, np.ndarray]:
    """A model's weights as arrays, which are cheap to send between processes. Half precision is widened: numpy has no
    bfloat16, and no floats of eight bits.
    """
    found = {}
    for name, value in model.state_dict().items():
        if isinstance(value, Tensor):
            plain = value.detach().cpu()
            unknown = plain.dtype == torch.bfloat16 or (plain.is_floating_point() and plain.itemsize == 1)
            found[name] = (plain.float() if unknown else plain).numpy()
    return found


def copied(model: nn.Module) -> nn.Module:
    """An independent copy, in evaluation mode, all weights trainable, with what is known of it."""
    made = trainable(copy_of(model)).eval()
    know(made, **attrs.asdict(origin_of(model), recurse=False))
    return made


# Training them --------------------------------------------------------------------------------------------------------


def train_models(context: Context, spec: ModelSpec, tasks: Sequence[Task], budget: Budget) -> None:
    """Give every task that has training data and no model its own, trained from scratch; never twice.

    Trainings run as jobs, those of one architecture together (`crosstask.learning.together`); each is remembered as
    soon as its job is done.
    """
    waiting = [task for task in tasks if task.model is None and task.has_data("train")]
    keys = [model_key(context, spec, task, budget) for task in waiting]
    seeds = [context.seed_for("model", task.task_id) for task in waiting]

    def planned(numbers: Sequence[int]) -> list[Member]:
        return [_member(spec, waiting[n], budget, seeds[n], "cpu") for n in numbers]

    def job(numbers: Sequence[int], together: bool) -> Job:
        own = [waiting[n] for n in numbers]
        args = (spec, [without_model(task) for task in own], budget, [seeds[n] for n in numbers], context.device)
        return Job(train_together if together else train_alone, args, label=and_others([t.task_id for t in own]))

    for number, found in remembered(context, "models", keys, planned, job):
        task = waiting[number]
        task.model = restored(spec, task, seeds[number], found.tensors, context.device)
        seen = _glanced(task) if task.build is not None or ":" in spec.kind else None
        if seen is not None and (doubt := _quietly(probabilities, task, task.model, seen[1].take(slice(A_FEW)))):
            logger().warning(f"task {task.task_id!r}: {doubt}")
        context.tell("stage_progress", stage="train", detail=task.task_id)


def _member(spec: ModelSpec, task: Task, budget: Budget, seed: int, device: str) -> Member:
    return Member(own_network(spec, task, seed).to(device), task, budget, (Phase(budget.steps),), seed)


def train_together(
    spec: ModelSpec, tasks: Sequence[Task], budget: Budget, seeds: Sequence[int], device: str
) -> list[Kept | None]:
    """Models trained from scratch in a fleet, as a job."""

    def member(number: int) -> Member:
        return _member(spec, tasks[number], budget, seeds[number], device)

    def kept(member: Member, _: Trained) -> Kept:
        return _made(spec, member), arrays_of(member.model)

    return in_fleet(len(tasks), member, kept)


def train_alone(
    spec: ModelSpec, tasks: Sequence[Task], budget: Budget, seeds: Sequence[int], device: str
) -> list[Kept]:
    """Models trained from scratch one by one, as a job."""
    found: list[Kept] = []
    for task, seed in zip(tasks, seeds, strict=True):
        member = _member(spec, task, budget, seed, device)
        fit(member.model, task, budget, torch.Generator().manual_seed(seed), curve_split=None)
        found.append((_made(spec, member), arrays_of(member.model)))
    return found


def _made(spec: ModelSpec, member: Member) -> dict[str, Any]:
    return {"task": member.task.task_id, "model": spec, "budget": member.budget, "seed": member.seed}


def model_key(context: Context, spec: ModelSpec, task: Task, budget: Budget) -> str:
    """The store key of a task's own model."""
    made = spec if task.build is None else "its factory"  # which the task's fingerprint knows
    return key_of("model", "in fleets", made, task.fingerprint(), budget, context.seed_for("model", task.task_id))
