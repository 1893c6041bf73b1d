"""Components: made of others, bound to a run, with state that survives; context and run around them."""

from __future__ import annotations

import pickle
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from crosstask.components import Job, check_answer, hookimpl, hooks_of
from crosstask.context import LocalContext
from crosstask.errors import CrosstaskError, PluginError
from crosstask.executors import SerialExecutor
from crosstask.manifest import Extension, Plugin
from crosstask.options import component, option, state
from crosstask.parts import Part, part
from crosstask.points.executor import Executor
from crosstask.points.sampler import Sampler
from crosstask.points.wrapper import Wrapper
from crosstask.registry import Registry
from crosstask.run import Run


@component
class Count(Sampler):
    """Counts its calls."""

    calls: int = state(0)

    def sample(self, tasks: list[str], history: dict[str, list[float]], rng: Any) -> list[str]:
        self.calls += 1
        return tasks[:1]


@component
class Twice(Sampler):
    """Asks its parts."""

    first: Part = part("sampler", help="asked always")
    more: tuple[Part, ...] = part("sampler", (), help="asked too")
    last: Part | None = part("sampler", None, help="asked if there is one")
    size: int = option(1, ge=1, help="of nothing")

    def sample(self, tasks: list[str], history: dict[str, list[float]], rng: Any) -> list[str]:
        chosen: list[str] = []
        for made in self.all_parts().values():
            for sampler in made:
                chosen += sampler.sample(tasks, history, rng)
        return chosen


@component
class Divides(Wrapper):
    """Divides the weights of every balancer."""

    by: float = option(2.0, gt=0, help="divisor")

    @hookimpl(wrapper=True)
    def balance(self) -> Generator[None, Any, Any]:
        weights = yield
        return weights / self.by


ASKED: dict[str, Any] = {"tasks": ["a", "b"], "history": {}, "rng": None}


def own_registry() -> Registry:
    made = Registry()
    serial = Extension("executor", "serial", "crosstask.executors:SerialExecutor")
    made.register(Plugin("x", [serial]), distribution="x-dist", version="1")
    return made


def test_parts_are_made_once_and_bound_to_the_run() -> None:
    whole = Twice(first=Count(), more=[Count(), Count()])
    with Run(own_registry()) as run:
        assert run.call(whole, "sample", **ASKED) == ["a", "a", "a"]
        assert whole.made_of("first")[0].context is run
        assert whole.made_of("first")[0] is whole.first
        assert whole.made_of("last") == []
    local = LocalContext()
    whole.bind(local)
    assert {made.context for made in whole.made_of("more")} == {local}


def test_parts_of_parts_and_their_state() -> None:
    def make() -> Twice:
        return Twice(first=Twice(first=Count()), last=Count())

    whole = make()
    whole.sample(**ASKED)
    whole.sample(**ASKED)
    saved = whole.state_dict()
    assert saved == {"first": [{"first": [{"calls": 2}], "more": [], "last": []}], "more": [], "last": [{"calls": 2}]}
    other = make()
    other.load_state_dict(saved)
    assert other.state_dict() == saved
    sent = pickle.loads(pickle.dumps(whole))
    assert sent.state_dict() == saved
    with pytest.raises(PluginError, match="sampler Twice: state has 0 last, expected 1"):
        make().load_state_dict(saved | {"last": []})
    with pytest.raises(PluginError, match=r"state has \['calls'\], expected \['first', 'last', 'more'\]"):
        make().load_state_dict({"calls": 1})


def test_a_part_that_cannot_be_found_is_named_with_its_option() -> None:
    whole = Twice(first="lost")
    whole.bind(LocalContext(registry=own_registry()))
    with pytest.raises(PluginError, match=r"sampler Twice: first: no sampler named 'lost' \(there are none\)"):
        whole.sample(**ASKED)


def test_resolve_takes_names_tables_and_objects() -> None:
    context = LocalContext(registry=own_registry())
    assert context.resolve("executor", "serial").origin == "executor 'serial' (x-dist 1)"
    assert isinstance(context.resolve("executor", {"use": "serial"}), SerialExecutor)
    own = SerialExecutor()
    assert context.resolve("executor", own) is own
    assert own.context is context
    with pytest.raises(CrosstaskError, match="sampler must be a name, or a table with use"):
        context.resolve("sampler", own)


def test_options_and_origin_of_an_object() -> None:
    assert Twice(first="x", size=3).options() == {
        "first": {"use": "x", "options": {}},
        "more": [],
        "last": None,
        "size": 3,
    }
    assert Count().origin == "sampler Count"


def test_a_component_that_is_no_attrs_class_still_has_a_state_and_options() -> None:
    class Plain(Sampler):
        def sample(self, tasks: list[str], history: dict[str, list[float]], rng: Any) -> list[str]:
            return tasks

    assert (Plain().options(), Plain().state_dict()) == ({}, {})


def test_contract_methods_that_are_no_hooks_may_be_called_anything() -> None:
    @component
    class Fine(Executor):
        def submit(self, job: Job) -> Any:
            return self.submitted(job)

        def submitted(self, job: Job) -> Any:  # near a hook, but the hook is there
            return job

        def _submi(self) -> None:  # private: nobody's hook
            """Not called."""

    assert hooks_of(Fine).keys() == {"submit"}
    with pytest.raises(PluginError, match="executor Fine: submit must return a Future, got a Job"):
        LocalContext().call(Fine(), "submit", job=Job(max))


def test_answers_of_hooks_without_a_type_are_not_checked() -> None:
    from crosstask.points.observer import Observer

    class Silent(Observer):
        """Hears nothing."""

    check_answer(Silent(), "run_started", object())


def test_local_context_keeps_and_runs() -> None:
    context = LocalContext(seed=3)
    context.remember("models", "k", {"a": 1})
    assert context.recall("models", "k").payload == {"a": 1}  # type: ignore[union-attr]
    assert context.recall("models", "other") is None
    assert list(context.jobs([Job(max, (1, 2)), Job(min, (1, 2))])) == [(0, 2), (1, 1)]
    assert context.tell("stage_progress", stage="x", detail="y") is None
    assert context.seed_for("a", 1) == LocalContext(seed=3).seed_for("a", 1) != context.seed_for("a", 2)


def test_a_stored_result_is_not_taken_for_one_under_a_wrapper(registry: Registry, tmp_path: Path) -> None:
    from crosstask import Budget, ModelSpec, TransferEngine
    from crosstask_fakes import blobs

    def weights(by: float | None) -> set[float]:
        observers = [Divides(by=by)] if by else []
        with TransferEngine(
            registry=registry,
            store=tmp_path / "s.db",
            observers=observers,
            discoverers=[],
            model=ModelSpec(hidden=(8,)),
        ) as engine:
            for number in range(2):
                engine.register_task(blobs(f"task{number}", seed=number))
            names = ["task0", "task1"]
            _, result = engine.train_together(names, balancer="fake", sharing="fake", budget=Budget(steps=3))
        return {value for values in result.weights.values() for value in values}

    (plain,) = weights(None)
    assert weights(2.0) == {plain / 2}
    assert weights(4.0) == {plain / 4}
    assert weights(None) == {plain}
