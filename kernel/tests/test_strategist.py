"""`TransferEngine.advise` asks a strategist where one is offered, and is as ever where none is."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest

from crosstask import Advice, Budget, Extension, Interval, ModelSpec, Plugin, Registry, Strategist, TransferEngine
from crosstask.context import LocalContext
from crosstask.errors import PluginError
from crosstask.options import component, structure, unstructure
from crosstask.testing import blobs, reference_registry


@component
class Odd(Strategist):
    """Gives names."""

    def suggest(self, task, portfolio, usual):  # type: ignore[no-untyped-def]
        return ["fine_tuning"]


def engine_of(registry: Registry, **options: object) -> TransferEngine:
    engine = TransferEngine(model=ModelSpec(hidden=[8]), train=Budget(steps=20), budget=Budget(steps=5, samples=16),
                            discoverers=[], seeds=2, registry=registry, **options)  # type: ignore[arg-type]  # fmt: skip
    for number in range(3):
        engine.register_task(blobs(f"task {number}", seed=number))
    return engine


def without() -> Registry:
    """The reference components but for the strategist."""
    registry = reference_registry()
    (record,) = (r for r in registry.records if r.name == "reference")
    registry.records.remove(record)
    assert record.plugin is not None
    kept = [e for e in record.plugin.extensions if e.point != "strategist"]
    registry.register(Plugin("reference", kept, api=(2, 0)))
    return registry


def test_the_text_and_the_answer_are_as_ever_without_one() -> None:
    with engine_of(without()) as plain, engine_of(reference_registry()) as asked:
        one, two = plain.advise("task 0"), asked.advise("task 0")
    assert one.strategies == ()
    assert attrs.evolve(two, strategies=(), text=one.text) == one
    assert two.text.startswith(one.text)
    assert [s.kind for s in two.strategies] == ["transfer", "balancer", "synthesis"]
    assert two.strategies[0].usual == "reference"


def test_it_sees_what_this_run_and_earlier_ones_remembered(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    with engine_of(reference_registry(), store=path) as engine:
        engine.transfer_knowledge("task 1", "task 0")
        first = engine.advise("task 0", share=0).strategies[0]
    assert first.evidence == 1
    with engine_of(reference_registry(), store=path) as engine:
        assert len(dict(engine.run.past("tasks"))) == 3
        again = engine.advise("task 0", share=0).strategies[0]
        assert again.evidence == 1
        engine.transfer_knowledge("task 2", "task 0")
        assert engine.advise("task 0", share=0).strategies[0].evidence == 2
    with engine_of(reference_registry()) as engine:  # without a store: what this run has found
        engine.transfer_knowledge("task 1", "task 0")
        assert engine.advise("task 0", share=0).strategies[0].evidence == 1


def test_without_a_run_there_is_no_past() -> None:
    context = LocalContext()
    assert dict(context.past("transfers")) == {}


def test_its_wrapped_answer_is_checked_like_any_other() -> None:
    offer = Extension("strategist", "odd", f"{__name__}:Odd", summary="Wrong", default=True)
    registry = without()
    registry.register(Plugin("odd", [offer], api=(2, 0)), distribution="crosstask-odd")
    with engine_of(registry) as engine, pytest.raises(PluginError, match="must return a list of StrategyAdvice"):
        engine.advise("task 0", share=0)


def test_advice_survives_being_written() -> None:
    with engine_of(reference_registry()) as engine:
        engine.transfer_knowledge("task 1", "task 0")
        advice = engine.advise("task 0", share=0)
    assert structure(unstructure(advice), Advice, "advice") == advice
    assert isinstance(advice.strategies[0].expected, Interval)
