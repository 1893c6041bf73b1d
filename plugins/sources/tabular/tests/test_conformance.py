"""The source does what its contract says, on a small folder of real data."""

from pathlib import Path

from crosstask.testing import conformance
from crosstask_tabular import Tabular

test_conformance = conformance(Tabular, options={"folder": str(Path(__file__).parent / "wine")})
