"""The source that the README shows does what the contract of sources says."""

import re
from pathlib import Path
from typing import Any

import pytest

from crosstask.errors import OptionError
from crosstask.testing import conformance
from crosstask_sources.testing import by_chance, fingerprints

SHOWN = Path(__file__).parents[1] / "README.md"


def shown() -> Any:
    """The class of the README's only block of Python."""
    [code] = re.findall(r"```python\n(.*?)```", SHOWN.read_text("utf-8"), re.DOTALL)
    names: dict[str, Any] = {"__name__": __name__}
    exec(compile(code, str(SHOWN), "exec"), names)
    return names["Halves"]


Halves = shown()
test_conformance = conformance(Halves)


def test_it_is_what_it_says() -> None:
    once = fingerprints(Halves(seed=2).load())
    assert fingerprints(Halves(seed=2).load()) == once
    assert not set(fingerprints(Halves(seed=3).load())) & set(once)
    with pytest.raises(OptionError, match="unknown task 'lft'; did you mean 'left'"):
        Halves(tasks=("lft",)).load()
    left, top = Halves().load()
    assert left.descriptor.complexity < 0.2
    agreed = int((left.data("train").targets == top.data("train").targets).sum())
    assert by_chance(agreed, 200, 2)
    assert not by_chance(160, 200, 2)
