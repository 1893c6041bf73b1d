"""Every check of the contract, on users as tasks: the kit describes no task of several inputs."""

import tempfile
from pathlib import Path

from crosstask.testing import conformance
from crosstask_ratings import Ratings

FOLDER = tempfile.TemporaryDirectory()  # gone when this module is
FILE = Path(FOLDER.name) / "ratings.csv"
ROWS = [f"u{user},i{item},{1 + user * item % 5}" for user in range(12) for item in range(15) if (user + item) % 5]
FILE.write_text("user,item,rating\n" + "\n".join(ROWS) + "\n", "utf-8")

test_conformance = conformance(Ratings, options={"file": str(FILE), "tasks": "users", "users": 5})
