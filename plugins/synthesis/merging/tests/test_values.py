"""What is no plain real number in a model: masks of -inf, complex weights, extra state, factors of adapters.

Expected values are computed with numpy, on nothing but the numbers that the rule speaks of.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from crosstask.errors import DataError
from crosstask_merging import grams_of, merge, merge_modules
from crosstask_merging.slerp import slerp

METHODS: dict[str, dict[str, Any]] = {
    "uniform_soup": {}, "task_arithmetic": {"strength": 0.7}, "ties": {"density": 0.4}, "dare": {"drop": 0.5},
    "slerp": {}, "regmean": {}, "fisher_merge": {}, "greedy_soup": {}, "evolutionary": {"evaluations": 8},
}  # fmt: skip


class Masked(nn.Module):
    """A linear layer beside a mask, and a bias of which a part is closed."""

    def __init__(self, seed: int, mask: bool = True) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.layer = nn.Linear(4, 4)
        if mask:
            self.register_buffer("mask", torch.full((4, 4), float("-inf")).triu(1))

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.layer(x)
        return answer


class Complex(nn.Module):
    def __init__(self, seed: int) -> None:
        super().__init__()
        rng = np.random.default_rng(seed)
        self.wave = nn.Parameter(torch.tensor(rng.normal(size=(3, 5)) + 1j * rng.normal(size=(3, 5))))
        self.plain = nn.Parameter(torch.tensor(rng.normal(size=4)))


class Extra(Masked):
    def __init__(self, seed: int) -> None:
        super().__init__(seed, mask=False)
        self.said: Any = {"seed": seed}

    def get_extra_state(self) -> Any:
        return self.said

    def set_extra_state(self, state: Any) -> None:
        self.said = state


class ExtraTensor(Extra):
    """As of layers that keep their scales there, of a length of each one's own."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.said = torch.arange(seed + 1.0)


def ingredients(method: str, models: list[Any]) -> dict[str, Any]:
    """What a method needs besides the models."""
    if method == "regmean":
        return {"inputs": [torch.randn(30, 4, generator=torch.Generator().manual_seed(n)) for n in range(len(models))]}
    if method == "fisher_merge":
        rng = np.random.default_rng(0)
        return {"fishers": [{k: torch.tensor(rng.gamma(1, size=p.shape)).float() for k, p in m.named_parameters()}
                            for m in models]}  # fmt: skip
    if method in ("greedy_soup", "evolutionary"):
        truth = models[0].layer.weight.detach() * 0.6 + models[1].layer.weight.detach() * 0.4
        return {"score": lambda state: -float((state["layer.weight"] - truth).norm())}
    return {}


@pytest.mark.parametrize("method", METHODS)
def test_a_mask_stays_and_changes_nothing_else(method: str) -> None:
    """The layer beside the mask comes out as if there were none (for `ties` with the entries that zeros would be)."""
    masked, open_ = [Masked(seed) for seed in range(4)], [Masked(seed) for seed in range(4)]
    for model in open_:
        model.mask = torch.zeros(4, 4)  # type: ignore[assignment]
    made, plain = (
        merge_modules(models[1:], method, base=models[0], **METHODS[method], **ingredients(method, models[1:]))
        for models in (masked, open_)
    )
    np.testing.assert_array_equal(made.mask.numpy(), np.triu(np.full((4, 4), -np.inf), 1))  # type: ignore[operator,union-attr]
    torch.testing.assert_close(made.layer.weight, plain.layer.weight, rtol=0, atol=0)  # type: ignore[union-attr]
    torch.testing.assert_close(made.layer.bias, plain.layer.bias, rtol=0, atol=0)  # type: ignore[union-attr]
    assert np.isfinite(made.layer.weight.detach().numpy()).all()  # type: ignore[operator,union-attr]


