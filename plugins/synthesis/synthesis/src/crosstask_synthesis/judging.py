"""What a model that was made without labels is worth where there are some."""

from __future__ import annotations

from torch import nn

from crosstask.learning.objectives import chance, metric_name
from crosstask.learning.training import evaluate
from crosstask.learning.transferring import scratch_scores
from crosstask.points.stage import Engine
from crosstask.records import Provenance
from crosstask_synthesis.records import SynthesisResult


def judged(engine: Engine, model: nn.Module, task_id: str) -> SynthesisResult:
    """A synthesised model's score on the task's test split, beside full training on all of the task's own data; None
    for what the task has no data for.
    """
    task = engine.portfolio[task_id]
    score = full = None
    if task.has_data("test"):
        score = evaluate(model, task, "test")
        if task.has_data():
            seed = engine.run.seed_for("model", task.task_id)
            own = engine.model.build(task.descriptor, seed).to(engine.run.device)
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
