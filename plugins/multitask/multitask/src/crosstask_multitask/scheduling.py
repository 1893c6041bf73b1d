"""Which task to train next, for a loop of one's own: the samplers of joint training without a trainer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from crosstask.context import LocalContext
from crosstask.errors import DataError, OptionError, UnknownComponentError, nearest, of_kind
from crosstask.logs import logger
from crosstask.options import structure
from crosstask_multitask.losses import checked_names
from crosstask_multitask.sampler import History, Sampler

METHODS = {
    "loss_based": "loss_based",
    "uniform": "uniform",
    "performance_based": "performance",
    "round_robin": "round_robin",
}
"""The methods by their classic names, and the samplers that they are."""
ADAPTIVE = ("loss_based", "performance_based")
WINDOW = 10


class AdaptiveTaskScheduler:
    """Draws the task of each step, by how the tasks are doing.

        scheduler = AdaptiveTaskScheduler(["digits", "letters"], "loss_based")
        for step in range(1000):
            task = scheduler.sample_task()
            loss = train_on(task)
            scheduler.update_statistics({task: loss})

    `scheduling_method`: `loss_based` (the higher the loss, the more often: p = softmax(loss / temperature)),
    `performance_based` (the lower the accuracy: softmax((1 - accuracy) / temperature)), `uniform`, `round_robin`; or
    another sampler of the registry by name. The mean of a task's last 10 values counts, looked at anew every
    `update_frequency` updates (and where a task is new); before anything is known of a task it comes first.

    `least`: no task is drawn with less than this part of an even share, so that one whose loss has another unit is not
    starved. A value that is not finite is not counted, with a warning; a task of which only such are known counts as
    the mean of the others.

    Draws come from a generator of its own, from `seed`. `state_dict` has everything.
    """

    def __init__(
        self,
        task_names: Sequence[str],
        scheduling_method: str = "loss_based",
        temperature: float = 1.0,
        update_frequency: int = 100,
        *,
        least: float = 0.1,
        seed: int = 0,
    ) -> None:
        where = type(self).__name__
        self.task_names = checked_names(where, task_names)
        self.scheduling_method = scheduling_method
        self.temperature = structure(temperature, float, f"{where}: temperature")
        seed = structure(seed, int, f"{where}: seed")
        self.update_frequency = structure(update_frequency, int, f"{where}: update_frequency")
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise OptionError(f"{where}: temperature must be > 0, got {temperature!r}")
        if self.update_frequency < 1:
            raise OptionError(f"{where}: update_frequency must be >= 1, got {update_frequency!r}")
        adaptive = {"temperature": self.temperature, "update_frequency": 1, "least": least}
        self.sampler = self._made(adaptive if scheduling_method in ADAPTIVE else {}, seed)
        self.updates = 0
        self._rng = torch.Generator().manual_seed(seed)
        self._losses: dict[str, list[float]] = {name: [] for name in self.task_names}
        self._accuracies: dict[str, list[float]] = {name: [] for name in self.task_names}
        self._not_finite: set[tuple[str, str]] = set()
        self._history = self._means()

    def _made(self, options: Mapping[str, Any], seed: int) -> Sampler:
        method, where = self.scheduling_method, type(self).__name__
        try:
            made = LocalContext(seed=seed).component("sampler", METHODS.get(str(method), str(method)), options)
        except UnknownComponentError as error:
            if str(method) in METHODS:  # its package is missing, and the error says which
                raise
            raise OptionError(f"{where}: unknown scheduling_method {method!r}{nearest(method, METHODS)}") from error
        assert isinstance(made, Sampler)
        return made

    def update_statistics(
        self,
        task_losses: Mapping[str, Any],
        task_metrics: Mapping[str, Any] | None = None,
    ) -> None:
        """What came of some tasks in a step: losses, and accuracies (a number, or a table with `accuracy`).

        DataError for a task that there is not, or an accuracy that is not from 0 to 1.
        """
        for what, given in (("task_losses", task_losses), ("task_metrics", task_metrics or {})):
            of_kind(given, Mapping, f"{type(self).__name__}: {what}")  # type: ignore[type-abstract]
        losses = {name: self._number(name, "loss", value) for name, value in task_losses.items()}
        accuracies = {name: self._accuracy(name, value) for name, value in (task_metrics or {}).items()}
        new = False
        for kept, values in ((self._losses, losses), (self._accuracies, accuracies)):
            for name, value in values.items():
                new |= not kept[name]
                kept[name] = [*kept[name], value][-WINDOW:]
        self.updates += 1
        if new or self.updates % self.update_frequency == 0:
            self._history = self._means()

    def sample_task(self) -> str:
        """The task of the next step."""
        return self.sampler.sample(self.task_names, self._history, self._rng)[0]

    def get_task_probabilities(self) -> dict[str, float]:
        """How probable each task is to be drawn next (in turn: its share of the steps); their sum is 1."""
        return self.sampler.chances(self.task_names, self._history)

    def _number(self, name: str, what: str, value: Any) -> float:
        if name not in self._losses:
            raise DataError(f"{type(self).__name__}: no task {name!r}{nearest(name, self.task_names)}")
        try:
            found = float(value.detach() if isinstance(value, torch.Tensor) else value)
        except (TypeError, ValueError, RuntimeError):  # a tensor of several raises the last
            given = type(value).__name__
            raise DataError(
                f"{type(self).__name__}: the {what} of task {name!r} must be a number, got {given}"
            ) from None
        if not math.isfinite(found) and (name, what) not in self._not_finite:
            self._not_finite.add((name, what))  # said once, not in every step
            logger().warning("task_statistic_not_finite", task=name, what=what, value=found)
        return found

    def _accuracy(self, name: str, value: Any) -> float:
        if isinstance(value, Mapping):
            if "accuracy" not in value:
                told = f"the metrics of task {name!r} have no 'accuracy'{nearest('accuracy', value)}"
                raise DataError(f"{type(self).__name__}: {told}")
            value = value["accuracy"]
        found = self._number(name, "accuracy", value)
        if math.isfinite(found) and not 0 <= found <= 1:
            raise DataError(f"{type(self).__name__}: the accuracy of task {name!r} must be from 0 to 1, got {found:g}")
        return found

    def _means(self) -> History:
        """One number for each task of which something is known: the mean of its latest values."""
        return History(_mean_of(self._losses), scores=_mean_of(self._accuracies))

    # --- Going on later

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next draw depends on."""
        return {
            "losses": {name: list(values) for name, values in self._losses.items()},
            "accuracies": {name: list(values) for name, values in self._accuracies.items()},
            "seen": {"losses": _copy(self._history), "scores": _copy(self._history.scores)},
            "updates": self.updates,
            "sampler": self.sampler.state_dict(),
            "rng": self._rng.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict`. DataError if its tasks are others."""
        if set(state["losses"]) != set(self.task_names):
            raise DataError(
                f"{type(self).__name__}: the state is of tasks {sorted(state['losses'])}, here are {self.task_names}"
            )
        self._losses, self._accuracies = _copy(state["losses"]), _copy(state["accuracies"])
        self._history = History(_copy(state["seen"]["losses"]), scores=_copy(state["seen"]["scores"]))
        self.updates = state["updates"]
        self.sampler.load_state_dict(dict(state["sampler"]))
        self._rng.set_state(state["rng"].cpu())


def _copy(kept: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    return {name: list(values) for name, values in kept.items()}


def _mean_of(kept: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    """A task's mean over its values that are finite, in a list; empty for one of which nothing is known."""
    finite = {name: [v for v in values if math.isfinite(v)] for name, values in kept.items()}
    means = {name: sum(values) / len(values) for name, values in finite.items() if values}
    others = sum(means.values()) / len(means) if means else None
    found: dict[str, list[float]] = {}
    for name, values in kept.items():
        value = means.get(name, others if values else None)
        found[name] = [] if value is None else [value]
    return found
