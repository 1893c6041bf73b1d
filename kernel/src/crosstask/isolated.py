"""Code of strangers that is imported only to be looked at runs in a child process: whatever it does as it is imported,
it cannot end, silence or change the process that asks.

The child tells one JSON line as it begins an import and one as it ends it. Where the child itself ends in between, that
import ended it: this is the answer, and another child goes on behind it. A child is forked where that is safe (Linux, a
single thread), which costs a few milliseconds; elsewhere a Python of its own is started.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import re
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import attrs

from crosstask.errors import PluginError, nearest, told
from crosstask.manifest import Extension, Plugin, Point

TIMEOUT_SECONDS = 60.0
"""How long one import may take before it counts as one that never ends (not on Windows)."""

_ENTRY = re.compile(r"([\w.]+)\s*:\s*([\w.]+)\s*(?:\[.*\])?")
"""An entry point's value, as the specification has it: module, attribute that may be dotted, extras."""

_START = (
    "import json, sys; asked = json.loads(sys.stdin.readline()); sys.path[:] = asked['path']; "
    "from crosstask.isolated import serve_parent; serve_parent(asked['imports'])"
)


@attrs.frozen
class Answer:
    """What became of an import: the plugin it named, or the reason why there is none."""

    plugin: Plugin | None = None
    reason: str = ""
    traceback: str = ""
    printed: str = ""
    seconds: float = 0.0
    ended: bool = False
    """Whether it ended the process (or would not end), so that it must not be made in one that has more to do."""


# What is imported -------------------------------------------------------------------------------------------------


def parsed_entry(value: str) -> tuple[str, str] | None:
    """(module, attribute) of an entry point's value; None if it does not name an object."""
    found = _ENTRY.fullmatch(value.strip())
    if not found or not all(part.isidentifier() for part in f"{found[1]}.{found[2]}".split(".")):
        return None
    return found[1], found[2]


def attribute(value: Any, dotted: str, where: str) -> Any:
    """What a dotted attribute of a module is. PluginError names the nearest one that it has."""
    for part in dotted.split("."):
        if not hasattr(value, part):
            public = (name for name in dir(value) if not name.startswith("_"))
            raise PluginError(f"{where} has no {dotted!r}{nearest(part, public)}")
        value = getattr(value, part)
    return value


def load_entry(value: str) -> Any:
    """What an entry point names."""
    parsed = parsed_entry(value)
    if parsed is None:
        raise PluginError("an entry point must look like 'package.plugin:PLUGIN'")
    module, dotted = parsed
    return attribute(importlib.import_module(module), dotted, module)


def load_from(folder: str, module: str) -> Any:
    """A manifest of a folder of plugins; a module of that name that lies elsewhere must not answer for it."""
    loaded = importlib.import_module(module)
    if Path(folder) not in Path(str(loaded.__file__)).parents:
        raise PluginError(f"a module {module} is there already ({loaded.__file__}); rename the plugin")
    return getattr(loaded, "PLUGIN", None)


_LOADERS: Mapping[str, Callable[..., Any]] = {
    "entry": load_entry,
    "folder": load_from,
    "module": importlib.import_module,
}


@attrs.frozen
class Import:
    """An import to be made elsewhere: of an `entry` point's value, of a `folder`'s module, of a `module` alone."""

    kind: str
    arguments: tuple[str, ...]

    def here(self) -> Any:
        """Make it in this process."""
        return _LOADERS[self.kind](*self.arguments)


def look(load: Callable[[], Any], *, manifest: bool = True) -> Answer:
    """Call a loader, with what it prints kept and whatever it raises told. With `manifest` it must name a plugin."""
    printed, started = _Printed(), time.perf_counter()
    plugin, reason, trace = None, "", ""
    with Keyboard() as keyboard:
        try:
            with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
                found = load()
            if manifest and not isinstance(found, Plugin):
                raise PluginError(f"names a {type(found).__name__}, not a crosstask.Plugin")
            plugin = found if manifest else None
        except BaseException as error:  # a manifest may even call sys.exit: that is its failure, not ours
            if keyboard.interrupted(error):
                raise
            reason, trace = str(error) if type(error) is PluginError else told(error), _trace(error)
    if not reason and (printed.was_closed or (_IN_CHILD and not _is_open(1))):
        plugin, reason = None, "it closes standard output as it is imported"
    return Answer(plugin, reason, trace, printed.getvalue(), time.perf_counter() - started)


