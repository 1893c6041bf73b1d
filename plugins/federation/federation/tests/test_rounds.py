"""Rounds: who is asked and how answers count, what fails, what a killed run goes on from, what leaves a site."""

from __future__ import annotations

import os
import pickle
import sys
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from crosstask.context import LocalContext
from crosstask.errors import DataError, PluginError, RunError
from crosstask.executors import ProcessExecutor
from crosstask.learning.models import ModelSpec
from crosstask.learning.modules import seeded
from crosstask.records import Budget
from crosstask.run import Run
from crosstask.store import open_store
from crosstask.testing import reference_registry
from crosstask_federation import Local, PlainSum, Plan, Rounds, Site, State, mean_over, nbytes, put, state_of
from crosstask_federation.rounds import Course, work_at
from crosstask_federation.tensors import Tensors, scaled, sum_of, unfinished
from crosstask_federation.testing import REFERENCE, ReferenceFederation, ReferencePersonal, digits_at

STEP = Budget(steps=2, batch_size=32, learning_rate=0.05, optimizer="sgd")


def network() -> nn.Module:
    with seeded(0):
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))


def rounds(federation: Any = None, context: Any = None, sites: int = 3, seed: int = 0, **given: Any) -> Rounds:
    tasks = {task.task_id: task for task in digits_at(sites, train=90, test=60)}
    plan = Plan(federation or ReferenceFederation(), **{"budget": STEP, "rounds": 3, **given})
    return Rounds(context or LocalContext(), plan, tasks, dict.fromkeys(tasks, network()), seed, "test")


def same(one: Course, other: Course) -> bool:
    ours, theirs = one.tensors(list(one.scores)), other.tensors(list(other.scores))
    return (
        one.plain() == other.plain()
        and all(torch.equal(ours[n], theirs[n]) for n in ours)
        and ours.keys() == theirs.keys()
    )


class Says(ReferenceFederation):
    """Each site sends its number and how many samples it has."""

    shares: ClassVar[tuple[str, ...]] = ("number",)

    def begin(self, network: nn.Module) -> State:
        return State({"number/site": torch.zeros(1)})

    def local(self, site: Site, sent: Tensors) -> Local:
        return Local({"number/site": torch.tensor([float(site.name.rpartition("/")[2])])})

    def model_for(self, site: Site, sent: Tensors) -> nn.Module:
        return site.network


def test_answers_count_by_samples() -> None:
    made = rounds(Says(), rounds=1)
    sizes = [made.samples[name] for name in made.names]
    assert len(set(sizes)) > 1
    expected = sum(n * size for n, size in enumerate(sizes)) / sum(sizes)
    assert float(made.run().state.shared["number/site"]) == pytest.approx(expected)


def test_a_share_of_the_sites_is_asked_and_its_weights_sum_to_one() -> None:
    made = rounds(Says(), sites=5, share=0.4, rounds=6)
    asked = [made._asked(number) for number in range(1, 7)]
    assert all(len(set(each)) == 2 for each in asked)
    assert len({tuple(each) for each in asked}) > 1
    course = made.run()
    assert course.answered == [2] * 6
    last = [made.samples[name] for name in asked[-1]]
    numbers = [int(name.rpartition("/")[2]) for name in asked[-1]]
    expected = sum(n * size for n, size in zip(numbers, last, strict=True)) / sum(last)
    assert float(course.state.shared["number/site"]) == pytest.approx(expected)


def test_sites_drawn_by_size_give_the_mean_of_all_in_expectation() -> None:
    made = rounds(Says(), sites=4, share=0.5, sampling="by_size")
    sizes = torch.tensor([float(made.samples[name]) for name in made.names])
    counts = torch.zeros(4)
    for number in range(2000):
        for name in made._asked(number):
            counts[made.names.index(name)] += 1
    assert torch.allclose(counts / counts.sum(), sizes / sizes.sum(), atol=0.025)
    twice = next(n for n in range(2000) if len(set(made._asked(n))) == 1)
    made.context = LocalContext(seed=0)
    course = made._begun()
    course.done = twice - 1
    made._round(course)
    assert course.answered == [1]
    assert float(course.state.shared["number/site"]) == int(made._asked(twice)[0].rpartition("/")[2])


