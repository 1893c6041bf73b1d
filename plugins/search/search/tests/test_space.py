"""Parameters and the spaces of their combinations."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crosstask.errors import OptionError
from crosstask.options import structure, unstructure
from crosstask_search.parameter import Parameter
from crosstask_search.space import SearchSpace, space_of

DEEP = {
    "kind": Parameter(choices=("plain", "deep")),
    "layers": Parameter(low=2, high=4, integer=True, when={"kind": ("deep",)}),
    "rate": Parameter(low=1e-3, high=1.0, log=True),
}
GRID = SearchSpace(parameters={"a": Parameter(choices=(1, 2, 3)), "b": Parameter(low=1, high=3, integer=True)})

parameters = st.one_of(
    st.lists(st.integers(-9, 9), min_size=1, max_size=5, unique=True).map(lambda c: Parameter(choices=tuple(c))),
    st.tuples(st.integers(1, 5), st.integers(0, 9), st.booleans()).map(
        lambda t: Parameter(low=t[0], high=t[0] + t[1], integer=True, log=t[2])
    ),
    st.tuples(st.floats(0.01, 5), st.floats(0, 9), st.booleans()).map(
        lambda t: Parameter(low=t[0], high=t[0] + t[1], log=t[2])
    ),
)


@given(parameters, st.floats(0, 1))
def test_values_and_places_are_inverse(parameter: Parameter, place: float) -> None:
    value = parameter.at(place)
    assert parameter.read(value, "it") == value
    again = parameter.at(parameter.place(value))
    assert again == pytest.approx(value, rel=1e-9)
    if parameter.size is not None:
        assert again == value
        assert value in parameter.values()
        assert len(parameter.values()) == parameter.size


def test_each_value_has_an_equal_part_and_log_ranges_equal_factors() -> None:
    whole = Parameter(low=1, high=4, integer=True)
    found = [whole.at((i + 0.5) / 400) for i in range(400)]
    assert [found.count(v) for v in (1, 2, 3, 4)] == [100] * 4
    assert Parameter(low=1e-4, high=1.0, log=True).at(0.5) == pytest.approx(1e-2)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "give either choices or a range"),
        ({"choices": [1], "low": 0.0, "high": 1.0}, "give either choices or a range"),
        ({"choices": [1, 2, 1]}, "choices must differ"),
        ({"choices": [1], "log": True}, "log and integer are for ranges"),
        ({"low": 0.0}, "a range needs both low and high"),
        ({"low": 2.0, "high": 1.0}, "finite low <= high, got 2.0 and 1.0"),
        ({"low": 0.0, "high": 1.0, "log": True}, "must be above 0, got low = 0.0"),
        ({"low": 0.5, "high": 2, "integer": True}, "must be whole"),
        ({"low": "a", "high": 1}, "low must be a number"),
        ({"choises": [1]}, "unknown option 'choises'; did you mean 'choices'"),
    ],
)
def test_wrong_parameters_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        structure({"parameters": {"a": given}}, SearchSpace, "space")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"parameters": {}}, "at least one parameter"),
        ({"parameters": {"a": {"choices": [1], "when": {"z": [1]}}}}, "no parameter 'z' before it"),
        (
            {"parameters": {"a": {"choices": [1], "when": {"b": [1]}}, "b": [1]}},
            "no parameter 'b' before it; it must come first",
        ),
        ({"parameters": {"a": [1], "b": {"choices": [1], "when": {"a": [2]}}}}, "when.a cannot be 2; valid: 1"),
        ({"parameters": {"width": [1]}, "forbidden": [{"widht": 1}]}, "no parameter 'widht'; did you mean 'width'"),
        ({"parameters": {"a": [1]}, "forbidden": [{"a": 3}]}, r"forbidden\[0\]: a cannot be 3; valid: 1"),
        ({"parameters": {"a": [1]}, "forbidden": [{}]}, "would forbid every point"),
        ({"parameters": {"a": [1]}, "valid": "nowhere"}, "must be a function or 'package.module:function'"),
        ({"parameters": {"a": 3}}, "must be a list of choices or a table"),
    ],
)
def test_wrong_spaces_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        structure(changes, SearchSpace, "space")


@pytest.mark.parametrize(
    ("point", "message"),
    [
        ({"kind": "deep", "rate": 0.1}, "'layers' is missing"),
        ({"kind": "plain", "layers": 2, "rate": 0.1}, "'layers' means nothing where kind is 'plain'"),
        ({"kind": "deap", "layers": 2, "rate": 0.1}, "kind cannot be 'deap'; did you mean 'deep'"),
        ({"kind": "deep", "layers": 9, "rate": 0.1}, "layers must be from 2 to 4, got 9"),
        ({"kind": "deep", "layers": 2.5, "rate": 0.1}, "layers must be an integer"),
        ({"kind": "plain", "rate": 0.1, "ratee": 1}, "no parameter 'ratee'; did you mean 'rate'"),
        ({"kind": "deep", "layers": 4, "rate": 0.1}, "is not valid in this space"),
        ("plain", "must be a table of parameters"),
    ],
)
def test_wrong_points_are_refused(point: Any, message: str) -> None:
    space = SearchSpace(parameters=DEEP, forbidden=({"kind": "deep", "layers": [3, 4]},))
    with pytest.raises(OptionError, match=message):
        space.check(point)
    assert not space.contains(point)


def test_true_is_not_one() -> None:
    space = SearchSpace(parameters={"flag": Parameter(choices=(True, False))})
    assert space.check({"flag": True}) == {"flag": True}
    with pytest.raises(OptionError, match="flag cannot be 1"):
        space.check({"flag": 1})


@given(st.integers(0, 2**32 - 1))
def test_samples_are_valid_and_survive_the_unit_cube(seed: int) -> None:
    space = SearchSpace(parameters=DEEP, valid=lambda p: p.get("layers") != 3)
    points = space.sample(np.random.default_rng(seed), 20)
    assert all(space.check(p) == p for p in points)
    rows = space.encode(points)
    assert rows.shape == (20, 3)
    assert (np.isnan(rows[:, 1]) == ["layers" not in p for p in points]).all()
    inside = rows[~np.isnan(rows)]
    assert ((inside >= 0) & (inside <= 1)).all()
    for point, row in zip(points, rows, strict=True):
        again = space.decode(np.nan_to_num(row))
        assert again == {**point, "rate": pytest.approx(point["rate"])}


def test_counting_agrees_with_listing() -> None:
    parameters = {
        "layers": Parameter(choices=(1, 2, 3)),
        "width1": Parameter(choices=(4, 8)),
        "width2": Parameter(choices=(4, 8), when={"layers": (2, 3)}),
        "width3": Parameter(choices=(4, 8), when={"layers": (3,)}),
    }
    space = SearchSpace(parameters=parameters)
    points = list(space.points())
    assert space.count() == len(points) == 2 + 4 + 8
    assert len({space.key(p) for p in points}) == 14
    assert all(space.contains(p) for p in points)
    falling = SearchSpace(parameters=parameters, forbidden=({"width1": 4, "width2": 8},))
    assert falling.count() == sum(1 for p in points if not (p["width1"] == 4 and p.get("width2") == 8)) == 11
    assert SearchSpace(parameters=DEEP).count() is None
    huge = SearchSpace(parameters={f"p{i}": Parameter(choices=(1, 2, 3)) for i in range(40)})
    assert huge.count() == 3**40


def test_a_space_without_a_valid_point_says_so() -> None:
    for space in (
        SearchSpace(parameters=GRID.parameters, forbidden=({"a": [1, 2, 3]},)),
        SearchSpace(parameters=GRID.parameters, valid=lambda p: False),
    ):
        assert space.count() == 0
        for use in (space.require_points, lambda s=space: s.sample(np.random.default_rng(0))):
            with pytest.raises(OptionError, match="has no valid point: its constraints forbid every combination"):
                use()
    endless = SearchSpace(parameters=DEEP, valid=lambda p: p["rate"] > 2)
    with pytest.raises(OptionError, match="none of 10000 random ones is allowed"):
        endless.require_points()


def test_rare_valid_points_are_found_by_listing() -> None:
    parameters = {f"p{i}": Parameter(choices=tuple(range(10))) for i in range(5)}
    space = SearchSpace(parameters=parameters, valid=lambda p: set(p.values()) == {7})
    assert space.sample(np.random.default_rng(0), 2) == [{f"p{i}": 7 for i in range(5)}] * 2


def test_fresh_points_are_untried_until_all_are_tried() -> None:
    rng, tried = np.random.default_rng(0), set()
    for _ in range(9):
        key = GRID.key(GRID.fresh(rng, tried))
        assert key not in tried
        tried.add(key)
    assert GRID.key(GRID.fresh(rng, tried)) in tried


def only_ones(point: dict[str, Any]) -> bool:
    return point["a"] == 1


def test_space_round_trip() -> None:
    space = SearchSpace(parameters=DEEP, forbidden=({"kind": "deep", "layers": [4]},))
    assert structure(json.loads(json.dumps(unstructure(space))), SearchSpace, "space") == space
    named = SearchSpace(parameters=GRID.parameters, valid=f"{__name__}:only_ones")
    assert unstructure(named)["valid"] == f"{__name__}:only_ones"
    assert SearchSpace(parameters={"a": Parameter(choices=([1, 2], [3]))}).check({"a": [3]}) == {"a": (3,)}


@pytest.mark.parametrize(
    ("given", "parameter"),
    [
        ([1, 4], {"choices": (1, 4)}),
        ((1, 4), {"low": 1, "high": 4, "integer": True}),
        ((1.0, 4), {"low": 1.0, "high": 4.0}),
        ((1e-5, 1e-2), {"low": 1e-5, "high": 1e-2, "log": True}),
        ((1e-4, 1e-2), {"low": 1e-4, "high": 1e-2, "log": True}),
        ((1e-4, 9.9e-3), {"low": 1e-4, "high": 9.9e-3}),
        ((16, 2048), {"low": 16, "high": 2048, "integer": True, "log": True}),
        ((0, 1000), {"low": 0, "high": 1000, "integer": True}),
        ((-1.0, 1e3), {"low": -1.0, "high": 1e3}),
        ((1e-5, 1e-2, "linear"), {"low": 1e-5, "high": 1e-2}),
        ((1, 8, "log"), {"low": 1, "high": 8, "log": True, "integer": True}),
        ((np.float32(0.5), np.float32(2.0)), {"low": 0.5, "high": 2.0}),
        ((np.int64(1), np.int64(9)), {"low": 1, "high": 9, "integer": True}),
        ((3, 3), {"low": 3, "high": 3, "integer": True}),
        ((True, False), {"choices": (True, False)}),
        (("a", "b"), {"choices": ("a", "b")}),
        ([np.float64(0.5), (1, 2)], {"choices": (0.5, (1, 2))}),
        ({"low": 1e-5, "high": 1e-2}, {"low": 1e-5, "high": 1e-2}),
        ({"choices": [1], "when": {}}, {"choices": (1,)}),
    ],
)
def test_short_forms(given: Any, parameter: dict[str, Any]) -> None:
    made = space_of({"p": given}).parameters["p"]
    assert made == Parameter(**parameter)
    assert space_of({"p": made}).parameters["p"] is made


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((2, 1), r"parameter 'p': a range needs finite low <= high, got 2 and 1 \(swapped\?\)"),
        ((-1.0, 1.0, "log"), "parameter 'p': a range on a log scale must be above 0, got low = -1.0"),
        ((0.0, 1.0, "log"), "must be above 0"),
        ((float("nan"), 1.0), "finite low <= high"),
        ((0.0, float("inf")), "finite low <= high"),
        ((0, 10**400), "finite low <= high"),
        ((0, 2**64), "finite low <= high"),
        ((-1e308, 1e308), "must not be wider than floats reach"),
        ((1, 2, 3), r"a range is \(low, high\), .* choices are a list"),
        ((0.0, 1.0, "lag"), "a range is"),
        ([1, 2, 1], r"parameter 'p': choices must differ, got \(1, 2, 1\): 1 is there already"),
        ([1, True], "True is there already"),
        ([float("nan")], "a choice cannot be nan"),
        ([{"a": 1}], "a choice must be a number, a string, true, false or a list of them, got {'a': 1}"),
        ([], "give either choices or a range"),
        (range(3), "choices are a list"),
        (3, "parameter 'p' must be a list of choices or a table"),
    ],
)
def test_wrong_short_forms_are_refused(given: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        space_of({"p": given})


def test_spaces_are_tables() -> None:
    for wrong in ([1, 2], {1: [1]}, {}):
        with pytest.raises(OptionError):
            space_of(wrong)  # type: ignore[arg-type]


def test_huge_ranges_of_whole_numbers_stay_exact() -> None:
    low, high = -(2**63), 2**63 - 1
    parameter = Parameter(low=low, high=high, integer=True)
    assert parameter.size == 2**64
    assert (parameter.at(0.0), parameter.at(1.0)) == (low, high)
    assert parameter.read(2**53 + 1, "it") == 2**53 + 1
    assert structure(json.loads(json.dumps(unstructure(parameter))), Parameter, "p") == parameter
    space = SearchSpace(parameters={"p": parameter})
    assert all(isinstance(p["p"], int) and low <= p["p"] <= high for p in space.sample(np.random.default_rng(0), 50))
    assert type(Parameter(low=1, high=4).at(0.0)) is float


def test_values_of_conditions_are_those_of_the_parameter() -> None:
    space = SearchSpace(
        parameters={
            "shape": Parameter(choices=([1, 2], [3])),
            "scale": Parameter(low=0.0, high=1.0, when={"shape": ([1, 2],)}),
        }
    )
    assert space.contains({"shape": [1, 2], "scale": 0.5})
    assert space.contains({"shape": (3,)})
    assert not space.contains({"shape": (3,), "scale": 0.5})


def test_a_predicate_that_fails_is_named() -> None:
    space = SearchSpace(parameters=DEEP, valid=lambda p: p["layers"] > 2)
    with pytest.raises(OptionError, match=r"valid raised KeyError: 'layers' .* a parameter that is not active"):
        space.sample(np.random.default_rng(0), 20)
    for named in ("no_such_module:f", "math:no_such_function"):
        with pytest.raises(OptionError, match=f"valid: '{named}' cannot be found"):
            SearchSpace(parameters=DEEP, valid=named).require_points()
