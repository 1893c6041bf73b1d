"""Every class of the families that the specification names, with its arguments and defaults, in one table."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

import pytest

FACES: dict[str, tuple[str, dict[str, Any]]] = {
    # domain alignment
    "DomainAdversarialNetwork": (
        "crosstask_dann",
        {"feature_dim": ..., "hidden_dims": ..., "n_domains": ..., "task_configs": ..., "lambda_domain": 1.0,
         "dropout_rate": 0.2},
    ),
    "CrossDomainTransferNetwork": (
        "crosstask_cross_domain",
        {"source_vocab_sizes": ..., "target_vocab_sizes": ..., "embedding_dim": 64, "hidden_dims": [128, 64],
         "shared_dims": [32], "dropout_rate": 0.2},
    ),
    "MultiDomainAttentionNetwork": (
        "crosstask_cross_domain",
        {"domain_features": ..., "embedding_dim": 64, "attention_dim": 32, "hidden_dims": [128, 64],
         "dropout_rate": 0.2},
    ),
    # recommenders
    "MAMLRecommender": (
        "crosstask_meta_recommenders",
        {"input_dim": ..., "hidden_dims": [128, 64], "output_dim": 1, "meta_lr": 0.01, "inner_lr": 0.1,
         "dropout_rate": 0.2},
    ),
    "ReptileRecommender": (
        "crosstask_meta_recommenders",
        {"input_dim": ..., "hidden_dims": [128, 64], "output_dim": 1, "meta_lr": 0.01, "inner_lr": 0.1,
         "dropout_rate": 0.2},
    ),
    "PrototypicalNetworkRecommender": (
        "crosstask_meta_recommenders",
        {"input_dim": ..., "embedding_dim": 64, "hidden_dims": [128, 64], "dropout_rate": 0.2},
    ),
    # reinforcement; of a policy the probabilities of one state differ under dropout, so it has none unless asked for
    "MultiTaskPolicyNetwork": (
        "crosstask_policy_gradient",
        {"state_dim": ..., "action_dims": ..., "shared_dims": [128, 64], "task_dims": [32], "dropout_rate": 0.0},
    ),
    "MultiTaskDistilledQNetwork": (
        "crosstask_distilled_q",
        {"state_dim": ..., "action_dims": ..., "shared_dims": [256, 128], "task_dims": [64],
         "distillation_weight": 0.5, "dropout_rate": 0.2},
    ),
    "HierarchicalMultiTaskRL": (
        "crosstask_hierarchical",
        {"state_dim": ..., "meta_action_dim": None, "task_action_dims": None, "meta_dims": [128, 64],
         "task_dims": [64, 32], "dropout_rate": 0.2},
    ),
    # routing
    "ToolProfile": ("crosstask_routing", {"tool_id": ..., "tool_type": ..., "cost_per_use": 1.0, "reliability": 0.9}),
    "TaskProfile": ("crosstask_routing", {"task_id": ..., "task_type": ..., "complexity": ...}),
    "ToolMetaLearner": ("crosstask_routing", {"tools": None}),
    "create_tool_optimization_benchmark": ("crosstask_routing", {"tools": ..., "tasks": ..., "num_tasks": 100}),
    # the life of a graph
    "create_transfer_manifest": ("crosstask_bundles", {"transfer_edges": [], "meta_knowledge": []}),
    "publish_patch": ("crosstask_bundles", {"manifest": ...}),
    "MetaEngine": ("crosstask_monitoring", {"engine": ...}),
    "Surgery": ("crosstask_monitoring", {"engine": ...}),
    # sharing
    "MultiTaskBase": ("crosstask_multitask", {"input_dim": ..., "task_configs": ...}),
    "HardParameterSharing": (
        "crosstask_multitask", {"input_dim": ..., "shared_dims": ..., "task_configs": ..., "dropout_rate": 0.2}
    ),
    "SoftParameterSharing": (
        "crosstask_multitask", {"input_dim": ..., "task_configs": ..., "shared_dims": [128, 64], "dropout_rate": 0.2}
    ),
    "ProgressiveMultiTask": (
        "crosstask_multitask",
        {"input_dim": ..., "base_dims": ..., "task_sequence": ..., "task_configs": ..., "dropout_rate": 0.2},
    ),
    "MetaLearningMultiTask": (
        "crosstask_multitask",
        {"input_dim": ..., "meta_dim": ..., "task_configs": ..., "base_network_dims": [128, 64],
         "meta_network_dims": [64, 32]},
    ),
    "MultiModalMultiTask": (
        "crosstask_multimodal",
        {"user_vocab_size": ..., "item_vocab_size": ..., "text_vocab_size": ..., "embedding_dim": 64,
         "hidden_dims": [128, 64], "task_configs": None, "dropout_rate": 0.2},
    ),
    # losses and scheduling
    "MultiTaskLoss": (
        "crosstask_multitask",
        {"task_names": ..., "loss_types": ..., "balancing_method": "uncertainty", "device": "cpu"},
    ),
    "AdaptiveTaskScheduler": (
        "crosstask_multitask",
        {"task_names": ..., "scheduling_method": "loss_based", "temperature": 1.0, "update_frequency": 100},
    ),
    "LossAggregator": ("crosstask_losses", {}),
}  # fmt: skip

METHODS: dict[str, dict[str, tuple[str, ...]]] = {
    "DomainAdversarialNetwork": {"forward": ("x", "task_name", "alpha"), "losses": ("x", "y", "domain")},
    "CrossDomainTransferNetwork": {
        "encode_domain": ("domain", "user_ids", "item_ids"),
        "forward": (
            "source_domain", "target_domain", "source_user_ids", "source_item_ids", "target_user_ids", "target_item_ids"
        ),
        "compute_domain_alignment_loss": ("source_shared", "target_shared"),
    },
    "MultiDomainAttentionNetwork": {
        "compute_cross_domain_attention": ("query_domain", "domain_features"),
        "forward": ("query_domain", "domain_features"),
    },
    "MAMLRecommender": {
        "forward": ("x", "params"), "inner_update": ("support_x", "support_y", "num_steps"),
        "meta_update": (...,), "adapt_to_new_task": (..., ..., "num_steps"),
    },
    "ReptileRecommender": {"inner_loop": (..., "num_steps"), "meta_update": (...,)},
    "PrototypicalNetworkRecommender": {
        "forward": ("x",), "compute_prototypes": (..., "labels"), "classify": (..., "prototypes"),
        "episode_forward": (..., ..., ...),
    },
    "MultiTaskBase": {
        "_build_shared_layers": (), "_build_task_specific_layers": ("config",), "forward": ("x", "task_mask"),
    },
    "ProgressiveMultiTask": {"forward": ("x", "target_tasks")},
    "MetaLearningMultiTask": {
        "generate_task_parameters": (...,), "forward": ("x", "task_name"), "forward_all_tasks": ("x",),
    },
    "MultiModalMultiTask": {"forward": ("user_ids", "item_ids", "text_ids")},
    "MultiTaskLoss": {"forward": ("predictions", "targets", "model_parameters")},
    "AdaptiveTaskScheduler": {
        "update_statistics": ("task_losses", "task_metrics"), "sample_task": (), "get_task_probabilities": (),
    },
    "LossAggregator": {"compute_losses": ("outputs", "observations")},
    "MultiTaskPolicyNetwork": {
        "forward": ("state", "task_name"), "get_action": ("state", "task_name", "deterministic"),
        "evaluate": ("states", "actions", "task_ids"),
    },
    "MultiTaskDistilledQNetwork": {
        "forward": ("state", "task_name"),
        "compute_distillation_loss": ("state", "target_task", "teacher_q_values"),
    },
    "HierarchicalMultiTaskRL": {"forward": ("state", "level"), "get_hierarchical_action": ("state",)},
    "ToolMetaLearner": {
        "optimize_task_execution": ("task",), "learn_from_execution": ("task", "execution_results"),
    },
    "MetaEngine": {"apply_transfer_strategy": ("strategy",)},
    "Surgery": {"heal_with_curriculum": ("curriculum",)},
}  # fmt: skip


def plain(value: Any) -> Any:
    """Sequences of widths are the same whatever holds them; required arguments are `...`."""
    if value is inspect.Parameter.empty:
        return ...
    return list(value) if isinstance(value, list | tuple) else value


@pytest.mark.parametrize("name", FACES)
def test_a_class_has_its_arguments_and_defaults(name: str) -> None:
    module, wanted = FACES[name]
    given = inspect.signature(getattr(importlib.import_module(module), name)).parameters
    found = {argument: plain(given[argument].default) for argument in wanted if argument in given}
    assert found == wanted
    assert list(given)[: len(wanted)] == list(wanted), "in this order"
    more = [n for n, p in given.items() if n not in wanted and p.default is p.empty and p.kind not in (
        p.VAR_POSITIONAL, p.VAR_KEYWORD)]  # fmt: skip
    assert not more, "whatever is asked for besides has a default"


@pytest.mark.parametrize("name", METHODS)
def test_its_methods_take_what_is_promised(name: str) -> None:
    kind = getattr(importlib.import_module(FACES[name][0]), name)
    for method, wanted in METHODS[name].items():
        given = [p for p in inspect.signature(getattr(kind, method)).parameters if p != "self"]
        assert len(given) >= len(wanted), method
        for place, argument in enumerate(wanted):
            assert argument is ... or given[place] == argument or argument in given, (method, argument, given)


@pytest.mark.parametrize("name", FACES)
def test_defaults_are_shared_by_no_two_instances(name: str) -> None:
    """A list as a default would be one object for all."""
    given = inspect.signature(getattr(importlib.import_module(FACES[name][0]), name)).parameters.values()
    assert not [p.name for p in given if isinstance(p.default, list | dict | set)]


@pytest.mark.parametrize(
    ("module", "name"),
    [("crosstask_alignment", "GradientReversalLayer"), ("crosstask_alignment", "mmd")],
)
def test_what_is_used_as_a_function(module: str, name: str) -> None:
    assert callable(getattr(getattr(importlib.import_module(module), name), "apply", None) or
                    getattr(importlib.import_module(module), name))  # fmt: skip
