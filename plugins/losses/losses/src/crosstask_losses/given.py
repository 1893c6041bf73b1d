"""What a model gave for some observations, as objectives read it: checked, and with errors that say what is missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor

from crosstask.errors import DataError, PluginError, nearest, of_kind

KINDS = ("real", "positive", "index", "map")


@attrs.frozen
class Output:
    """One entry of `outputs` that an objective reads: a list of T tensors of this `shape`, one for each time step.

    `shape` is written in letters, such as "B Z": B, T, C, H and W are those of the observations [B, T, C, H, W], every
    other letter is one number throughout the outputs of an objective, and a number is itself. `kind`: `real`,
    `positive` (above zero), `index` (whole numbers from zero), `map` (not negative, and summing to one over the last
    two dimensions).

    `constant`: one tensor for all time steps (or a list of one). `between`: there may be one less than time steps, from
    each to the next. `optional`: terms do without it. `terms`: those that read it, all if none are named; for the
    documentation and the kit.
    """

    shape: str
    help: str
    kind: str = attrs.field(default="real", validator=attrs.validators.in_(KINDS))
    terms: tuple[str, ...] = ()
    constant: bool = False
    between: bool = False
    optional: bool = False

    @property
    def letters(self) -> list[str]:
        """Of its dimensions."""
        return self.shape.split()

    def told(self) -> str:
        """`a list of T tensors [B, Z]`."""
        one = f"[{', '.join(self.letters)}]"
        if self.constant:
            return f"a tensor {one}"
        return f"a list of {'T - 1' if self.between else 'T'} tensors {one}, one for each time step"


class Given:
    """Observations, actions and outputs, as the terms of one objective read them.

    `observations` [B, T, C, H, W] and `actions` [B, T, A] (or None); `frames` [T, B, C, H, W] are the observations in
    the order of the outputs.
    """

    def __init__(
        self,
        outputs: Mapping[str, Any],
        observations: Tensor,
        actions: Tensor | None,
        reads: Mapping[str, Output],
        origin: str,
    ) -> None:
        self.outputs, self.reads, self.origin = outputs, reads, origin
        self.observations = full(observations)
        self.actions = actions
        self.term = ""
        """The term that is being computed, for messages."""
        self._sizes = dict(zip("BTCHW", observations.shape, strict=True))
        self._known: dict[str, Tensor] = {}

    @property
    def frames(self) -> Tensor:
        """[T, B, C, H, W]."""
        return self.observations.transpose(0, 1)

    def has(self, key: str) -> bool:
        """Whether the model gave it; for what is optional."""
        self._declared(key)
        return key in self.outputs

    def steps(self, key: str) -> Tensor:
        """One entry of `outputs` over all time steps, stacked: [T, …]. DataError says what is missing or wrong."""
        return self._read(key, constant=False)

    def constant(self, key: str) -> Tensor:
        """An entry of `outputs` that is the same in all time steps."""
        return self._read(key, constant=True)

    def _declared(self, key: str) -> Output:
        if key not in self.reads:
            raise PluginError(f"{self.origin}: it reads outputs[{key!r}], which its `reads` does not declare")
        return self.reads[key]

    def _read(self, key: str, *, constant: bool) -> Tensor:
        declared = self._declared(key)
        if declared.constant is not constant:
            raise PluginError(f"{self.origin}: outputs[{key!r}] is declared as {declared.told()}")
        if key not in self.outputs:
            raise DataError(
                f"{self._who()} needs outputs[{key!r}] ({declared.told()}: {declared.help}), which is missing"
                f"{nearest(key, self.outputs)}. A term that the model has nothing for is switched off: "
                f"off=[{self.term!r}]"
            )
        if key not in self._known:
            self._known[key] = self._checked(key, declared)
        return self._known[key]

    def _who(self) -> str:
        return f"{self.origin}: term {self.term!r}" if self.term else self.origin

    def _checked(self, key: str, declared: Output) -> Tensor:
        value, where = self.outputs[key], f"{self._who()}: outputs[{key!r}]"
        if declared.constant:
            parts = [value] if isinstance(value, Tensor) else self._list(value, where, declared)
            wanted = {1}
        else:
            parts, steps = self._list(value, where, declared), self._sizes["T"]
            wanted = {steps, steps - 1} if declared.between else {steps}
        if len(parts) not in wanted:
            told = " or ".join(map(str, sorted(wanted)))
            raise DataError(f"{where} has {len(parts)} tensors; it must have {told}: {declared.told()}")
        for number, part in enumerate(parts):
            at = where if declared.constant else f"{where}[{number}]"
            self._check_one(of_kind(part, Tensor, at), at, declared)
        return full(parts[0] if declared.constant else torch.stack(parts))

    def _list(self, value: object, where: str, declared: Output) -> list[Any]:
        if isinstance(value, Tensor | str | Mapping) or not isinstance(value, Sequence):
            kind = (
                f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
            )
            raise DataError(f"{where} must be {declared.told()}, got {kind}")
        return list(value)

    def _check_one(self, part: Tensor, where: str, declared: Output) -> None:
        letters, shape = declared.letters, tuple(part.shape)
        if len(letters) != len(shape):
            raise DataError(f"{where} must have the shape [{', '.join(letters)}], got {list(shape)}")
        for letter, size in zip(letters, shape, strict=True):
            if (int(letter) if letter.isdigit() else self._sizes.setdefault(letter, size)) != size:
                known = ", ".join(f"{each} = {self._sizes[each]}" for each in letters if each in self._sizes)
                raise DataError(f"{where} must have the shape [{', '.join(letters)}] with {known}, got {list(shape)}")
        if declared.kind == "index":
            if part.is_floating_point() or part.is_complex() or part.dtype == torch.bool:
                raise DataError(f"{where} must hold whole numbers, got {part.dtype}")
            if part.numel() and int(part.min()) < 0:
                raise DataError(f"{where} must hold whole numbers from zero, got {int(part.min())}")
        elif not part.is_floating_point():
            raise DataError(f"{where} must hold floating-point numbers, got {part.dtype}")
        elif declared.kind == "positive" and bool((part <= 0).any()):
            raise DataError(f"{where} must be above zero, got {float(part.min()):.3g}; softplus makes it so")
        elif declared.kind == "map":
            self._check_map(part.detach(), where)

    def _check_map(self, part: Tensor, where: str) -> None:
        sums = full(part).sum((-2, -1))
        wrong = bool((part < 0).any()) or bool(((sums - 1).abs() > SLACK[part.dtype]).any())
        if wrong:
            low, high = float(sums.min()), float(sums.max())
            raise DataError(
                f"{where} must be maps that sum to one over their last two dimensions (a softmax over both), got sums "
                f"from {low:.3g} to {high:.3g}"
            )


SLACK = {torch.float64: 1e-3, torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 5e-2}
"""How far a map's sum may be from one, for rounding."""


