"""The composition does what the contract of synthesizers says."""

from crosstask.testing import conformance
from crosstask_knowledge_composition import KnowledgeComposition
from crosstask_synthesis.testing import check_expectation

test_conformance = conformance(KnowledgeComposition)


def test_it_says_what_can_be_expected() -> None:
    check_expectation(KnowledgeComposition())