@pytest.mark.parametrize("base", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_closed_entries_of_a_trained_weight_stay_and_the_others_are_merged(method: str, base: bool) -> None:
    models: list[Any] = [Masked(seed, mask=False) for seed in range(4)]
    with torch.no_grad():
        for model in models:
            model.layer.bias[1], model.layer.bias[2], model.layer.weight[0, 3] = float("-inf"), float("nan"), np.inf
    extra = {} if method == "regmean" else ingredients(method, models[1:])
    if method == "regmean":  # closed entries say nothing about a layer's inputs
        extra = {"grams": [{"layer": torch.eye(5)}] * 3}
    if "score" in extra:
        extra = {"score": lambda state: -float(state["layer.weight"][1:].norm())}
    made: Any = merge_modules(models[1:], method, base=models[0] if base else None, **METHODS[method], **extra)
    bias, weight = made.layer.bias.detach().numpy(), made.layer.weight.detach().numpy()
    assert bias[1] == -np.inf
    assert np.isnan(bias[2])
    assert weight[0, 3] == np.inf
    assert np.isfinite(np.delete(bias, [1, 2])).all()
    assert np.isfinite(np.delete(weight.ravel(), 3)).all()
    if method == "uniform_soup":
        expected = np.mean([m.layer.weight.detach().numpy() for m in models[1:]], axis=0)
        np.testing.assert_allclose(weight, expected, rtol=1e-6)


def test_a_weight_of_zero_times_a_mask_is_no_nan() -> None:
    made: Any = merge_modules([Masked(0), Masked(1)], "uniform_soup", weights=[1, 0])
    np.testing.assert_array_equal(made.mask.numpy(), np.triu(np.full((4, 4), -np.inf), 1))


@pytest.mark.parametrize("method", METHODS)
def test_what_is_not_finite_in_one_model_only_is_named(method: str) -> None:
    models: list[Any] = [Masked(seed) for seed in range(3)]
    extra = ingredients(method, models[1:])
    with torch.no_grad():
        models[2].layer.weight[0, 0] = float("nan")
    with pytest.raises(DataError, match=r"'layer.weight' is not finite .* model 0 and model 1"):
        merge_modules(models[1:], method, base=models[0], **METHODS[method], **extra)
    models = [Masked(seed) for seed in range(3)]
    models[0].mask = models[0].mask.T.clone()
    with pytest.raises(DataError, match=r"'mask' is not finite .* model 0 and base"):
        merge_modules(models[1:], method, base=models[0], **METHODS[method], **extra)


def test_masks_in_files(tmp_path: Path) -> None:
    paths = [tmp_path / f"{seed}.safetensors" for seed in range(3)]
    for seed, path in enumerate(paths):
        save_file(Masked(seed).state_dict(), path)
    found = load_file(merge(paths[1:], tmp_path / "out.safetensors", "task_arithmetic", base=paths[0]))
    np.testing.assert_array_equal(found["mask"].numpy(), np.triu(np.full((4, 4), -np.inf), 1))
    expected = np.mean([Masked(seed).layer.weight.detach().numpy() for seed in (1, 2)], axis=0)
    np.testing.assert_allclose(found["layer.weight"].numpy(), expected, rtol=1e-6, atol=1e-7)


# --- Complex weights


def numbers(model: nn.Module) -> list[Any]:
    return [p.detach().numpy() for p in model.parameters()]


def halves(model: nn.Module) -> Any:
    """All real numbers of a model."""
    return np.concatenate([p.view(np.float64).ravel() for p in numbers(model)])


def test_complex_weights_are_averaged_and_added() -> None:
    base, one, two = (numbers(Complex(seed)) for seed in range(3))
    models: list[nn.Module] = [Complex(1), Complex(2)]
    made = numbers(merge_modules(models, "uniform_soup", weights=[3, 1]))
    for found, a, b in zip(made, one, two, strict=True):
        np.testing.assert_allclose(found, 0.75 * a + 0.25 * b, rtol=1e-12)
    for method, options in (("task_arithmetic", {}), ("dare", {"drop": 0.0})):
        made = numbers(merge_modules(models, method, base=Complex(0), strength=0.7, **options))
        for found, s, a, b in zip(made, base, one, two, strict=True):
            np.testing.assert_allclose(found, s + 0.7 * (a - s + b - s), rtol=1e-12)


def test_ties_takes_a_complex_weight_as_two_real_ones() -> None:
    base, taus = halves(Complex(0)), [halves(Complex(seed)) - halves(Complex(0)) for seed in (1, 2, 3)]
    keep = round(0.4 * len(base))
    kept = [np.where(np.abs(t.astype(np.float32)) >= np.sort(np.abs(t.astype(np.float32)))[-keep], t, 0) for t in taus]
    merged = np.zeros(len(base))
    for place in range(len(base)):
        column = np.array([k[place] for k in kept])
        agree = column[column * column.sum() > 0]
        merged[place] = agree.mean() if len(agree) else 0
    made = merge_modules([Complex(seed) for seed in (1, 2, 3)], "ties", base=Complex(0), density=0.4)
    np.testing.assert_allclose(halves(made), base + merged, rtol=1e-12)


def test_slerp_of_complex_weights_turns_in_the_plane_of_their_real_parts() -> None:
    one, two = (numbers(Complex(seed))[0].view(np.float64).ravel() for seed in (1, 2))
    angle = np.arccos(one @ two / np.linalg.norm(one) / np.linalg.norm(two))
    made: Any = merge_modules([Complex(1), Complex(2)], "slerp")
    expected = (one + two) * np.sin(angle / 2) / np.sin(angle)
    np.testing.assert_allclose(made.wave.detach().numpy().view(np.float64).ravel(), expected, rtol=1e-9)
    flat = [torch.view_as_real(m.wave.detach()) for m in (Complex(1), Complex(2))]
    torch.testing.assert_close(torch.view_as_real(made.wave.detach()), slerp(*flat, 0.5))


def test_fisher_merge_of_complex_weights() -> None:
    models = [Complex(1), Complex(2)]
    rng = np.random.default_rng(0)
    fishers = [{"wave": rng.gamma(1, size=(3, 5))} for _ in models]
    means = [f["wave"].mean() for f in fishers]
    given = [{k: torch.tensor(v) for k, v in f.items()} for f in fishers]
    made: Any = merge_modules(models, "fisher_merge", fishers=given, floor=0.01)
    shares = [f["wave"] / mean + 0.01 for f, mean in zip(fishers, means, strict=True)]
    above = sum(s * numbers(m)[0] for s, m in zip(shares, models, strict=True))
    np.testing.assert_allclose(made.wave.detach().numpy(), above / sum(shares), rtol=1e-6)
    np.testing.assert_allclose(made.plain.detach().numpy(), np.mean([numbers(m)[1] for m in models], 0), rtol=1e-12)


def test_searches_see_and_give_complex_weights() -> None:
    one, two = (numbers(Complex(seed))[0] for seed in (1, 2))

    def score(state: Mapping[str, Tensor]) -> float:
        return -float(np.abs(state["wave"].numpy() - (one + two) / 2).max())

    for method in ("greedy_soup", "evolutionary"):
        made: Any = merge_modules([Complex(1), Complex(2)], method, score=score)
        np.testing.assert_allclose(made.wave.detach().numpy(), (one + two) / 2, rtol=1e-6)


def test_regmean_averages_complex_layers() -> None:
    models = [nn.Sequential(nn.Linear(3, 2, dtype=torch.cfloat)) for _ in range(2)]
    inputs = torch.randn(10, 3, dtype=torch.cfloat)
    assert grams_of(models[0], inputs) == {}
    made: Any = merge_modules(models, inputs=inputs)
    expected = (models[0][0].weight.detach().numpy() + models[1][0].weight.detach().numpy()) / 2
    np.testing.assert_allclose(made[0].weight.detach().numpy(), expected, rtol=1e-6)
    made = merge_modules(models, "regmean", grams=[{"0": torch.eye(4)}] * 2)
    np.testing.assert_allclose(made[0].weight.detach().numpy(), expected, rtol=1e-6)


@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")
def test_complex_numbers_of_half_precision_are_added_in_single() -> None:
    models = [nn.ParameterDict({"w": torch.tensor([1 + 1j, 2.0]).to(torch.complex32) * n}) for n in (1, 3)]
    made: Any = merge_modules(models, "uniform_soup")
    assert made["w"].dtype == torch.complex32
    assert made["w"].to(torch.complex64).tolist() == [2 + 2j, 4]


def test_complex_files(tmp_path: Path) -> None:
    paths = [tmp_path / f"{seed}.safetensors" for seed in range(2)]
    for seed, path in enumerate(paths):
        save_file({"w": Complex(seed).wave.detach().to(torch.complex64)}, path)
    found = load_file(merge(paths, tmp_path / "out.safetensors"))["w"].numpy()
    np.testing.assert_allclose(found, (numbers(Complex(0))[0] + numbers(Complex(1))[0]) / 2, rtol=1e-5, atol=1e-6)


# --- Extra state


@pytest.mark.parametrize("kind", [Extra, ExtraTensor])
@pytest.mark.parametrize("method", METHODS)
def test_extra_state_is_the_first_models(kind: type[Extra], method: str) -> None:
    models: list[Any] = [kind(seed) for seed in range(3)]
    made: Any = merge_modules(models[1:], method, base=models[0], **METHODS[method], **ingredients(method, models[1:]))
    assert str(made.said) == str(models[1].said)
    plain = [Masked(seed, mask=False) for seed in range(3)]
    expected: Any = merge_modules(plain[1:], method, base=plain[0], **METHODS[method], **ingredients(method, plain[1:]))
    torch.testing.assert_close(made.layer.weight, expected.layer.weight, rtol=0, atol=0)


def test_a_score_can_load_what_it_judges() -> None:
    probe = Extra(9)

    def score(state: Mapping[str, Tensor]) -> float:
        probe.load_state_dict(dict(state))
        return -float(probe.layer.weight.detach().norm())

    merge_modules([Extra(1), Extra(2)], "greedy_soup", score=score)
    assert probe.said == {"seed": 1}


def test_extra_state_in_files(tmp_path: Path) -> None:
    paths = [tmp_path / f"{seed}.safetensors" for seed in range(3)]
    for seed, path in enumerate(paths):
        save_file(ExtraTensor(seed).state_dict(), path)
    found = load_file(merge(paths[1:], tmp_path / "out.safetensors", "ties", base=paths[0]))
    np.testing.assert_array_equal(found["_extra_state"].numpy(), [0, 1])


# --- Adapters


def adapted(kind: str, seed: int) -> Any:
    adapters = pytest.importorskip("crosstask_adapters")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        base = nn.Sequential(nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 20))
        model = adapters.AdapterModel(base, {"mine": adapters.AdapterConfig(adapter_type=kind)})
        torch.manual_seed(seed)
        with torch.no_grad():
            for parameter in model.adapter_parameters("mine"):
                parameter.normal_()
    return model


