"""Estimates from descriptors: what they are, which way they point, and that they cost one look per pair."""

from __future__ import annotations

from typing import Any

import pytest

from crosstask.descriptors import TaskDescriptor
from crosstask.errors import OptionError
from crosstask.graph import Evidence, RelationType, TransferGraph
from crosstask.registry import Registry
from crosstask.tasks import Portfolio, Task
from crosstask_skills import Skills
from crosstask_skills.plugin import PLUGIN

FULL: dict[str, Any] = {
    "domain": "images/letters",
    "input_shape": (1, 8, 8),
    "required_skills": ("strokes", "shapes"),
    "domain_knowledge": ("latin",),
    "classes": ("a", "b"),
}


def coefficient(source: dict[str, Any], target: dict[str, Any], **options: Any) -> float:
    tasks = [TaskDescriptor(task_id=name, **fields) for name, fields in (("s", source), ("t", target))]
    return Skills(**options).similarity(*tasks)[0]


def test_the_same_and_the_wholly_different() -> None:
    assert coefficient(FULL, FULL) == pytest.approx(0.9)
    other = {
        "domain": "sound",
        "input_shape": (16000,),
        "required_skills": ("pitch",),
        "domain_knowledge": ("music",),
        "classes": ("c", "d"),
    }
    assert coefficient(FULL, other) == 0


def test_nothing_known_says_nothing() -> None:
    assert Skills().similarity(TaskDescriptor(task_id="s"), TaskDescriptor(task_id="t")) == (0.0, 0.0)


def test_who_knows_more_helps_more() -> None:
    much = FULL | {"required_skills": ("strokes", "shapes", "grammar", "logic"), "classes": ("a", "b", "c", "d")}
    assert coefficient(much, FULL) == pytest.approx(0.9)
    assert coefficient(FULL, much) < coefficient(much, FULL)


def test_weights_by_hand() -> None:
    source = {"required_skills": ("a",), "domain": "x/y"}
    target = {"required_skills": ("a", "b"), "domain": "x/y"}
    assert coefficient(source, target, skills=3.0, domain=1.0, highest=1.0, sharpness=1.0) == pytest.approx(
        3 / 4 * 0.5 + 1 / 4 * 1.0
    )
    assert coefficient(source, target, skills=1.0, domain=0.0, highest=1.0, sharpness=1.0) == pytest.approx(0.5)


def test_sharpness_is_a_power() -> None:
    half = FULL | {"required_skills": ("strokes", "logic"), "classes": ("a", "c")}
    plain = coefficient(FULL, half, highest=1.0, sharpness=1.0)
    assert 0.3 < plain < 0.9
    assert coefficient(FULL, half, highest=0.8, sharpness=3.0) == pytest.approx(0.8 * plain**3)


def test_other_types_share_less() -> None:
    regression = FULL | {"task_type": "regression", "classes": ()}
    plain = FULL | {"classes": ()}
    assert coefficient(plain, regression) == pytest.approx(0.5 * coefficient(plain, plain))


def test_input_shapes() -> None:
    assert coefficient(
        {"input_shape": (3, 8, 8)}, {"input_shape": (3, 8, 4)}, highest=1.0, sharpness=1.0
    ) == pytest.approx(0.5)
    assert coefficient({"input_shape": (3, 8, 8)}, {"input_shape": (192,)}) == 0


def edges_of(*descriptors: TaskDescriptor, focus: str | None = None) -> list[Any]:
    portfolio = Portfolio(Task(descriptor=d) for d in descriptors)
    portfolio = portfolio.focused(focus) if focus else portfolio
    return Skills().discover(portfolio, TransferGraph(descriptors))


def test_edges_say_how_they_are_known() -> None:
    full = TaskDescriptor(task_id="full", **FULL)
    regression = TaskDescriptor(task_id="regression", task_type="regression", **(FULL | {"classes": ()}))
    bare = TaskDescriptor(task_id="bare", required_skills=("strokes",))
    found = {(e.source, e.target): e for e in edges_of(full, regression, bare)}
    assert len(found) == 6
    for edge in found.values():
        assert edge.evidence is Evidence.ESTIMATED
        assert edge.found_by == "skills"
        assert edge.low <= edge.transfer_coefficient <= edge.high
    assert found["full", "regression"].relation is RelationType.COMPLEMENTARY, "another type"
    assert found["bare", "full"].uncertainty > found["full", "regression"].uncertainty, "less to compare"


def test_a_focus_costs_one_look_per_pair_of_that_task(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    real = Skills.similarity
    monkeypatch.setattr(Skills, "similarity", lambda self, s, t: calls.append(1) or real(self, s, t))
    tasks = [TaskDescriptor(task_id=f"t{i}", required_skills=("a",)) for i in range(30)]
    edges = edges_of(*tasks, focus="t3")
    assert len(calls) == len(edges) == 2 * 29
    assert all("t3" in (e.source, e.target) for e in edges)


def test_an_unseen_task_only_receives() -> None:
    known, new = TaskDescriptor(task_id="known", **FULL), TaskDescriptor(task_id="new", **FULL)
    portfolio = Portfolio([Task(descriptor=known)], unseen=[Task(descriptor=new)])
    edges = Skills().discover(portfolio.focused("new"), TransferGraph([known, new]))
    assert [(e.source, e.target) for e in edges] == [("known", "new")]


def test_found_by_name_and_checked() -> None:
    registry = Registry()
    registry.register(PLUGIN)
    made = registry.create("discovery", "skills", {"classes": 5})
    assert "descriptors_only" in made.capabilities
    with pytest.raises(OptionError, match="classes must be >= 0"):
        registry.create("discovery", "skills", {"classes": -1})
