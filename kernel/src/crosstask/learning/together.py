"""Trainings in fleets where that is right, and one by one where it is not.

`crosstask.learning.fleets` trains one fleet. What is around it is here: who goes together (`grouped`), a fleet whose
members can fail (`in_fleet`), trainings here and now (`every`), and trainings in jobs whose results are kept
(`remembered`). Whoever cannot go in a fleet, or fails in one, is trained alone, and says itself what is wrong with it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar, overload

import attrs
import numpy as np
import torch

from crosstask.components import Context, Job, Remembered
from crosstask.errors import CrosstaskError, RunError
from crosstask.learning.fleets import Member, Trained, muster, train_fleet
from crosstask.options import unstructure

Found = TypeVar("Found")
Wrong = TypeVar("Wrong")
Kept = tuple[Any, Mapping[str, np.ndarray]]
"""What the store keeps of a training: a payload, and weights as arrays, which are cheap to send between processes."""


def grouped(
    members: Sequence[Member], workers: int = 1, each: int = 1, *, least: int = 1, who: str = "it"
) -> tuple[list[list[int]], dict[int, str]]:
    """(numbers of members in groups that a job each trains, those that go alone first; why these do).

    `workers` and `each` as in `muster`; for the sake of workers no group is made smaller than `least`. Members without
    phases go alone: `who`, their method, trains in a way of its own.
    """
    reasons = {n: f"{who} trains in a way of its own" for n, member in enumerate(members) if not member.phases}
    others = [n for n, member in enumerate(members) if member.phases]
    workers = max(1, min(workers, len(others) * each // least))
    fleets, why = muster([members[n] for n in others], workers, each)
    reasons |= {others[place]: reason for place, reason in why.items()}
    return [*([n] for n in reasons), *([others[place] for place in fleet] for fleet in fleets)], reasons


def and_others(labels: Sequence[str]) -> str:
    """A label for a job that does the work of several."""
    return labels[0] + (f" and {len(labels) - 1} more" if len(labels) > 1 else "")


@overload
def in_fleet(
    count: int,
    member: Callable[[int], Member],
    found: Callable[[Member, Trained], Found],
    *,
    curve_split: str | None = None,
    score_split: str | None = None,
) -> list[Found | None]: ...


@overload
def in_fleet(
    count: int,
    member: Callable[[int], Member],
    found: Callable[[Member, Trained], Found],
    failed: Callable[[CrosstaskError], Wrong],
    *,
    curve_split: str | None = None,
    score_split: str | None = None,
) -> list[Found | Wrong | None]: ...


def in_fleet(
    count: int,
    member: Callable[[int], Member],
    found: Callable[[Member, Trained], Found],
    failed: Callable[[CrosstaskError], Any] = lambda _: None,
    *,
    curve_split: str | None = None,
    score_split: str | None = None,
) -> list[Found | Any]:
    """What each of `count` members, whom `grouped` put together, comes to, and one that `failed`: whose loss diverged.
    None: it is to be trained alone, and will say what is wrong with it if something is; so are all where the fleet
    failed, for one of them is not as it looked.
    """
    try:
        members = [member(number) for number in range(count)]
        results: list[Found | None] = []
        for one, how in zip(
            members, train_fleet(members, curve_split=curve_split, score_split=score_split), strict=True
        ):
            if isinstance(how, RunError):
                results.append(failed(how))
            elif isinstance(how, CrosstaskError):
                results.append(None)
            else:  # without data to be judged on it goes alone, and says so
                results.append(None if score_split is not None and how.score is None else found(one, how))
        return results
    except Exception:  # a user's model may raise anything
        return [None] * count


def every(
    planned: Sequence[Member],
    member: Callable[[int], Member],
    alone: Callable[[int], Found],
    found: Callable[[Member, Trained], Found],
    *,
    curve_split: str | None = None,
    score_split: str | None = None,
) -> Iterator[tuple[int, Found]]:
    """Train all of them here: (number, what it comes to) as each is known; those that go alone in their order. The
    first that fails is raised after the others of its fleet.

    By `planned` is seen who goes together: any model of the architecture will do. Only for a fleet the `member` itself
    is made, which may be large.
    """
    groups, reasons = grouped(planned)
    single, wrong = list(reasons), dict[int, CrosstaskError]()
    for group in groups:
        if group[0] in reasons:
            continue

        def own(place: int, group: Sequence[int] = group) -> Member:
            return member(group[place])

        made = in_fleet(len(group), own, found, lambda error: error, curve_split=curve_split, score_split=score_split)
        for number, each in zip(group, made, strict=True):
            if isinstance(each, CrosstaskError):
                wrong[number] = each
            elif each is None:
                single.append(number)
            else:
                yield number, each
    for number in sorted([*single, *wrong]):
        if number in wrong:
            raise wrong[number]
        yield number, alone(number)


def remembered(
    context: Context,
    kind: str,
    keys: Sequence[str],
    planned: Callable[[Sequence[int]], Sequence[Member]],
    job: Callable[[Sequence[int], bool], Job],
    *,
    least: int = 1,
) -> Iterator[tuple[int, Remembered]]:
    """Trainings whose results are kept under these keys: (number, what is kept of it) as each is known. What the store
    has is not done again, nor what another run does.

    `planned` says of some numbers who could go together, as for `every`; `job` makes the job for some: together, or for
    one alone. It gives for each a `Kept`, or None for one that failed in a fleet and is to go alone.
    """
    waiting = []
    for number, key in enumerate(keys):
        known = context.recall(kind, key, claim=False)
        if known is None:
            waiting.append(number)
        else:
            yield number, known
    groups, reasons = grouped(planned(waiting), context.workers, least=least)
    fleets = [[waiting[place] for place in group] for group in groups if group[0] not in reasons]
    single = [waiting[place] for place in reasons]
    claimed = set()
    for number in sorted((number for fleet in fleets for number in fleet), key=keys.__getitem__):
        known = context.recall(kind, keys[number])  # in the order of the keys: two runs do not wait for each other
        if known is None:
            claimed.add(number)
        else:  # another run of this store has trained it meanwhile
            yield number, known
    fleets = [own for fleet in fleets if (own := [number for number in fleet if number in claimed])]

    def alone(number: int) -> Job:
        return attrs.evolve(job([number], False), key=(kind, keys[number]))

    def keep(number: int, found: Kept) -> Remembered:
        payload, arrays = found
        made = Remembered(unstructure(payload), {name: torch.from_numpy(array) for name, array in arrays.items()})
        context.remember(kind, keys[number], made.payload, made.tensors)
        return made

    parts = [*([number] for number in single), *fleets]
    jobs: Iterator[Job] = itertools.chain(map(alone, single), (job(fleet, True) for fleet in fleets))
    while parts:
        failed = []
        for index, found in context.jobs(jobs):
            results = [found] if isinstance(found, Remembered) else found
            for number, each in zip(parts[index], results, strict=True):
                if each is None:
                    failed.append(number)
                else:
                    yield number, each if isinstance(each, Remembered) else keep(number, each)
        failed.sort()
        parts, jobs = [[number] for number in failed], map(alone, failed)
