"""What SECURITY.md says of the whole repository: nothing from outside is unpickled, and each test it names is there."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
SOURCES = sorted(
    [
        *ROOT.glob("kernel/src/**/*.py"),
        *ROOT.glob("plugins/*/*/src/**/*.py"),
        *ROOT.glob("contrib/*/src/**/*.py"),
        *ROOT.glob("contrib/templates/**/*.py"),
    ]
)
PICKLING = {"pickle", "_pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
WHO_MAY = {
    "contrib/ray/src/crosstask_ray/packing.py": "jobs for workers of the user's cluster or of our own: no file",
    "contrib/ray/src/crosstask_ray/pool.py": "likewise: what these workers answer",
    "contrib/ray/src/crosstask_ray/worker.py": "likewise: in such a worker",
    "kernel/src/crosstask/executors.py": "the pool of processes: both ends are ours, and it is no file",
    "kernel/src/crosstask/learning/side_effects.py": "compares what a module holds before and after: reads nothing",
    "kernel/src/crosstask/testing/kit.py": "checks that a component can be sent to a process, by sending it to itself",
    "kernel/src/crosstask/testing/kits/executor.py": "likewise",
    "plugins/reinforcement/reinforcement/src/crosstask_reinforcement/kit.py": "checks that an environment can be sent, "
    "likewise",
    "plugins/search/search/src/crosstask_search/driver.py": "asks whether a function can be sent; reads nothing",
}
LOADERS = {"load", "loads", "Unpickler"}


def imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def test_pickle_is_for_our_own_processes_only() -> None:
    assert len(SOURCES) > 300
    found = {
        path.relative_to(ROOT).as_posix()
        for path in SOURCES
        if PICKLING & set(imported(ast.parse(path.read_text("utf-8"))))
    }
    assert found == set(WHO_MAY)
    driver = ast.parse((ROOT / "plugins/search/search/src/crosstask_search/driver.py").read_text("utf-8"))
    assert not [n for n in ast.walk(driver) if isinstance(n, ast.Attribute) and n.attr in LOADERS and _of_pickle(n)]


def _of_pickle(node: ast.Attribute) -> bool:
    return isinstance(node.value, ast.Name) and node.value.id == "pickle"


def test_no_file_is_read_with_a_reader_that_unpickles() -> None:
    """torch.load is not used at all; numpy's reader is never asked for objects."""
    wrong = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            called = ast.unparse(node.func)
            keywords = {word.arg: ast.unparse(word.value) for word in node.keywords}
            numpys = called in ("np.load", "numpy.load")
            allowed = numpys and keywords.get("allow_pickle", "False") == "False"  # which is its default
            if called in ("torch.load", "np.load", "numpy.load", "pd.read_pickle") and not allowed:
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}: {called}")
    assert wrong == []


def test_every_test_that_the_page_names_is_there() -> None:
    named = re.findall(r"`((?:[\w-]+/)+test_\w+\.py)(?:::(test_\w+))?`", (ROOT / "SECURITY.md").read_text("utf-8"))
    assert len(named) > 15
    for path, test in named:
        text = (ROOT / path).read_text("utf-8")
        assert not test or f"def {test}(" in text, f"{path}::{test}"