class Keyboard:
    """Knows, while it is entered, whether a KeyboardInterrupt is the user's or was raised by foreign code."""

    def __enter__(self) -> Keyboard:
        self._pressed = False
        main = threading.current_thread() is threading.main_thread()  # only there can a handler be set
        self._watching = main and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if self._watching:
            signal.signal(signal.SIGINT, self._press)
        return self

    def __exit__(self, *_: object) -> None:
        if self._watching and signal.getsignal(signal.SIGINT) == self._press:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _press(self, number: int, frame: Any) -> None:
        self._pressed = True
        signal.default_int_handler(number, frame)

    def interrupted(self, error: BaseException) -> bool:
        """Whether it is the user who wants to stop. Where that cannot be known, it is; in a child, which ignores the
        signal, never.
        """
        return isinstance(error, KeyboardInterrupt) and not _IN_CHILD and (self._pressed or not self._watching)


class _Printed(io.StringIO):
    """Standard output for a while; code that closes it harms nobody."""

    was_closed = False

    def close(self) -> None:
        self.was_closed = True


def _trace(error: BaseException) -> str:
    try:
        return "".join(traceback.format_exception(error))
    except BaseException:  # an exception can refuse to be looked at in any way
        return ""


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


# The child --------------------------------------------------------------------------------------------------------

_IN_CHILD = False


def serve_parent(imports: Sequence[tuple[str, Sequence[str]]]) -> None:
    """Make the imports and tell the parent, which reads standard output. For a child that was started."""
    _serve([Import(kind, tuple(arguments)) for kind, arguments in imports], os.dup(1))


def _serve(imports: Sequence[Import], results: int) -> None:
    global _IN_CHILD
    _IN_CHILD = True
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what it means
    sys.stdin = io.StringIO()
    if (faulthandler := sys.modules.get("faulthandler")) is not None:  # a crash is told by the parent
        faulthandler.disable()
    with os.fdopen(results, "w", encoding="utf-8") as stream:
        _silence()
        stream.write('{"ready": true}\n')
        for each in imports:
            stream.write('{"begun": true}\n')
            stream.flush()  # with the answer before it
            answer = look(each.here, manifest=each.kind != "module")
            stream.write(json.dumps(_as_data(answer)) + "\n")
            if not (_is_open(0) and _is_open(1) and _is_open(2)):
                _silence()


