"""Wrong, empty, huge, odd and damaged input at every public entry: an answer that is right, or an error that says what
was wrong, and nothing half registered afterwards.

Slow, bounded and derandomised: the same cases in every run.
"""

from __future__ import annotations

import collections
import copy
import datetime
import decimal
import enum
import fractions
import functools
import itertools
import json
import linecache
import math
import re
import tempfile
import tomllib
import traceback
import uuid
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from crosstask import (
    Budget,
    Choice,
    Curriculum,
    CurriculumStrategy,
    Metric,
    ModelSpec,
    MultiInput,
    Portfolio,
    Registry,
    SynthesisStrategy,
    Task,
    TaskDescriptor,
    TensorData,
    TransferEdge,
    TransferEngine,
    TransferGraph,
    TransferStrategy,
    load_model,
    save_model,
)
from crosstask.errors import CrosstaskError
from crosstask.learning.training import evaluate, fit, predict
from crosstask.options import describe, unstructure
from crosstask.recipe import bind, load_recipe, recipe_from

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # odd input makes torch, numpy and pandas warn
]

ROOT = Path(__file__).parents[2]
OURS = (str(ROOT / "kernel" / "src"), str(ROOT / "plugins"))
REGISTRY = Registry.installed()


def cases(count: int) -> Callable[[Any], Any]:
    return settings(
        max_examples=count, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
    )


# What counts as right -------------------------------------------------------------------------------------------------

_SIGNATURE = re.compile(r"unexpected keyword argument '\w+'|missing \d+ required|positional arguments? but")
"""What Python says of a call, naming the argument."""


class OwnError(Exception):
    """Raised by the user's own code, which may see it again as it is."""


def complaint(error: BaseException) -> str | None:
    """Why an error is none that a user should see; None if it is."""
    text = str(error)
    if isinstance(error, OwnError):
        return None
    sentence = len(text) >= 12 and " " in text
    if isinstance(error, CrosstaskError):
        return None if sentence else f"no sentence: {text!r}"
    frame = traceback.extract_tb(error.__traceback__)[-1]
    if isinstance(error, MemoryError) and frame.filename == __file__:
        return None  # nor is the user's own model told to be something else where memory runs out
    if not isinstance(error, TypeError | ValueError):
        return "a raw error"
    if isinstance(error, TypeError) and _SIGNATURE.search(text):
        return None
    raised = linecache.getline(frame.filename, frame.lineno or 0).strip().startswith("raise ")
    if frame.filename.startswith(OURS) and raised and sentence:
        return None
    return "raised by what we called"


def tried(call: Callable[[], Any]) -> tuple[Any, BaseException | None]:
    """(the answer, the error) of a call; a raw error fails the test."""
    try:
        return call(), None
    except Exception as error:
        if why := complaint(error):
            raise AssertionError(f"{why}: {type(error).__name__}: {str(error)[:300]}") from error
        return None, error


# Odd values -----------------------------------------------------------------------------------------------------------


class Colour(enum.Enum):
    RED = "red"


class Sized:
    """Says it has samples, and has none."""

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> Any:
        raise IndexError(index)


class Minus:
    def __len__(self) -> int:
        return -1

    def __getitem__(self, index: int) -> Any:
        return 0


def _generator() -> Iterator[int]:
    yield from (1, 2, 3)


TEXTS = st.one_of(
    st.text(max_size=8),
    st.sampled_from(
        ["", " ", "\x00", "\ud800", "a\nb", "é", "e\u0301", "\u202eabc", "../x", "/", "a" * 300, "1", "nan", "None",
         "mlp", "a", "b", "default", "🎉", "x:y", "os:system", ":", "a:", ":b", "builtins:print", "ü.toml"]
    ),
)  # fmt: skip
NUMBERS = st.one_of(
    st.integers(-3, 5),
    st.sampled_from([2**31, 2**63 - 1, 2**63, 2**64, -(2**63) - 1, 10**30, 10**400]),
    st.floats(),
    st.sampled_from([math.nan, math.inf, -math.inf, 1e308, -0.0, 5e-324, 0.5]),
    st.booleans(),
    st.sampled_from(
        [1j, decimal.Decimal("1.5"), fractions.Fraction(1, 3), np.float32(1), np.int64(2), np.bool_(True),
         np.float64("nan"), np.datetime64("2020-01-01"), torch.tensor(2), torch.tensor(0.5), torch.tensor(True)]
    ),
)  # fmt: skip
ODD_ARRAYS: list[Any] = (
    [
        np.zeros(0), np.zeros((0, 4)), np.zeros((4, 0)), np.array(3), np.array(None), np.array([None, 1, "a"], object),
        np.array(["a", "b"]), np.array([b"a", b"b"]), np.array(["2020-01-01"], "datetime64[D]"), np.array([1 + 2j]),
        np.array([(1, 2.0)], dtype=[("a", int), ("b", float)]), np.arange(6.0)[::-1], np.arange(12, dtype=np.uint64),
        np.arange(12, dtype=np.uint16).reshape(3, 4), np.arange(8, dtype=np.float16), np.array([np.nan, np.inf]),
        np.arange(4, dtype=">f4"), np.ma.masked_array([1.0, 2.0], [True, False]), np.array([2**63], dtype=np.uint64),
        np.array([1, 2], dtype=np.longdouble), np.array([10**30, 1], dtype=object), np.array([{}, []], dtype=object),
    ]
)  # fmt: skip


def _odd_tensors() -> list[Any]:
    return [
        torch.zeros(0), torch.zeros(0, 4), torch.zeros(4, 0), torch.tensor(1.0), torch.randn(4, 4).to_sparse(),
        torch.zeros(3, device="meta"), torch.zeros(3, 4, dtype=torch.complex64), torch.zeros(3, dtype=torch.bfloat16),
        torch.quantize_per_tensor(torch.randn(4), 0.1, 0, torch.qint8), torch.tensor([math.nan, 1.0]),
        torch.randn(4, requires_grad=True), torch.zeros(4, dtype=torch.bool), torch.zeros(4, dtype=torch.int8),
        torch.zeros(1).expand(4), torch.randn(4, 4).to_sparse_csr(), torch.zeros(3, 4).to_mkldnn(),
        torch.full((3,), 2**62), torch.tensor([-1, 1, -1, 1]), torch.zeros(1, 1, 1, 1, 1, 1), torch.full((3,), 1e38),
        torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]), torch.zeros(3, dtype=torch.uint8),
        torch.nn.Parameter(torch.zeros(3)), torch.zeros(3, dtype=torch.float16), torch.zeros(3, dtype=torch.uint16),
        torch.tensor([10**17, 1]), torch.zeros(3, dtype=torch.complex32), torch.zeros(3, dtype=torch.float8_e4m3fn),
    ]  # fmt: skip


with warnings.catch_warnings(action="ignore"):  # of what is deprecated or experimental
    ODD_TENSORS = _odd_tensors()