def test_epochs_are_steps_by_the_size_of_a_site() -> None:
    plan = rounds(epochs=2).plan
    assert [plan.budget_of(n).steps for n in (1, 10, 32, 33, 100)] == [2, 2, 2, 3, 7]
    assert rounds().plan.budget_of(1000) is STEP


class Fails(ReferenceFederation):
    """One site fails in round 2, in a way of its own."""

    how: str = "raises"

    def local(self, site: Site, sent: Tensors) -> Local:
        found = super().local(site, sent)
        if site.name.endswith("/1") and sent["weights/1.weight"].double().sum() != start():
            if self.how == "raises":
                raise ValueError("the disk is full")
            if self.how == "exits":
                sys.exit(3)
            if self.how == "is killed":
                os._exit(3)
            return Local({name: t * float("nan") for name, t in found.shared.items()})
        return found


def start() -> Tensor:
    return network().get_parameter("1.weight").double().sum()


def failing(how: str) -> Fails:
    made = Fails()
    made.how = how
    return made


@pytest.mark.parametrize(
    ("how", "told"), [("raises", "ValueError: the disk is full"), ("exits", "sys.exit"), ("nan", "is not finite")]
)
def test_a_site_that_fails_counts_for_nothing_and_the_others_go_on(how: str, told: str) -> None:
    made = rounds(failing(how))
    course = made.run()
    assert course.answered == [3, 2, 2]
    assert [(each.round, each.site) for each in course.lost] == [(2, "digits/1"), (3, "digits/1")]
    assert told in course.lost[0].reason
    plain = rounds(rounds=1).run()
    others = [made.names[0], made.names[2]]
    sent = []
    for name in others:
        seed = made.context.seed_for("federated", 0, 2, name)
        args = (made.work[name], made.networks[name], plain.state.shared, {}, STEP, seed, "cpu", 1.0, PlainSum())
        found = work_at(ReferenceFederation(), *args, (name, made.names, 2))
        assert isinstance(found, Local)
        sent.append(found.shared)
    sizes = [made.samples[name] for name in others]
    second = rounds(failing(how), rounds=2).run()
    for name, tensor in second.state.shared.items():  # the mean of the two that answered
        expected = (sizes[0] * sent[0][name] + sizes[1] * sent[1][name]) / sum(sizes)
        assert torch.allclose(tensor, expected, atol=1e-6)


def test_a_failure_can_end_the_run() -> None:
    with pytest.raises(RunError, match="site 'digits/1' failed in round 2: ValueError: the disk is full"):
        rounds(failing("raises"), failures="stop").run()


class AllFail(ReferenceFederation):
    def local(self, site: Site, sent: Tensors) -> Local:
        raise ValueError("no power")


class SendsData(ReferenceFederation):
    def local(self, site: Site, sent: Tensors) -> Local:
        return Local({"images/all": site.task.data("train").inputs})


def test_a_round_without_any_answer_ends_the_run() -> None:
    with pytest.raises(RunError, match="no site answered in round 1; 'digits/0': ValueError: no power"):
        rounds(AllFail()).run()


def test_a_failure_that_is_of_no_site_ends_the_run() -> None:
    class Broken(LocalContext):
        def jobs(self, jobs: Any, at_once: int | None = None) -> Any:
            if any("round" in job.label and "judging" not in job.label for job in jobs):
                raise RunError("the executor was shut down")
            return super().jobs(jobs, at_once)

    with pytest.raises(RunError, match="the executor was shut down"):
        rounds(context=Broken()).run()