def full(tensor: Tensor) -> Tensor:
    """At least single precision: half of it holds neither a sum over pixels nor a logarithm of a probability."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def check_observations(observations: Any, actions: Any, outputs: Any) -> None:
    """DataError unless these are observations [B, T, C, H, W], actions [B, T, A] or None, and a mapping of outputs."""
    wanted = "observations must be a tensor [B, T, C, H, W] (batch, time, channels, height, width)"
    if not isinstance(observations, Tensor):
        raise DataError(f"{wanted}, got a {type(observations).__name__}")
    if observations.ndim != 5 or 0 in observations.shape:
        hint = "; a single sequence needs a batch dimension: observations[None]" if observations.ndim == 4 else ""
        raise DataError(f"{wanted}, got {list(observations.shape)}{hint}")
    if not observations.is_floating_point():
        raise DataError(f"{wanted} of floating-point numbers, got {observations.dtype}; of bytes: observations / 255")
    if actions is not None:
        batch, steps = observations.shape[:2]
        shape = list(actions.shape) if isinstance(actions, Tensor) else f"a {type(actions).__name__}"
        if not isinstance(actions, Tensor) or actions.ndim != 3 or tuple(actions.shape[:2]) != (batch, steps):
            raise DataError(f"actions must be a tensor [B, T, A] with B = {batch}, T = {steps}, got {shape}")
    if not isinstance(outputs, Mapping):
        raise DataError(f"outputs must be a mapping of names to lists of tensors, got a {type(outputs).__name__}")