@pytest.mark.parametrize("method", METHODS)
def test_factors_of_adapters_are_refused_with_what_to_do(method: str) -> None:
    pytest.importorskip("crosstask_lora")
    with pytest.raises(DataError, match=r"one factor .*absorb\(\).*merge_lora"):
        merge_modules([adapted("lora", 1), adapted("lora", 2)], method, grams=[{}, {}], fishers=[{}, {}],
                      score=lambda _: 0.0, **METHODS[method])  # fmt: skip


def test_absorbed_adapters_are_merged_as_whole_updates() -> None:
    pytest.importorskip("crosstask_lora")
    models = [adapted("lora", seed) for seed in (1, 2)]
    start = models[0].state_dict()["base.0.weight"].numpy().astype(np.float64)  # without the adapter
    updates = []
    for model in models:
        (part,) = model.base[0]._adapters
        up, down = (getattr(part, k).detach().numpy().astype(np.float64) for k in ("up", "down"))
        updates.append(16 / 8 * up @ down)
        model.handle("mine").absorb()
    made: Any = merge_modules(models, "uniform_soup")
    expected = start + np.mean(updates, axis=0)
    np.testing.assert_allclose(made.base[0].weight.detach().numpy(), expected, rtol=1e-4, atol=1e-4)


def test_other_adapters_are_merged_if_they_are_no_products() -> None:
    pytest.importorskip("crosstask_bottleneck_adapters")
    first, second = adapted("bottleneck", 1), adapted("bottleneck", 2)
    made: Any = merge_modules([first, second])
    name = "base.0._adapters.0.down"
    expected = (first.state_dict()[name].numpy() + second.state_dict()[name].numpy()) / 2
    np.testing.assert_allclose(made.state_dict()[name].numpy(), expected, rtol=1e-6)
    with pytest.raises(DataError, match=r"_left' is one factor .*weighted_ensemble"):
        merge_modules([adapted("compacter", 1), adapted("compacter", 2)])


