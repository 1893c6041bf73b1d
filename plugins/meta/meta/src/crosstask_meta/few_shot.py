"""Meta-training on the episodes of some classes (or tasks), and the test on those of others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from crosstask.components import Context
from crosstask.errors import DataError, StoreError
from crosstask.learning.episodes import Episodes, episode_accuracy
from crosstask.learning.metrics import confidence_interval
from crosstask.learning.transferring import key_of
from crosstask.options import structure, unstructure
from crosstask.points.meta_learner import MetaLearner
from crosstask.records import Interval, LearningCurve
from crosstask.run import Run
from crosstask.tasks import Portfolio, Task
from crosstask_meta.division import divide
from crosstask_meta.records import FewShotResult
from crosstask_meta.start import Start

AT_ONCE = 25
"""Test episodes that are predicted together."""


def run_few_shot(
    context: Context,
    learner: MetaLearner,
    start: Start,
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
) -> tuple[FewShotResult, nn.Module]:
    """Train `learner` with `steps` meta-steps of `meta_batch` episodes each and judge it on held-out classes or tasks:
    (the result, the module that was trained).

    With one task, episodes are drawn from its classes, and `held_out` names the classes of the test (labels, if the
    descriptor names none) or says how many are drawn for it. With several, each episode is drawn from one task, and
    `held_out` names the test tasks or says how many; see `divide`. Meta-training sees the training split; test episodes
    are drawn from the test split where there is one, so that they share no sample with it.

    The same run, repeated, is recalled from the store with its weights. DataError: no classification, too few classes
    on either side, too few samples of one, a network that does not take the inputs.
    """
    division = divide(tasks, ways, held_out, context.generator("few shot", "held out"))
    asked = {
        "ways": ways, "shots": shots, "queries": queries, "steps": steps, "meta_batch": meta_batch,
        "test_episodes": test_episodes, "adapt_steps": adapt_steps, "evaluate_every": evaluate_every,
    }  # fmt: skip
    prints = [task.fingerprint() for task in division.tasks]
    wrapped = context.wrapping() if isinstance(context, Run) else []
    what = [learner.identity(), start.identity(), wrapped]
    key = key_of("few shot", what, prints, division.test, asked, context.seed)
    train, test = division.samplers(ways=ways, shots=shots, queries=queries)
    stream = context.generator("few shot", "train")
    module = start.build(context, learner, division.tasks[0].descriptor, train.sample(1, stream))
    known = context.recall("models", key)
    if known is not None:
        module.load_state_dict(known.tensors)
        return _read(known.payload), module
    fixed = list(test.sample(test_episodes, context.generator("few shot", "test")).split(AT_ONCE))
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
        tasks=tuple(task.task_id for task in division.tasks),
        train=division.train,
        test=division.test,
        held_out=division.by,
        start=start.told,
        adapter=start.adapter.origin if start.adapter else "",
        ways=ways,
        shots=shots,
        queries=queries,
        steps=steps,
        meta_batch=meta_batch,
        accuracy=_judged(context, learner, module, fixed, adapt_steps),
        untrained_accuracy=before,
        curve=LearningCurve(steps=tuple(points), values=tuple(values)),
        losses=tuple(losses),
        split=division.split,
        seed=context.seed,
        options=learner.options() | start.options(),
    )
    made = {"what": "few shot", "key": key, "result": unstructure(result)}
    context.remember("models", key, made, {name: t.detach().cpu() for name, t in module.state_dict().items()})
    return result, module


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


def _read(payload: Any) -> FewShotResult:
    try:
        found: FewShotResult = structure(payload["result"], FewShotResult, "few-shot result")
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(f"a stored few-shot result cannot be read: {error}") from None
    return found