def test_what_the_contract_does_not_name_does_not_leave_a_site() -> None:
    with pytest.raises(RunError, match="answers with 'images/all'; it says that it shares weights, buffers"):
        rounds(SendsData()).run()
    with pytest.raises(PluginError, match="must return a Local, got a dict"):
        ReferenceFederation().checked({}, "a")


def test_a_job_carries_one_sites_training_data_alone() -> None:
    made = rounds()
    for name, task in made.work.items():
        sizes = {split: len(task.data(split)) for split in ("train", "validation", "test") if task.has_data(split)}
        assert sizes == {"train": made.samples[name]}
    whole = sum(len(pickle.dumps(task)) for task in made.work.values())
    assert len(pickle.dumps(made.work[made.names[0]])) < 0.7 * whole
    assert not any(task.has_data("train") for task in made.test.values())  # to be judged: only if it is personal
    assert all(task.has_data("train") for task in rounds(ReferencePersonal()).test.values())


def test_bytes_are_those_of_what_is_sent() -> None:
    course = rounds(sites=2, rounds=1).run()
    weights = sum(p.numel() for p in network().parameters())
    assert (course.up, course.down) == ([2 * 4 * weights], [2 * 4 * weights])


class Masks:
    """Two sites' masks cancel: a stand-in for a library, of no worth as cryptography."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Tensor]] = []

    def hide(self, tensors: Tensors, site: str, sites: Any, round: int) -> Tensors:
        made = {}
        for name, tensor in tensors.items():
            mask = torch.zeros_like(tensor)
            for other in sites:
                if other != site:
                    low, high = sorted((site, other))
                    with seeded(abs(hash((low, high, round, name))) % 2**31):
                        drawn = 10 * torch.randn(tensor.shape)
                    mask += drawn if site == low else -drawn
            made[name] = tensor + mask
        return made

    def total(self, hidden: Any, answered: Any, sites: Any, round: int) -> Tensors:
        if len(answered) < len(sites):
            raise RunError("a mask is missing")
        self.seen += hidden
        return sum_of(hidden)


def test_sums_can_hide_what_each_site_sends() -> None:
    masks = Masks()
    hidden, plain = rounds(secure=masks, rounds=2).run(), rounds(rounds=2).run()
    for name, tensor in plain.state.shared.items():
        assert torch.allclose(hidden.state.shared[name], tensor, atol=1e-4)
    assert float(masks.seen[0]["weights/1.weight"].abs().mean()) > 3
    with pytest.raises(RunError, match="a mask is missing"):
        rounds(failing("raises"), secure=Masks()).run()


def test_a_killed_run_goes_on_and_ends_with_the_same_bits() -> None:
    context = LocalContext()
    whole = rounds(ReferencePersonal(), rounds=5, save_every=2).run()

    class KilledError(Exception):
        pass

    def kill(course: Course) -> None:
        if course.done == 3:
            raise KilledError

    with pytest.raises(KilledError):
        rounds(ReferencePersonal(), context, rounds=5, save_every=2).run(kill)
    done: list[int] = []
    again = rounds(ReferencePersonal(), context, rounds=5, save_every=2).run(lambda course: done.append(course.done))
    assert done == [3, 4, 5]  # round 3 was not kept
    assert same(whole, again)
    assert same(whole, rounds(ReferencePersonal(), context, rounds=5, save_every=2).run())


def test_a_new_process_goes_on_from_the_store(tmp_path: Path) -> None:
    registry, made = reference_registry(REFERENCE), []
    for last in (2, 4):  # the first process ends after two of four rounds
        with Run(registry, store=open_store(f"{tmp_path}/store.db")) as run:
            course = rounds(ReferencePersonal(), run, rounds=4, save_every=2)
            if last == 2:
                with pytest.raises(KeyboardInterrupt):
                    course.run(_interrupt)
            else:
                made.append(course.run(lambda course: made.append(course.done)))
    assert made[:-1] == [3, 4]
    with Run(registry) as run:
        assert same(rounds(ReferencePersonal(), run, rounds=4, save_every=2).run(), made[-1])


def _interrupt(course: Course) -> None:
    if course.done == 2:
        raise KeyboardInterrupt


def test_a_failed_round_is_read_back() -> None:
    context = LocalContext()
    first = rounds(failing("raises"), context).run()
    assert same(first, rounds(failing("raises"), context).run())
    assert first.lost


def test_sums_of_what_sites_have_are_not_drawn_by_size() -> None:
    class Sums(ReferenceFederation):
        weighted: ClassVar[bool] = False

    with pytest.raises(DataError, match="would count some twice"):
        rounds(Sums(), sampling="by_size")


@pytest.mark.slow  # two processes import torch
def test_processes_give_the_same_bits_and_one_that_is_killed_fails_alone() -> None:
    registry = reference_registry(REFERENCE)
    found = []
    for executor in (None, ProcessExecutor(workers=2, retries=0)):
        with Run(registry, executor=executor) as run:
            found.append([rounds(ReferencePersonal(), run).run(), rounds(failing("exits"), run).run()])
    assert same(found[0][0], found[1][0])
    assert same(found[0][1], found[1][1])
    with Run(registry, executor=ProcessExecutor(workers=2, retries=0)) as run:
        course = rounds(failing("is killed"), run).run()
    assert course.answered == [3, 2, 2]
    assert "lost its worker process" in course.lost[0].reason


# --- Tensors


class Tied(nn.Module):
    """A layer under two names, a BatchNorm with a whole number, a frozen weight, and something that is not saved."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(4, 4)
        self.two = self.one
        self.norm = nn.BatchNorm1d(4)
        self.frozen = nn.Parameter(torch.ones(4), requires_grad=False)
        self.head = nn.Linear(4, 2)
        self.register_buffer("scratch", torch.zeros(3), persistent=False)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.norm(self.two(self.one(inputs))) * self.frozen)