ODD_OBJECTS: list[Any] = (
    [
        None, object(), object, int, print, len, lambda: None, lambda x: x, lambda *a, **k: 3, Colour.RED, Sized(),
        Minus(), Ellipsis, NotImplemented, range(3), range(0), {1, 2}, frozenset(), b"", b"abc", bytearray(b"x"),
        memoryview(b"abc"), Path(), Path("nowhere"), datetime.datetime(2020, 1, 1), datetime.date(2020, 1, 1),
        datetime.timedelta(1), uuid.UUID(int=0), pd.DataFrame(), pd.DataFrame({"a": [1, 2], "y": [0, 1]}),
        pd.Series([1.0, None]), pd.DataFrame({"a": ["x", "y"], "label": [0, 1]}), nn.Linear(4, 2), nn.Linear,
        torch.float32, torch.device("cpu"), torch.Size([2]), slice(1), functools.partial(int), math, ValueError("x"),
        collections.OrderedDict(), collections.deque([1]), torch.Generator(), Budget(), ModelSpec(), np.dtype("f4"),
        re.compile("a"), TaskDescriptor(task_id="a"), MultiInput({"x": torch.zeros(4, 2)}), pd.NaT, pd.NA,
    ]
)  # fmt: skip
ARRAYS, TENSORS, OBJECTS = map(st.sampled_from, (ODD_ARRAYS, ODD_TENSORS, ODD_OBJECTS))
ATOMS = st.one_of(TEXTS, NUMBERS, ARRAYS, TENSORS, OBJECTS, st.builds(_generator), st.binary(max_size=6))
ODD = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(TEXTS, inner, max_size=3),
        st.dictionaries(st.integers(-1, 2), inner, max_size=2),
    ),
    max_leaves=5,
)
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), TEXTS,
              st.sampled_from([10**30, -1, 0, 1, 1e308, "nan", "a", "b"])),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=6), inner, max_size=3)),
    max_leaves=6,
)  # fmt: skip


def mostly(good: Any) -> Any:
    """A strategy of valid values, with an odd one among them now and then."""
    return st.one_of(good, good, good, ODD)


# Tasks ----------------------------------------------------------------------------------------------------------------

FIELDS: dict[str, Any] = {
    "task_id": st.sampled_from(["a", "b", "ä b"]),
    "task_name": st.just("name"),
    "task_type": st.sampled_from(
        ["classification", "regression", "multilabel", "segmentation", "token_classification", "other"]
    ),
    "domain": st.just("vision"),
    "input_shape": st.sampled_from([(), (4,), (1, 2, 2)]),
    "input_shapes": st.sampled_from([{}, {"x": (4,)}]),
    "output_dim": st.sampled_from([None, 1, 2, 3]),
    "sample_count": st.sampled_from([None, 0, 10]),
    "complexity": st.sampled_from([0.0, 0.5, 1]),
    "required_skills": st.sampled_from([(), ("s",), ["s", "t"]]),
    "domain_knowledge": st.just(("k",)),
    "prerequisites": st.sampled_from([(), ("b",)]),
    "classes": st.sampled_from([(), ("no", "yes"), ("x", "y", "z"), ("x", "x")]),
    "performance_history": st.just(()),
    "transfer_efficiency": st.sampled_from([{}, {"b": 0.5}]),
    "embedding": st.sampled_from([None, (0.5, 1.0)]),
}


@st.composite
def options(draw: Any, fields: dict[str, Any], most: int = 5) -> dict[str, Any]:
    chosen = draw(st.lists(st.sampled_from(sorted(fields)), max_size=most, unique=True))
    return {name: draw(mostly(fields[name])) for name in chosen}


@cases(400)
@given(options(FIELDS, 6))
def test_descriptors(fields: dict[str, Any]) -> None:
    found, error = tried(lambda: TaskDescriptor(**{"task_id": "a", **fields}))
    if error is None:
        again, error = tried(lambda: TaskDescriptor.from_json(found.to_json()))
        assert error is not None or again.task_id == found.task_id
        hash(found.task_id)


@cases(200)
@given(JSON)
def test_descriptors_from_json(plain: Any) -> None:
    tried(lambda: TaskDescriptor.from_json(plain))
    tried(lambda: TaskDescriptor.from_json({"task_id": "a", "classes": plain}))


INPUTS = st.one_of(
    ODD,
    st.sampled_from(
        [
            torch.randn(6, 4), np.random.default_rng(0).random((6, 4)), [[1, 2, 3, 4]] * 6, torch.rand(6, 1, 2, 2),
            torch.randint(0, 255, (6, 1, 2, 2), dtype=torch.uint8), torch.randint(0, 9, (6, 4)),
            {"x": torch.randn(6, 4), "y": torch.randn(6, 2)}, (torch.randn(6, 4), torch.randn(6, 2)),
            pd.DataFrame(np.ones((6, 4))), torch.randn(6, 4).double(), MultiInput({"x": torch.randn(6, 4)}),
            torch.randn(6, 4, dtype=torch.complex64), [[1, 2], [3]] * 3, np.array([["a"] * 4] * 6), torch.randn(6),
        ]
    ),
)  # fmt: skip
TARGETS = st.one_of(
    ODD,
    st.sampled_from(
        [
            torch.tensor([0, 1] * 3), [0, 1] * 3, ["a", "b"] * 3, np.array(["a", "b"] * 3), torch.randn(6),
            torch.tensor([0.0, 1.0] * 3), torch.tensor([True, False] * 3), torch.tensor([-1, 1] * 3),
            torch.tensor([0, 2**40] * 3), [None, 1] * 3, [math.nan, 0] * 3, torch.full((6,), math.nan),
            torch.randn(6, 2), torch.randint(0, 2, (6, 3)), torch.randint(0, 2, (6, 2, 2)), [10**30] * 6, ["a", 1] * 3,
            torch.full((6,), -100), torch.full((6, 2, 2), -100), pd.Series(["a", None] * 3), torch.randn(6, 0),
            torch.zeros(6, dtype=torch.complex64), np.array([2**64 - 1] * 6, dtype=np.uint64), [Colour.RED] * 6,
            [(0, 1)] * 6, [[0], [0, 1]] * 3, torch.tensor([0, 1] * 3, dtype=torch.int8), [b"a", b"b"] * 3,
            torch.tensor([0, 10**10] * 3), torch.tensor([3, 9] * 3), [1e300, 0] * 3, torch.full((6,), math.inf),
        ]
    ),
)  # fmt: skip


class Samples(torch.utils.data.Dataset[Any]):
    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index]


class Stream(torch.utils.data.IterableDataset[Any]):
    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def __iter__(self) -> Iterator[Any]:
        return iter(self.items)


SPLIT = st.one_of(
    ODD,
    st.tuples(INPUTS, TARGETS),
    st.tuples(INPUTS, TARGETS, ODD),
    st.tuples(INPUTS, TARGETS).map(lambda p: {"x": p[0], "label": p[1]}),
    st.lists(st.tuples(ODD, ODD), max_size=3).map(Samples),
    st.lists(ODD, max_size=3).map(Samples),
    st.lists(st.tuples(INPUTS, TARGETS), max_size=2).map(Stream),
    st.lists(st.tuples(INPUTS, TARGETS), max_size=2).map(lambda batches: lambda: batches),
    st.lists(st.dictionaries(TEXTS, ODD, max_size=3), max_size=3).map(Samples),
    st.builds(lambda i, t: TensorData(i, t), INPUTS, TARGETS),
    st.tuples(st.dictionaries(TEXTS, INPUTS, max_size=3), TARGETS),
)


