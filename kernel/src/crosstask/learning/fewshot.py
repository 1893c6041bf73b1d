"""Meta-training on the episodes of some classes (or tasks), and the test on those of others."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from crosstask.context import Context
from crosstask.errors import DataError, StoreError
from crosstask.learning.episodes import Episodes, EpisodeSampler, episode_accuracy, split_classes
from crosstask.learning.metrics import confidence_interval
from crosstask.learning.models import ModelSpec
from crosstask.learning.modules import Headless
from crosstask.learning.transferring import key_of
from crosstask.options import structure, unstructure
from crosstask.records import FewShotResult, Interval, LearningCurve
from crosstask.tasks import Portfolio, Task, TaskDescriptor, TensorData

if TYPE_CHECKING:
    from crosstask.points.meta_learner import MetaLearner

AT_ONCE = 25
"""Test episodes that are predicted together."""


def run_few_shot(
    context: Context,
    learner: MetaLearner,
    model: ModelSpec,
    tasks: Task | Portfolio | Iterable[Task],
    *,
    ways: int = 5,
    shots: int = 1,
    queries: int = 5,
    steps: int = 300,
    meta_batch: int = 8,
    test_episodes: int = 200,
    held_out: int | Sequence[str] | None = None,
    adapt_steps: int | None = None,
    evaluate_every: int = 25,
) -> FewShotResult:
    """Train `learner` with `steps` meta-steps of `meta_batch` episodes each and judge it on held-out classes or tasks.

    With one task, episodes are drawn from its classes, and `held_out` names the classes of the test (labels, if the
    descriptor names none) or says how many are drawn for it; by default as many as `ways` or, if that is more, two
    fifths. With several, each episode is drawn from one task, and `held_out` names the test tasks or says how many;
    by default those that the portfolio holds back as unseen, else a fifth. Meta-training sees the training split; test
    episodes are drawn from the test split where there is one, so that they share no sample with it.

    The same run, repeated, is recalled from the store, which also keeps the weights. DataError: no classification, too
    few classes on either side, too few samples of one.
    """
    chosen, held = _apart(context, tasks, ways, held_out)
    if not chosen:
        raise DataError("no tasks to draw episodes from")
    asked = {
        "ways": ways, "shots": shots, "queries": queries, "steps": steps, "meta_batch": meta_batch,
        "test_episodes": test_episodes, "adapt_steps": adapt_steps, "evaluate_every": evaluate_every,
    }  # fmt: skip
    prints = [task.fingerprint() for task in chosen]
    kind = f"{type(learner).__module__}:{type(learner).__qualname__}"
    key = key_of("few shot", kind, learner.options(), model, prints, held, asked, context.seed)
    known = context.recall("models", key)
    if known is not None:
        return _read(known.payload)
    train, test, names = _samplers(chosen, held, ways, shots, queries)
    fixed = list(test.sample(test_episodes, context.generator("few shot", "test")).split(AT_ONCE))
    module = initial_model(context, learner, model, chosen[0].descriptor, ways)
    stream = context.generator("few shot", "train")
    module = learner.prepare(module, train.sample(1, stream).to(context.device)).to(context.device)
    before = _judged(context, learner, module, fixed, adapt_steps)
    optimizer = learner.optimizer(module)
    losses, accuracies = [], []
    points, values = [], []
    for step in range(1, steps + 1):
        episodes = train.sample(meta_batch, stream).to(context.device)
        metrics = context.call(learner, "meta_step", model=module, episodes=episodes, optimizer=optimizer)
        losses.append(float(metrics["loss"]))
        accuracies.append(float(metrics.get("accuracy", float("nan"))))
        context.tell("training_step", stage="few_shot", step=step, metrics=metrics)
        if step % evaluate_every == 0 or step == steps:
            points.append(step)
            values.append(sum(accuracies) / len(accuracies))
            accuracies = []
    result = FewShotResult(
        learner=learner.origin,
        tasks=tuple(task.task_id for task in chosen),
        train=names[0],
        test=names[1],
        held_out="classes" if len(chosen) == 1 else "tasks",
        ways=ways,
        shots=shots,
        queries=queries,
        steps=steps,
        meta_batch=meta_batch,
        accuracy=_judged(context, learner, module, fixed, adapt_steps),
        untrained_accuracy=before,
        curve=LearningCurve(steps=tuple(points), values=tuple(values)),
        losses=tuple(losses),
        split="test" if all(task.has_data("test") for task in chosen) else "train",
        seed=context.seed,
        options=learner.options() | {"model": unstructure(model)},
    )
    made = {"what": "few shot", "key": key, "result": unstructure(result)}
    context.remember("models", key, made, {name: t.detach().cpu() for name, t in module.state_dict().items()})
    return result


def initial_model(
    context: Context, learner: MetaLearner, model: ModelSpec, like: TaskDescriptor, ways: int
) -> nn.Module:
    """The network that a run starts from: with one output per class of an episode, or without a head for an encoder."""
    descriptor = TaskDescriptor(task_id="episodes", input_shape=like.input_shape, output_dim=ways)
    made = model.build(descriptor, context.seed_for("few shot", "model"))
    return Headless(made) if "encoder" in learner.capabilities else made


def _judged(
    context: Context, learner: MetaLearner, module: nn.Module, parts: Sequence[Episodes], steps: int | None
) -> Interval:
    """Accuracy over test episodes. Learning and judging take turns on one module, whose mode is restored."""
    mode = module.training
    found: list[float] = []
    for part in parts:
        own = part.to(context.device)
        scores = learner.predict(module, own, steps)
        if not bool(torch.isfinite(scores).all()):
            raise DataError(f"{learner.origin}: scores of test episodes that are not finite")
        found += episode_accuracy(scores, own.query_targets).tolist()
    module.train(mode)
    return confidence_interval(found, (0, 1))


def _apart(
    context: Context, tasks: Task | Portfolio | Iterable[Task], ways: int, held_out: int | Sequence[str] | None
) -> tuple[list[Task], list[str]]:
    """(all tasks that take part, what is held out: labels' names of the only task, or ids of tasks)."""
    chosen = [tasks] if isinstance(tasks, Task) else list(tasks)
    unseen = tasks.unseen if isinstance(tasks, Portfolio) else []
    if len(chosen) > 1 and held_out is None and unseen:
        chosen, held_out = [*chosen, *unseen], [task.task_id for task in unseen]
    elif len(chosen) > 1 and held_out is not None and not isinstance(held_out, int):
        chosen += [task for task in unseen if task.task_id in held_out]
    for task in chosen:
        if task.descriptor.task_type != "classification":
            kind = task.descriptor.task_type
            raise DataError(f"task {task.task_id!r} is a {kind} task: few-shot episodes need classes")
    if len(chosen) == 1:
        known = _class_names(chosen[0])
        share = max(ways, round(0.4 * len(known)))
    else:
        known = [task.task_id for task in chosen]
        share = max(1, len(known) // 5)
    if held_out is None or isinstance(held_out, int):
        count = share if held_out is None else held_out
        order = torch.randperm(len(known), generator=context.generator("few shot", "held out")).tolist()
        held_out = [known[place] for place in sorted(order[:count])]
    return chosen, list(map(str, held_out))


def _class_names(task: Task) -> list[str]:
    names = task.descriptor.classes
    return [names[v] if names else str(v) for v in torch.unique(task.data("train").targets).tolist()]


def _samplers(
    tasks: Sequence[Task], held: Sequence[str], ways: int, shots: int, queries: int
) -> tuple[EpisodeSampler, EpisodeSampler, tuple[tuple[str, ...], tuple[str, ...]]]:
    """(of training episodes, of test episodes, (names of the training classes or tasks, of the test ones))."""
    sizes: dict[str, Any] = {"ways": ways, "shots": shots, "queries": queries}
    if len(tasks) > 1:
        ids = [task.task_id for task in tasks]
        if strange := [name for name in held if name not in ids]:
            raise DataError(f"no task {strange[0]!r} to hold out; the tasks are {', '.join(ids)}")
        train = [task for task in tasks if task.task_id not in held]
        if not train or not held:
            raise DataError(f"{len(held)} of {len(ids)} tasks are held out: both sides need at least one")
        test = [_test_data(task) for task in tasks if task.task_id in held]
        names = (tuple(task.task_id for task in train), tuple(held))
        return EpisodeSampler(train, **sizes), EpisodeSampler(test, **sizes), names
    task = tasks[0]
    known = _class_names(task)
    rest = tuple(name for name in known if name not in held)
    for names_of, side in ((rest, "to train on"), (held, "held out for the test")):
        if set(held) <= set(known) and len(names_of) < ways:
            told = ", ".join(names_of) or "none"
            raise DataError(
                f"task {task.task_id!r}: {ways}-way episodes need {ways} classes {side}, got {len(names_of)} ({told})"
            )
    seen, _ = split_classes(task, held)
    _, unseen = split_classes(_test_data(task), held)
    train_task = Task(descriptor=task.descriptor, train=(seen.inputs, seen.targets))
    test_task = Task(descriptor=task.descriptor, train=(unseen.inputs, unseen.targets))
    return EpisodeSampler(train_task, **sizes), EpisodeSampler(test_task, **sizes), (rest, tuple(held))


def _test_data(task: Task) -> Task:
    """The task with its test data in the place of its training data, if it has any."""
    data: TensorData = task.data("test" if task.has_data("test") else "train")
    return Task(descriptor=copy.copy(task.descriptor), train=data)


def _read(payload: Any) -> FewShotResult:
    try:
        found: FewShotResult = structure(payload["result"], FewShotResult, "few-shot result")
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(f"a stored few-shot result cannot be read: {error}") from None
    return found