def test_tied_weights_are_sent_once_frozen_ones_never() -> None:
    shared, kept = state_of(Tied())
    assert sorted(shared) == [
        "buffers/norm.num_batches_tracked", "buffers/norm.running_mean", "buffers/norm.running_var",
        "weights/head.bias", "weights/head.weight", "weights/norm.bias", "weights/norm.weight",
        "weights/one.bias", "weights/one.weight",
    ]  # fmt: skip
    assert kept == {}
    assert nbytes(shared) == 4 * (4 + 4 + 2 + 8 + 4 + 4 + 4 + 16) + 8
    model = Tied()
    put(model, {"weights/one.weight": torch.full((4, 4), 2.0)})
    assert model.two.weight[0, 0] == 2


class Counting(nn.Module):
    """Keeps besides its weights, in training, how many batches it saw, a tensor and a name."""

    def __init__(self, width: int = 2, outputs: int = 2) -> None:
        super().__init__()
        self.head = nn.Linear(width, outputs)
        self.seen, self.largest, self.note = 0, torch.zeros(width, dtype=torch.float64), "fresh"

    def forward(self, inputs: Tensor) -> Tensor:
        if self.training:
            self.seen, self.note = self.seen + 1, "trained"
            self.largest = torch.maximum(self.largest, inputs.double().amax(0))
        return self.head(inputs)

    def get_extra_state(self) -> Any:
        return {"seen": self.seen, "largest": self.largest, "note": self.note}

    def set_extra_state(self, state: Any) -> None:
        self.seen, self.largest, self.note = state["seen"], state["largest"], state["note"]


class Odd(Counting):
    """Whose extra state is no plain data."""

    def get_extra_state(self) -> Any:
        return {1, 2}


class Bare(Counting):
    """Whose extra state is a tensor."""

    def get_extra_state(self) -> Any:
        return self.largest

    def set_extra_state(self, state: Any) -> None:
        self.largest = state


