"""Bundles in a store, so that later runs with it know them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from crosstask.errors import CrosstaskError
from crosstask.learning.transferring import key_of
from crosstask.logs import logger
from crosstask.options import structure, unstructure
from crosstask_bundles.bundle import Bundle
from crosstask_bundles.errors import BundleError
from crosstask_bundles.manifest import TransferManifest
from crosstask_bundles.merging import Known

if TYPE_CHECKING:
    from crosstask.points.store import Store

KIND = "bundles"


def keep(bundle: Bundle, store: Store) -> bool:
    """Put the manifest of a bundle, its knowledge and its curricula into a store; False if it was there already.

    Nothing is overwritten. A bundle is kept under its digest: two stores that are merged have those of both.
    """
    payload = {"digest": bundle.digest, "signed_by": bundle.signed_by, "manifest": bundle.manifest.to_json()}
    if any(isinstance(known, dict) and known.get("digest") == bundle.digest for _, known in store.entries(KIND)):
        return False
    for distilled in bundle.knowledge():
        store.put("knowledge", key_of("knowledge", distilled.knowledge), unstructure(distilled.knowledge),
                  tensors=distilled.tensors)  # fmt: skip
    for curriculum in bundle.manifest.curricula:
        store.put("curricula", key_of("curriculum", curriculum), unstructure(curriculum))
    store.put(KIND, bundle.digest, payload)
    if store.get(KIND, bundle.digest) is None:
        raise BundleError("the store does not keep what is put into it")
    return True


def kept(entries: Iterable[tuple[str, Any]]) -> list[Known]:
    """The bundles of a store's entries of this `KIND`, each once, by digest; one that this crosstask cannot read is
    left out, and the log says why.
    """
    found: dict[str, Known] = {}
    for key, payload in entries:
        try:
            told = structure(payload, dict[str, Any], key)
            digest = structure(told.get("digest"), str, "digest")
            by = structure(told.get("signed_by"), str | None, "signed_by")
            found.setdefault(digest, Known(TransferManifest.from_json(told.get("manifest")), digest, by))
        except CrosstaskError as error:
            logger().warning("bundle of the store left out", key=key, reason=str(error))
    return [found[digest] for digest in sorted(found)]  # whoever imported which first
