"""What tells two models apart that cannot be compared, or trained, as one."""

from __future__ import annotations

import copy
import functools
import hashlib
import os
import pickle
import subprocess
import sys
import threading
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import prune

from crosstask.learning.architecture import architecture, layers, tensor_bytes, tensor_text
from crosstask.learning.transferring import Receiver, weights_digest
from crosstask.testing.tasks import blobs

pytestmark = [
    pytest.mark.filterwarnings(f"ignore:.*{about}")  # kinds of tensors and models that are young, or old
    for about in ("Sparse", "nested", "[Qq]uanti", "torch.jit", "spectral_norm")
]


class Scaled(nn.Module):
    """Holds a number under a name that begins with an underscore, a tensor that is no buffer, and one that is none that
    is saved.
    """

    def __init__(self, by: float = 1.0, shift: float = 0.0, unsaved: float = 1.0) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(2, 4), nn.Linear(4, 3)
        self._by, self.shift = by, torch.tensor([shift])
        self.register_buffer("unsaved", torch.tensor([unsaved]), persistent=False)

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.head(self.body(inputs * self._by + self.shift).relu() * self.unsaved)
        return found


def layer(**how: Any) -> nn.Module:
    made = {"d_model": 8, "nhead": 2, "dim_feedforward": 16, "dropout": 0.0, "batch_first": True, **how}
    return nn.Sequential(nn.TransformerEncoderLayer(**made), nn.Linear(8, 3))


def patched(by: float) -> nn.Module:
    made = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 3))
    made[1].forward = lambda inputs: inputs.abs() * by
    return made


def images(middle: nn.Module) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(nn.Conv2d(1, 4, 3), copy.deepcopy(middle), nn.Flatten(), nn.LazyLinear(3))


def rows(*, tied: int | None = None, twice: int | None = None) -> Callable[[], nn.Module]:
    """Three layers, of which the last has the weight of another, or is another."""

    def make() -> nn.Module:
        made = [nn.Linear(4, 4) for _ in range(3)]
        if tied is not None:
            made[2].weight = made[tied].weight
        return nn.Sequential(made[0], nn.Tanh(), made[1], made[2] if twice is None else made[twice], nn.Linear(4, 3))

    return make


def members(**own: Any) -> Callable[[], nn.Module]:
    """Of a class that has these members besides its layers, which its base uses."""
    return type("Net", (Base,), own)


class Base(nn.Module):
    gain = 1.0

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

    @staticmethod
    def bend(inputs: Tensor) -> Tensor:
        return inputs.tanh()

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.head(self.bend(self.body(inputs) * self.gain))
        return found


def holding(value: Any) -> Callable[[], nn.Module]:
    """With something in an attribute."""

    def make() -> nn.Module:
        made = Base()
        made.held = value() if callable(value) else value
        return made

    return make


def hooked(by: float) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        made, seen = Base(), []

        def hook(_: nn.Module, __: Any, outputs: Tensor) -> Tensor:
            seen.append(outputs)
            return outputs * by

        made.body.register_forward_hook(hook)
        return made

    return make


