from pathlib import Path

from crosstask import Registry, TransferGraph, component
from crosstask_bundles import Carried, Imported, open_bundle
from crosstask_bundles.carried import MeasuredDigits


@component
class Mine(Carried):
    """In a package of one's own: `Path(__file__).with_name("bundle.ctb")`."""

    def file(self) -> Path:
        return MeasuredDigits().file()


bundle = open_bundle(Mine().file())  # verified, like one of a stranger's
tasks = Registry.installed().create("source", "digits", {"tasks": ["parity", "loop", "rotated"]}).load()
found = Imported(bundles=[str(bundle.path)])
edges = found.discover(tasks, TransferGraph(task.descriptor for task in tasks))
assert {(edge.source, edge.target) for edge in edges} == {("parity", "loop"), ("loop", "parity")}
assert all(edge.measured for edge in edges)
assert found.uses[0].licence == "CC0-1.0"
