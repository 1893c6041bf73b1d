"""The tutorials' notebooks are the pages, they run, and what they show is what they print."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

import nbclient
import nbformat
import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted(ROOT.glob("docs/tutorials/*.ipynb"))
NUMBER = re.compile(r"[-+]?\d+\.\d+")


def load(name: str) -> ModuleType:
    spec = spec_from_loader(name, SourceFileLoader(name, str(ROOT / ".ci" / name)))
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def differs(shown: str, printed: str, within: float = 0.1) -> str:
    """What printed text says that the shown one does not: words must be the same, decimals near; "" if they agree."""
    if NUMBER.sub("#", " ".join(shown.split())) != NUMBER.sub("#", " ".join(printed.split())):
        return f"shown:\n{shown}\nprinted:\n{printed}"
    for one, other in zip(NUMBER.findall(shown), NUMBER.findall(printed), strict=True):
        if abs(float(one) - float(other)) > within * max(1, abs(float(one))):
            return f"{one} is shown, {other} is printed:\n{printed}"
    return ""


def test_notebooks_are_what_the_pages_say() -> None:
    made = load("notebooks").notebooks()
    assert set(made) == set(NOTEBOOKS), "run .ci/notebooks"
    assert len(made) == 5
    for path, text in made.items():
        assert path.read_text("utf-8") == text, "run .ci/notebooks"
        nbformat.validate(nbformat.reads(text, as_version=4))


def test_a_page_becomes_cells() -> None:
    page = (
        'A\n\n```python\nprint(1)\n```\n\n```text\n1\n```\n\n```toml title="b/c.toml"\nd = 1\n```\n\n'
        "```console\n$ crosstask e # f\nshown\n```\n\n```console\n$ pip install g\n```\n\n```text\nh\n```\n"
    )
    cells = load("notebooks").cells(page)
    told = [(cell["cell_type"], "".join(cell["source"])) for cell in cells]
    assert told == [
        ("markdown", "A"),
        ("code", "print(1)"),
        ("code", "from pathlib import Path\n\nPath('b').mkdir(parents=True, exist_ok=True)"),
        ("code", "%%writefile b/c.toml\nd = 1"),
        ("code", "!crosstask e"),
        ("markdown", "```console\n$ pip install g\n```"),
        ("markdown", "```text\nh\n```"),
    ]
    assert [cell["outputs"] for cell in cells if "outputs" in cell] == [
        [{"output_type": "stream", "name": "stdout", "text": ["1\n"]}], [], [], []
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("shown", "printed", "agree"),
    [
        ("a 0.91 [0.80, 1.00]", "a  0.89 [0.75, 1.00]\n", True),
        ("a 0.91", "a 0.70", False),
        ("a 0.91", "b 0.91", False),
        ("7 steps", "8 steps", False),  # whole numbers are no measurements
        ("12.50", "13.00", True),
    ],
)
def test_figures_are_compared(shown: str, printed: str, agree: bool) -> None:
    assert (differs(shown, printed) == "") is agree


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_and_prints_what_it_shows(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    book = nbformat.read(path, as_version=4)
    shown = [cell.outputs[0].text if cell.get("outputs") else "" for cell in book.cells]
    nbclient.NotebookClient(
        book, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    for cell, before in zip(book.cells, shown, strict=True):
        printed = "".join(out.text for out in cell.get("outputs", []) if out.output_type == "stream")
        if before:
            assert differs(before, "".join(o.text for o in cell.outputs if o.get("name") == "stdout")) == ""
        elif cell.source.startswith("!crosstask") and "plugins check" in cell.source:
            assert "0 failed" in printed
        elif cell.source.startswith("!crosstask run"):
            assert "report:" in printed


WIDE = ("arg-type", "assignment", "union-attr", "operator", "import-not-found")
"""What a page may do: lists for tuples and plain data for records, which are converted; a name used twice; no `if` for
each None. Attributes and options that are not there stay errors.
"""


@pytest.mark.slow
def test_pages_are_type_checked(tmp_path: Path) -> None:
    """The tutorials and the page of other libraries; a wrong option and a wrong attribute are found."""
    script = load("notebooks")
    for page in [*ROOT.glob("docs/tutorials/*.md"), ROOT / "docs" / "migrating.md"]:
        code = [
            c for language, title, c, _ in script.pieces(page.read_text("utf-8")) if language == "python" and not title
        ]
        (tmp_path / f"page_{page.stem.replace('-', '_')}.py").write_text("\n".join(code), "utf-8")
    wrong = "from crosstask import Budget\n\nBudget(stepz=3)\nBudget().steppes\n"
    (tmp_path / "wrong.py").write_text(wrong, "utf-8")
    words = [sys.executable, "-m", "mypy", "--no-error-summary", *(f"--disable-error-code={code}" for code in WIDE)]
    done = subprocess.run(
        [*words, *map(str, sorted(tmp_path.glob("*.py")))], cwd=ROOT, capture_output=True, text=True, check=False
    )
    found = [line for line in done.stdout.splitlines() if '"Component" has no attribute' not in line]  # of a name made
    expected = [line for line in found if "wrong.py" in line and ": error:" in line]
    assert [line.rpartition("[")[2] for line in expected] == ["call-arg]", "attr-defined]"], found
    assert [line for line in found if line not in expected and ": error:" in line] == []
