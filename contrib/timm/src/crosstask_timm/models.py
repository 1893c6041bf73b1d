"""Models that timm has saved, in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from crosstask.options import component
from crosstask_timm.trunk import timm_model
from crosstask_zoo.saved import Saved, SavedModels, config_of, parameters_in, weights_in
from crosstask_zoo.trunk import ZooModel


@component
class TimmModels(SavedModels):
    """Of the folders in `folder`, those that `timm.models.save_for_hf` has written, as tasks without data."""

    library: ClassVar[str] = "timm"

    @classmethod
    def recognise(cls, place: Path) -> Saved | None:
        told = config_of(place)
        if not isinstance(told.get("architecture"), str):
            return None
        return Saved(place.name, cls.library, told["architecture"], place, parameters_in(place))

    @classmethod
    def open(cls, saved: Saved) -> ZooModel:
        assert saved.place is not None  # it was recognised there
        weights_in(saved.place)
        return timm_model(saved.place)
