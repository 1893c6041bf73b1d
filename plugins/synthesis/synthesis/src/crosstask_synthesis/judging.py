"""What a model that was made without labels is worth where there are some."""

from __future__ import annotations

from torch import nn

from crosstask.errors import DataError
from crosstask.learning.objectives import chance, metric_name
from crosstask.learning.own_models import copied, own_network
from crosstask.learning.training import evaluate
from crosstask.learning.transferring import scratch_scores, unfit_model
from crosstask.points.stage import Engine
from crosstask.records import Provenance
from crosstask.tasks import Task
from crosstask_synthesis.records import SynthesisResult


def judged(engine: Engine, model: nn.Module, task_id: str) -> SynthesisResult:
    """A synthesised model's score on the task's test split, beside full training on all of the task's own data; None
    for what the task has no data for.

    What is trained in full is of the architecture of the task's own model or builder; else of the most important
    source's model where the user has given that one, or where the engine's network is none for such a task; else the
    engine's network.
    """
    task = engine.portfolio[task_id]
    score = full = None
    if task.has_data("test"):
        score = evaluate(model, task, "test")
        if task.has_data():
            own = _architecture(engine, model, task).to(engine.run.device)
            full = scratch_scores(engine.run, own, task, engine.train_budget, 1, "test")[0][0]
    provenance: Provenance = model.provenance  # type: ignore[assignment]
    return SynthesisResult(
        task_id=task_id,
        provenance=provenance,
        metric=metric_name(task),
        score=score,
        full_training_score=full,
        chance=chance(task),
        seed=engine.seed,
    )


def _architecture(engine: Engine, model: nn.Module, task: Task) -> nn.Module:
    """A network of the architecture that is trained in full."""
    if task.model is not None:
        return copied(task.model)
    provenance: Provenance = model.provenance  # type: ignore[assignment]
    ranked = sorted(provenance.sources, key=lambda name: -abs(provenance.sources[name]))
    models = {name: engine.portfolio[name].model for name in ranked if name in engine.portfolio}
    fitting = [(n, m) for n, m in models.items() if m is not None and unfit_model(m, task) is None]
    given = getattr(engine, "given_models", {})
    if task.build is None and fitting and fitting[0][0] in given:
        return copied(fitting[0][1])
    try:
        return own_network(engine.model, task, engine.run.seed_for("model", task.task_id))
    except DataError:
        if not fitting:
            raise
        return copied(fitting[0][1])
