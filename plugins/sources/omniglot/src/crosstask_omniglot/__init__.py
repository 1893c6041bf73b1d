"""Omniglot: fifty alphabets of handwritten characters."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

if TYPE_CHECKING:
    from crosstask_omniglot.arrays import Arrays, load_arrays
    from crosstask_omniglot.omniglot import Omniglot

__all__ = ["Arrays", "Omniglot", "load_arrays"]

__getattr__ = lazily(__name__, {"Arrays": "arrays", "load_arrays": "arrays", "Omniglot": "omniglot"})
