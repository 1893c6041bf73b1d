"""A task's own network: made by its factory or by a `ModelSpec`, looked at once, restored from its weights."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from crosstask.components import Context, Job, Remembered
from crosstask.errors import CrosstaskError, DataError, told
from crosstask.learning.fleets import Member, Phase, muster, train_fleet
from crosstask.learning.models import ModelSpec
from crosstask.learning.modules import know, locate_head, origin_of, seeded, without_values
from crosstask.learning.training import device_of, fit, misfit
from crosstask.learning.transferring import fresh_model, key_of, without_model
from crosstask.records import Budget
from crosstask.tasks import SPLITS, Task

Architecture = ModelSpec | nn.Module
"""What networks are made after: a specification, or a module of which fresh copies are made."""


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
        raise DataError(f"task {task.task_id!r}: {reason}")


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
    except DataError:
        if task.head is not None:
            raise
    except Exception:  # a model that takes no such input; where there are data, they have been tried
        return


def own_network(spec: ModelSpec, task: Task, seed: int) -> nn.Module:
    """A task's own network, untrained: by its factory, or as `spec` says. DataError if it does not fit the task."""
    if task.build is None:
        return spec.build(task.descriptor, seed)
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
    know(model, built=True)
    return model


def network_like(architecture: Architecture, task: Task, seed: int) -> nn.Module:
    """A fresh network for a task: as the specification says, or of the module's architecture."""
    if isinstance(architecture, ModelSpec):
        return own_network(architecture, task, seed)
    return fresh_model(architecture, task, seed)


def restored(architecture: Architecture, task: Task, seed: int, state: Mapping[str, Tensor], device: str) -> nn.Module:
    """The network for a task with these weights."""
    model = network_like(architecture, task, seed)
    model.load_state_dict(dict(state), strict=False)
    return model.to(device)


def arrays_of(model: nn.Module) -> dict[str, np.ndarray]:
    """A model's weights as arrays, which are cheap to send between processes. Half precision is widened: numpy has no
    bfloat16.
    """
    found = {}
    for name, value in model.state_dict().items():
        if isinstance(value, Tensor):
            plain = value.detach().cpu()
            found[name] = (plain.float() if plain.dtype == torch.bfloat16 else plain).numpy()
    return found


def copied(model: nn.Module) -> nn.Module:
    """An independent copy, in evaluation mode, all weights trainable, with what is known of it."""
    made = copy.deepcopy(model).requires_grad_(True).eval()
    made.__dict__["_crosstask_origin"] = origin_of(model)
    return made


# Training them --------------------------------------------------------------------------------------------------------


def train_models(context: Context, spec: ModelSpec, tasks: Sequence[Task], budget: Budget) -> None:
    """Give every task that has training data and no model its own, trained from scratch; never twice.

    Trainings run as jobs, those of one architecture together (`crosstask.learning.fleets`); each is remembered as soon
    as its job is done.
    """
    waiting: list[tuple[Task, str, int]] = []

    def take(task: Task, seed: int, tensors: Mapping[str, Tensor]) -> None:
        task.model = restored(spec, task, seed, tensors, context.device)

    for task in tasks:
        if task.model is not None or not task.has_data("train"):
            continue
        key, seed = model_key(context, spec, task, budget), context.seed_for("model", task.task_id)
        known = context.recall("models", key, claim=False)
        if known is None:
            waiting.append((task, key, seed))
        else:
            take(task, seed, known.tensors)
    members = [Member(own_network(spec, task, seed), task, budget, (Phase(budget.steps),)) for task, _, seed in waiting]
    fleets, reasons = muster(members, context.workers)
    claimed = set()
    for place in sorted((place for fleet in fleets for place in fleet), key=lambda place: waiting[place][1]):
        task, key, seed = waiting[place]  # in the order of the keys: two runs do not wait for each other
        known = context.recall("models", key)
        if known is None:
            claimed.add(place)
        else:  # another run of this store has trained it meanwhile
            take(task, seed, known.tensors)
    parts = [*([place] for place in reasons), *([place for place in fleet if place in claimed] for fleet in fleets)]
    parts = [part for part in parts if part]
    jobs = []
    for part in parts:
        args = (spec, [without_model(waiting[place][0]) for place in part], budget)
        label = waiting[part[0]][0].task_id + (f" and {len(part) - 1} more" if len(part) > 1 else "")
        alone = part[0] in reasons
        jobs.append(
            Job(
                train_job,
                (*args, [waiting[place][2] for place in part], context.device),
                label=label,
                key=("models", waiting[part[0]][1]) if alone else None,
            )
        )
    for index, found in context.jobs(jobs):
        for place, weights in zip(parts[index], [found] if isinstance(found, Remembered) else found, strict=True):
            task, key, seed = waiting[place]
            if isinstance(weights, Remembered):
                tensors: Mapping[str, Tensor] = weights.tensors
            else:
                tensors = {name: torch.from_numpy(array) for name, array in weights.items()}
                made = {"task": task.task_id, "model": spec, "budget": budget, "seed": seed}
                context.remember("models", key, made, tensors)
            take(task, seed, tensors)
            context.tell("stage_progress", stage="train", detail=task.task_id)


def train_job(
    spec: ModelSpec, tasks: Sequence[Task], budget: Budget, seeds: Sequence[int], device: str
) -> list[dict[str, np.ndarray]]:
    """Train models from scratch and return their weights (as arrays: cheap to send between processes)."""
    pairs = list(zip(tasks, seeds, strict=True))
    phases = (Phase(budget.steps),)
    try:
        members = [Member(own_network(spec, t, seed).to(device), t, budget, phases, seed) for t, seed in pairs]
        if len(members) > 1 and not any(isinstance(found, CrosstaskError) for found in train_fleet(members)):
            return [arrays_of(member.model) for member in members]
    except Exception:  # each by itself, so that it is known which
        pass
    made = []
    for task, seed in pairs:
        model = own_network(spec, task, seed).to(device)
        fit(model, task, budget, torch.Generator().manual_seed(seed), curve_split=None)
        made.append(arrays_of(model))
    return made


def model_key(context: Context, spec: ModelSpec, task: Task, budget: Budget) -> str:
    """The store key of a task's own model."""
    made = spec if task.build is None else "its factory"  # which the task's fingerprint knows
    return key_of("model", "in fleets", made, task.fingerprint(), budget, context.seed_for("model", task.task_id))
