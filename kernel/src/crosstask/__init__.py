"""crosstask: find out which tasks help which others to learn, and use it.

The public names load on first use: importing crosstask imports neither torch nor networkx nor structlog.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from crosstask.lazy import lazily
from crosstask.version import __version__

_PUBLIC = {
    "CrosstaskError": "errors",
    "DataError": "errors",
    "GraphError": "errors",
    "OptionError": "errors",
    "PluginError": "errors",
    "RecipeError": "errors",
    "RunError": "errors",
    "StoreError": "errors",
    "UnknownComponentError": "errors",
    "API_VERSION": "manifest",
    "Extension": "manifest",
    "Plugin": "manifest",
    "Point": "manifest",
    "component": "options",
    "option": "options",
    "record": "options",
    "state": "options",
    "Choice": "parts",
    "Part": "parts",
    "Reference": "parts",
    "part": "parts",
    "reference": "parts",
    "Component": "components",
    "Context": "components",
    "Job": "components",
    "hookimpl": "components",
    "wraps": "components",
    "Registry": "registry",
    "Settings": "settings",
    "Performance": "descriptors",
    "MultiInput": "descriptors",
    "TensorData": "descriptors",
    "Portfolio": "tasks",
    "Task": "tasks",
    "TaskDescriptor": "descriptors",
    "Evidence": "graph",
    "RelationType": "graph",
    "TransferDirection": "graph",
    "TransferEdge": "graph",
    "TransferGraph": "graph",
    "Advice": "records",
    "Budget": "records",
    "Curriculum": "records",
    "CurriculumResult": "records",
    "CurriculumStep": "records",
    "CurriculumStrategy": "records",
    "Interval": "records",
    "MetaKnowledge": "records",
    "Provenance": "records",
    "RunRecord": "records",
    "StrategyAdvice": "records",
    "SynthesisStrategy": "records",
    "TransferResult": "records",
    "TransferStrategy": "records",
    "Unread": "records",
    "Adapter": "points.adapter",
    "AdapterHandle": "points.adapter",
    "Balancer": "points.balancer",
    "Direction": "points.balancer",
    "CurriculumPlanner": "points.curriculum",
    "Discoverer": "points.discovery",
    "Distilled": "points.distillation",
    "Distiller": "points.distillation",
    "Executor": "points.executor",
    "MetaLearner": "points.meta_learner",
    "Observer": "points.observer",
    "Source": "points.source",
    "Engine": "points.stage",
    "Outcome": "points.stage",
    "Section": "points.stage",
    "Stage": "points.stage",
    "Store": "points.store",
    "Strategist": "points.strategist",
    "Synthesizer": "points.synthesis",
    "Transfer": "points.transfer",
    "Wrapper": "points.wrapper",
    "ModelSpec": "learning.models",
    "load_model": "learning.model_files",
    "save_model": "learning.model_files",
    "Metric": "learning.objectives",
    "Adapted": "adapting",
    "Progress": "progress",
    "open_store": "store",
    "Recipe": "recipe",
    "TransferEngine": "engine",
    "CrossTaskTransferEngine": "aio",
    "create_cross_task_transfer_engine": "aio",
    "run_recipe": "job",
}

__all__ = ["__version__", *_PUBLIC]


__getattr__ = lazily(__name__, _PUBLIC)


def __dir__() -> list[str]:
    return sorted(__all__)


if TYPE_CHECKING:
    from crosstask.adapting import Adapted
    from crosstask.aio import CrossTaskTransferEngine, create_cross_task_transfer_engine
    from crosstask.components import Component, Context, Job, hookimpl, wraps
    from crosstask.descriptors import MultiInput, Performance, TaskDescriptor, TensorData
    from crosstask.engine import TransferEngine
    from crosstask.errors import (
        CrosstaskError,
        DataError,
        GraphError,
        OptionError,
        PluginError,
        RecipeError,
        RunError,
        StoreError,
        UnknownComponentError,
    )
    from crosstask.graph import Evidence, RelationType, TransferDirection, TransferEdge, TransferGraph
    from crosstask.job import run_recipe
    from crosstask.learning.model_files import load_model, save_model
    from crosstask.learning.models import ModelSpec
    from crosstask.learning.objectives import Metric
    from crosstask.manifest import API_VERSION, Extension, Plugin, Point
    from crosstask.options import component, option, record, state
    from crosstask.parts import Choice, Part, Reference, part, reference
    from crosstask.points.adapter import Adapter, AdapterHandle
    from crosstask.points.balancer import Balancer, Direction
    from crosstask.points.curriculum import CurriculumPlanner
    from crosstask.points.discovery import Discoverer
    from crosstask.points.distillation import Distilled, Distiller
    from crosstask.points.executor import Executor
    from crosstask.points.meta_learner import MetaLearner
    from crosstask.points.observer import Observer
    from crosstask.points.source import Source
    from crosstask.points.stage import Engine, Outcome, Section, Stage
    from crosstask.points.store import Store
    from crosstask.points.strategist import Strategist
    from crosstask.points.synthesis import Synthesizer
    from crosstask.points.transfer import Transfer
    from crosstask.points.wrapper import Wrapper
    from crosstask.progress import Progress
    from crosstask.recipe import Recipe
    from crosstask.records import (
        Advice,
        Budget,
        Curriculum,
        CurriculumResult,
        CurriculumStep,
        CurriculumStrategy,
        Interval,
        MetaKnowledge,
        Provenance,
        RunRecord,
        StrategyAdvice,
        SynthesisStrategy,
        TransferResult,
        TransferStrategy,
        Unread,
    )
    from crosstask.registry import Registry
    from crosstask.settings import Settings
    from crosstask.store import open_store
    from crosstask.tasks import Portfolio, Task
