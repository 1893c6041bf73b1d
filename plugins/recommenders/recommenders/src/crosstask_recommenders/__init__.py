"""Recommenders: their contract, support sets of unequal sizes, cold-start judging, metrics and losses."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

if TYPE_CHECKING:
    from crosstask_recommenders.contract import Recommender, check_items
    from crosstask_recommenders.evaluation import ColdStart, cold_start, cold_users
    from crosstask_recommenders.factors import Factors, fit_explicit, fit_implicit
    from crosstask_recommenders.features import ItemTable, item_table
    from crosstask_recommenders.losses import bpr_loss, sampled_negative_loss
    from crosstask_recommenders.metrics import auc, hit_at_k, mae, ndcg_at_k, rmse
    from crosstask_recommenders.support import Support
    from crosstask_recommenders.tables import interactions_of
    from crosstask_sources.interactions import Interactions

_MODULES = {
    "contract": ("Recommender", "check_items"),
    "evaluation": ("ColdStart", "cold_start", "cold_users"),
    "factors": ("Factors", "fit_explicit", "fit_implicit"),
    "features": ("ItemTable", "item_table"),
    "losses": ("bpr_loss", "sampled_negative_loss"),
    "metrics": ("auc", "hit_at_k", "mae", "ndcg_at_k", "rmse"),
    "support": ("Interactions", "Support"),
    "tables": ("interactions_of",),
}

__all__ = [
    "ColdStart",
    "Factors",
    "Interactions",
    "ItemTable",
    "Recommender",
    "Support",
    "auc",
    "bpr_loss",
    "check_items",
    "cold_start",
    "cold_users",
    "fit_explicit",
    "fit_implicit",
    "hit_at_k",
    "interactions_of",
    "item_table",
    "mae",
    "ndcg_at_k",
    "rmse",
    "sampled_negative_loss",
]

__getattr__ = lazily(__name__, {name: module for module, names in _MODULES.items() for name in names})