def _checked(task: Task) -> None:
    """What was read is what a task's data are said to be."""
    for split in ("train", "test"):
        if not task.has_data(split):
            continue
        data = task.data(split)
        assert len(data) == len(data.inputs) == len(data.targets) > 0
        parts = getattr(data.inputs, "parts", None) or {"": data.inputs}
        for part in parts.values():
            assert isinstance(part, torch.Tensor)
            assert part.device.type == "cpu"
            assert not part.is_floating_point() or bool(torch.isfinite(part).all())
        if task.descriptor.task_type == "classification":
            assert data.targets.dtype == torch.long
            assert data.targets.shape == (len(data),)
            assert int(data.targets.min()) >= 0
            assert task.descriptor.output_dim is not None
            assert int(data.targets.max()) < max(2, task.descriptor.output_dim)


@cases(600)
@given(options({k: FIELDS[k] for k in ("task_type", "input_shape", "output_dim", "classes")}, 3), SPLIT, SPLIT)
def test_data_of_tasks(fields: dict[str, Any], train: Any, test: Any) -> None:
    descriptor, error = tried(lambda: TaskDescriptor(**{"task_id": "a", **fields}))
    if error is not None:
        return
    task = Task(descriptor=descriptor, train=train, test=test)
    before = task.descriptor
    _, error = tried(lambda: task.data("train"))
    if error is not None:
        assert task.descriptor == before, "half of what was read is kept"
        _, second = tried(lambda: task.data("train"))
        spent = hasattr(train, "__next__")
        assert spent or (second is not None and str(second)[:40] == str(error)[:40])
        tried(task.fingerprint)
        return
    printed, error = tried(task.fingerprint)
    if error is None:
        assert printed == task.fingerprint()
        _checked(task)


@cases(150)
@given(
    st.fixed_dictionaries(
        {"descriptor": mostly(st.just("a"))},
        optional={
            "loss": ODD, "metric": ODD, "model": ODD, "build": ODD, "head": ODD, "inputs": ODD, "target": ODD,
            "validation": SPLIT,
        },
    ),
    mostly(st.just("train")),
)  # fmt: skip
def test_fields_of_tasks(fields: dict[str, Any], split: Any) -> None:
    good = (torch.randn(6, 4), torch.tensor([0, 1] * 3))
    task, error = tried(lambda: Task(**fields, train=good))
    if error is None:
        tried(lambda: task.data(split))
        tried(task.fingerprint)
        tried(lambda: Portfolio([task]).check())


@cases(250)
@given(
    INPUTS,
    st.one_of(ODD, st.dictionaries(st.sampled_from(["a", "b", "c"]), TARGETS, max_size=3)),
    st.one_of(st.none(), ODD, st.sampled_from([torch.ones(6, 2), torch.ones(6, 1, dtype=torch.bool), torch.ones(2)])),
    st.one_of(
        st.none(),
        ODD,
        st.dictionaries(
            st.sampled_from(["train", "test", "tset"]),
            st.one_of(ODD, st.sampled_from([[0, 1, 2], [5, 99], [-1], [], [True] * 6, [0.5], ["a"], range(3)])),
            max_size=2,
        ),
    ),
    st.one_of(st.none(), ODD, st.just({"a": TaskDescriptor(task_id="a", task_type="regression")})),
)
def test_tables(inputs: Any, targets: Any, mask: Any, splits: Any, descriptors: Any) -> None:
    found, error = tried(
        lambda: Portfolio.from_table(inputs, targets, mask=mask, splits=splits, descriptors=descriptors)
    )
    if error is None:
        for task in found:
            for split in ("train", "test"):
                if task.has_data(split):
                    tried(lambda task=task, split=split: task.data(split))  # type: ignore[misc]


@cases(150)
@given(st.lists(ODD, max_size=3), ODD, ODD, st.lists(st.tuples(TEXTS, TEXTS) | ODD, max_size=2))
def test_portfolios(tasks: list[Any], name: Any, key: Any, pairs: Any) -> None:
    held = Portfolio([Task(descriptor=n) for n in "abc"])
    for call in (
        lambda: Portfolio(tasks, name=name),
        lambda: Portfolio(tasks[0] if tasks else None),
        lambda: held[key],
        lambda: held.add(key),
        lambda: held.remove(key),
        lambda: held.focused(key),
        lambda: list(held.restricted(pairs).pairs()),
        lambda: list(held.restricted(key).pairs()),
        lambda: key in held,
    ):
        before = held.ids
        _, error = tried(call)
        assert error is None or held.ids == before


# Records --------------------------------------------------------------------------------------------------------------

BUDGET: dict[str, Any] = {
    "steps": st.sampled_from([1, 2]), "batch_size": st.sampled_from([1, 3, 10**9]), "samples": st.sampled_from([1, 8]),
    "learning_rate": st.sampled_from([1e-3, 1e300]), "optimizer": st.sampled_from(["adam", "sgd", "adamw"]),
    "weight_decay": st.just(0.1), "evaluate_every": st.just(1), "warmup": st.sampled_from([0, 10**20]),
    "schedule": st.sampled_from(["linear", "cosine"]), "clip": st.sampled_from([1.0, 1e-300]),
    "accumulate": st.just(2), "precision": st.sampled_from(["bfloat16", "float16"]), "patience": st.just(1),
}  # fmt: skip


@cases(250)
@given(options(BUDGET))
def test_budgets(fields: dict[str, Any]) -> None:
    budget, error = tried(lambda: Budget(**fields))
    if error is not None or (type(budget.steps) is int and budget.steps > 3) or budget.accumulate > 3:
        return
    task = plain_task("a")
    model = ModelSpec(hidden=(4,)).build(TaskDescriptor(task_id="a", input_shape=(4,), output_dim=2), 0)
    tried(lambda: fit(model, task, budget, torch.Generator().manual_seed(0), steps=1))


@cases(250)
@given(
    options(
        {
            "kind": st.sampled_from(
                ["mlp", "conv", "torch.nn:Linear", "nowhere:x", "math:sin", "torch.nn:nowhere", "builtins:dict"]
            ),
            "hidden": st.sampled_from([(4,), (4, 4), (10**15,), (10**30,), (1,) * 3]),
            "arguments": st.sampled_from([{}, {"bias": False}, {"a": 1}]),
        }
    ),
    st.sampled_from([(), (4,), (1, 2, 2), (1, 8, 8), (3, 10**9, 10**9), (10**30,)]),
    st.sampled_from([None, 1, 2, 10**15, 10**30]),
    mostly(st.just(0)),
)
def test_specifications_of_models(fields: dict[str, Any], shape: Any, outputs: Any, seed: Any) -> None:
    spec, error = tried(lambda: ModelSpec(**fields))
    if error is None:
        descriptor = TaskDescriptor(task_id="a", input_shape=shape, output_dim=outputs)
        model, error = tried(lambda: spec.build(descriptor, seed))
        assert error is not None or isinstance(model, nn.Module)


# The engine -----------------------------------------------------------------------------------------------------------


