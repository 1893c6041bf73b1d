"""Weights that have no mean, or no ordinary one: whole numbers, complex numbers, quantised layers, torch.jit's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from crosstask import Budget, DataError, ModelSpec, Task, TransferEngine
from crosstask.learning.fisher import fisher_diagonal
from crosstask.testing import blobs
from crosstask_merging import grams_of, merge, merge_modules

METHODS = ("uniform_soup", "task_arithmetic", "slerp", "ties", "dare", "regmean", "fisher_merge", "greedy_soup")


class Picks(nn.Module):
    """Whole numbers say in which order its inputs are taken; others count."""

    def __init__(self, order: list[int], buffer: bool = False) -> None:
        super().__init__()
        if buffer:
            self.register_buffer("order", torch.tensor(order))
        else:
            self.order = nn.Parameter(torch.tensor(order), requires_grad=False)
        self.register_buffer("steps", torch.tensor(len(order) + order[0]))
        self.body = nn.Linear(2, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.body(inputs[:, self.order])
        return found


def given(method: str, models: list[Any]) -> dict[str, Any]:
    inputs = torch.randn(8, 2, generator=torch.Generator().manual_seed(0))
    more: dict[str, Any] = {"score": lambda state: 0.0} if method == "greedy_soup" else {}
    if method == "regmean":
        more["grams"] = [grams_of(model, inputs) for model in models]
    if method == "fisher_merge":
        more["fishers"] = [fisher_diagonal(model, inputs, labels="expected") for model in models]
    return more


@pytest.mark.parametrize("buffer", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_whole_numbers_that_steer_must_be_the_same(method: str, buffer: bool, tmp_path: Path) -> None:
    first, same, other = Picks([0, 1], buffer), Picks([0, 1], buffer), Picks([1, 0], buffer)
    told = "cannot be merged: 'order' holds whole numbers, which have no mean, and others in .* than in "
    with pytest.raises(DataError, match=told):
        merge_modules([first, other], method, **given(method, [first, other]))
    with pytest.raises(DataError, match=told + "base"):
        merge_modules([first, same], method, base=other, **given(method, [first, same]))
    same.steps += 5
    made = merge_modules([first, same], method, **given(method, [first, same]))
    assert torch.equal(made.order, first.order)  # type: ignore[arg-type]
    assert made.steps == first.steps
    files = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    for path, model in zip(files, (first, other), strict=True):
        save_file(model.state_dict(), path)
    with pytest.raises(DataError, match=told):
        merge(files, tmp_path / "out.safetensors", "uniform_soup")


def quantised(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    body = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(2, 8), nn.ReLU()), {nn.Linear})
    return nn.Sequential(body, nn.Linear(8, 3))


def engine(models: list[nn.Module]) -> TransferEngine:
    made = TransferEngine(discoverers=[], model=ModelSpec(hidden=(4,)), budget=Budget(steps=5))
    for number, model in enumerate(models):
        made.register_task(named(f"t{number}", number), model)
    return made


def named(name: str, seed: int) -> Task:
    """Blobs, in all tasks of the same classes."""
    task = blobs(name, seed=seed)
    parts = {split: task.data(split) for split in ("train", "validation", "test")}
    descriptor = attrs.evolve(task.descriptor, classes=("x", "y", "z"))
    return Task(descriptor=descriptor, **{split: (data.inputs, data.targets) for split, data in parts.items()})


def wanted() -> Task:
    return Task(descriptor=named("new", 5).descriptor)


INPUTS = blobs("new", seed=5).data("train").inputs[:20]


@pytest.mark.filterwarnings("ignore:.*deprecated")  # torch's own quantisation
@pytest.mark.parametrize("method", METHODS)
def test_quantised_models_are_left_out_and_named(method: str) -> None:
    with torch.random.fork_rng():
        models = [quantised(0), quantised(1)]
    told = r"cannot be merged: the layer '0\.0' is quantised: .* give the model as it was before"
    with engine(models) as made, pytest.raises(DataError, match="t0 left out: " + told):
        made.synthesize_zero_shot_model(wanted(), method, INPUTS, expect=False)
    with pytest.raises(DataError, match="model 0 " + told):
        merge_modules(models, "uniform_soup")


class Waves(nn.Module):
    """A complex layer, of whose answers the sizes go on."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.wave = nn.Linear(2, 8, dtype=torch.complex64)
            self.head = nn.Linear(8, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.head(self.wave(inputs.to(torch.complex64)).abs())
        return found


def test_fisher_merging_weighs_complex_weights_and_regmean_names_them() -> None:
    models: list[nn.Module] = [Waves(0), Waves(1)]
    with engine(models) as made:
        seen = [made.portfolio[f"t{n}"].data("train").inputs[:256] for n in range(2)]
        merged = made.synthesize_zero_shot_model(wanted(), "fisher_merge", INPUTS, expect=False)
        fitted = made.synthesize_zero_shot_model(wanted(), "regmean", INPUTS, expect=False)
    fishers = [fisher_diagonal(m, x, labels="expected") for m, x in zip(models, seen, strict=True)]
    every = [float(torch.cat([f.double().flatten() for f in fisher.values()]).mean()) for fisher in fishers]
    for name in ("wave.weight", "wave.bias", "head.weight"):
        shares = [fisher[name] / mean + 1e-3 for fisher, mean in zip(fishers, every, strict=True)]
        own = [model.state_dict()[name] for model in models]
        expected = (shares[0] * own[0] + shares[1] * own[1]) / (shares[0] + shares[1])
        found = merged.state_dict()[next(key for key in merged.state_dict() if key.endswith(name))]
        torch.testing.assert_close(found, expected)
        assert not torch.allclose(found, (own[0] + own[1]) / 2, atol=1e-2)
    told = "averaged, not fitted, as complex numbers: wave.weight, wave.bias"
    assert told in fitted.provenance.notes  # type: ignore[union-attr, operator]


@pytest.mark.filterwarnings("ignore:`torch.jit")
@pytest.mark.parametrize("method", ["uniform_soup", "greedy_soup"])
def test_what_comes_of_a_trunk_of_torch_jit_can_be_trained(method: str) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        models: list[nn.Module] = [
            nn.Sequential(torch.jit.script(nn.Sequential(nn.Linear(2, 8), nn.ReLU())), nn.Linear(8, 3))
            for _ in range(2)
        ]
    with engine(models) as made:
        merged = made.synthesize_zero_shot_model(wanted(), method, INPUTS, expect=False)
    for found in (merged, merge_modules(models, method, **given(method, models))):
        assert all(p.is_leaf and p.requires_grad for p in found.parameters())
