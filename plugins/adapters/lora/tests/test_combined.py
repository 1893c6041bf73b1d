"""Sums of LoRA adapters: each weight's change is the weighted sum of theirs, exactly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import Tensor, nn

from crosstask.errors import DataError
from crosstask_adapters import AdapterConfig, AdapterModel
from crosstask_adapters.testing import stirred
from crosstask_lora import combine_lora, save_peft

X = torch.randn(4, 9, generator=torch.Generator().manual_seed(0)).abs().mul(3).long()


class Net(nn.Module):
    """One of each kind of layer, the last one tied to the first."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.conv = nn.Embedding(12, 8), nn.Conv1d(8, 8, 3, padding=1)
        self.attention, self.body = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 8)
        self.out, self.head = nn.Linear(8, 12, bias=False), nn.Linear(12, 8)
        self.out.weight = self.tokens.weight

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(self.tokens(x).transpose(1, 2)).transpose(1, 2)
        y = self.body(self.attention(y, y, y, need_weights=False)[0])
        return self.head(self.out(y))  # type: ignore[no-any-return]


EVERY = ("tokens", "conv", "attention", "body", "out")


def adapted(seed: int, r: int, targets: tuple[str, ...] = EVERY, alpha: float = 3.0, **more: Any) -> AdapterModel:
    torch.manual_seed(0)
    model = AdapterModel(
        Net().double().eval(), AdapterConfig(lora_r=r, lora_alpha=alpha, target_modules=targets, **more)
    )
    stirred(model.handle("lora"), seed, 0.5)
    return model


def weights(model: AdapterModel) -> dict[str, Tensor]:
    """With the adapters in them."""
    model.merge()
    found = {n: p.detach().clone() for n, p in model.base.named_parameters() if "_adapters" not in n}
    model.unmerge()
    return found


def bare() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {n: p.detach() for n, p in Net().double().named_parameters()}


@pytest.mark.parametrize("given", [None, [0.3, -1.2, 2.0]])
def test_the_sum_of_changes(given: list[float] | None) -> None:
    models = [adapted(1, 2), adapted(2, 1, ("body", "conv"), alpha=5.0), adapted(3, 3, ("attention",), alpha=1.0)]
    before = [model(X) for model in models]
    made = combine_lora(models, given)
    shares = given or [1 / 3] * 3
    start = bare()
    changed = [weights(model) for model in models]
    for name, found in weights(made).items():
        wanted = start[name] + sum(s * (each[name] - start[name]) for s, each in zip(shares, changed, strict=True))
        torch.testing.assert_close(found, wanted)
    assert made.adapters["combined"].lora_r == 6
    assert all(torch.equal(model(X), y) for model, y in zip(models, before, strict=True))
    plain = Net().double().eval()
    plain.load_state_dict(weights(made) | {"out.weight": weights(made)["tokens.weight"]})
    torch.testing.assert_close(made(X), plain(X))


def test_of_one_it_is_a_copy_and_weight_zero_is_none() -> None:
    one = adapted(1, 2)
    torch.testing.assert_close(combine_lora([one], [1.0])(X), one(X))
    torch.testing.assert_close(combine_lora([one, adapted(2, 2)], [1.0, 0.0])(X), one(X))
    torch.testing.assert_close(combine_lora([one, one], [1.0, -1.0])(X), combine_lora([one], [0.0])(X))


def test_the_summed_rank_may_be_above_the_sides_of_layers(tmp_path: Path) -> None:
    models = [adapted(seed, 4) for seed in (1, 2, 3)]
    made = combine_lora(models)
    assert made.adapters["combined"].lora_r == 12  # tokens have 8 features
    start, changed, found = bare(), [weights(model) for model in models], weights(made)
    for name in found:
        torch.testing.assert_close(found[name], sum(each[name] for each in changed) / 3)
    assert not torch.equal(found["tokens.weight"], start["tokens.weight"])
    torch.manual_seed(0)
    made.save(tmp_path)
    torch.testing.assert_close(AdapterModel.load(Net().double().eval(), tmp_path)(X), made(X))


def test_adapters_of_one_model_by_name() -> None:
    model = adapted(1, 2)
    model.add_adapter("other", AdapterConfig(lora_r=2, target_modules=EVERY))
    stirred(model.handle("other"), 5, 0.5)
    both = model(X)  # changes of weights add up where both act
    made = combine_lora([model, model], [1.0, 1.0], ["lora", "other"], name="sum")
    torch.testing.assert_close(made(X), both)
    with pytest.raises(DataError, match=r"model 0 has 2 adapters \(lora, other\): say which with `names`"):
        combine_lora([model])


def test_heads_of_their_own_are_averaged() -> None:
    models = [adapted(k, 2, ("body",), modules_to_save=("head",)) for k in (1, 2)]
    for number, model in enumerate(models):
        stirred(model.saved("lora"), number)
    made = combine_lora(models, [1.0, 3.0])
    heads = [m.saved(n) for m, n in ((models[0], "lora"), (models[1], "lora"), (made, "combined"))]
    first, second, found = (head.state() for head in heads if head is not None)
    for key, value in found.items():
        torch.testing.assert_close(value, (first[key] + 3 * second[key]) / 4)
    with pytest.raises(DataError, match="the weights sum to zero: heads of their own"):
        combine_lora(models, [1.0, -1.0])
    with pytest.raises(DataError, match="for other modules: nothing to average"):
        combine_lora([models[0], adapted(3, 2, ("body",))])


def test_it_is_pefts_concatenation_and_goes_through_files(tmp_path: Path) -> None:
    targets = ("body", "conv")
    models = [adapted(1, 2, targets), adapted(2, 3, targets, alpha=4.0)]
    made = combine_lora(models, [0.3, 0.8])
    made.save(tmp_path / "own")
    torch.manual_seed(0)
    base = Net().double().eval()
    torch.testing.assert_close(AdapterModel.load(base, tmp_path / "own")(X), made(X))
    for name, model in zip("ab", models, strict=True):
        save_peft(model, tmp_path / name, "lora")
    torch.manual_seed(0)
    theirs: Any = peft.PeftModel.from_pretrained(Net().double(), str(tmp_path / "a"), adapter_name="a").eval()
    theirs.load_adapter(str(tmp_path / "b"), adapter_name="b")
    theirs.add_weighted_adapter(["a", "b"], [0.3, 0.8], "c", combination_type="cat")
    theirs.set_adapter("c")
    torch.testing.assert_close(theirs(X), made(X))


def test_what_cannot_be_combined() -> None:
    one = adapted(1, 2)
    other = adapted(2, 2)
    with torch.no_grad():
        other.base.head.weight[0] += 1  # type: ignore[index,union-attr,operator]
    bits = AdapterModel(Net().double(), AdapterConfig(adapter_type="bitfit"))
    for models, given, message in (
        ([], None, "no model to combine"),
        ([one, other], None, "model 1 has another base than model 0"),
        ([one, bits], None, "adapter 'bitfit' is a 'bitfit': only LoRA's changes add up so"),
        ([one, one], [1.0], "each of 2 models needs a finite weight"),
        ([one, one], [1.0, float("nan")], "each of 2 models needs a finite weight"),
        ([one, adapted(2, 2, ("out",))], None, "out, tokens share a weight, which model 1 adapts only at out"),
    ):
        with pytest.raises(DataError, match=message):
            combine_lora(models, given)
