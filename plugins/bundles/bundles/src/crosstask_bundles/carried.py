"""A bundle that this package carries."""

from __future__ import annotations

from pathlib import Path

from crosstask.options import component
from crosstask_bundles.contract import Carried


@component
class MeasuredDigits(Carried):
    """Transfer between `parity`, `prime`, `loop`, `above_four` and `low` of the source `digits`, all twenty pairs
    measured by `probe` with five seeds (recipes/measured_digits.toml). Public domain.
    """

    def file(self) -> Path:
        return Path(__file__).with_name("data") / "measured_digits.ctb"