@pytest.mark.parametrize("key", ["model.lora_A.weight", "q.lora_B.default.weight", "x.lora_embedding_A", "f.hada_w1_a"])
def test_files_of_factors_are_refused(key: str, tmp_path: Path) -> None:
    paths = [tmp_path / f"{seed}.safetensors" for seed in range(2)]
    for path in paths:
        save_file({key: torch.ones(2, 3)}, path)
    with pytest.raises(DataError, match="one factor"):
        merge(paths, tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


def test_merging_leaves_what_it_was_given_alone() -> None:
    for models in ([Masked(1), Masked(2)], [Complex(1), Complex(2)], [Extra(1), Extra(2)]):
        before = [copy.deepcopy(m.state_dict()) for m in models]
        merge_modules(models, "task_arithmetic", base=type(models[0])(0))
        for state, model in zip(before, models, strict=True):
            assert str(state) == str(model.state_dict())


class Tied(nn.Module):
    """As language models are: the last layer's weight is the embedding's."""

    def __init__(self, seed: int, tie: bool = True) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.words = nn.Embedding(6, 4)
            self.layer = nn.Linear(4, 4)
            self.out = nn.Linear(4, 6)
        if tie:
            self.out.weight = self.words.weight

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.out(self.layer(self.words(x.long())[:, 0]))
        return answer

    def information(self) -> dict[str, Tensor]:
        """Made up, of the kind that `fisher_diagonal` gives: a tied weight has it once."""
        return {name: value.detach().abs() + 0.1 for name, value in self.named_parameters()}


@pytest.mark.parametrize("method", METHODS)
def test_a_tied_weight_is_one_weight_in_memory_as_in_files(tmp_path: Path, method: str) -> None:
    models, base = [Tied(n) for n in range(3)], Tied(9)
    inputs = torch.arange(6.0)[:, None]
    given: dict[str, Any] = {}
    if method == "regmean":
        given["grams"] = [grams_of(model, inputs) for model in models]
    if method == "fisher_merge":
        given["fishers"] = [model.information() for model in models]
    probe = copy.deepcopy(base)

    def score(state: Mapping[str, Tensor]) -> float:
        probe.load_state_dict({"out.weight": state["words.weight"], **state})  # by all names, when it is in memory
        return -float(probe(inputs).detach().square().mean())

    if method in ("greedy_soup", "evolutionary"):
        given["score"] = score
    paths = []
    for n, model in enumerate([*models, base]):
        paths.append(tmp_path / f"{n}.safetensors")
        save_file({k: v for k, v in model.state_dict().items() if k != "out.weight"}, paths[-1])
    made: Any = merge_modules(models, method, base=base, **METHODS[method], **given)
    assert made.out.weight is made.words.weight
    merge(paths[:3], tmp_path / "m.safetensors", method, base=paths[3], **METHODS[method], **given)
    for name, tensor in load_file(tmp_path / "m.safetensors").items():
        assert torch.equal(made.state_dict()[name], tensor), name


def test_a_weight_that_is_tied_in_one_model_only_is_refused() -> None:
    with pytest.raises(DataError, match=r"model 0 has no 'out.weight' of its own: it is tied to 'words.weight'"):
        merge_modules([Tied(0), Tied(1, tie=False)])
