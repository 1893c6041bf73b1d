"""Jobs that go wrong, in a file that worker processes import quickly."""

import ctypes
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch


class KeywordOnlyError(Exception):
    def __init__(self, *, code: int) -> None:
        super().__init__(f"refused with code {code}")
        self.code = code


class LockedError(Exception):
    """Cannot be pickled."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.lock = threading.Lock()


class CodedError(Exception):
    """Pickled and back, its text is another: "code code 7"."""

    def __init__(self, code: object) -> None:
        super().__init__(f"code {code}")


class SpeechlessError(Exception):
    def __str__(self) -> str:
        raise ValueError("no words")


class UnnotedError(Exception):
    """Takes neither notes nor causes."""

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(name)


class OnlyHere:
    """Can be unpickled in the process that pickled it alone."""

    def __reduce__(self) -> tuple[Any, ...]:
        return only_in, (os.getpid(), self.how)

    def __init__(self, how: type[BaseException]) -> None:
        self.how = how


def only_in(process: int, how: type[BaseException]) -> OnlyHere:
    if os.getpid() != process:
        raise how("only at home")
    return OnlyHere(how)


def raises(make: Callable[..., BaseException], *args: Any, **named: Any) -> None:
    raise make(*args, **named)


def keyword_only() -> None:
    raise KeywordOnlyError(code=3)


def opens(path: str) -> None:
    Path(path).read_text()


def chained() -> None:
    try:
        keyword_only()
    except KeywordOnlyError as error:
        raise LookupError("nothing there") from error


def a_lambda() -> Any:
    return lambda: 0


def only_here(how: type[BaseException]) -> Any:
    return OnlyHere(how)


def count(path: str) -> int:
    """Write down that it was called; how often it was."""
    with Path(path).open("a") as file:
        file.write("x")
    return Path(path).stat().st_size


def leaves(path: str, code: int) -> None:
    count(path)
    os._exit(code)


def counted_failure(path: str) -> None:
    count(path)
    raise ValueError("its own")


def killed_at_first(path: str, value: int) -> int:
    if count(path) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return value * value


def process_after(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


def hangs(path: str) -> None:
    Path(path).write_text(str(os.getpid()))
    time.sleep(600)


def hangs_deaf(path: str) -> None:
    """Holds the interpreter's lock, so that no other thread of the process can do a thing."""
    Path(path).write_text(str(os.getpid()))
    ctypes.PyDLL(None).sleep(600)


def hangs_unbound(path: str) -> None:
    """Hangs in a process that the system does not end with its parent: the portable watch alone is left."""
    ctypes.CDLL(None).prctl(1, 0, 0, 0, 0)
    hangs(path)


def starts_another(path: str) -> None:
    child = subprocess.Popen(["sleep", "600"])
    Path(path).write_text(str(child.pid))
    time.sleep(600)


def leaves_a_fork(path: str) -> None:
    """Its worker ends; a copy of it holds the pipe open."""
    child = os.fork()
    if child == 0:
        time.sleep(600)
        os._exit(0)
    Path(path).write_text(str(child))
    os._exit(7)


def takes(mebibytes: int, seconds: float) -> int:
    held = [b"\1" * (1 << 20) for _ in range(mebibytes)]
    time.sleep(seconds)
    return len(held)


def keeps(mebibytes: int) -> int:
    """Leaves something behind in its worker."""
    _kept.append(b"\1" * (mebibytes << 20))
    return resident(os.getpid())


_kept: list[bytes] = []


def threads(*_: object) -> int:
    return torch.get_num_threads()


def sets_threads(number: int) -> None:
    torch.set_num_threads(number)


def covariance(values: torch.Tensor) -> torch.Tensor:
    centred = values - values.mean(dim=0)
    return centred.T @ centred / (len(values) - 1)


def resident(process: int) -> int:
    """MiB, from another file than the executor reads."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) // 1024  # type: ignore[index]


def alive(process: int) -> bool:
    """Whether it runs; a zombie that nobody has asked about does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def children(process: int) -> set[int]:
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and alive(int(entry.name)):
            with suppress(OSError):
                if int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == process:
                    found.add(int(entry.name))
    return found


def eventually(true: Callable[[], object], seconds: float = 60) -> bool:
    late = time.monotonic() + seconds
    while time.monotonic() < late:
        if true():
            return True
        time.sleep(0.02)
    return bool(true())


def written(path: Path) -> int:
    """The process whose number a job has written."""
    assert eventually(lambda: path.exists() and path.read_text()), path
    return int(path.read_text())
