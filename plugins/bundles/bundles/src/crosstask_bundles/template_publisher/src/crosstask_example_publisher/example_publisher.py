"""A folder for each licence."""

from __future__ import annotations

from pathlib import Path

from crosstask.cli.common import file_name
from crosstask.options import component, option
from crosstask_bundles import Bundle, Publisher, name_of, place


@component
class ExamplePublisher(Publisher):
    """Files under `root`, in a folder for each licence."""

    root: str = option("published", help="of the folders; made if it is not there")

    def publish(self, bundle: Bundle) -> str:
        folder = Path(self.root) / file_name(bundle.manifest.licence or "none")
        return str(place(bundle.path, folder / name_of(bundle)))
