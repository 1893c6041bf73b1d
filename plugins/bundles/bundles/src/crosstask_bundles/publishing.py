"""`publish_patch`: a manifest as a bundle at a publisher's."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from crosstask.context import LocalContext
from crosstask.errors import of_kind
from crosstask.manifest import DEFAULT
from crosstask.parts import Choice
from crosstask.registry import Registry
from crosstask_bundles.bundle import SUFFIX, write_bundle
from crosstask_bundles.contract import Publisher
from crosstask_bundles.manifest import TransferManifest


async def publish_patch(
    manifest: TransferManifest,
    publisher: Publisher | Choice | Mapping[str, Any] | str | None = None,
    *,
    sign: str | Path | None = None,
    registry: Registry | None = None,
) -> str:
    """Make a bundle of a manifest and publish it: where it is now, a path or a URL.

    `publisher` is one, or its name, or a table with `use` and its options; by default the one that a manifest marks,
    which is `folder`. `sign` is a private key of SSH's. The work is done in a thread; where it is cancelled, nothing
    that is half there is left behind. BundleError if it cannot be.
    """
    of_kind(manifest, TransferManifest, "what is published")
    context = LocalContext(registry=registry)
    target = cast(Publisher, context.resolve("publisher", DEFAULT if publisher is None else publisher))

    def work() -> str:
        with tempfile.TemporaryDirectory(prefix="crosstask-") as folder:
            return target.send(write_bundle(manifest, Path(folder) / f"bundle{SUFFIX}", sign=sign))

    return await asyncio.to_thread(work)
