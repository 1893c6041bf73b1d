import tempfile
from pathlib import Path

from crosstask import component, option
from crosstask_bundles import Publisher, name_of, open_bundle, place, write_bundle
from crosstask_bundles.testing import small_manifest


@component
class ByLicence(Publisher):
    """A folder for each licence."""

    root: str = option("shared", help="of the folders")

    def publish(self, bundle):
        folder = Path(self.root) / (bundle.manifest.licence or "none")
        return str(place(bundle.path, folder / name_of(bundle)))


with tempfile.TemporaryDirectory() as here:
    bundle = write_bundle(small_manifest(licence="CC-BY-4.0"), f"{here}/mine.ctb")
    where = ByLicence(root=here).send(bundle)
    assert Path(where).parent.name == "CC-BY-4.0"
    assert open_bundle(where).digest == bundle.digest
