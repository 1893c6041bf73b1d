"""Rounds of a federation: who is asked, what comes back, what goes wrong, and how well the sites are served."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
import torch
from torch import nn

from crosstask.components import Context, Job
from crosstask.errors import DataError, RunError, told
from crosstask.learning.modules import copy_of, seeded
from crosstask.learning.training import evaluate
from crosstask.learning.transferring import key_of, without_model
from crosstask.logs import logger
from crosstask.records import Budget
from crosstask.tasks import Task
from crosstask_federation.contract import Federation, Gathered, Local, Site, State
from crosstask_federation.records import Lost
from crosstask_federation.secure import PlainSum, SecureSum
from crosstask_federation.tensors import Tensors, nbytes, scaled, unfinished

KIND = "models"
"""Under which kind rounds are stored: their tensors are weights."""


@attrs.frozen(eq=False)
class Plan:
    """How a federation is run: everything besides the sites and their networks."""

    federation: Federation
    budget: Budget
    rounds: int
    epochs: int | None = None
    share: float = 1.0
    sampling: str = "uniform"
    failures: str = "continue"
    evaluate_every: int = 1
    save_every: int = 5
    secure: SecureSum = attrs.field(factory=PlainSum)

    def budget_of(self, samples: int) -> Budget:
        """What a site with so many samples may spend in a round."""
        if self.epochs is None:
            return self.budget
        steps = math.ceil(self.epochs * samples / min(samples, self.budget.batch_size))
        return attrs.evolve(self.budget, steps=steps)


@attrs.define(eq=False)
class Course:
    """What has come of the rounds so far. `scores` are those of each site after the rounds in `judged`."""

    state: State
    kept: dict[str, Tensors]
    done: int = 0
    judged: list[int] = attrs.field(factory=list)
    scores: dict[str, list[float]] = attrs.field(factory=dict)
    up: list[int] = attrs.field(factory=list)
    down: list[int] = attrs.field(factory=list)
    answered: list[int] = attrs.field(factory=list)
    lost: list[Lost] = attrs.field(factory=list)

    def tensors(self, places: Sequence[str]) -> Tensors:
        """All of them, for the store; sites by their places."""
        made = {f"shared:{n}": t for n, t in self.state.shared.items()}
        made |= {f"own:{n}": t for n, t in self.state.own.items()}
        for place, site in enumerate(places):
            made |= {f"kept{place}:{n}": t for n, t in self.kept.get(site, {}).items()}
        return made

    @classmethod
    def read(cls, payload: Mapping[str, Any], tensors: Tensors, places: Sequence[str]) -> Course:
        """What `tensors` and `plain` were stored as."""

        def under(start: str) -> Tensors:
            return {n.partition(":")[2]: t for n, t in tensors.items() if n.partition(":")[0] == start}

        told = dict(payload)
        told["lost"] = [Lost(**each) for each in told["lost"]]
        kept = {site: found for place, site in enumerate(places) if (found := under(f"kept{place}"))}
        return cls(State(under("shared"), under("own")), kept, **told)

    def plain(self) -> dict[str, Any]:
        """The rest, for the store."""
        names = ("done", "judged", "scores", "up", "down", "answered")
        told = copy.deepcopy({name: getattr(self, name) for name in names})
        return told | {"lost": [attrs.asdict(each) for each in self.lost]}


@attrs.frozen
class Failed:
    """Why a site gave no answer."""

    reason: str


def work_at(
    federation: Federation, task: Task, network: nn.Module, sent: Tensors, kept: Tensors, budget: Budget, seed: int,
    device: str, weight: float | None, secure: SecureSum, where: tuple[str, tuple[str, ...], int],
) -> Local | Failed:  # fmt: skip
    """What a site does in a round, as a job, with its own data alone. What fails is told, and the round goes on."""
    name, sites, number = where
    try:
        site = _site(name, task, network, kept, budget, seed, device)
        with seeded(seed):
            found = federation.checked(federation.local(site, sent), name)
        shared = {at: tensor.detach().cpu() for at, tensor in found.shared.items()}
        if wrong := unfinished(shared):
            return Failed(f"its {wrong} is not finite")
        if "additive" in federation.capabilities:
            shared = secure.hide(shared if weight is None else scaled(shared, weight), name, sites, number)
        return Local(shared, {at: tensor.detach().cpu() for at, tensor in found.kept.items()})
    except Exception as error:  # of a site's data, or of the user's own network
        return Failed(told(error))


def judge_at(
    federation: Federation, name: str, task: Task, network: nn.Module, sent: Tensors, kept: Tensors, budget: Budget,
    seed: int, device: str,
) -> float:  # fmt: skip
    """The test score of the model that a site uses, as a job."""
    site = _site(name, task, network, kept, budget, seed, device)
    with seeded(seed):
        model = federation.model_for(site, sent)
    return evaluate(model, task, "test")


def _site(name: str, task: Task, network: nn.Module, kept: Tensors, budget: Budget, seed: int, device: str) -> Site:
    own = copy_of(network).to(device)  # the same network is there for the next round
    return Site(name, task, own, budget, torch.Generator().manual_seed(seed), kept)


class Rounds:
    """A federation over sites, from its first round to its last, or from where a run that was killed had come.

    `networks` are those that each site begins with, by name, alike but for what stays there. `key` is of everything
    else that determines the result. All that is random depends on the seed, the round and the site's name.
    """

    def __init__(
        self, context: Context, plan: Plan, sites: Mapping[str, Task], networks: Mapping[str, nn.Module], seed: int,
        key: str,
    ) -> None:  # fmt: skip
        if plan.federation.weighted is False and plan.sampling == "by_size":
            raise DataError(f"{plan.federation.origin} sums what sites have: sampling 'by_size' would count some twice")
        self.context, self.plan, self.networks, self.seed, self.key = context, plan, dict(networks), seed, key
        self.names = tuple(sites)
        self.samples = {name: len(task.data("train").head(plan.budget.samples)) for name, task in sites.items()}
        # what a job carries: what it needs of that site's data
        self.work = {name: without_model(task, ("train",)) for name, task in sites.items()}
        splits = ("train", "test") if "personal" in plan.federation.capabilities else ("test",)
        self.test = {name: without_model(task, splits) for name, task in sites.items()}

    def run(self, progress: Callable[[Course], object] = lambda course: None) -> Course:
        """All rounds. RunError if no site answers in one (or one does not, with failures 'stop')."""
        course = self._begun()
        while course.done < self.plan.rounds:
            self._round(course)
            last = course.done == self.plan.rounds
            if last or course.done % self.plan.evaluate_every == 0:
                self._judge(course)
            if last or course.done % self.plan.save_every == 0:
                self.context.remember(
                    KIND, self._key(course.done), {"what": "rounds of a federation", "course": course.plain()},
                    course.tensors(self.names),
                )  # fmt: skip
            progress(course)
        return course

    def _key(self, done: int) -> str:
        return key_of("federated rounds", self.key, self.seed, self.plan.rounds, done)

    def _begun(self) -> Course:
        """Where the last run had come; else the beginning."""
        for done in range(self.plan.rounds, 0, -1):
            if done < self.plan.rounds and done % self.plan.save_every:
                continue
            known = self.context.recall(KIND, self._key(done), claim=False)
            if known is not None:
                return Course.read(known.payload["course"], known.tensors, self.names)
        federation = self.plan.federation
        first = self.networks[self.names[0]]
        course = Course(self.context.call(federation, "begin", network=first), {})
        self._judge(course)
        return course

    def _asked(self, number: int) -> list[str]:
        """Who is asked in a round, perhaps some twice (by_size)."""
        share, count = self.plan.share, len(self.names)
        wanted = max(1, round(share * count))
        if self.plan.sampling == "by_size":
            chances = torch.tensor([self.samples[name] for name in self.names], dtype=torch.float64)
            drawn = torch.multinomial(chances, wanted, True, generator=self._generator(number))
            return [self.names[place] for place in sorted(drawn.tolist())]
        if wanted == count:
            return list(self.names)
        chosen = torch.randperm(count, generator=self._generator(number))[:wanted]
        return [self.names[place] for place in sorted(chosen.tolist())]

    def _generator(self, number: int) -> torch.Generator:
        return self.context.generator("federated", self.seed, number, "sites")

    def _round(self, course: Course) -> None:
        plan, number = self.plan, course.done + 1
        federation, asked = plan.federation, self._asked(number)
        sites = tuple(dict.fromkeys(asked))
        if plan.sampling == "by_size":
            weights = {name: asked.count(name) / len(asked) for name in sites}
        else:
            whole = sum(self.samples[name] for name in sites)
            weights = {name: self.samples[name] / whole for name in sites}
        jobs = {}
        for name in sites:
            seed = self.context.seed_for("federated", self.seed, number, name)
            args = (
                federation, self.work[name], self.networks[name], course.state.shared, course.kept.get(name, {}),
                plan.budget_of(self.samples[name]), seed, self.context.device,
                weights[name] if federation.weighted else None, plan.secure, (name, sites, number),
            )  # fmt: skip
            jobs[name] = Job(work_at, args, label=f"site {name}, round {number}")
        answers: dict[str, Local] = {}
        lost: dict[str, str] = {}
        for name, found in self._done(jobs).items():
            if isinstance(found, Failed):
                lost[name] = found.reason
            else:
                answers[name] = found
        for name in sites:
            if name not in lost:
                continue
            if plan.failures == "stop":
                raise RunError(f"site {name!r} failed in round {number}: {lost[name]}")
            course.lost.append(Lost(round=number, site=name, reason=lost[name]))
            logger().warning("site_lost", site=name, round=number, why=lost[name])
        came = [name for name in sites if name in answers]
        if not came:
            raise RunError(f"no site answered in round {number}; {sites[0]!r}: {lost[sites[0]]}")
        course.state = self.context.call(
            federation, "merge", state=course.state, gathered=self._gathered(answers, came, sites, weights, number)
        )
        for name in came:
            if answers[name].kept:
                course.kept[name] = answers[name].kept
        course.down.append(len(sites) * nbytes(jobs[sites[0]].args[3]))
        course.up.append(sum(nbytes(answers[name].shared) for name in came))
        course.answered.append(len(came))
        course.done = number

    def _gathered(
        self, answers: Mapping[str, Local], came: Sequence[str], sites: tuple[str, ...], weights: Mapping[str, float],
        number: int,
    ) -> Gathered:  # fmt: skip
        parts = [answers[name].shared for name in came]
        own = torch.tensor([weights[name] for name in came], dtype=torch.float64)
        there = float(own.sum())
        if "additive" not in self.plan.federation.capabilities:
            return Gathered(tuple(came), own / there, each=tuple(parts))
        total = self.plan.secure.total(parts, came, sites, number)
        if self.plan.federation.weighted and len(came) < len(sites):  # the others count for those that are missing
            total = {name: tensor / there for name, tensor in total.items()}
        return Gathered(tuple(came), own / there, total=total)

    def _done(self, jobs: Mapping[str, Job]) -> dict[str, Local | Failed]:
        """The answer of each site. A site whose process is lost (or takes too long) fails alone."""
        found: dict[str, Local | Failed] = {}
        while waiting := [name for name in jobs if name not in found]:
            try:
                for place, answer in self.context.jobs([jobs[name] for name in waiting]):
                    found[waiting[place]] = answer
            except RunError as error:
                said = "\n".join([str(error), *getattr(error, "__notes__", ())])
                guilty = next((name for name in waiting if repr(jobs[name].label) in said), None)
                if guilty is None or guilty in found:
                    raise
                found[guilty] = Failed(str(error))
        return found

    def _judge(self, course: Course) -> None:
        """The score of every site's model now."""
        federation, number = self.plan.federation, course.done
        jobs = []
        for name in self.names:
            seed = self.context.seed_for("federated", self.seed, number, name, "judged")
            args = (
                federation, name, self.test[name], self.networks[name], course.state.shared, course.kept.get(name, {}),
                self.plan.budget_of(self.samples[name]), seed, self.context.device,
            )  # fmt: skip
            jobs.append(Job(judge_at, args, label=f"judging site {name} after round {number}"))
        scores = dict(self.context.jobs(jobs))
        course.judged.append(number)
        for place, name in enumerate(self.names):
            course.scores.setdefault(name, []).append(scores[place])


def mean_over(sites: Mapping[str, float], counts: Mapping[str, int]) -> float:
    """The mean of the sites' scores, each by its number of test samples."""
    whole = sum(counts[name] for name in sites)
    return sum(score * counts[name] for name, score in sites.items()) / whole


def model_of(plan: Plan, network: nn.Module, state: State) -> nn.Module | None:
    """The server's model on its own, in evaluation mode; None where each site has a part of its own."""
    if not plan.federation.whole:
        return None
    site = Site("server", Task(descriptor="server"), copy_of(network), plan.budget, torch.Generator())
    return site.received(state.shared).eval()
