"""A disk that is full, for tests of what writes files."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def full_disk(most: int = 0) -> Iterator[None]:
    """Inside, no file of this process grows beyond `most` bytes: what writes more fails as on a disk that is full, by
    the system's own error (EFBIG), after the first `most` bytes are written. Not for Windows.
    """
    import resource  # deferred: Windows has none

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
