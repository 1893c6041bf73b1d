"""What one environment has measured, in one verified file for another."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

_PUBLIC = {
    "Bundle": "bundle",
    "BundleError": "errors",
    "BundleUse": "records",
    "BundledTask": "manifest",
    "Bundles": "stage",
    "BundlesResult": "records",
    "Carried": "contract",
    "Folder": "publishers",
    "Http": "publishers",
    "Imported": "imported",
    "Index": "publishers",
    "Origin": "manifest",
    "Publisher": "contract",
    "TransferManifest": "manifest",
    "create_transfer_manifest": "manifest",
    "export": "exporting",
    "import_bundle": "importing",
    "keep": "keeping",
    "name_of": "contract",
    "open_bundle": "bundle",
    "place": "bundle",
    "publish_patch": "publishing",
    "write_bundle": "bundle",
}

__all__ = list(_PUBLIC)

__getattr__ = lazily(__name__, _PUBLIC)

if TYPE_CHECKING:
    from crosstask_bundles.bundle import Bundle, open_bundle, place, write_bundle
    from crosstask_bundles.contract import Carried, Publisher, name_of
    from crosstask_bundles.errors import BundleError
    from crosstask_bundles.exporting import export
    from crosstask_bundles.imported import Imported
    from crosstask_bundles.importing import import_bundle
    from crosstask_bundles.keeping import keep
    from crosstask_bundles.manifest import BundledTask, Origin, TransferManifest, create_transfer_manifest
    from crosstask_bundles.publishers import Folder, Http, Index
    from crosstask_bundles.publishing import publish_patch
    from crosstask_bundles.records import BundlesResult, BundleUse
    from crosstask_bundles.stage import Bundles