def plain_task(name: str, seed: int = 0, **more: Any) -> Task:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(16, 4, generator=generator)
    labels = (inputs[:, 0] > 0).long()
    return Task(
        descriptor=TaskDescriptor(task_id=name, classes=("no", "yes")),
        train=(inputs, labels), validation=(inputs[:8], labels[:8]), test=(inputs[8:], labels[8:]),
        **more,
    )  # fmt: skip


def small_engine(**more: Any) -> TransferEngine:
    return TransferEngine(
        **{
            "model": ModelSpec(hidden=(4,)),
            "train": Budget(steps=2, batch_size=8),
            "budget": Budget(steps=2, batch_size=8, samples=8),
            "seeds": 2, "registry": REGISTRY, "auto_discover": False,
            **more,
        }
    )  # fmt: skip


def filled_engine(**more: Any) -> TransferEngine:
    engine = small_engine(**more)
    for number, name in enumerate("abc"):
        engine.register_task(plain_task(name, number))
    return engine


def held(engine: TransferEngine) -> tuple[Any, ...]:
    """What must not change where a call is refused."""
    return (
        engine.portfolio.ids,
        [t.task_id for t in engine.portfolio.unseen],
        engine.graph.task_ids,
        len(list(engine.graph.all_edges())),
        dict(engine.given_models),
        len(engine.transfer_history),
        len(engine.curricula),
        len(engine.meta_knowledge),
        sorted(engine._finished.outcomes),
    )


def refused_whole(engine: TransferEngine, call: Callable[[], Any]) -> tuple[Any, BaseException | None]:
    before = held(engine)
    found, error = tried(call)
    if error is not None:
        assert held(engine) == before, f"half registered after {error}"
    return found, error


class Answers(nn.Module):
    """Answers whatever it is told to."""

    def __init__(self, answer: Callable[[torch.Tensor], Any]) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)
        self.answer = answer

    def forward(self, inputs: torch.Tensor) -> Any:
        return self.answer(self.layer(inputs))


class Unlearned(nn.Module):
    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs[:, :2]


class Buffered(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", torch.randn(2, 4))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(inputs, self.weight)  # type: ignore[arg-type]


class Raises(nn.Module):
    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.layer, self.error = nn.Linear(4, 2), error

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        raise self.error


class NoCopy(nn.Linear):
    def __deepcopy__(self, memo: Any) -> Any:
        raise OwnError("one of a kind")


class Uncalled(nn.Module):
    """Has forgotten `super().__init__()`."""

    def __init__(self) -> None:
        pass


def _hooked() -> nn.Module:
    model = nn.Linear(4, 2)
    model.register_forward_hook(lambda module, given, answer: None)
    model.register_forward_pre_hook(lambda module, given: (given[0] * 2,))
    return model


def _broken_hook() -> nn.Module:
    model = nn.Linear(4, 2)
    model.register_forward_hook(lambda module, given, answer: answer["x"])
    return model


class Meta(nn.Linear):
    def __init__(self) -> None:
        super().__init__(4, 2, device="meta")


ANSWERS: list[Callable[[torch.Tensor], Any]] = [
    lambda y: y, lambda y: None, lambda y: y.T, lambda y: y[:1], lambda y: y.sum(), lambda y: (y, y),
    lambda y: {"a": y},
    lambda y: {"logits": y}, lambda y: y.long(), lambda y: y.argmax(1), lambda y: "text", lambda y: y.detach().numpy(),
    lambda y: y * math.nan, lambda y: y.to(torch.complex64), lambda y: [], lambda y: (None, y), lambda y: y[:, :0],
    lambda y: y.half(), lambda y: y.to("meta"), lambda y: y.to_sparse(), lambda y: y.detach(), lambda y: y[None],
    lambda y: {}, lambda y: 3.0, lambda y: y.double(), lambda y: torch.stack([y, y]), lambda y: {"logits": None},
]  # fmt: skip
MODELS: list[Callable[[], Any]] = [
    *[functools.partial(Answers, answer) for answer in ANSWERS],
    lambda: nn.Linear(4, 2), lambda: nn.Linear(4, 3), lambda: nn.Linear(5, 2), lambda: nn.LazyLinear(2), Unlearned,
    Buffered, _hooked, _broken_hook, Meta, Uncalled, lambda: NoCopy(4, 2), lambda: nn.Sequential(), nn.Identity,
    lambda: nn.Embedding(9, 2), lambda: nn.Linear(4, 2).double(), lambda: nn.Linear(4, 2).half(),
    lambda: nn.LSTM(4, 2, batch_first=True), lambda: nn.BatchNorm1d(4), lambda: nn.ModuleList([nn.Linear(4, 2)]),
    lambda: Raises(OwnError("mine")), lambda: Raises(KeyError("k")), lambda: Raises(ZeroDivisionError()),
    lambda: Raises(MemoryError()), lambda: Raises(RecursionError("deep")),
    lambda: nn.Linear(4, 2).requires_grad_(False),
    lambda: torch.jit.script(nn.Linear(4, 2)), lambda: nn.DataParallel(nn.Linear(4, 2)), lambda: nn.Linear(4, 0),
    lambda: torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(4, 2)), {nn.Linear}),
    lambda: nn.utils.parametrizations.weight_norm(nn.Linear(4, 2)),
    lambda: torch.compile(nn.Linear(4, 2), backend="eager"),
    lambda: nn.Transformer(4, 1, 1, 1, 4), lambda: nn.Linear(4, 2).to(torch.complex64), lambda: nn.Linear,
    lambda: lambda x: x, lambda: nn.Linear(4, 2).state_dict(), lambda: "model", lambda: 3, lambda: [nn.Linear(4, 2)],
]  # fmt: skip
KINDS = st.sampled_from(range(len(MODELS)))
DATA: list[Any] = [
    (torch.randn(8, 4), torch.tensor([0, 1] * 4)),
    (torch.randint(0, 9, (8, 4)), torch.tensor([0, 1] * 4)),
    (torch.randn(8, 4), torch.randn(8, 2)),
    (torch.randn(1, 4), torch.tensor([0])),
    ({"x": torch.randn(8, 4), "z": torch.randn(8, 2)}, torch.tensor([0, 1] * 4)),
    (torch.randn(8, 4), torch.randint(0, 2, (8, 4))),
    None,
]
NAMES = st.one_of(st.sampled_from(["a", "b", "c"]), st.sampled_from(["a", "b", "c"]), TEXTS, ODD)


@cases(200)
@given(KINDS, st.sampled_from(DATA), options(FIELDS, 2), st.booleans(), st.booleans(), NAMES)
def test_registration(kind: int, data: Any, fields: dict[str, Any], unseen: bool, auto: bool, name: Any) -> None:
    torch.manual_seed(0)
    engine = filled_engine(auto_discover=auto)
    descriptor, error = tried(lambda: TaskDescriptor(**{"task_id": "new", **fields}))
    model = MODELS[kind]()
    if error is not None:
        return
    task = Task(descriptor=descriptor, train=data, test=data)
    _, error = refused_whole(engine, lambda: engine.register_task(task, model, unseen=unseen))
    if error is not None:
        assert task.model is None
        return
    new = task.task_id
    assert engine.graph.task(new) is not None
    for call in (
        lambda: engine.transfer_knowledge(new, "a"),
        lambda: engine.adapt("a", new),
        lambda: engine.adapt(new, "b"),
        lambda: engine.advise("a"),
        lambda: engine.discover(["logme", "skills"]),
        lambda: engine.transfer_knowledge(new, name),
        lambda: engine.generate_curriculum(new),
    ):
        refused_whole(engine, call)