def test_extra_state_stays_and_comes_back() -> None:
    for kind in (Counting, Bare):
        model = nn.Sequential(kind()).train()
        model(torch.tensor([[1.5, -2.0], [0.5, 3.0]]))
        shared, kept = state_of(model)
        assert sorted(shared) == ["weights/0.head.bias", "weights/0.head.weight"]
        again = put(nn.Sequential(kind()), {**shared, **kept})
        assert again[0].largest.tolist() == [1.5, 3.0]
        assert again[0].largest.dtype == torch.float64
        assert (again[0].seen, again[0].note) == ((1, "trained") if kind is Counting else (0, "fresh"))
        put(kind(), state_of(kind())[1])  # of a module that is the whole network
    with pytest.raises(DataError, match=r"'_extra_state' of Odd \(get_extra_state\) is no plain data: a site cannot"):
        state_of(Odd())


def test_sites_count_on_from_round_to_round() -> None:
    made = rounds(rounds=3)
    with seeded(0):
        made.networks = dict.fromkeys(made.names, nn.Sequential(nn.Flatten(), Counting(64, 10)))
    course = made.run()
    for name in made.names:
        model = put(nn.Sequential(nn.Flatten(), Counting(64, 10)), course.kept[name])[1]
        assert model.seen == 3 * STEP.steps
        assert bool((model.largest <= made.work[name].data("train").inputs.flatten(1).double().amax(0)).all())
    assert not any("extra" in name for name in course.state.shared), "it never leaves a site"
    assert same(course, Course.read(course.plain(), course.tensors(made.names), made.names))


def test_what_stays_is_kept_and_not_shared() -> None:
    shared, kept = state_of(Tied(), ("batch_norm", "head"))
    assert sorted(shared) == ["weights/one.bias", "weights/one.weight"]
    assert len(kept) == 7


def test_whole_numbers_are_averaged_and_rounded() -> None:
    model = Tied()
    put(model, {"buffers/norm.num_batches_tracked": torch.tensor(6.6, dtype=torch.float64)})
    assert int(model.norm.num_batches_tracked) == 7
    total = sum_of([scaled({"n": torch.tensor(n)}, w) for n, w in ((10, 0.25), (2, 0.75))])
    assert float(total["n"]) == 4.0


def test_halves_are_summed_in_single_precision() -> None:
    parts = [scaled({"w": torch.ones(2, dtype=torch.bfloat16)}, 1 / 300) for _ in range(300)]
    assert torch.allclose(sum_of(parts)["w"], torch.ones(2), atol=1e-5)  # in bfloat16 the sum stops growing


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(DataError, match=r"'head.weight' of shape \(3, 4\) does not fit Tied .* it is \(2, 4\) there"):
        put(Tied(), {"weights/head.weight": torch.zeros(3, 4)})
    with pytest.raises(DataError, match="it has none of that name"):
        put(Tied(), {"weights/tail.weight": torch.zeros(3, 4)})
    put(Tied(), {"velocity/head.weight": torch.zeros(3, 4)})  # no form of a network's
    with pytest.raises(DataError, match="other tensors, which cannot be summed: b"):
        sum_of([{"a": torch.zeros(1)}, {"a": torch.zeros(1), "b": torch.zeros(1)}])
    with pytest.raises(DataError, match="cannot be summed: a"):
        sum_of([{"a": torch.zeros(1)}, {"a": torch.zeros(2)}])
    assert unfinished({"a": torch.zeros(1), "b": torch.tensor([1.0, float("inf")])}) == "b"


def test_the_mean_over_sites_is_by_test_samples() -> None:
    assert mean_over({"a": 1.0, "b": 0.5}, {"a": 1, "b": 3}) == 0.625


def test_model_spec_networks_work_too() -> None:
    task = digits_at(2, train=60, test=40)
    sites = {each.task_id: each for each in task}
    built = ModelSpec(hidden=(8,)).build(task[0].descriptor, 0)
    course = Rounds(
        LocalContext(), Plan(ReferenceFederation(), STEP, 1), sites, dict.fromkeys(sites, built), 0, "k"
    ).run()
    assert course.done == 1
