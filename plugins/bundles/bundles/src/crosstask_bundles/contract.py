"""What packages add: places where bundles go (`Publisher`), and bundles that a package carries (`Carried`)."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import ClassVar, final

from crosstask.cli.common import file_name
from crosstask.components import Component, hook
from crosstask_bundles.bundle import SUFFIX, Bundle, open_bundle


class Publisher(Component):
    """A place where bundles go: `send` is what users call.

    Write `publish`. It puts a file there whole or not at all, overwrites nothing, and putting the same bundle there
    again changes nothing. `name_of` is a name that no other bundle has.
    """

    point: ClassVar[str] = "publisher"

    @abstractmethod
    @hook(first=True, returns=str)
    def publish(self, bundle: Bundle) -> str:
        """Put the file of a bundle, which was verified, where it belongs; the path or URL of it there."""

    @final
    def send(self, file: str | Path | Bundle) -> str:
        """Verify a bundle and publish it: where it is now. BundleError if it cannot be."""
        bundle = open_bundle(file.path if isinstance(file, Bundle) else file)
        answer: str = self.context.call(self, "publish", bundle=bundle)
        return answer


class Carried(Component):
    """A bundle that a package carries, so that whoever installs the package has it.

    Write `file`. Nothing of the bundle is code: it is verified like one of a stranger's.
    """

    point: ClassVar[str] = "bundle"

    @abstractmethod
    @hook(first=True, returns=Path)
    def file(self) -> Path:
        """Where the bundle lies in the package."""


def name_of(bundle: Bundle) -> str:
    """The name of a published file: the bundle's name, as one that leads nowhere else, and its digest."""
    return f"{file_name(bundle.manifest.name)}-{bundle.digest[:16]}{SUFFIX}"