@cases(150)
@given(ODD, ODD, ODD)
def test_registration_of_anything(task: Any, model: Any, unseen: Any) -> None:
    engine = filled_engine()
    refused_whole(engine, lambda: engine.register_task(task, model))
    refused_whole(engine, lambda: engine.register(task))
    refused_whole(engine, lambda: engine.register_task(TaskDescriptor(task_id="n"), model, unseen=unseen))
    refused_whole(engine, lambda: engine.register_task(plain_task("a")))
    refused_whole(engine, lambda: engine.register_task(plain_task("l", loss=task, metric=model)))


@pytest.mark.parametrize("data", DATA, ids=lambda data: "nothing" if data is None else type(data[0]).__name__)
def test_every_kind_of_model_on_every_kind_of_data(data: Any) -> None:
    for make, unseen in itertools.product(MODELS, (False, True)):
        _register_and_train(make, data, unseen=unseen)


def _register_and_train(make: Callable[[], Any], data: Any, *, unseen: bool) -> None:
    torch.manual_seed(0)
    engine = small_engine()
    task, model = Task(descriptor="new", train=data, test=data), make()
    _, error = refused_whole(engine, lambda: engine.register_task(task, model, unseen=unseen))
    if error is not None:
        assert task.model is None
        return
    budget, random = Budget(steps=2, batch_size=4), torch.Generator().manual_seed(0)
    tried(lambda: fit(model, task, budget, random))
    score, error = tried(lambda: evaluate(model, task))
    assert error is not None or math.isfinite(score)


def test_every_array_as_inputs_and_as_targets() -> None:
    for odd in (*ODD_ARRAYS, *ODD_TENSORS, *ODD_OBJECTS):
        for split in ((odd, odd), (odd, [0, 1, 0, 1]), (torch.randn(4, 4), odd), {"x": odd, "label": odd}, [odd], odd,
                      (torch.randn(4, 4), [0, 1, 0, 1], odd), ((odd, odd), [0, 1, 0, 1]), lambda odd=odd: [(odd, odd)],
                      Samples([(odd, 0), (odd, 1)]), Samples([(torch.zeros(2), odd)] * 2)):  # fmt: skip
            for kind in ("classification", "regression", "multilabel", "segmentation", "token_classification", "other"):
                task = Task(descriptor=TaskDescriptor(task_id="a", task_type=kind), train=split)
                _, error = tried(lambda task=task: task.data())  # type: ignore[misc]
                if error is None:
                    tried(task.fingerprint)
                    _checked(task)


STRATEGY = st.one_of(
    st.none(),
    st.sampled_from(
        ["lp_ft", "skills", "logme", "easy_to_hard", "weighted_ensemble", "prior", "representation", "interleave",
         TransferStrategy.LP_FT, CurriculumStrategy.EASY_TO_HARD, SynthesisStrategy.ANALOGY_TRANSFER,
         Choice(use="lp_ft", options={"no": 1}), Choice(use="fine_tuning")]
    ),
    ODD,
)  # fmt: skip
CALLS: dict[str, Callable[[TransferEngine, Any, Any, Any], Any]] = {
    "discover": lambda e, a, b, s: e.discover(s),
    "discover one": lambda e, a, b, s: e.discover([s, a]),
    "train": lambda e, a, b, s: e.train(a),
    "train several": lambda e, a, b, s: e.train([a, b]),
    "transfer": lambda e, a, b, s: e.transfer_knowledge(a, b, s),
    "transfer of samples": lambda e, a, b, s: e.transfer_knowledge(a, b, samples=s),
    "adapt": lambda e, a, b, s: e.adapt(a, b, s),
    "adapt several": lambda e, a, b, s: e.adapt([a, b, a], "c", s),
    "adapt without": lambda e, a, b, s: e.adapt(a),
    "advise": lambda e, a, b, s: e.advise(a, s),
    "advise with a share": lambda e, a, b, s: e.advise(a, share=b),
    "plan": lambda e, a, b, s: e.generate_curriculum(a, s),
    "plan some": lambda e, a, b, s: e.generate_curriculum("c", max_tasks=a),
    "run": lambda e, a, b, s: e.run_curriculum(a, s),
    "run a path": lambda e, a, b, s: e.run_curriculum(Curriculum(target="a", task_sequence=(a, b)), s),
    "run to another end": lambda e, a, b, s: e.run_curriculum(Curriculum(target=a, task_sequence=("b", "a"))),
    "run with a planner": lambda e, a, b, s: e.run_curriculum(
        Curriculum(target="a", task_sequence=("b", "a")), planner=s
    ),
    "synthesise": lambda e, a, b, s: e.synthesize_zero_shot_model(a, s, b),
    "synthesise anew": lambda e, a, b, s: e.synthesize_zero_shot_model(
        TaskDescriptor(task_id="new", input_shape=(4,), output_dim=2, classes=("0", "1")), s, b, expect=a
    ),
    "distill": lambda e, a, b, s: e.distill(a, s, b),
    "distill some": lambda e, a, b, s: e.distill([a, "b"], s, b),
    "distill models": lambda e, a, b, s: e.knowledge_distiller.distill_from_tasks(a, b, None, s),
    "distill own models": lambda e, a, b, s: e.knowledge_distiller.distill_from_tasks(
        {"a": a}, [TaskDescriptor(task_id="a")], b, s
    ),
    "apply": lambda e, a, b, s: e.knowledge_distiller.apply_meta_knowledge(a, b, s),
    "best": lambda e, a, b, s: e.get_best_transfer_strategy(a, b),
    "export": lambda e, a, b, s: e.export_transfer_graph(a),
    "tasks": lambda e, a, b, s: e.tasks[a] if isinstance(a, str) and a in e.tasks else None,
}  # fmt: skip


@cases(500)
@given(st.sampled_from(sorted(CALLS)), NAMES, NAMES, STRATEGY)
def test_calls_of_the_engine(
    tmp_path_factory: pytest.TempPathFactory, name: str, first: Any, second: Any, strategy: Any
) -> None:
    engine = filled_engine()
    if name == "export" and isinstance(first, str | Path):
        first = tmp_path_factory.mktemp("export") / re.sub(r"[/\x00]|\.\.|[\ud800-\udfff]", "", str(first))[:50]
    refused_whole(engine, lambda: CALLS[name](engine, first, second, strategy))


ENGINE: dict[str, Any] = {
    "model": st.just(ModelSpec(hidden=(4,))), "train": st.just(Budget(steps=1)), "budget": st.just(Budget(steps=1)),
    "discoverers": st.sampled_from([[], ["skills"], ["skills", "skills"], ["no"], "skills"]),
    "transfer": st.sampled_from(["lp_ft", "no"]), "auto_discover": st.booleans(), "seed": st.sampled_from([0, 7]),
    "seeds": st.sampled_from([1, 2]), "device": st.sampled_from(["cpu", "auto", "cuda:99"]),
    "executor": st.none(), "observers": st.just([]), "run_id": st.just("r"), "trace": st.none(),
    "store": st.sampled_from([None, "sqlite://", "no://such", "postgresql://x/y"]), "registry": st.just(REGISTRY),
}  # fmt: skip


