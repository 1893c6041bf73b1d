"""The `imported` discoverer: what others have measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from crosstask.graph import TransferEdge, TransferGraph
from crosstask.options import component, option, state, structure, unstructure
from crosstask.points.discovery import Discoverer
from crosstask.registry import Registry
from crosstask.tasks import Portfolio, Task
from crosstask_bundles.bundle import SUFFIX, open_bundle
from crosstask_bundles.contract import Carried
from crosstask_bundles.index import is_index, listed
from crosstask_bundles.keeping import KIND, kept
from crosstask_bundles.merging import Known, gather
from crosstask_bundles.records import BundleUse


@component
class Imported(Discoverer):
    """Edges from bundles whose tasks are those of the portfolio: by their data, or because `same` says so.

    Evidence, run, date and finder of each edge stay; what was measured of a pair here and elsewhere is pooled by its
    uncertainty. Put it after what measures, so that its answer holds both. `uses` says what came from which bundle,
    `conflicts` where measurements differ by more than their errors.
    """

    bundles: tuple[str, ...] = option(
        (), help="files, indexes, or names of installed bundles (default: all that are installed)"
    )
    same: dict[str, str] = option(factory=dict, help="tasks that are the same though their data differ: {there: here}")
    stored: bool = option(True, help="also those that `crosstask bundle import --store` has put into the run's store")
    signers: str = option("", help="a file of allowed signers: bundles that nobody of them signed are refused")
    uses: tuple[BundleUse, ...] = state(())
    conflicts: tuple[str, ...] = state(())

    def discover(self, portfolio: Portfolio, graph: TransferGraph) -> list[TransferEdge]:
        pairs = {(source.task_id, target.task_id): (source, target) for source, target in portfolio.pairs()}
        tasks = list({task.task_id: task for ends in pairs.values() for task in ends}.values())
        here = _of_these(graph, tasks)
        found = gather(here, self.known(), tasks, self.same)
        self.uses, self.conflicts = found.uses, found.conflicts
        before = {id(edge) for edge in here.all_edges()}
        return [
            edge
            for edge in found.graph.all_edges()
            if (edge.source, edge.target) in found.touched & pairs.keys() and id(edge) not in before
        ]

    def known(self) -> list[Known]:
        """The bundles that are meant, verified; each once."""
        found: dict[str, Known] = {}
        for file in self._files():
            bundle = open_bundle(file, signers=self.signers or None)
            found.setdefault(bundle.digest, Known(bundle.manifest, bundle.digest, bundle.signed_by))
        for each in kept(self.context.past(KIND)) if self.stored else ():
            found.setdefault(each.digest, each)
        return list(found.values())

    def _files(self) -> list[Path]:
        files: list[Path] = []
        for name in self.bundles or self._installed():
            if self.bundles and _is_path(name):
                path = Path(name)
                files += listed(path) if is_index(path) else [path]
            else:
                carried = cast(Carried, self.context.component("bundle", name))
                files.append(self.context.call(carried, "file"))
        return files

    def _installed(self) -> list[str]:
        registry = getattr(self.context, "registry", None) or Registry.installed()
        return registry.names("bundle")

    def state_dict(self) -> dict[str, Any]:
        return {"uses": unstructure(self.uses), "conflicts": list(self.conflicts)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.uses = structure(state["uses"], tuple[BundleUse, ...], "uses")
        self.conflicts = structure(state["conflicts"], tuple[str, ...], "conflicts")


def _is_path(name: str) -> bool:
    """Whether a file is meant, not an installed bundle."""
    return "/" in name or "\\" in name or name.endswith((SUFFIX, ".json")) or Path(name).exists()


def _of_these(graph: TransferGraph, tasks: list[Task]) -> TransferGraph:
    """What a graph knows of some tasks."""
    made = TransferGraph()
    for task in tasks:
        made.add_task(task.descriptor, task.content())
    for edge in graph.all_edges():
        if edge.source in made.task_ids and edge.target in made.task_ids:
            made.add(edge)
    return made
