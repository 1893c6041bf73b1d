"""How quickly, from how few samples and with how few weights of its own a model comes to master a task."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from torch import nn

from crosstask.errors import DataError
from crosstask.learning.episodes import episode_accuracy, episode_losses
from crosstask_meta.trainer import BaseMetaLearner, Batch


def adaptation_curve(learner: BaseMetaLearner, tasks: Batch, steps: int = 10) -> list[float]:
    """The mean score of the queries of these tasks after 0, 1, …, `steps` steps of adaptation: accuracy, or, of values,
    the negative mean squared error.
    """
    episodes = learner.prepare(tasks)
    found = []
    for count in range(steps + 1):
        outputs = learner.predict(episodes, count)
        score = episode_accuracy if episodes.ways is not None else episode_losses
        each = score(outputs, episodes.query_targets, episodes.query_mask)
        found.append(float(each.mean()) * (1 if episodes.ways is not None else -1))
    return found


def adaptation_speed(curve: Sequence[float], share: float = 0.9) -> float:
    """How quickly a task is learned: one over the number of steps after which `share` of the gain is reached, at most
    1; 0 where nothing is gained.

    `curve`: scores after 0, 1, … steps, greater is better. The gain is that of the best of them over the first. Between
    two steps the curve counts as straight, so that the speed of a gain made in one step is one over `share`, at most 1.
    """
    scores = _finite(curve, "adaptation_speed: the curve")
    if len(scores) < 2 or not 0 < share <= 1:
        raise DataError(
            f"adaptation_speed: needs the scores after 0 and more steps and a share in (0, 1], got {len(scores)} "
            f"scores and {share}"
        )
    gain = max(scores) - scores[0]
    if gain <= 0:
        return 0.0
    needed = _reached(list(enumerate(scores)), scores[0] + share * gain)
    assert needed is not None
    return min(1.0, 1 / needed)


def sample_efficiency(scores: Mapping[int, float], baseline: Mapping[int, float], target: float | None = None) -> float:
    """How many times as many samples a baseline needs for the same score: above 1 the first needs fewer.

    Both map numbers of labelled samples to scores, greater is better; between two numbers the score counts as a
    straight line over the logarithm of the samples. `target`: the score to reach, by default the best both reach.
    inf where the baseline never reaches it, 0 where only the baseline does, nan where neither does.
    """
    both = [_points(curve, name) for curve, name in ((scores, "scores"), (baseline, "baseline"))]
    goal = min(max(score for _, score in curve) for curve in both) if target is None else target
    ours, theirs = (_reached(curve, goal) for curve in both)
    if ours is None:
        return math.nan if theirs is None else 0.0
    return math.inf if theirs is None else math.exp(theirs - ours)


def parameter_efficiency(model: nn.Module, adapted: nn.Module) -> float:
    """The share of a model's numbers that the model of a task has in common with it, in [0, 1]: what need not be kept
    again for each task. 0 if every one is changed, 1 if none is.

    Numbers of `adapted` that `model` has not (a prototype, an adapter) count as changed; more of them than `model` has
    numbers give 0.
    """
    own = dict(model.named_parameters())
    total = sum(tensor.numel() for tensor in own.values())
    if not total:
        raise DataError("parameter_efficiency: the model has no parameters")
    kept = {name for name, _ in model.named_buffers()}
    changed = 0
    for name, tensor in adapted.state_dict().items():
        # a copy of the model may stand inside: `encoder.0.weight` is its `0.weight`
        places = name.split(".")
        ends = [".".join(places[start:]) for start in range(len(places))]
        before = next((own[end] for end in ends if end in own and own[end].shape == tensor.shape), None)
        if before is not None:
            changed += int((tensor.to(before.device) != before.detach()).sum())
        elif not kept & set(ends):
            changed += tensor.numel()
    return max(0.0, 1 - changed / total)


def _points(curve: Mapping[int, float], name: str) -> list[tuple[float, float]]:
    if not curve or min(curve) < 1:
        raise DataError(
            f"sample_efficiency: {name} must map numbers of samples, at least 1, to scores, got {dict(curve)}"
        )
    ordered = sorted(curve)
    values = _finite([curve[count] for count in ordered], f"sample_efficiency: {name}")
    return [(math.log(count), value) for count, value in zip(ordered, values, strict=True)]


def _finite(values: Sequence[float], what: str) -> list[float]:
    made = [float(value) for value in values]
    if not all(map(math.isfinite, made)):
        raise DataError(f"{what} has scores that are not finite: {made}")
    return made


def _reached(points: Sequence[tuple[float, float]], goal: float) -> float | None:
    """Where a curve of straight lines first reaches a score; None if nowhere."""
    for number, (place, score) in enumerate(points):
        if score >= goal:
            if number == 0:
                return place
            before, low = points[number - 1]
            return before + (place - before) * (goal - low) / (score - low)
    return None
