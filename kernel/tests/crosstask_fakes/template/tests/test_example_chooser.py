"""Every check of the contract."""

from crosstask.testing import conformance
from crosstask_example_chooser.example_chooser import ExampleChooser

test_conformance = conformance(ExampleChooser)