@cases(200)
@given(options(ENGINE, 3))
def test_options_of_the_engine(fields: dict[str, Any]) -> None:
    for text in [v for v in fields.values() if isinstance(v, str | Path)]:
        if fields.get("store") == text and "://" not in str(text):
            fields["store"] = None  # a file of that name would be made
    engine, error = tried(lambda: small_engine(**fields))
    if error is not None:
        return
    if engine.seeds > 3 or engine.train_budget.steps > 3:
        return
    for number, name in enumerate("ab"):
        refused_whole(engine, lambda name=name, number=number: engine.register_task(plain_task(name, number)))
    refused_whole(engine, lambda: engine.transfer_knowledge("a", "b"))
    refused_whole(engine, lambda: engine.discover(None if "discoverers" in fields else ["skills"]))
    tried(engine.close)


SHORT = {"steps": 2, "batch_size": 8}
STAGES: dict[str, dict[str, Any]] = {
    "advice": {"target": "c", "share": 0.1},
    "continual": {"tasks": ["a", "b"], "strategies": ["ewc"], "batch_size": 8},
    "curriculum": {"target": "c", "planner": "easy_to_hard", "max_tasks": 2},
    "discovery": {"discoverers": ["skills"]},
    "distillation": {"tasks": ["a", "b"], "distiller": "prior"},
    "explain": {"source": "a", "target": "b", "strategy": "lp_ft"},
    "few_shot": {"tasks": ["a", "b", "c"], "held_out": ["c"], "ways": 2, "queries": 2, "steps": 1, "meta_batch": 1,
                 "test_episodes": 2},
    "multitask": {"tasks": ["a", "b"], "balancer": "equal", "budget": SHORT},
    "search": {"task": "a", "evaluations": 2, "budget": SHORT},
    "synthesis": {"task": "c", "synthesizer": "weighted_ensemble"},
}  # fmt: skip


def _long(value: Any) -> bool:
    """Whether a number asks for more work than a test has time for."""
    if isinstance(value, dict):
        return any(map(_long, value.values()))
    if isinstance(value, list | tuple):
        return any(map(_long, value))
    return isinstance(value, int | float | np.number) and not isinstance(value, bool) and float(min(value, 1e9)) > 5


@cases(150)
@given(st.data())
def test_stages(data: Any) -> None:
    engine = filled_engine()
    name = data.draw(st.sampled_from(sorted(STAGES)))
    known = [each["name"] for each in describe(REGISTRY.component_class("stage", name))]
    wrong = data.draw(st.dictionaries(st.sampled_from([*known, "unknown"]), ODD, min_size=1, max_size=2))
    if not _long(wrong):
        refused_whole(engine, lambda: engine.run_stage(name, **STAGES[name] | wrong))


@cases(60)
@given(NAMES)
def test_names_of_stages(name: Any) -> None:
    engine = filled_engine()
    refused_whole(engine, lambda: engine.run_stage(name))


def test_stages_work_with_the_options_that_are_made_wrong() -> None:
    for name, right in STAGES.items():
        assert filled_engine().run_stage(name, **right).record is not None


# Graphs ---------------------------------------------------------------------------------------------------------------

EDGE: dict[str, Any] = {
    "source": st.sampled_from(["a", "b", "x"]), "target": st.sampled_from(["a", "b"]),
    "transfer_coefficient": st.sampled_from([-1, 0, 0.5, 1]), "evidence": st.sampled_from(["measured", "predicted"]),
    "found_by": st.just("me"), "relation": st.just("independent"), "direction": st.just("universal"),
    "uncertainty": st.just(0.1), "low": st.just(-0.5), "high": st.just(0.5), "accuracy_gain": st.just(0.1),
    "shared_representations": st.just({"l": 0.5}), "estimates": st.just({"logme": -3.0}), "best_strategy": st.just("x"),
}  # fmt: skip
GRAPH_CALLS: list[Callable[[TransferGraph, Any, Any], Any]] = [
    lambda g, a, b: g.add_task(a), lambda g, a, b: g.add(a), lambda g, a, b: g.rule_out(a, b, "why"),
    lambda g, a, b: g.rule_out("a", "b", a), lambda g, a, b: g.merge(a), lambda g, a, b: g.task(a),
    lambda g, a, b: g.edge(a, b), lambda g, a, b: g.coefficient(a, b), lambda g, a, b: g.evidence(a, b),
    lambda g, a, b: g.estimates(a, b), lambda g, a, b: g.edges_into(a), lambda g, a, b: g.edges_out_of(a),
    lambda g, a, b: g.best_sources("a", a), lambda g, a, b: g.best_sources("a", minimum=a),
    lambda g, a, b: g.direction(a, b), lambda g, a, b: g.communities(a), lambda g, a, b: g.remove_task(a),
    lambda g, a, b: g.export(a) if not isinstance(a, str | Path) else None, lambda g, a, b: TransferGraph.load(a),
    lambda g, a, b: TransferGraph.from_json(a), lambda g, a, b: TransferGraph(a), lambda g, a, b: TransferGraph([a, b]),
    lambda g, a, b: g.plot(most=a, seed=b), lambda g, a, b: g.told_edges(guessed=a), lambda g, a, b: g.metrics(),
    lambda g, a, b: g.to_frame(), lambda g, a, b: g._repr_html_(), lambda g, a, b: g.with_directions(),
]  # fmt: skip


def small_graph() -> TransferGraph:
    graph = TransferGraph([TaskDescriptor(task_id=n) for n in "abc"])
    graph.add(TransferEdge(source="a", target="b", transfer_coefficient=0.5, evidence="measured"))  # type: ignore[arg-type]
    graph.add(TransferEdge(source="b", target="a", transfer_coefficient=-0.5, estimates={"logme": 1.0}))
    graph.rule_out("a", "c", "it does not fit")
    return graph


@cases(500)
@given(st.sampled_from(GRAPH_CALLS), NAMES, NAMES)
def test_calls_of_graphs(call: Callable[..., Any], first: Any, second: Any) -> None:
    graph = small_graph()
    before = graph.to_json()
    _, error = tried(lambda: call(graph, first, second))
    if error is not None:
        assert graph.to_json() == before
    tried(graph.to_json)
    tried(graph.metrics)


@cases(250)
@given(options(EDGE, 5))
def test_edges(fields: dict[str, Any]) -> None:
    edge, error = tried(lambda: TransferEdge(**{"source": "a", "target": "b", "transfer_coefficient": 0.1, **fields}))
    if error is None:
        graph = small_graph()
        before = len(list(graph.all_edges()))
        _, error = tried(lambda: graph.add(edge))
        if error is None:
            assert TransferGraph.from_json(graph.to_json()).to_json() == graph.to_json()
        else:
            assert len(list(graph.all_edges())) == before


