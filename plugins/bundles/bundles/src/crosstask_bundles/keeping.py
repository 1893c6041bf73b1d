"""Bundles in a store, so that later runs with it know them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol

from crosstask.components import Remembered
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


class Recall(Protocol):
    """What is asked of a context, or of a store."""

    def __call__(self, kind: str, key: str) -> Remembered | None: ...


def _entries(recall: Recall) -> Iterator[tuple[str, Any]]:
    """(key, payload) of every bundle, in the order in which they came: their keys are numbers, so that who may only ask
    for keys finds them all.
    """
    for number in itertools.count():
        found = recall(KIND, f"bundle-{number}")
        if found is None:
            return
        yield f"bundle-{number}", found.payload


def keep(bundle: Bundle, store: Store) -> bool:
    """Put the manifest of a bundle, its knowledge and its curricula into a store; False if it was there already.

    Nothing is overwritten. Two processes may import at once: who comes second takes the next number.
    """
    payload = {"digest": bundle.digest, "signed_by": bundle.signed_by, "manifest": bundle.manifest.to_json()}
    number = 0
    for key, known in _entries(store.get):
        if isinstance(known, dict) and known.get("digest") == bundle.digest:
            return False
        number = int(key.rpartition("-")[2]) + 1
    for distilled in bundle.knowledge():
        store.put("knowledge", key_of("knowledge", distilled.knowledge), unstructure(distilled.knowledge),
                  tensors=distilled.tensors)  # fmt: skip
    for curriculum in bundle.manifest.curricula:
        store.put("curricula", key_of("curriculum", curriculum), unstructure(curriculum))
    while True:
        store.put(KIND, f"bundle-{number}", payload)
        mine = store.get(KIND, f"bundle-{number}")
        if mine is None:
            raise BundleError("the store does not keep what is put into it")
        if mine.payload["digest"] == bundle.digest:
            return True
        number += 1


def kept(recall: Recall) -> list[Known]:
    """The bundles of a store, each once; one that this crosstask cannot read is left out, and the log says why."""
    found: dict[str, Known] = {}
    for key, payload in _entries(recall):
        try:
            told = structure(payload, dict[str, Any], key)
            digest = structure(told.get("digest"), str, "digest")
            by = structure(told.get("signed_by"), str | None, "signed_by")
            found.setdefault(digest, Known(TransferManifest.from_json(told.get("manifest")), digest, by))
        except CrosstaskError as error:
            logger().warning("bundle of the store left out", key=key, reason=str(error))
    return list(found.values())
