"""Manifests of strangers that do the worst as they are imported: a row with a reason each, and nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import attrs
import pytest

from crosstask import isolated
from crosstask.isolated import Import, look_apart, parsed_entry
from crosstask.manifest import Extension, Plugin, Point
from crosstask.registry import Registry, Status
from crosstask.settings import Settings

FINE = (
    "from crosstask.manifest import Extension, Plugin, Point\n"
    "PLUGIN = Plugin('NAME',\n"
    "    [Extension('executor', 'x', 'a.b:C', summary='S', default=2, api=(1, 3), aliases=['y'])],\n"
    "    points=[Point('chooser', 'a.b:C', version=(1, 2))], formerly=['old'], api=(2, 0))\n"
)
WORST = {
    "exits": ("import os; os._exit(7)", "importing it ended the process (exit status 7)"),
    "leaves": ("import os; os._exit(0)", "importing it ended the process (exit status 0)"),
    "crashes": ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "importing it ended the process (SIGSEGV)"),
    "killed": ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "importing it ended the process (SIGKILL)"),
    "interrupts": ("raise KeyboardInterrupt", "KeyboardInterrupt"),
    "presses": (
        "import os, signal; os.kill(os.getpid(), signal.SIGINT); raise ValueError('not stopped')",
        "ValueError: not stopped",
    ),
    "unprintable": (
        "class E(Exception):\n    def __str__(self): raise SystemExit\nraise E",
        "E: (its message cannot be printed)",
    ),
    "closes": ("import sys; sys.stdout.close()\n" + FINE, "it closes standard output as it is imported"),
    "closes-1": ("import os; os.close(1)\n" + FINE, "it closes standard output as it is imported"),
    "closes-all": ("import os; os.closerange(0, 64)", "importing it ended the process (exit status 1)"),
    "recursion": ("def f(): f()\nf()", "RecursionError: maximum recursion depth exceeded"),
    "asks": ("input()", "EOFError: EOF when reading a line"),
    "hangs": ("import time; time.sleep(60)", "importing it did not end in 1 s"),
}


def write(folder: Path, name: str, code: str) -> None:
    """A distribution `NAME-dist` with a plugin NAME, as pip leaves it."""
    module = f"worst_{name.replace('-', '_')}"
    (folder / f"{module}.py").write_text(code.replace("NAME", name))
    info = folder / f"{name.replace('-', '_')}_dist-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.4\nName: {name}-dist\nVersion: 1.0\n\n")
    (info / "entry_points.txt").write_text(f"[crosstask.plugins]\n{name} = {module}:PLUGIN\n")


def children() -> set[str]:
    """This process's children, ended ones that nobody waited for among them (on Linux; elsewhere not known). Earlier
    tests may have left some that live as long as the process, such as multiprocessing's resource tracker."""
    return {child for task in Path("/proc/self/task").glob("*/children") for child in task.read_text().split()}