@st.composite
def damaged(draw: Any, whole: bytes) -> bytes:
    """A file in which something was cut, put in, repeated or changed."""
    text = bytearray(whole)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(0, len(text) - 1)))
        how = draw(st.integers(0, 5))
        if how == 0:
            del text[at:]
        elif how == 1:
            del text[at : at + draw(st.integers(1, 40))]
        elif how == 2:
            text[at:at] = draw(st.binary(min_size=1, max_size=6))
        elif how == 3:
            text[at:at] = text[at : at + 60]
        elif how == 4 and text:
            text[at] = draw(st.integers(0, 255))
        else:
            word = draw(
                st.sampled_from([b"null", b"[]", b"{}", b"-1", b"1e999", b'"\\ud800"', b"NaN", b"9" * 400, b"true",
                                 b"[" * 3000, b'{"a":' * 2000])
            )  # fmt: skip
            found = re.search(rb'(?<=[:\s=">])([-\w."]+)(?=[,\n<"\]}])', bytes(text[at:]))
            if found:
                text[at + found.start() : at + found.end()] = word
    return bytes(text)


@functools.cache
def written_graph(suffix: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return small_graph().export(Path(folder) / f"g{suffix}").read_bytes()


@cases(300)
@given(st.data(), st.sampled_from([".json", ".graphml", ".gexf"]))
def test_files_of_graphs(tmp_path_factory: pytest.TempPathFactory, data: Any, suffix: str) -> None:
    path = tmp_path_factory.mktemp("graph") / f"g{suffix}"
    path.write_bytes(data.draw(damaged(written_graph(suffix)) | st.binary(max_size=30)))
    found, error = tried(lambda: TransferGraph.load(path))
    if error is None:
        tried(found.metrics)
        _, error = tried(lambda: found.export(path))
        if error is None:
            assert TransferGraph.load(path).to_json() == found.to_json()


@cases(150)
@given(JSON, st.sampled_from(["tasks", "edges", "impossible", "schema", ""]))
def test_graphs_from_json(plain: Any, part: str) -> None:
    whole = small_graph().to_json()
    tried(lambda: TransferGraph.from_json({**whole, part: plain} if part else plain))
    if part in ("tasks", "edges", "impossible"):
        for key in list(whole[part][0]):
            item = {**whole[part][0], key: plain}
            tried(lambda item=item: TransferGraph.from_json({**whole, part: [item]}))  # type: ignore[misc]


# Recipes --------------------------------------------------------------------------------------------------------------

RECIPE = """
name = "r"
seed = 1
seeds = 2
device = "cpu"
[source]
use = "digits"
[model]
kind = "mlp"
hidden = [8, 8]
[train]
steps = 3
[budget]
steps = 2
samples = 10
[transfer]
use = "lp_ft"
[discovery]
discoverers = ["skills", { use = "logme" }]
[curriculum]
target = "even"
[multitask]
balancer = "equal"
[few_shot]
ways = 2
[[observers]]
use = "progress"
"""
TABLES = tomllib.loads(RECIPE)


@st.composite
def changed(draw: Any, table: dict[str, Any]) -> dict[str, Any]:
    made = copy.deepcopy(table)
    for _ in range(draw(st.integers(1, 2))):
        place = made
        while True:
            keys = sorted(place)
            key = draw(st.one_of(st.sampled_from(keys), TEXTS)) if keys else draw(TEXTS)
            inner = place.get(key)
            if isinstance(inner, dict) and draw(st.booleans()):
                place = inner
                continue
            if draw(st.integers(0, 5)) == 0:
                place.pop(key, None)
            else:
                place[key] = draw(st.one_of(JSON, ODD))
            break
    return made


@cases(500)
@given(st.one_of(changed(TABLES), changed(TABLES), ODD))
def test_values_of_recipes(values: Any) -> None:
    found, error = tried(lambda: recipe_from(values, REGISTRY))
    if error is None:
        tried(lambda: bind(found, REGISTRY))
        tried(lambda: unstructure(found))


@cases(300)
@given(st.data())
def test_files_of_recipes(tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    path = tmp_path_factory.mktemp("recipe") / "r.toml"
    path.write_bytes(data.draw(damaged(RECIPE.encode()) | st.binary(max_size=40) | st.text(max_size=40).map(_utf8)))
    found, error = tried(lambda: load_recipe(path, REGISTRY))
    if error is None:
        tried(found.table)


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


KEYS = st.lists(
    st.sampled_from(["train", "steps", "source", "use", "options", "discovery", "discoverers", "model", "hidden",
                     "observers", "seed", "name", "extends", "stages", "requires", "", " "]) | TEXTS,
    min_size=1, max_size=3,
).map(".".join)  # fmt: skip
VALUES = st.one_of(
    TEXTS,
    st.sampled_from(["1", "-1", "nan", "inf", "1e999", "[1", "{a = 1}", "[[]]", "2020-01-01", "true", '"a', "{}", "[]",
                     "9" * 30, "{use = 3}", '{from = "a"}', "1\nx = 2", "07:32:00"]),
)  # fmt: skip


@cases(400)
@given(
    st.lists(st.one_of(st.builds(lambda k, v: f"{k}={v}", KEYS, VALUES), TEXTS, ODD), max_size=2), mostly(st.just(""))
)
def test_overrides(tmp_path_factory: pytest.TempPathFactory, overrides: list[Any], stage: Any) -> None:
    path = tmp_path_factory.mktemp("overrides") / "r.toml"
    path.write_text(RECIPE, encoding="utf-8")
    found, error = tried(lambda: load_recipe(path, REGISTRY, overrides, stage))
    if error is None:
        tried(found.table)


@cases(150)
@given(ODD)
def test_names_of_recipes(name: Any) -> None:
    tried(lambda: load_recipe(name, REGISTRY))


# Training -------------------------------------------------------------------------------------------------------------


def _raise(error: BaseException) -> Any:
    raise error


OBJECTIVES: list[Any] = [
    lambda o, t: None, lambda o, t: 3.0, lambda o, t: o, lambda o, t: o.sum() * math.nan, lambda o: o, lambda: 1,
    lambda o, t: "high", lambda o, t: o.argmax(1).float().mean(), lambda o, t: o.detach().sum(), lambda o, t: [1.0],
    lambda o, t: o.sum().to(torch.complex64), lambda o, t: torch.zeros(0), lambda o, t: np.float64(0.5),
    lambda o, t: True,
    lambda o, t: {"loss": o.sum()}, lambda o, t: o.sum().long(), lambda o, t: _raise(OwnError("mine")),
    nn.CrossEntropyLoss(),
    lambda o, t: o.sum().to("meta"), "cross_entropy", "accuracy", "mse", "f1", "ndcg@2", "ndcg@0", "hit_rate@x",
    "auroc",
    "bce_with_logits", "huber", "mae", "r2", "rmse", "iou", "pearson", "spearman", "matthews", "average_precision",
    Metric(lambda o, t: 3), Metric(lambda o, t: o.sum(), low=0, high=1e-9), Metric(lambda o, t: o),
    lambda o, t: math.inf, lambda o, t: 10**400, lambda o, t: o.sum() / 0, nn.CrossEntropyLoss, object(), 3, "",
    lambda o, t: (o.sum(), 1), nn.L1Loss(), nn.BCEWithLogitsLoss(), lambda o, t: o.sum().half(),
]  # fmt: skip


@cases(500)
@given(
    KINDS, st.sampled_from(DATA), st.one_of(st.none(), st.sampled_from(OBJECTIVES)),
    st.one_of(st.none(), st.sampled_from(OBJECTIVES)),
    st.sampled_from(["classification", "regression", "multilabel", "token_classification", "other", "segmentation"]),
    mostly(st.just("test")),
)  # fmt: skip
def test_training(kind: int, data: Any, loss: Any, metric: Any, task_type: str, split: Any) -> None:
    torch.manual_seed(0)
    model = MODELS[kind]() if kind % 3 else nn.Linear(4, 2)
    task = Task(
        descriptor=TaskDescriptor(task_id="a", task_type=task_type), train=data, test=data, loss=loss, metric=metric
    )
    tried(lambda: fit(model, task, Budget(steps=2, batch_size=4), torch.Generator().manual_seed(0)))
    score, error = tried(lambda: evaluate(model, task, split))
    assert error is not None or math.isfinite(score)
    tried(lambda: predict(model, data[0] if data else data))
    engine = filled_engine()
    _, error = refused_whole(engine, lambda: engine.register_task(task, model if kind % 2 else None))
    if error is None:
        refused_whole(engine, lambda: engine.transfer_knowledge("b", "a"))


@cases(200)
@given(ODD, ODD, ODD, ODD)
def test_training_of_anything(model: Any, task: Any, budget: Any, generator: Any) -> None:
    good, right = nn.Linear(4, 2), plain_task("a")
    small, random = Budget(steps=1), torch.Generator()
    tried(lambda: fit(model, right, small, random))
    tried(lambda: fit(good, task, small, random))
    tried(lambda: fit(good, right, budget, random))
    tried(lambda: fit(good, right, small, generator))
    tried(lambda: fit(good, right, small, random, parameters=model))
    tried(lambda: fit(good, right, small, random, curve_split=model))
    tried(lambda: evaluate(model, right))
    tried(lambda: evaluate(good, task))
    tried(lambda: evaluate(good, right, model))
    tried(lambda: predict(model, torch.randn(3, 4)))
    tried(lambda: predict(good, model))
    tried(lambda: predict(good, torch.randn(3, 4), model))


# Files ----------------------------------------------------------------------------------------------------------------


@functools.cache
def written_model() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        model = ModelSpec(hidden=(4,)).build(TaskDescriptor(task_id="a", input_shape=(4,), output_dim=2), 0)
        return save_model(model, Path(folder) / "m.safetensors").read_bytes()


@cases(300)
@given(st.data())
def test_files_of_models(tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    path = tmp_path_factory.mktemp("model") / "m.safetensors"
    path.write_bytes(data.draw(damaged(written_model()) | st.binary(max_size=30)))
    into = data.draw(st.sampled_from([None, nn.Linear(4, 2), Answers(ANSWERS[0])]) | ODD)
    found, error = tried(lambda: load_model(path, into=into))
    assert error is not None or isinstance(found, nn.Module)


@cases(150)
@given(JSON, st.sampled_from(["format", "class", "outputs", "head", "made", "transformers", "factory", ""]))
def test_notes_of_models(tmp_path_factory: pytest.TempPathFactory, plain: Any, key: str) -> None:
    folder = tmp_path_factory.mktemp("notes")
    (folder / "m.safetensors").write_bytes(written_model())
    with safe_open(folder / "m.safetensors", framework="pt") as file:
        told = json.loads(file.metadata()["crosstask"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 -- no mapping
    notes = [{**told, key: plain} if key else plain]
    if key == "made":
        notes += [{**told, "made": {**told["made"], each: plain}} for each in ("spec", "descriptor")]
        notes += [{**told, "made": {**told["made"], "spec": {**told["made"]["spec"], "hidden": plain}}}]
    for note in notes:
        save_file(tensors, folder / "n.safetensors", metadata={"crosstask": json.dumps(note)})
        tried(lambda: load_model(folder / "n.safetensors"))
        tried(lambda: load_model(folder / "n.safetensors", trust=key != "factory", into=nn.Linear(4, 2)))


@cases(200)
@given(KINDS, ODD)
def test_saving_models(tmp_path_factory: pytest.TempPathFactory, kind: int, path: Any) -> None:
    folder = tmp_path_factory.mktemp("saved")
    model = MODELS[kind]()
    written, error = tried(lambda: save_model(model, folder / "m.safetensors"))
    if error is None:
        tried(lambda: load_model(written, into=MODELS[kind]()))
    assert [each.name for each in folder.iterdir()] == ([] if error else ["m.safetensors"])
    if not isinstance(path, str | Path):
        tried(lambda: save_model(nn.Linear(4, 2), path))
        tried(lambda: load_model(path))
    else:
        tried(lambda: load_model(folder / str(path)))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    engine = filled_engine()
    engine.train()
    folder = engine.save(tmp_path_factory.mktemp("engine") / "e", data=True)
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@cases(100)
@given(st.data())
def test_saved_engines(saved: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    folder = tmp_path_factory.mktemp("opened")
    names = [*["engine.json"] * 4, *saved]
    hit = data.draw(st.sampled_from(names))
    for name, whole in saved.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if name == hit:
            whole = data.draw(damaged(whole))
        (folder / name).write_bytes(whole)
    if data.draw(st.integers(0, 9)) == 0:
        (folder / hit).unlink()
    found, error = tried(lambda: TransferEngine.open(folder))
    if error is None:
        assert set(found.graph.task_ids) == {*found.portfolio.ids, *(t.task_id for t in found.portfolio.unseen)}


@cases(150)
@given(st.data(), JSON)
def test_heads_of_saved_engines(
    saved: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory, data: Any, plain: Any
) -> None:
    folder = tmp_path_factory.mktemp("heads")
    for name, whole in saved.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(whole)
    head = json.loads(saved["engine.json"])
    key = data.draw(st.sampled_from(sorted(head)))
    if key == "tasks" and data.draw(st.integers(0, 4)):
        head["tasks"][0][data.draw(st.sampled_from(sorted(head["tasks"][0])))] = plain
    else:
        head[key] = plain
    (folder / "engine.json").write_text(json.dumps(head), encoding="utf-8")
    found, error = tried(lambda: TransferEngine.open(folder))
    if error is None:
        tried(lambda: found.transfer_knowledge("a", "b") if found.seeds < 4 and found.budget.steps < 4 else None)


@cases(60)
@given(ODD, ODD, ODD)
def test_opening_and_saving_engines(
    saved: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory, where: Any, tasks: Any, models: Any
) -> None:
    folder = tmp_path_factory.mktemp("kept")
    for name, whole in saved.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(whole)
    tried(lambda: TransferEngine.open(folder, tasks=tasks))
    tried(lambda: TransferEngine.open(folder, models=models))
    tried(lambda: TransferEngine.open(folder, tasks={"a": tasks}, models={"b": models}))
    engine = filled_engine()
    if isinstance(where, str | Path):
        tried(lambda: TransferEngine.open(folder / str(where)))
        where = folder / re.sub(r"\.\.|^/+", "", str(where))
    else:
        tried(lambda: TransferEngine.open(where))
    refused_whole(engine, lambda: engine.save(where))
