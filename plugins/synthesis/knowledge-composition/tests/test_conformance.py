"""The composition does what the contract of synthesizers says."""

from crosstask.testing import conformance
from crosstask_knowledge_composition import KnowledgeComposition

test_conformance = conformance(KnowledgeComposition)
