"""What a bundle holds, taken into an engine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import attrs

from crosstask.engine import TransferEngine
from crosstask.errors import of_kind
from crosstask.learning.transferring import weights_digest
from crosstask.options import structure
from crosstask.tasks import Task
from crosstask_bundles.bundle import Bundle, open_bundle
from crosstask_bundles.merging import Known, gather, matched
from crosstask_bundles.records import BundleUse


def import_bundle(
    bundle: Bundle | str | Path,
    engine: TransferEngine,
    *,
    same: Mapping[str, str] | None = None,
    models: bool = False,
    signers: str | Path | None = None,
    trust: bool = False,
) -> BundleUse:
    """Verify a bundle and take what it holds into an engine: edges into `engine.graph`, pooled with what is known;
    knowledge and curricula. Tasks are the same by their data or by `same` (id there: id here).

    With `models` a task of the bundle that nobody knows here is registered with its model, as a source that has no
    data; no code of the file's choosing runs without `trust`. Taking the same bundle twice changes nothing.
    """
    of_kind(engine, TransferEngine, "what a bundle is taken into")
    held = open_bundle(bundle.path if isinstance(bundle, Bundle) else bundle, signers=signers)
    said = dict(structure(same or {}, dict[str, str], "same"))
    if models:
        _register(held, engine, said, trust)
    tasks = [*engine.portfolio, *engine.portfolio.unseen]
    known = Known(held.manifest, held.digest, held.signed_by)
    found = gather(engine.graph, [known], tasks, said)
    engine.graph = found.graph
    told = {(d.knowledge.kind, d.knowledge.source_tasks, d.knowledge.seed) for d in engine.meta_knowledge}
    for distilled in held.knowledge():
        its = distilled.knowledge
        if (its.kind, its.source_tasks, its.seed) not in told:
            engine.meta_knowledge.append(distilled)
    engine.curricula += [c for c in held.manifest.curricula if c not in engine.curricula]
    return found.uses[0]


def _register(bundle: Bundle, engine: TransferEngine, same: dict[str, str], trust: bool) -> None:
    """Register the tasks of a bundle that nobody knows here and that have a model."""
    here = {task.task_id: task for task in (*engine.portfolio, *engine.portfolio.unseen)}
    known = matched(bundle.manifest, here.values(), same)
    descriptors = {task.descriptor.task_id: task.descriptor for task in bundle.manifest.tasks}
    for name in [weights.task_id for weights in bundle.manifest.weights if weights.task_id not in known]:
        model = bundle.model(name, trust=trust)
        if name not in here:
            alone = attrs.evolve(descriptors[name], prerequisites=())  # these are of the portfolio there
            engine.register_task(Task(descriptor=alone), model)
        elif here[name].model is None or weights_digest(here[name].model) != weights_digest(model):
            continue  # another task of that name
        same[name] = name
