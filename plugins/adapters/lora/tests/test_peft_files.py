"""Files exchanged with PEFT itself, both ways: equal outputs, and equal tensors bit for bit."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from crosstask.errors import DataError, StoreError
from crosstask.testing import full_disk
from crosstask_adapters import AdapterConfig, AdapterModel
from crosstask_lora import load_peft, save_peft

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


class Mixed(nn.Module):
    """One of every kind of layer for which both have a LoRA."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(12, 8)
        self.conv = nn.Conv1d(8, 8, 3, padding=1)
        self.image = nn.Conv2d(1, 4, (3, 2))
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.body = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8, bias=False))
        self.head = nn.Linear(8, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tokens(tokens)
        x = x + self.conv(x.transpose(1, 2)).transpose(1, 2)
        x = x + self.image(x[:, None]).mean((1, 2, 3))[:, None, None]
        x = x + self.attention(x, x, x, need_weights=False)[0]
        out: Tensor = self.head(self.body(x).mean(1))
        return out


TARGETS = ("tokens", "conv", "image", "attention", "body.0", "body.2")
TOKENS = torch.arange(20).view(4, 5) % 12


def base() -> nn.Module:
    torch.manual_seed(0)
    return Mixed().eval()


def theirs(
    model: nn.Module, folder: Path, targets: Sequence[str] = TARGETS, **more: Any
) -> tuple[nn.Module, dict[str, Tensor]]:
    """(PEFT's model with a LoRA whose factors are drawn, what it saved to the folder)."""
    config = peft.LoraConfig(r=4, lora_alpha=6, target_modules=list(targets), **more)
    model = peft.get_peft_model(model, config).eval()
    torch.manual_seed(1)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                p.copy_(torch.randn_like(p) * 0.3)
    model.save_pretrained(str(folder))
    return model, load_file(folder / WEIGHTS)


def ours(model: nn.Module, targets: Sequence[str] = TARGETS, **more: Any) -> AdapterModel:
    """Our model with a LoRA whose factors are drawn."""
    made = AdapterModel(model, {"a": AdapterConfig(lora_r=4, lora_alpha=6, target_modules=tuple(targets), **more)})
    torch.manual_seed(2)
    with torch.no_grad():
        for p in made.adapter_parameters():
            p.copy_(torch.randn_like(p) * 0.3)
    return made.eval()


def close(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("heads", [[], ["head"]], ids=["no-head", "head"])
def test_theirs_loads_here(tmp_path: Path, heads: list[str]) -> None:
    reference, tensors = theirs(base(), tmp_path / "theirs", modules_to_save=heads or None)
    model = AdapterModel(base())
    load_peft(model, tmp_path / "theirs", "a")
    with torch.no_grad():
        close(model(TOKENS), reference(TOKENS))
    assert model.adapters["a"].modules_to_save == tuple(heads)
    save_peft(model, tmp_path / "back", "a")
    again = load_file(tmp_path / "back" / WEIGHTS)
    assert set(again) == set(tensors)
    assert all(torch.equal(again[key], tensors[key]) for key in tensors)


@pytest.mark.parametrize("heads", [(), ("head",)], ids=["no-head", "head"])
def test_ours_loads_there(tmp_path: Path, heads: tuple[str, ...]) -> None:
    model = ours(base(), modules_to_save=heads)
    save_peft(model, tmp_path / "ours", "a")
    there = peft.PeftModel.from_pretrained(base(), str(tmp_path / "ours")).eval()
    with torch.no_grad():
        close(there(TOKENS), model(TOKENS))
        assert not torch.allclose(there(TOKENS), base()(TOKENS))
    there.save_pretrained(str(tmp_path / "theirs"))
    first, second = load_file(tmp_path / "ours" / WEIGHTS), load_file(tmp_path / "theirs" / WEIGHTS)
    assert set(first) == set(second)
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_lora_trained_here_answers_the_same_there_and_the_base_is_what_it_was(tmp_path: Path) -> None:
    model = AdapterModel(base(), AdapterConfig(lora_r=2, target_modules=("body", "attention")))
    before = copy.deepcopy(base().state_dict())
    optimizer = torch.optim.Adam(model.adapter_parameters(), lr=1e-2)
    losses = []
    for _ in range(20):
        loss = nn.functional.cross_entropy(model(TOKENS), torch.tensor([0, 1, 2, 0]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]
    save_peft(model, tmp_path, "lora")
    there = peft.PeftModel.from_pretrained(base(), str(tmp_path)).eval()
    with torch.no_grad():
        close(there(TOKENS), model.eval()(TOKENS))
    model.remove_adapter("lora")
    assert all(torch.equal(before[name], tensor) for name, tensor in model.base.state_dict().items())


def test_rank_stabilised_scaling(tmp_path: Path) -> None:
    reference, _ = theirs(base(), tmp_path, ["body.0"], use_rslora=True)
    model = AdapterModel(base())
    load_peft(model, tmp_path)
    with torch.no_grad():
        close(model(TOKENS), reference(TOKENS))


def test_output_projections_that_are_added_once(tmp_path: Path) -> None:
    """For a PEFT that has mended it, the same factors go both ways."""
    _, tensors = theirs(base(), tmp_path, ["attention"])
    key = "base_model.model.attention.base_layer.out_proj.lora_B.weight"
    for twice, factor in ((True, 2), (False, 1)):
        model = AdapterModel(base())
        load_peft(model, tmp_path, out_proj_twice=twice)
        assert torch.equal(model.handle("default").state()["attention.out_proj.up"], factor * tensors[key])
        save_peft(model, tmp_path / "back", out_proj_twice=twice)
        assert torch.equal(load_file(tmp_path / "back" / WEIGHTS)[key], tensors[key])


def test_names_that_end_like_others_are_written_as_a_pattern(tmp_path: Path) -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)
            self.inner = nn.ModuleDict({"fc": nn.Linear(4, 4)})

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.inner["fc"](x))  # type: ignore[no-any-return]

    torch.manual_seed(0)
    plain = Twice()
    model = ours(copy.deepcopy(plain), ["fc"])
    save_peft(model, tmp_path, "a")
    there = peft.PeftModel.from_pretrained(plain, str(tmp_path)).eval()
    with torch.no_grad():
        close(there(torch.ones(2, 4)), model(torch.ones(2, 4)))


# --- what is refused


def spoil(folder: Path, **settings: Any) -> None:
    told = json.loads((folder / CONFIG).read_text())
    for key, value in settings.items():
        if value is None:
            told.pop(key)
        else:
            told[key] = value
    (folder / CONFIG).write_text(json.dumps(told))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lora_alpha": None}, "no number 'lora_alpha'"),
        ({"r": None}, "no number 'r'"),
        ({"lora_alpha": 10**400}, "no number 'lora_alpha'"),
        ({"r": float("nan")}, "no number 'r'"),
        ({"peft_type": "IA3"}, "peft_type is 'IA3', expected 'LORA'"),
        ({"use_dora": True}, "use_dora = True makes it another adapter"),
        ({"bias": "all"}, "bias = 'all' makes it another adapter"),
        ({"rank_pattern": {"body.0": 2}}, "rank_pattern"),
    ],
)
def test_settings_that_mean_another_adapter_are_refused(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    theirs(base(), tmp_path)
    spoil(tmp_path, **settings)
    model = AdapterModel(base())
    with pytest.raises(DataError, match=message):
        load_peft(model, tmp_path)
    (tmp_path / "adapter_config.json").write_text("[" * 100_000)
    with pytest.raises(StoreError, match=r"cannot read .*adapter_config\.json: "):
        load_peft(model, tmp_path)
    assert not model.adapters


def test_wrong_keys_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    _, tensors = theirs(base(), tmp_path)
    key = "base_model.model.body.0.lora_B.weight"
    strange = {f"base_model.model.bodie.0.lora_{end}.weight": torch.zeros(4, 4) for end in "AB"}

    def rewritten(change: dict[str, Any]) -> AdapterModel:
        now = {k: v for k, v in (tensors | change).items() if v is not None}
        save_file(now, tmp_path / WEIGHTS)
        return AdapterModel(base())

    for change, message in (
        ({key: None}, "needs tensors that are not there: body.0.lora_B.weight"),
        ({key: torch.zeros(3, 4)}, r"'body.0.lora_B.weight' has shape \(3, 4\), expected \(16, 4\)"),
        ({"other.lora_A.weight": torch.zeros(1)}, "does not begin with 'base_model.model.'"),
        ({"base_model.model.body.0.lora_C.weight": torch.zeros(1)}, "is no LoRA weight"),
        (strange, "the adapter is for 'bodie.0', which the model has not; did you mean 'body.0'"),
        ({f"base_model.model.head.{n}": torch.zeros(1) for n in ("weight", "bias")}, r"'head.bias' has shape \(1,\)"),
    ):  # fmt: skip
        model = rewritten(change)
        with pytest.raises(DataError, match=message):
            load_peft(model, tmp_path)
        assert not model.adapters
        assert type(model.base.body[0]) is nn.Linear  # type: ignore[index,union-attr]
    (tmp_path / WEIGHTS).write_bytes(b"torn")
    with pytest.raises(StoreError, match="cannot read"):
        load_peft(AdapterModel(base()), tmp_path)
    with pytest.raises(StoreError, match="cannot read"):
        load_peft(AdapterModel(base()), tmp_path / "nowhere")


def test_what_peft_has_no_form_of_is_refused(tmp_path: Path) -> None:
    model = AdapterModel(base(), {"bits": AdapterConfig(adapter_type="bitfit")})
    with pytest.raises(DataError, match="'bits' is a 'bitfit': only LoRA"):
        save_peft(model, tmp_path, "bits")
    with pytest.raises(DataError, match="grouped convolution"):
        save_peft(ours(nn.Sequential(nn.Conv1d(8, 8, 3, groups=2)), ["0"]), tmp_path, "a")
    with pytest.raises(DataError, match=r"attention\.out_proj has no adapter"):
        save_peft(ours(base(), ["attention", "!attention.out_proj"]), tmp_path, "a")
    assert not (tmp_path / WEIGHTS).exists()


def test_a_rank_above_the_smaller_side_of_a_layer(tmp_path: Path) -> None:
    """PEFT takes any."""
    config = peft.LoraConfig(r=6, lora_alpha=6, target_modules=["head"], init_lora_weights=False)
    wanted = peft.get_peft_model(base(), config).eval()
    wanted.save_pretrained(str(tmp_path))
    model = AdapterModel(base())
    load_peft(model, tmp_path, "a")  # the head has 3 outputs
    close(model(TOKENS), wanted(TOKENS))
    again = AdapterModel(base())
    save_peft(model, tmp_path / "ours", "a")
    load_peft(again, tmp_path / "ours", "a")
    assert torch.equal(again(TOKENS), model(TOKENS))


def test_half_precision_both_ways(tmp_path: Path) -> None:
    model = ours(base().to(torch.bfloat16), ["body.0"])
    save_peft(model, tmp_path, "a")
    assert {t.dtype for t in load_file(tmp_path / WEIGHTS).values()} == {torch.bfloat16}
    again = AdapterModel(base().to(torch.bfloat16))
    load_peft(again, tmp_path)
    with torch.no_grad():
        assert torch.equal(again.base.body(torch.ones(1, 8).bfloat16()), model.base.body(torch.ones(1, 8).bfloat16()))  # type: ignore[operator]


def test_on_a_full_disk_nothing_half_written_stays(tmp_path: Path) -> None:
    model = ours(base())
    with full_disk(2_000), pytest.raises(StoreError, match=r"cannot write PEFT adapter .* bytes free, [\d,]+ needed\)"):
        save_peft(model, tmp_path, next(iter(model.adapters)))
    assert not list(tmp_path.iterdir())
