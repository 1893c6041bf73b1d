"""Every check of the contract, and what is special about this store."""

from pathlib import Path

from crosstask.testing import conformance
from crosstask_example_store import ExampleStore

test_conformance = conformance(ExampleStore, url="example-store://{folder}")


def test_entries_are_files(tmp_path: Path) -> None:
    store = ExampleStore().open(f"example-store://{tmp_path}", None)
    store.put("runs", "a/b", {"x": 1})
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["a%2Fb.json"]
    assert list(store.entries("runs")) == [("a/b", {"x": 1})]
