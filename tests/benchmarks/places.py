"""Where benchmarks find data, `CROSSTASK_DATA` or else `shared/data` beside the checkout, and keep what took long:
`CROSSTASK_CACHE`, or else `crosstask-bench` in the system's folder for temporary files.
"""

import os
import tempfile
from pathlib import Path

DATA = Path(os.environ.get("CROSSTASK_DATA", Path(__file__).parents[3] / "shared" / "data"))
CACHE = Path(os.environ.get("CROSSTASK_CACHE", Path(tempfile.gettempdir()) / "crosstask-bench"))
