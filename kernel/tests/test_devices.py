"""Names of devices: an error before any work, in words."""

from __future__ import annotations

import pytest
import torch

from crosstask.errors import OptionError
from crosstask.learning.devices import resolve_device


def without_cuda(monkeypatch: pytest.MonkeyPatch, count: int = 0) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


def test_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    without_cuda(monkeypatch)
    assert resolve_device("cpu") == resolve_device("auto") == resolve_device() == "cpu"
    without_cuda(monkeypatch, 2)
    assert [resolve_device(name) for name in ("auto", "cuda", "cuda:1")] == ["cuda", "cuda", "cuda:1"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("gpu", r"^there is no device 'gpu'; did you mean 'cuda'\? Valid: auto, cpu, cuda"),
        ("cude", r"^there is no device 'cude'; did you mean 'cuda'\?"),
        ("CUDA", "did you mean 'cuda'"),
        ("", "^there is no device ''; valid: auto, cpu"),
        (3, "^there is no device 3; valid"),
        (None, "^there is no device None"),
        ("cuda", "^device 'cuda' is not there: torch finds no CUDA; 'auto' takes what there is$"),
        ("meta", "holds shapes without values"),
        ("hpu", r"^device 'hpu' cannot be used here \("),
    ],
)
def test_what_there_is_not(name: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    without_cuda(monkeypatch)
    with pytest.raises(OptionError, match=said):
        resolve_device(name)


def test_a_number_too_high(monkeypatch: pytest.MonkeyPatch) -> None:
    without_cuda(monkeypatch, 2)
    with pytest.raises(OptionError, match=r"^device 'cuda:2' is not there: this machine has cuda:0, cuda:1;"):
        resolve_device("cuda:2")