@pytest.mark.parametrize(
    "fork", [pytest.param(True, marks=pytest.mark.skipif(sys.platform != "linux", reason="fork")), False]
)
def test_each_of_the_worst_is_a_row_with_its_reason(
    fork: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name, (code, _) in WORST.items():
        write(tmp_path, name, code)
    write(tmp_path, "last", "import sys, os\nprint('said')\nos.write(1, b'raw')\nos.chdir('/')\n" + FINE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(isolated, "_may_fork", lambda: fork)
    monkeypatch.setattr(isolated, "TIMEOUT_SECONDS", 1.0)
    here, before = Path.cwd(), children()
    found = Registry.installed(Settings(allow=tuple(f"{name}-dist" for name in [*WORST, "last"])))
    rows = {record.name: record for record in found.plugins() if record.status is not Status.DENIED}
    for name, (_, reason) in WORST.items():
        assert rows[name].status is Status.BROKEN
        assert rows[name].reason == f"worst_{name.replace('-', '_')}:PLUGIN: {reason}", name
    assert (rows["last"].status, rows["last"].reason) == (Status.OK, "")
    assert rows["last"].notes == ("its manifest printed 'said' at import",)
    assert rows["last"].plugin == Plugin(
        "last",
        [Extension("executor", "x", "a.b:C", summary="S", default=2, api=(1, 3), aliases=["y"])],
        points=[Point("chooser", "a.b:C", version=(1, 2))],
        formerly=["old"],
        api=(2, 0),
    )
    assert Path.cwd() == here
    assert not [name for name in sys.modules if name.startswith("worst_")]
    assert capfd.readouterr() == ("", "")
    assert children() <= before  # nothing is left behind


def test_a_manifest_with_problems_keeps_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "from crosstask.manifest import *\nPLUGIN = Plugin(['x'], [Extension('a', 'b', dict, summary=object)], api=2)"
    )
    (tmp_path / "worst_odd.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    (answer,) = look_apart([Import("entry", ("worst_odd:PLUGIN",))])
    assert answer.plugin is not None
    wanted = Plugin(["x"], [Extension("a", "b", dict, summary=object)], api=2)  # type: ignore[arg-type, list-item]
    assert answer.plugin.problems == wanted.problems
    assert len(wanted.problems) == 4
    assert answer.plugin.extensions[0].target == "<class 'dict'>"


def test_an_answer_that_a_plugin_forges_harms_its_own_row_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import os\nfor n in range(3, 20):\n    try: os.write(n, b'not json\\n')\n    except OSError: pass\n"
    (tmp_path / "worst_forger.py").write_text(code)
    (tmp_path / "worst_fine.py").write_text(FINE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(isolated, "_may_fork", lambda: False)
    first, *_ = look_apart([Import("entry", ("worst_forger:PLUGIN",)), Import("entry", ("worst_fine:PLUGIN",))])
    assert first.plugin is None
    assert first.reason.startswith("its manifest cannot be read: ")


def test_where_no_process_can_be_started_imports_are_made_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "worst_here.py").write_text(FINE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(isolated, "_may_fork", lambda: False)
    for executable in ("", str(tmp_path / "no-python")):
        monkeypatch.setattr(sys, "executable", executable)
        (answer,) = look_apart([Import("entry", ("worst_here:PLUGIN",))])
        assert answer.plugin is not None
        assert sys.modules.pop("worst_here")


def test_the_current_folder_is_not_searched_before_the_path_of_the_parent(tmp_path: Path) -> None:
    """A file `attrs.py` of somebody else's beside us must not be what the child imports."""
    (tmp_path / "attrs.py").write_text("raise SystemExit('a stranger')")
    (tmp_path / "crosstask.py").write_text("raise SystemExit('a stranger')")
    code = (
        "from crosstask import isolated\nisolated._may_fork = lambda: False\n"
        "print(isolated.look_apart([isolated.Import('module', ('json',))])[0].reason or 'fine')"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("fine\n", "")


@pytest.mark.parametrize(
    ("value", "parsed"),
    [
        ("a.b:C", ("a.b", "C")),
        ("a.b : C", ("a.b", "C")),
        ("a.b:C.D", ("a.b", "C.D")),
        ("a : C [extra, more]", ("a", "C")),
        ("a", None),
        ("a:", None),
        (":C", None),
        ("a..b:C", None),
        ("a:1", None),
        ("a:C D", None),
    ],
)
def test_values_of_entry_points(value: str, parsed: tuple[str, str] | None) -> None:
    assert parsed_entry(value) == parsed


def test_answers_are_complete() -> None:
    """A field added to a manifest travels, too."""
    for kind in (Plugin, Point, Extension):
        assert isolated._FIELDS[kind] == tuple(field.name for field in attrs.fields(kind))


def test_the_users_ctrl_c_ends_the_wait(tmp_path: Path) -> None:
    (tmp_path / "worst_waits.py").write_text("import time; time.sleep(30)")
    code = (
        "import os, signal\nfrom crosstask.isolated import Import, look_apart\n"
        "signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGINT))\n"
        "signal.setitimer(signal.ITIMER_REAL, 0.5)\n"
        "try:\n    look_apart([Import('entry', ('worst_waits:PLUGIN',))])\n"
        "except KeyboardInterrupt:\n    print('stopped')\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=20, check=False
    )
    assert done.stdout == "stopped\n", done.stderr
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
