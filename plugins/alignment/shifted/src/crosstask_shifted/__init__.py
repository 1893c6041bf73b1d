"""Transfer under shift: corruptions by severity, the worst case in a ball, and training against it."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

_PUBLIC = {
    "CORRUPTIONS": "corruptions",
    "AdversarialTransfer": "adversarial",
    "Range": "ranges",
    "Shift": "stage",
    "ShiftResult": "records",
    "ShiftRow": "records",
    "corrupted": "corruptions",
    "fgsm": "attacks",
    "losses_of": "attacks",
    "pgd": "attacks",
    "range_of": "ranges",
}

__all__ = list(_PUBLIC)

__getattr__ = lazily(__name__, _PUBLIC)

if TYPE_CHECKING:
    from crosstask_shifted.adversarial import AdversarialTransfer
    from crosstask_shifted.attacks import fgsm, losses_of, pgd
    from crosstask_shifted.corruptions import CORRUPTIONS, corrupted
    from crosstask_shifted.ranges import Range, range_of
    from crosstask_shifted.records import ShiftResult, ShiftRow
    from crosstask_shifted.stage import Shift
