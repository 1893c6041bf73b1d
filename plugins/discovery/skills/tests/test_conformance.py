"""Skills does what the contract of discoverers and its own claim say."""

from crosstask.testing import conformance
from crosstask_skills import Skills

test_conformance = conformance(Skills)
