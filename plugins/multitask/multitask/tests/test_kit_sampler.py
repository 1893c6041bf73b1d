"""The kit of samplers catches what it says: each wrong one fails one check, and no other."""

from __future__ import annotations

import torch

from crosstask.options import state
from crosstask.testing.selftest import SelfTest
from crosstask_multitask import History
from crosstask_multitask.testing import ReferenceSampler

wrong = SelfTest(ReferenceSampler)


@wrong.caught_by("check_draws_some_of_the_tasks")
class DrawsTwice(ReferenceSampler):
    def sample(self, tasks: list[str], history: History, rng: torch.Generator) -> list[str]:
        return super().sample(tasks, history, rng) * (2 if len(tasks) > 1 else 1)


@wrong.caught_by("check_keeps_the_order")
class LastFirst(ReferenceSampler):
    def sample(self, tasks: list[str], history: History, rng: torch.Generator) -> list[str]:
        super().sample(tasks, history, rng)
        return list(reversed(tasks))


@wrong.caught_by("check_every_task_has_a_chance")
class NeverTheLast(ReferenceSampler):
    def sample(self, tasks: list[str], history: History, rng: torch.Generator) -> list[str]:
        return super().sample(tasks[: max(1, len(tasks) - 1)] if tasks else [], history, rng)


@wrong.caught_by("check_works_at_the_start")
class NeedsALoss(ReferenceSampler):
    def sample(self, tasks: list[str], history: History, rng: torch.Generator) -> list[str]:
        sum(history[task][-1] for task in tasks)
        return super().sample(tasks, history, rng)


@wrong.caught_by("check_one_task")
class ScornsOneTask(ReferenceSampler):
    def sample(self, tasks: list[str], history: History, rng: torch.Generator) -> list[str]:
        return [] if len(tasks) == 1 else super().sample(tasks, history, rng)


@wrong.caught_by("check_no_tasks_refused")
class DrawsNothing(ReferenceSampler):
    def sample(self, tasks: list[str], history: History, rng: torch.Generator) -> list[str]:
        return super().sample(tasks, history, rng) if tasks else []


@wrong.caught_by("check_draws_from_the_generator_given")
class OwnGenerator(ReferenceSampler):
    count: int = state(0)

    def sample(self, tasks: list[str], history: History, rng: torch.Generator) -> list[str]:
        self.count += 1
        return super().sample(tasks, history, self.context.generator("sample", self.count))


def draws_all(tasks: list[str], history: History, rng: torch.Generator) -> list[str]:
    return list(tasks)


@wrong.caught_by("check_agrees_with_twin", twin=draws_all)
class SamplerUnlikeItsTwin(ReferenceSampler):
    pass


test_right, test_wrong, test_every_check_has_a_wrong_component = wrong.tests()
