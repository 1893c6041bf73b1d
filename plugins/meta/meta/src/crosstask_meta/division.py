"""What meta-training sees and what the test is apart by: classes of one task, or whole tasks of several."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence

import attrs
import torch

from crosstask.errors import DataError, nearest
from crosstask.tasks import Portfolio, Task
from crosstask_meta.samplers import EpisodeSampler, split_classes


@attrs.frozen(eq=False)
class Division:
    """The tasks that take part, and the names of the training classes and of the test classes of the only one; of
    several, of the training tasks and of the test tasks.
    """

    tasks: tuple[Task, ...]
    train: tuple[str, ...]
    test: tuple[str, ...]

    @property
    def by(self) -> str:
        """`classes` or `tasks`."""
        return "classes" if len(self.tasks) == 1 else "tasks"

    @property
    def split(self) -> str:
        """The split that test episodes are drawn from: that of the test where every task has one."""
        return "test" if all(task.has_data("test") for task in self.tasks) else "train"

    def samplers(self, *, ways: int, shots: int, queries: int) -> tuple[EpisodeSampler, EpisodeSampler]:
        """(of training episodes, of test episodes). DataError names what has too few classes or samples for them.

        Test episodes are drawn from a task's test data where it has any, so that they share no sample with the others.
        """
        shapes = {task.task_id: tuple(task.data("train").inputs.shape[1:]) for task in self.tasks}
        if len(set(shapes.values())) > 1:
            told = ", ".join(f"{name} {shape}" for name, shape in list(shapes.items())[:12])
            raise DataError(f"tasks that one network learns from need inputs of one shape, got {told}")
        if self.by == "tasks":
            train = [task for task in self.tasks if task.task_id in self.train]
            test = [_test_data(task) for task in self.tasks if task.task_id in self.test]
        else:
            (task,) = self.tasks
            for names, side in ((self.train, "to train on"), (self.test, "held out for the test")):
                if len(names) < ways:
                    told = ", ".join(names) or "none"
                    raise DataError(
                        f"task {task.task_id!r}: {ways}-way episodes need {ways} classes {side}, got {len(names)} "
                        f"({told})"
                    )
            seen, unseen = split_classes(task, self.test)[0], split_classes(_test_data(task), self.test)[1]
            train = [Task(descriptor=task.descriptor, train=seen)]
            test = [Task(descriptor=task.descriptor, train=unseen)]
        made = [EpisodeSampler(side, ways=ways, shots=shots, queries=queries) for side in (train, test)]
        return made[0], made[1]


def divide(
    tasks: Task | Portfolio | Iterable[Task],
    ways: int,
    held_out: int | Sequence[str] | None,
    generator: torch.Generator,
) -> Division:
    """Classes of one task (by name, or by label where the descriptor names none), or several tasks, held out for the
    test: those named, or so many drawn with the generator.

    By default as many classes as `ways` or, if that is more, two fifths; the tasks that a portfolio holds back as
    unseen, else a fifth. DataError: no classification, unknown names, nothing left on one side.
    """
    chosen = [tasks] if isinstance(tasks, Task) else list(tasks)
    unseen = tasks.unseen if isinstance(tasks, Portfolio) else []
    if len(chosen) > 1 and held_out is None and unseen:
        chosen, held_out = [*chosen, *unseen], [task.task_id for task in unseen]
    elif len(chosen) > 1 and held_out is not None and not isinstance(held_out, int):
        chosen += [task for task in unseen if task.task_id in held_out]
    if not chosen:
        raise DataError("no tasks to draw episodes from")
    for task in chosen:
        if task.descriptor.task_type != "classification":
            kind = task.descriptor.task_type
            raise DataError(f"task {task.task_id!r} is a {kind} task: few-shot episodes need classes")
    only = chosen[0] if len(chosen) == 1 else None
    known = _class_names(only) if only else [task.task_id for task in chosen]
    if held_out is None or isinstance(held_out, int):
        share = max(ways, round(0.4 * len(known))) if only else max(1, len(known) // 5)
        count = share if held_out is None else held_out
        order = torch.randperm(len(known), generator=generator).tolist()
        held_out = [known[place] for place in sorted(order[:count])]
    test = tuple(dict.fromkeys(map(str, held_out)))
    for name in test:
        if name not in known:
            what = f"task {only.task_id!r} has no class" if only else "there is no task"
            raise DataError(f"{what} {name!r} to hold out{nearest(name, known)}")
    rest = tuple(name for name in known if name not in test)
    if not only and not (rest and test):
        raise DataError(f"{len(test)} of {len(known)} tasks are held out: both sides need at least one")
    return Division(tuple(chosen), rest, test)


def _class_names(task: Task) -> list[str]:
    names = task.descriptor.classes
    return [names[v] if names else str(v) for v in torch.unique(task.data("train").targets).tolist()]


def _test_data(task: Task) -> Task:
    """The task with its test data in the place of its training data, if it has any."""
    data = task.data("test" if task.has_data("test") else "train")
    return Task(descriptor=copy.copy(task.descriptor), train=data)
