"""Every check of the contract, and what the bundle holds."""

from crosstask import Registry
from crosstask.testing import conformance
from crosstask_bundles import open_bundle
from crosstask_example_bundle import ExampleBundle

test_conformance = conformance(ExampleBundle)


def test_it_is_found_and_was_measured() -> None:
    assert "example_bundle" in Registry.installed().names("bundle")
    manifest = open_bundle(ExampleBundle().file()).manifest
    assert manifest.edges
    assert all(edge.measured for edge in manifest.edges)