def _silence() -> None:
    """Nothing to read, nobody to print to, also for code that does not ask Python for its streams."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        if descriptor != nothing:
            os.dup2(nothing, descriptor)
    if nothing > 2:
        os.close(nothing)


def _as_data(answer: Answer) -> dict[str, Any]:
    """An answer as JSON can hold it. A manifest with problems may have anything anywhere: that is told as text."""
    data = {name: getattr(answer, name) for name in ("reason", "traceback", "printed", "seconds")}
    try:
        return {**data, "plugin": _plain(answer.plugin)}
    except BaseException as error:  # its fields are foreign objects
        return {**data, "plugin": None, "reason": told(error), "traceback": _trace(error)}


def _plain(value: Any) -> Any:
    if value is None or type(value) in (str, int, bool):
        return value
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, Plugin | Point | Extension):
        return {name: _plain(getattr(value, name)) for name in _fields(value)}
    return str(value)


def _fields(value: Any) -> tuple[str, ...]:
    return next(names for kind, names in _FIELDS.items() if isinstance(value, kind))  # it may be of a derived class


_FIELDS = {kind: tuple(field.name for field in attrs.fields(kind)) for kind in (Plugin, Point, Extension)}


def _as_answer(data: Mapping[str, Any]) -> Answer:
    texts = {key: str(data[key]) for key in ("reason", "traceback", "printed")}
    given = data["plugin"]
    plugin = None if given is None else _restored(Plugin, given, points=Point, extensions=Extension)
    return Answer(plugin, texts["reason"], texts["traceback"], texts["printed"], float(data["seconds"]))


def _restored(kind: Any, given: Mapping[str, Any], **inside: type) -> Any:
    """An object of a manifest as it was: it has been checked already, and keeps what was found wrong with it."""
    values = {}
    for name in _FIELDS[kind]:
        value = given[name]
        if name in inside:
            value = tuple(_restored(inside[name], each) for each in value)
        values[name] = tuple(value) if isinstance(value, list) else value
    made = kind.__new__(kind)
    made.__attrs_init__(**values)
    return made


# The parent -------------------------------------------------------------------------------------------------------


def look_apart(imports: Sequence[Import]) -> list[Answer]:
    """What becomes of each import in another process, in the order in which they are given.

    Where no process can be started (an embedded Python, a system that forbids it) they are made in this one.
    """
    answers: list[Answer] = []
    while len(answers) < len(imports):
        rest = imports[len(answers) :]
        before = len(answers)
        with contextlib.ExitStack() as stack:
            child = _child(rest)
            if child is not None:
                stack.callback(child.end)
                answers += _heard(child)
            if child is None or not child.ready:
                return [*answers, *(look(each.here, manifest=each.kind != "module") for each in rest)]
        if len(answers) == before and not child.begun:
            raise PluginError(f"the process that looks at plugins ended before it did: {child.ended()}")
    return answers


def _heard(child: _Child) -> Iterator[Answer]:
    """What a child tells, and for the import that ended it how it ended."""
    started, answering = time.perf_counter(), False
    for line in child.lines():
        if not answering:
            started, answering = time.perf_counter(), "begun" in line
            child.begun = child.begun or answering
        else:
            answering = False
            try:
                answer = _as_answer(line)
            except (LookupError, TypeError, ValueError) as error:  # foreign code wrote into our pipe
                answer = Answer(reason=f"its manifest cannot be read: {told(error)}")
            yield answer
    if answering:
        yield Answer(reason=child.ended(), seconds=time.perf_counter() - started, ended=True)


@attrs.define
class _Child:
    """A process that answers, and the pipe in which it does."""

    pipe: IO[bytes]
    wait: Callable[[], int]
    kill: Callable[[], None]
    ready: bool = False
    begun: bool = False
    late: bool = False
    status: int | None = None

    def lines(self) -> Iterator[dict[str, Any]]:
        """Its lines until it ends, or is ended because one took too long."""
        poll = select.poll() if hasattr(select, "poll") else None
        if poll is not None:
            poll.register(self.pipe, select.POLLIN)
        kept = b""
        while True:
            if poll is not None and not poll.poll(TIMEOUT_SECONDS * 1000):
                self.late = True
                self.kill()
                return
            got = os.read(self.pipe.fileno(), 1 << 16)
            if not got:
                return
            *whole, kept = (kept + got).split(b"\n")
            for text in whole:
                try:
                    line = json.loads(text)
                except (ValueError, RecursionError):
                    line = {}
                if not isinstance(line, dict):
                    line = {}
                if "ready" in line and not self.ready:
                    self.ready = True
                else:
                    yield line

    def ended(self) -> str:
        """How it ended, told as what the import did."""
        if self.late:
            return f"importing it did not end in {TIMEOUT_SECONDS:g} s"
        self.status = self.wait() if self.status is None else self.status
        if self.status < 0:
            return f"importing it ended the process ({signal.Signals(-self.status).name})"
        return f"importing it ended the process (exit status {self.status})"

    def end(self) -> None:
        """Leave nothing behind, whatever happened."""
        if self.status is None:
            self.kill()
            self.status = self.wait()
        self.pipe.close()


def _child(imports: Sequence[Import]) -> _Child | None:
    """A process that makes the imports; None where there can be none."""
    try:
        return _forked(imports) if _may_fork() else _started(imports)
    except OSError:
        return None


def _may_fork() -> bool:
    """A forked child has the forking thread only: locks that others hold would stay locked in it."""
    try:
        return sys.platform == "linux" and len(os.listdir("/proc/self/task")) == 1  # noqa: PTH208 -- half the time
    except OSError:
        return False


def _forked(imports: Sequence[Import]) -> _Child:
    read, write = os.pipe()
    number = os.fork()
    if number == 0:
        status = 1
        try:
            os.close(read)
            _serve(imports, write)
            status = 0
        finally:
            os._exit(status)  # nothing of the parent's is flushed, joined or removed a second time
    os.close(write)

    def kill() -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)

    return _Child(os.fdopen(read, "rb", 0), lambda: os.waitstatus_to_exitcode(os.waitpid(number, 0)[1]), kill)


def _started(imports: Sequence[Import]) -> _Child | None:
    import subprocess  # deferred: a fork does without it

    if not sys.executable or getattr(sys, "frozen", False):
        return None
    asked = {"path": sys.path, "imports": [[each.kind, each.arguments] for each in imports]}
    # -P: `crosstask` is not looked for in the current folder before sys.path is as it is here
    command = [sys.executable, *(["-I"] if sys.flags.isolated else []), "-P", "-c", _START]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert child.stdin is not None
    assert child.stdout is not None
    with contextlib.suppress(BrokenPipeError), child.stdin:
        child.stdin.write(json.dumps(asked).encode() + b"\n")
    return _Child(child.stdout, child.wait, child.kill)
