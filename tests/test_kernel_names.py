"""No algorithm, contributed point or family's stage is named in the kernel's code.

The words come from the manifests of the repository, so that a new plugin adds its own. What a word means beside being a
component's name is listed here with the reason.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from crosstask.manifest import COMMAND, KERNEL_POINTS, RECIPE
from crosstask.registry import Registry
from crosstask.settings import Settings

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "kernel" / "src" / "crosstask"
POINTS = {point.name for point in KERNEL_POINTS}

MEANT_OTHERWISE = {
    "uniform": "draws of random numbers (numpy, torch)",
    "random": "Python's and numpy's module",
    "fixed": "an ordinary word",
    "equal": "torch.equal",
    "prior": "a kind of MetaKnowledge, a record of the kernel",
    "representation": "a kind of MetaKnowledge, a record of the kernel",
    "strategy": "a kind of MetaKnowledge, and an ordinary word for a component",
    "sequence": "collections.abc.Sequence",
    "config": "pytest's configuration, the user's configuration file",
    "search": "re.search",
    "explain": "an ordinary word",
    "joint": "an ordinary word",
    "relation": "what two tasks are to one another (a field of TransferEdge)",
    "matching": "an ordinary word",
    "blend": "an ordinary word",
    "chain": "itertools.chain",
    "active": "an ordinary word",
    "normalise": "an ordinary word",
    "fallback": "an ordinary word",
    "uncertainty": "a field of TransferEdge: the standard error of a coefficient",
    "skills": "of a task: TaskDescriptor.required_skills",
    "probe": "an ordinary word: a file, a parameter that is tried",
    "ridge": "a term on a matrix's diagonal, in the solvers",
    "digits": "an ordinary word",
    "prefix": "an ordinary word (of a dotted key, a path)",
    "adapter": "the kernel's point",
    "linear": "torch's linear layers, and an ordinary word",
    "loss": "what training lowers",
    "losses": "what training lowers, and what balancers are given",
    "sampler": "an attribute of torch's DataLoader",
    "folder": "an ordinary word",
    "index": "an ordinary word",
    "imported": "an ordinary word",
    "http": "the beginning of an address",
    "statistics": "Python's module",
    "gradients": "an ordinary word",
    "shift": "an ordinary word",
    "multi_source": "a TransferDirection",
    "advice": "what the engine's method `advise` gives, a record of the kernel",
}
"""Words of manifests that the kernel's code may hold for another reason."""

ENUMS = {"CurriculumStrategy", "TransferStrategy", "SynthesisStrategy"}
"""The public API's enums of `records.py` name the built-in strategies: the one exception that the design lists."""


def words() -> set[str]:
    """Names of algorithms, of contributed points and of families' stages."""
    found = set()
    for record in Registry.installed(Settings()).plugins():
        if not record.distribution.startswith("crosstask-") or record.name == "kernel" or record.plugin is None:
            continue
        found |= {point.name for point in record.plugin.points}
        found |= {e.name for e in record.plugin.extensions if e.point not in (RECIPE, COMMAND)}
    return found - POINTS


def texts(file: Path) -> Iterator[tuple[int, str]]:
    """(line, text) of every name and every string of a file that is code: no docstring, no comment."""
    tree = ast.parse(file.read_text("utf-8"))
    if file.name == "records.py":
        tree.body = [node for node in tree.body if not (isinstance(node, ast.ClassDef) and node.name in ENUMS)]
    documented = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documented:
            yield node.lineno, node.value
        elif isinstance(node, ast.Name):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute):
            yield node.lineno, node.attr
        elif isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg | ast.keyword) and node.arg:
            yield getattr(node, "lineno", 0), node.arg
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.lineno, node.module
        elif isinstance(node, ast.alias):
            yield getattr(node, "lineno", 0), node.name


def test_the_words_are_the_manifests() -> None:
    found = words()
    assert {"rgb", "continual", "few_shot", "sampler", "sharing", "ewc", "lp_ft", "multitask", "gnn"} <= found
    assert set(MEANT_OTHERWISE) - POINTS <= found, "take out what no manifest names"


@pytest.mark.parametrize("file", sorted(SOURCE.rglob("*.py")), ids=lambda f: str(f.relative_to(SOURCE)))
def test_no_family_is_named(file: Path) -> None:
    unwelcome = words() - set(MEANT_OTHERWISE)
    pattern = re.compile(r"(?<![A-Za-z0-9_+])(" + "|".join(map(re.escape, sorted(unwelcome))) + r")(?![A-Za-z0-9_+])")
    wrong = [f"line {line}: {text[:60]!r}" for line, text in texts(file) if pattern.search(text)]
    assert not wrong


def test_no_distribution_of_a_family_is_named() -> None:
    for file in SOURCE.rglob("*.py"):
        named = set(re.findall(r"crosstask[-_][a-z]+", file.read_text("utf-8")))
        allowed = {
            "crosstask-kernel",
            "crosstask-meta",
            "crosstask-out",
            "crosstask-rgb",
            "crosstask-continual",
            "crosstask-mine",
        }
        ours = {f"crosstask{sep}{f.parent.name}" for f in ROOT.glob("plugins/*/*/pyproject.toml") for sep in "-_"}
        assert not (named & ours) - allowed, file  # the allowed ones stand in docstrings as examples
