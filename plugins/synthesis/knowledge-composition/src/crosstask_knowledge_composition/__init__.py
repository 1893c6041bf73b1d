"""Models for unseen tasks, put together from pieces of others."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

if TYPE_CHECKING:
    from crosstask_knowledge_composition.knowledge_composition import KnowledgeComposition

__all__ = ["KnowledgeComposition"]

__getattr__ = lazily(__name__, {"KnowledgeComposition": "knowledge_composition"})
