"""What experiment trackers share: `Tracker` turns the life of a run into figures, tables, pictures and files, once."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

_PUBLIC = {
    "Jsonl": "jsonl",
    "Point": "sink",
    "Sink": "sink",
    "TrackedRun": "sink",
    "Tracker": "tracker",
    "library": "sink",
}

__all__ = list(_PUBLIC)

__getattr__ = lazily(__name__, _PUBLIC)

if TYPE_CHECKING:
    from crosstask_trackers.jsonl import Jsonl
    from crosstask_trackers.sink import Point, Sink, TrackedRun, library
    from crosstask_trackers.tracker import Tracker
