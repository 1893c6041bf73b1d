"""The source does what its contract says, on a real excerpt of the data."""

from pathlib import Path

from crosstask.testing import conformance
from crosstask_omniglot import Omniglot

EXCERPT = str(Path(__file__).parent / "data")
OPTIONS = {"path": EXCERPT, "part": "all", "size": 14, "controls": 1}

test_conformance = conformance(Omniglot, options=OPTIONS)
