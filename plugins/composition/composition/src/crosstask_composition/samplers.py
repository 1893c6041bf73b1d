"""A sampler made of samplers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crosstask.errors import OptionError
from crosstask.options import component, option, state
from crosstask.parts import Part, part
from crosstask_composition.checks import fitting, need_parts
from crosstask_multitask import History, Sampler

if TYPE_CHECKING:
    import torch


@component
class Interleave(Sampler):
    """Several samplers, each for so many steps in a row, then from the beginning again."""

    parts: tuple[Part, ...] = part("sampler", required=True, help="the samplers, in turn")
    steps: tuple[int, ...] = option((), ge=1, help="steps in a row, one number per part (one step each if empty)")
    step: int = state(0)

    def __attrs_post_init__(self) -> None:
        need_parts(self, self.parts)
        fitting(self, "steps", self.steps, self.parts)

    def sample(self, tasks: list[str], history: History, rng: torch.Generator) -> list[str]:
        lengths = self.steps or (1,) * len(self.parts)
        place = self.step % sum(lengths)
        self.step += 1
        for sampler, length in zip(self.made_of("parts"), lengths, strict=True):
            if place < length:
                chosen: list[str] = sampler.sample(tasks, history, rng)
                return chosen
            place -= length
        raise OptionError("Interleave: steps do not add up")  # pragma: no cover -- place is below their sum
