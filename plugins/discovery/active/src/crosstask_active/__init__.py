"""Active measurement: which few pairs are worth it."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

if TYPE_CHECKING:
    from crosstask_active.active import Active
    from crosstask_active.decision import expected_gain, next_pairs

__all__ = ["Active", "expected_gain", "next_pairs"]

__getattr__ = lazily(__name__, {"Active": "active", "expected_gain": "decision", "next_pairs": "decision"})
