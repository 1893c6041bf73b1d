"""A discriminator that tells fakes from observations, and a generator that deceives it."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

if TYPE_CHECKING:
    from crosstask_adversarial.adversarial import Adversarial

__all__ = ["Adversarial"]

__getattr__ = lazily(__name__, {"Adversarial": "adversarial"})
