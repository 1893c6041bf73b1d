"""Every check of the contract, and what is special about this publisher."""

import tempfile
from pathlib import Path

from crosstask.testing import conformance
from crosstask_bundles import write_bundle
from crosstask_bundles.testing import small_manifest
from crosstask_example_publisher import ExamplePublisher

test_conformance = conformance(ExamplePublisher, options={"root": tempfile.mkdtemp(prefix="example-publisher-")})


def test_a_licence_has_a_folder_of_its_own(tmp_path: Path) -> None:
    bundles = [write_bundle(small_manifest(licence=each), tmp_path / each) for each in ("CC0-1.0", "MIT")]
    where = [Path(ExamplePublisher(root=str(tmp_path / "published")).send(bundle)) for bundle in bundles]
    assert [path.parent.name for path in where] == ["CC0-1.0", "MIT"]
