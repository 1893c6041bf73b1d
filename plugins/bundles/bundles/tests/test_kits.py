"""The kits of publishers and of carried bundles catch what they say: each check has a wrong component."""

from __future__ import annotations

import atexit
import shutil
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

from crosstask.cli.common import file_name
from crosstask.options import component
from crosstask.testing import reference_registry
from crosstask.testing.selftest import SelfTest
from crosstask_bundles import Bundle, BundledTask, BundleError, Carried, create_transfer_manifest, name_of, write_bundle
from crosstask_bundles.testing import REFERENCE, ReferencePublisher, small_bundle, small_manifest

_made = Path(tempfile.mkdtemp(prefix="crosstask-kits-"))
atexit.register(shutil.rmtree, _made, ignore_errors=True)
registry = reference_registry(REFERENCE)

publishers = SelfTest(ReferencePublisher, registry=registry, options={"folder": str(_made)})


def written(file: Path, data: bytes) -> str:
    """Without a look at what is there."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    return str(file)


@publishers.caught_by("check_arrives_whole", options={"folder": str(_made / "other")})
class AnotherInItsPlace(ReferencePublisher):
    """Whole, but of the ordinary bundle another one."""

    def publish(self, bundle: Bundle) -> str:
        data = bundle.path.read_bytes()
        if bundle.manifest.name == "small":
            data = small_bundle("another").path.read_bytes()
        return written(Path(self.folder) / name_of(bundle), data)


@publishers.caught_by("check_twice_changes_nothing", options={"folder": str(_made / "twice")})
class WritesOnAtTheEnd(ReferencePublisher):
    def publish(self, bundle: Bundle) -> str:
        before = self.__dict__.setdefault("_before", [])
        before.append(bundle.digest)
        data = bundle.path.read_bytes()
        return written(Path(self.folder) / name_of(bundle), data if before.count(bundle.digest) < 2 else data + b"\n")


@publishers.caught_by("check_replaces_nothing", options={"folder": str(_made / "names")})
class ByNameAlone(ReferencePublisher):
    def publish(self, bundle: Bundle) -> str:
        return written(Path(self.folder) / file_name(bundle.manifest.name), bundle.path.read_bytes())


@publishers.caught_by("check_names_lead_nowhere", options={"folder": str(_made / "a" / "b")})
class NamesArePaths(ReferencePublisher):
    def publish(self, bundle: Bundle) -> str:
        name = bundle.manifest.name.replace("\x1b", "").replace("\n", "")
        return written(Path(self.folder) / f"{name}-{bundle.digest}", bundle.path.read_bytes())


@publishers.caught_by("check_refuses_what_is_damaged", options={"folder": str(_made / "any")})
class TakesAnyFile(ReferencePublisher):
    def send(self, file: Any) -> str:
        try:
            return super().send(file)
        except BundleError:
            return str(file)


@publishers.caught_by(
    "check_agrees_with_twin", options={"folder": str(_made / "twin")}, twin=lambda bundle: bundle.short
)
class UnlikeItsTwin(ReferencePublisher):
    pass


test_publisher, test_wrong_publisher, test_every_check_of_publishers = publishers.tests()

# Carried bundles ------------------------------------------------------------------------------------------------------

# The package of these components is a folder of its own, in which they seem to be defined.
HERE, ELSEWHERE = _made / "package", _made / "elsewhere"
PACKAGE = types.ModuleType("crosstask_package_of_these_tests")
PACKAGE.__file__ = str(HERE / "own.py")
sys.modules[PACKAGE.__name__] = PACKAGE


def bundle_at(file: Path, **parts: Any) -> Path:
    small = small_manifest()
    given: dict[str, Any] = {"tasks": small.tasks, "licence": "MIT", "created": small.created, **parts}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.unlink(missing_ok=True)
    return write_bundle(create_transfer_manifest(small.edges, **given), file).path


class Own(Carried):
    """A bundle under the class's name."""

    def file(self) -> Path:
        return HERE / f"{type(self).__name__}.ctb"


def of_the_package(name: str) -> type[Any]:
    """A class that is defined there."""
    made = type(name, (Own,), {"__module__": PACKAGE.__name__, "__doc__": "For checks.", "__qualname__": name})
    setattr(PACKAGE, name, made)
    return made


def carried(name: str, check: str, **given: Any) -> None:
    """A wrong component of its own file."""
    setattr(PACKAGE, name, bundles.caught_by(check, **given)(of_the_package(name)))


Right = component(of_the_package("Right"))
PACKAGE.Right = Right  # type: ignore[attr-defined]
bundles = SelfTest(Right, registry=registry)
carried("Damaged", "check_verifies")
carried("WithoutLicence", "check_licence")
carried("NamesAlone", "check_tasks_can_be_recognised")
carried("OtherThanItsTwin", "check_agrees_with_twin", twin=lambda: HERE)


@bundles.caught_by("check_in_the_package")
class Elsewhere(Carried):
    def file(self) -> Path:
        return ELSEWHERE / "right.ctb"


bundle_at(HERE / "Right.ctb")
bundle_at(HERE / "OtherThanItsTwin.ctb")
bundle_at(HERE / "WithoutLicence.ctb", licence="")
bundle_at(HERE / "NamesAlone.ctb", tasks=[BundledTask(descriptor=t.descriptor) for t in small_manifest().tasks])
bundle_at(HERE / "Damaged.ctb").write_bytes(b"PK")
bundle_at(ELSEWHERE / "right.ctb")

test_carried, test_wrong_carried, test_every_check_of_bundles = bundles.tests()