class Gained(nn.Module):
    def __init__(self, gain: float) -> None:
        super().__init__()
        self.gain, self.body, self.head = gain, nn.ModuleList([nn.Linear(4, 4)]), nn.Linear(4, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        for body in self.body:
            inputs = body(inputs) * self.gain
        found: Tensor = self.head(inputs)
        return found


def traced(model: nn.Module) -> nn.Module:
    made: nn.Module = torch.jit.trace(model, torch.ones(2, 4))
    return made


def normalised() -> nn.Module:
    weight_norm = nn.utils.parametrizations.weight_norm
    return nn.Sequential(weight_norm(nn.Linear(4, 4)), nn.BatchNorm1d(4), nn.Linear(4, 3))


class Nested:
    """Nobody can look into it."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)


def spare(seed: int) -> list[nn.Module]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return [nn.Linear(2, 2)]


EYE = torch.eye(3)


def quantised(scale: float) -> Tensor:
    return torch.quantize_per_tensor(EYE, scale, 0, torch.qint8)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (layer, lambda: layer(nhead=4)),
        (layer, lambda: layer(norm_first=True)),
        (layer, lambda: layer(activation="gelu")),
        (lambda: patched(1.0), lambda: patched(2.0)),
        (Scaled, lambda: Scaled(by=2.0)),
        (Scaled, lambda: Scaled(shift=1.0)),
        (Scaled, lambda: Scaled(unsaved=2.0)),
        (images(nn.AvgPool2d(3, 2, 1)), images(nn.AvgPool2d(3, 2, 1, count_include_pad=False))),
        (images(nn.AvgPool2d(3, 2)), images(nn.AvgPool2d(3, 2, divisor_override=3))),
        (images(nn.Upsample(None, 2, "bilinear")), images(nn.Upsample(None, 2, "bilinear", align_corners=True))),
        (rows(tied=0), rows(tied=1)),
        (rows(tied=0), rows()),
        (rows(twice=0), rows(twice=1)),
        (members(), members(gain=2.0)),
        (members(), members(gain=property(lambda self: 2.0))),
        (members(gain=property(lambda self: 2.0)), members(gain=property(lambda self: 3.0))),
        (
            members(gain=functools.cached_property(lambda self: 2.0)),
            members(gain=functools.cached_property(lambda self: 3.0)),
        ),
        (members(bend=staticmethod(functional.relu)), members(bend=staticmethod(torch.tanh))),
        (members(bend=classmethod(lambda cls, x: x)), members(bend=classmethod(lambda cls, x: -x))),
        (holding(lambda: EYE.to_sparse()), holding(lambda: (EYE * 2).to_sparse())),
        (holding(lambda: [EYE.to_sparse_csr()]), holding(lambda: [EYE.roll(1, 0).to_sparse_csr()])),
        (holding(lambda: {"a": EYE.to_sparse_csc()}), holding(lambda: {"a": EYE.roll(1, 0).to_sparse_csc()})),
        (holding(lambda: quantised(0.1)), holding(lambda: quantised(0.2))),
        (holding(lambda: torch.empty(3, device="meta")), holding(lambda: torch.empty(4, device="meta"))),
        (holding(lambda: torch.tensor([1 + 2j]).conj()), holding(lambda: torch.tensor([1 + 3j]).conj())),
        (holding({"lock": threading.Lock, "by": 1}), holding({"lock": threading.Lock, "by": 2})),
        (holding(lambda: [threading.Lock(), 1]), holding(lambda: [threading.Lock(), 2])),
        (holding(lambda: spare(1)), holding(lambda: spare(2))),
        (holding(lambda: torch.Generator().manual_seed(1)), holding(lambda: torch.Generator().manual_seed(2))),
        (holding(Nested), holding(lambda: Base.bend)),
        (hooked(1.0), hooked(2.0)),
        (Base, lambda: Base().double()),
        (lambda: traced(Base()), lambda: traced(members(gain=2.0)())),
        (lambda: torch.jit.script(Gained(1.0)), lambda: torch.jit.script(Gained(2.0))),
    ],
    ids=[
        "heads", "norm first", "activation", "patched", "underscore", "tensor", "unsaved buffer", "padding", "divisor",
        "corners", "tied", "tied at all", "twice", "class attribute", "property", "properties", "cached property",
        "static method", "class method", "sparse", "sparse rows", "sparse columns", "quantised", "meta", "conjugate",
        "beside", "beside a lock", "held module", "generator", "not looked into",
        "hook", "numbers", "traced",
        "scripted",
    ],
)  # fmt: skip
def test_what_two_models_do_with_the_same_weights_tells_them_apart(
    one: Callable[[], nn.Module], other: Callable[[], nn.Module]
) -> None:
    models = []
    for make in (one, one, other):
        torch.manual_seed(0)
        models.append(make())
    same, again, apart = models
    assert architecture(same) == architecture(again)
    assert weights_digest(same) == weights_digest(again)
    assert architecture(same) != architecture(apart)
    assert weights_digest(same) != weights_digest(apart)


def test_what_is_not_saved_comes_from_the_source() -> None:
    """Whatever fresh model lends its shapes."""
    begun, copied, left = Receiver(Scaled(unsaved=5.0)).begun(Scaled(unsaved=3.0), blobs("a"), keep_head=False)
    assert float(begun["unsaved"]) == 3
    assert copied == ["body.bias", "body.weight"]
    assert left == ["head.bias", "head.weight"]


class Intricate(Base):
    """Refers to its own layers, weights and methods in all ways."""

    def __init__(self) -> None:
        super().__init__()
        self.every, self.first = [self.body, self.head], {"weight": self.body.weight}
        self.twin, self.bent = [nn.Sequential(self.body)], functools.partial(self.bend)
        self.again, self.drawn = self.scaled, torch.Generator().manual_seed(3)
        self.config = types.SimpleNamespace(to_json_string=lambda: '{"width": 4}')
        self.handle = self.body.register_forward_hook(_keep)
        self.body.register_forward_pre_hook(functools.partial(_keep, outputs=EYE))
        self.register_module("none", None)

    def scaled(self, inputs: Tensor) -> Tensor:
        return inputs * self.gain


def _keep(module: nn.Module, _: Any, outputs: Tensor) -> None:
    """Looks on."""


def pruned() -> nn.Module:
    made = Base()
    prune.l1_unstructured(made.body, "weight", 0.5)
    with torch.no_grad():  # torch copies it only after such a pass
        made(torch.ones(1, 4))
    return made


SAME: dict[str, Callable[[], nn.Module]] = {
    "intricate": Intricate,
    "pruned": pruned,
    "attention": layer,
    "recurrent": lambda: nn.ModuleDict({"body": nn.LSTM(4, 4), "head": nn.Linear(4, 3)}),
    "spectral": lambda: nn.Sequential(nn.utils.spectral_norm(nn.Linear(4, 4)), nn.Linear(4, 3)),
    "normal": normalised,
    "scripted": lambda: torch.jit.script(Gained(1.0)),
    "graph": lambda: torch.fx.symbolic_trace(Base()),
    "lazy": lambda: nn.Sequential(nn.LazyLinear(4), nn.Linear(4, 3)),
}  # fmt: skip


def test_what_is_no_part_of_an_architecture() -> None:
    """Weights, modes, places in memory, the process; what a model refers to that is its own."""
    every = {}
    for kind, make in SAME.items():
        model = make()
        every[kind] = said = architecture(model)
        assert architecture(make()) == architecture(copy.deepcopy(model)) == said, kind
        if kind == "lazy":
            continue
        if kind not in ("recurrent", "attention"):
            optimiser = torch.optim.SGD(model.parameters(), 0.1)
            model(torch.ones(5, 4)).square().sum().backward()
            optimiser.step()
        assert architecture(model) == said, kind
        model.load_state_dict(make().state_dict())
        assert architecture(model.eval().double().float()) == said, kind
        if kind not in ("normal", "intricate", "scripted", "graph"):  # which do not pickle
            assert architecture(pickle.loads(pickle.dumps(model))) == said, kind
    code = f"import {__name__} as t\nprint(t.digest_of_all())"
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": str(Path(__file__).parents[__name__.count(".")])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == digest_of_all(every)


def digest_of_all(known: dict[str, str] | None = None) -> str:
    said = [(kind, known[kind] if known else architecture(make())) for kind, make in SAME.items()]
    return hashlib.sha256(repr(said).encode()).hexdigest()


class Counting(Base):
    _crosstask_aside = ("calls",)

    def __init__(self) -> None:
        super().__init__()
        self.calls, self.by = 0, 1

    def forward(self, inputs: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(inputs * self.by)


def test_what_a_class_sets_aside_does_not_count() -> None:
    class More(Counting):
        _crosstask_aside = ("cache",)
        cache: Tensor | None = None

    model = More()
    said = architecture(model)
    model.cache = model(torch.ones(1, 4))
    assert model.calls == 1
    assert architecture(model) == said
    model.by = 2
    assert architecture(model) != said


def test_who_looks_on_is_no_part_of_a_model() -> None:
    model = Base()
    said = architecture(model)
    hook = types.FunctionType(_keep.__code__, {}, "hook")
    hook.__module__ = "crosstask_somewhere"
    model.body.register_forward_hook(hook)
    assert architecture(model).split() == said.split()


def test_a_head_in_words() -> None:
    one, other = nn.Linear(4, 3), nn.Linear(4, 5)
    assert layers(one) != layers(other)
    assert layers(one, one) == layers(other, other) != layers(nn.Linear(4, 3, bias=False))
    assert layers(nn.Sequential(nn.ReLU(), one), one) != layers(nn.Sequential(nn.Tanh(), other), other)
    assert layers(nn.Linear(5, 3)) != layers(one)


def compile_of(model: nn.Module) -> nn.Module:
    made: Any = torch.compile(model, backend="eager")
    return made


def test_a_compiled_model_is_what_it_was_made_of() -> None:
    model = Base()
    said = architecture(model)
    compiled, again, other = (compile_of(each) for each in (model, Base(), members(gain=2.0)()))
    assert architecture(model) == said
    assert architecture(compiled) == architecture(again) != architecture(other)


def test_tensors_of_every_kind() -> None:
    """Those of the same type and shape, whose values differ."""
    channels = torch.tensor([0.1, 0.2, 0.3]), torch.zeros(3, dtype=torch.long)
    kinds: list[Callable[[Tensor], Tensor]] = [
        lambda t: t, Tensor.to_sparse, Tensor.to_sparse_csr, Tensor.to_sparse_csc,
        lambda t: t.to_sparse_bsr((3, 1)), lambda t: t.to_sparse_bsc((3, 1)), Tensor.bfloat16, Tensor.bool,
        lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8),
        lambda t: torch.quantize_per_channel(t, *channels, 0, torch.qint8),
        lambda t: (t + 1j).conj(), lambda t: (t * 1j).conj().imag, lambda t: t[0].expand(2, 3),
        lambda t: torch.nested.nested_tensor([t[0], t[1, :2]]),
    ]  # fmt: skip
    told = []
    for kind in kinds:
        one, again, other = kind(EYE), kind(EYE.clone()), kind(EYE.roll(1, 0))
        assert tensor_text(one) == tensor_text(again) != tensor_text(other)
        assert weights_digest({"a": one}) == weights_digest({"a": again}) != weights_digest({"a": other})
        told.append(tensor_text(one))
    assert len(set(told)) == len(kinds)
    assert tensor_text(EYE.to_mkldnn()) == tensor_text(EYE)
    assert tensor_text(torch.zeros(0)) != tensor_text(torch.zeros(0, 2))
    assert list(tensor_bytes(EYE.to("meta"))) == []
    unknown = nn.LazyLinear(2).weight
    assert list(tensor_bytes(unknown)) == [b"UninitializedParameter"]


def test_extra_state_counts_with_all_its_values() -> None:
    many = torch.arange(5000.0)
    other = many.clone()
    other[2500] = 0
    assert repr(many) == repr(other)
    digests = [weights_digest({"state": (tensor, 1)}) for tensor in (many, many.clone(), other)]  # type: ignore[dict-item]
    assert digests[0] == digests[1] != digests[2]
