"""Where tensors live: the name of a device, checked before any work is done."""

from __future__ import annotations

import textwrap

import torch

from crosstask.errors import OptionError, nearest

AUTO = "auto"
"""Instead of a device: CUDA where there is one, else the CPU."""

_MEANT = {"gpu": "cuda", "nvidia": "cuda", "metal": "mps"}


def resolve_device(name: str = AUTO) -> str:
    """The device that `name` (`cpu`, `cuda`, `cuda:1`, `mps`, …, or `auto`) stands for on this machine.

    OptionError if torch knows no such device, or this machine has none.
    """
    if name == AUTO:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError):
        known = {AUTO, "cpu", "cuda", "cuda:0", "mps", "xpu"}
        meant = _MEANT.get(str(name).lower())
        hint = f"; did you mean {meant!r}? Valid: {', '.join(sorted(known))}" if meant else nearest(name, known)
        raise OptionError(f"there is no device {name!r}{hint}") from None
    if device.type == "meta":
        raise OptionError("device 'meta' holds shapes without values: nothing can be learned there; use 'cpu'")
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if count <= (device.index or 0):
            has = f"this machine has {', '.join(f'cuda:{n}' for n in range(count))}" if count else "torch finds no CUDA"
            raise OptionError(f"device {name!r} is not there: {has}; 'auto' takes what there is")
    else:
        try:
            torch.zeros(1, device=device).add(1)
        except Exception as error:  # each backend fails in its own way where it is not there
            why = textwrap.shorten(str(error), 90, placeholder=" …")
            raise OptionError(f"device {name!r} cannot be used here ({why}); 'auto' takes what there is") from None
    return str(device)
