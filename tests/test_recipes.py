"""Every installed recipe runs to its end, cut short here; `demo` is run whole by `.ci/run`."""

from __future__ import annotations

from pathlib import Path

import pytest

from crosstask import Registry, Unread
from crosstask.job import run_recipe
from crosstask.recipe import load_recipe

DISTILLED = ("train.steps=10", "distillation.distiller.steps=5", "distillation.distiller.held_out=1")
SHORT = {
    "alignment": ("seeds=1", "train.steps=5", "alignment.budget.steps=6"),
    "adapted-maml": (*DISTILLED, "few_shot.steps=3", "few_shot.test_episodes=8"),
    "balanced-adapters": ("train.steps=10", "multitask.budget.steps=6"),
    "continual-adapters": ("seeds=1", "continual.epochs=1"),
    "continual-curriculum": ("seeds=1", "train.steps=10", "budget.steps=5", "continual.epochs=1"),
    "distilled-few-shot": (*DISTILLED, "few_shot.steps=3", "few_shot.test_episodes=8"),
    "searched-multitask": ("seeds=1", "train.steps=5", "search.evaluations=3", "multitask.budget.steps=6"),
    "adapter-transfer": ("seeds=1", "train.steps=20", "budget.steps=10"),
    "continual": ("seeds=1", "continual.epochs=1"),
    "distillation": ("train.steps=10", "distillation.distiller.steps=5", "distillation.distiller.held_out=1"),
    "few-shot": ("few_shot.steps=3", "few_shot.test_episodes=8"),
    "multimodal": ("multitask.budget.steps=6",),
    "sharing": ("multitask.budget.steps=6",),
    "objectives": ("source.train=40", "source.test=20", "source.steps=3", "losses.budget.steps=4"),
    "heal": ("heal.records=4", "heal.collect=2", "train.steps=60"),
    "bundles": ("seeds=1", "train.steps=5", "budget.steps=5"),
    "federation": ("seeds=1", "federated.rounds=2", "federated.evaluate_every=1"),
    "lifelong": ("seeds=1", "train.steps=10", "budget.steps=5", "lifelong.compare=2"),
    "multi-source": ("seeds=1", "train.steps=10", "budget.steps=5"),
    "reinforcement": (
        "seeds=1",
        "reinforcement.steps=6000",
        "reinforcement.evaluate_every=3000",
        "reinforcement.transfer_steps=1500",
    ),
    "shift": ("seeds=1", "train.steps=10", "budget.steps=5"),
    "recommend": ('recommend.recommenders=[{use="maml", steps=4, factors=2}, "item_mean"]',),
    "routing": ("seeds=1", "train.steps=10", "routing.requests=20"),
    "search": ("seeds=1", "train.steps=5", "search.evaluations=3", 'executor.use="serial"'),
}
FIGURES = {
    "alignment": ("alignment_by", "rotated_adapted", "blurred_source_only", "domain_accuracy"),
    "adapted-maml": ("generalization_score", "few_shot_start", "few_shot_accuracy", "few_shot_untrained"),
    "balanced-adapters": ("joint_adapter", "joint_start", "joint_weights_trained", "joint_mean_score"),
    "continual-adapters": ("continual_adapter", "continual_accuracy", "forgetting"),
    "continual-curriculum": ("curriculum", "continual_accuracy", "forgetting"),
    "distilled-few-shot": ("few_shot_start", "few_shot_accuracy"),
    "searched-multitask": ("best_found", "found_score", "joint_mean_score"),
    "adapter-transfer": ("measured_pairs", "target_with_curriculum"),
    "continual": ("continual_accuracy", "continual_accuracy_without", "continual_accuracy_of_joint_training"),
    "distillation": ("distilled_from", "generalization_score"),
    "few-shot": ("few_shot_accuracy", "few_shot_untrained"),
    "multimodal": ("trained_together", "joint_score_of_digit", "joint_score_of_even", "joint_score_of_ink"),
    "sharing": ("trained_together", "joint_mean_score", "single_task_mean_score"),
    "objectives": ("recon_loss", "attention_dynamics_loss", "mean_conflict_share"),
    "heal": ("monitored", "accuracy on inverted"),
    "bundles": ("pairs_from_bundles", "pooled_pairs", "target_with_curriculum"),
    "federation": ("federated_score", "pooled_score", "alone_score", "megabytes_sent"),
    "lifelong": ("arrivals", "pairs_tried", "mean_gain_over_scratch", "regret_to_the_best_source"),
    "multi-source": ("learned_by", "gain_over_single_source"),
    "reinforcement": ("worst_task", "its_return", "best_transfer", "its_coefficient"),
    "shift": ("digits_scratch_under_shift", "digits_best_under_shift"),
    "recommend": ("recommend_best_of_1", "recommend_best_of_10"),
    "routing": ("routing", "routing_linucb", "routing_thompson"),
    "search": ("found_score", "default_score"),
}


def test_every_recipe_is_run() -> None:
    assert {*SHORT, "demo"} == set(Registry.installed().names("recipe"))


@pytest.mark.parametrize("name", SHORT)
def test_recipe(name: str, tmp_path: Path) -> None:
    registry = Registry.installed()
    record = run_recipe(load_recipe(name, registry, SHORT[name]).recipe, tmp_path, registry=registry)
    assert {figure for figure in FIGURES[name] if record.summary.get(figure) is None} == set()
    assert (tmp_path / "report.html").stat().st_size > 10_000
    unread = [name for name in record.results if isinstance(record.result(name, registry), Unread)]
    assert unread == []
