"""What a function is, for keys of stored results: equal where it does the same, whatever its address."""

from __future__ import annotations

import collections
import decimal
import functools
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from crosstask.descriptors import TaskDescriptor
from crosstask.engine import TransferEngine
from crosstask.identity import UnidentifiedError, identity_of
from crosstask.learning.models import ModelSpec
from crosstask.learning.transferring import key_of
from crosstask.records import Budget
from crosstask.tasks import Task
from crosstask.testing import blobs, reference_registry

Loss = Callable[[Tensor, Tensor], Tensor]


def scaled(factor: float) -> Loss:
    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return factor * nn.functional.cross_entropy(outputs, targets)

    return loss


class Weighted:
    """A callable object."""

    def __init__(self, weight: Any) -> None:
        self.weight = weight

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self.weight * nn.functional.cross_entropy(outputs, targets)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self(outputs, targets)


SAME: dict[str, Callable[[], Any]] = {
    "closure": lambda: scaled(2.0),
    "lambda": lambda: lambda outputs, targets: (outputs - targets).square().mean(),
    "partial": lambda: functools.partial(nn.functional.cross_entropy, label_smoothing=0.1),
    "module": lambda: nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0])),
    "object": lambda: Weighted(np.array([1.0, 2.0])),
    "method": lambda: Weighted(3).loss,
    "builtin": lambda: torch.dist,
    "class": lambda: Weighted,
    "dtype": lambda: {"rate": 1.0, "kind": torch.float32},
    "device": lambda: Weighted([torch.device("cpu")]),
    "deque": lambda: collections.deque([1.0, 2.0], 3),
    "complex": lambda: (1j, range(3)),
    "pattern": lambda: re.compile("a+"),
    "decimal": lambda: decimal.Decimal("1.5"),
    "generator": lambda: torch.Generator().manual_seed(1),
    "method of a builtin": lambda: {"a": 1.0}.get,
}
OTHER: dict[str, Callable[[], Any]] = {
    "closure": lambda: scaled(3.0),
    "lambda": lambda: lambda outputs, targets: (outputs - targets).abs().mean(),
    "partial": lambda: functools.partial(nn.functional.cross_entropy, label_smoothing=0.2),
    "module": lambda: nn.CrossEntropyLoss(weight=torch.tensor([1.0, 3.0])),
    "object": lambda: Weighted(np.array([1.0, 2.5])),
    "method": lambda: Weighted(4).loss,
    "builtin": lambda: torch.norm,
    "class": lambda: nn.MSELoss,
    "dtype": lambda: {"rate": 1.0, "kind": torch.float64},
    "device": lambda: Weighted([torch.device("meta")]),
    "deque": lambda: collections.deque([1.0, 3.0], 3),
    "complex": lambda: (1j, range(4)),
    "pattern": lambda: re.compile("b+"),
    "decimal": lambda: decimal.Decimal("1.25"),
    "generator": lambda: torch.Generator().manual_seed(2),
    "method of a builtin": lambda: {"a": 2.0}.get,
}


@pytest.mark.parametrize("kind", SAME)
def test_equal_where_it_does_the_same(kind: str) -> None:
    assert identity_of(SAME[kind]()) == identity_of(SAME[kind]())
    assert identity_of(SAME[kind]()) != identity_of(OTHER[kind]())


def test_a_function_that_refers_to_itself() -> None:
    def again(count: int) -> int:
        return again(count - 1) if count else 0

    assert identity_of(again) == identity_of(again)


@pytest.mark.parametrize("made", [object, threading.Lock, lambda: (n for n in ())], ids=["object", "lock", "generator"])
def test_what_nobody_can_tell_from_another_is_refused(made: Callable[[], Any]) -> None:
    with pytest.raises(UnidentifiedError, match=f"a {type(made()).__name__} cannot be told from another"):
        identity_of([made()])


def test_the_same_in_two_processes() -> None:
    code = (
        "import hashlib, json\n"
        "from crosstask.identity import identity_of\n"
        "def loss(a, b, power=2):\n    return abs(a - b) ** power\n"
        "print(hashlib.sha256(json.dumps(identity_of(loss)).encode()).hexdigest())\n"
    )
    told = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(2)]
    assert told[0].stdout == told[1].stdout != ""


def test_losses_of_a_loop_do_not_share_what_is_stored(tmp_path: Path) -> None:
    """Six losses, one store: each task is trained with its own. The functions may well lie at one address."""

    def trained(factor: float) -> Tensor:
        task = blobs("a", classes=2)
        task = Task(descriptor=task.descriptor, train=task.train, validation=task.validation, test=task.test,
                    loss=scaled(factor))  # fmt: skip
        budget = Budget(steps=3, optimizer="sgd", learning_rate=0.1)
        with TransferEngine(
            registry=reference_registry(), discoverers=[], train=budget, store=str(tmp_path / "store.db")
        ) as engine:
            engine.register_task(task)
            engine.train()
            assert task.model is not None
            return nn.utils.parameters_to_vector(task.model.parameters()).detach()

    factors = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0)
    first = [trained(factor) for factor in factors]
    assert all(not torch.equal(a, b) for n, a in enumerate(first) for b in first[n + 1 :])
    assert all(torch.equal(a, trained(factor)) for a, factor in zip(first, factors, strict=True))


def test_a_foreign_object_shares_with_nobody() -> None:
    class Slotted:
        __slots__ = ()

        def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
            return outputs.sum()

    one, two = (Task(descriptor=TaskDescriptor(task_id="a"), loss=Slotted()) for _ in range(2))
    assert one.fingerprint() != two.fingerprint()
    assert one.fingerprint() == one.fingerprint()


def test_an_edited_builder_of_networks_has_another_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    keys = []
    for width in (4, 5):
        module = tmp_path / f"builders_{width}.py"
        module.write_text(f"def build(shape, outputs):\n    return {width}\n")
        namespace: dict[str, Any] = {}
        exec(module.read_text(), namespace)
        monkeypatch.setattr("crosstask.testing.tasks.built", namespace["build"], raising=False)
        keys.append(key_of("model", ModelSpec(kind="crosstask.testing.tasks:built")))
    assert keys[0] != keys[1]
    assert key_of(ModelSpec(hidden=(3,))) == key_of(ModelSpec(hidden=(3,)))
