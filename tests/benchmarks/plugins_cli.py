"""CPU time of `crosstask plugins` with 100 installed plugins, over that of bare python.

    python tests/benchmarks/plugins_cli.py [--plugins 100] [--repeats 15] [--check 150] [--before PYTHON]

Every fifth plugin brings an extension point of its own. `--before` is the interpreter of an environment in which
another version is installed: it takes turns with this one, with plugins as that version reads them (API 1.0), and the
ratio is shown.

The plugins are folders as pip leaves them (a package with a manifest, a dist-info) on a path of their own, beside
whatever is installed. The three commands take turns, so that a change of the machine's speed meets all alike; the
figures are medians of user plus system time of the child processes.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

MANIFEST = """\
from crosstask.manifest import Extension, Plugin, Point

PLUGIN = Plugin(
    name="fake-{n}",
    points={points},
    extensions=[
        Extension("balancer", "fake_{n}", "fake_{n}.algorithm:Fake", summary="number {n}", source="nobody, 2026"),
        Extension("{point}", "fake_{n}", "fake_{n}.algorithm:Fake", summary="number {n}"),
    ],
    api=(2, 0),
)
"""
POINT = 'Point("point_{n}", "fake_{n}.algorithm:Contract", kit="fake_{n}.algorithm:Kit", summary="number {n}")'
BEFORE = """\
from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="fake-{n}",
    extensions=[
        Extension("balancer", "fake_{n}", "fake_{n}.algorithm:Fake", summary="number {n}", source="nobody, 2026"),
        Extension("sampler", "fake_{n}", "fake_{n}.algorithm:Fake", summary="number {n}"),
    ],
    api=(1, 0),
)
"""


def manifest(n: int, before: bool) -> str:
    if before:
        return BEFORE.format(n=n)
    first = n - n % 5
    points = f"[{POINT.format(n=n)}]" if n == first else "[]"
    return MANIFEST.format(n=n, points=points, point=f"point_{first}")


def write_plugins(folder: Path, count: int, before: bool = False) -> None:
    """`count` packages with their dist-info folders, byte-compiled as pip does."""
    import compileall

    for n in range(count):
        package, info = folder / f"fake_{n}", folder / f"crosstask_fake_{n}-1.0.dist-info"
        package.mkdir()
        info.mkdir()
        (package / "__init__.py").write_text("")
        (package / "plugin.py").write_text(manifest(n, before))
        (package / "algorithm.py").write_text("raise SystemExit('a listing must not import this')\n")
        (info / "METADATA").write_text(f"Metadata-Version: 2.4\nName: crosstask-fake-{n}\nVersion: 1.0\n\nA fake.\n")
        (info / "entry_points.txt").write_text(f"[crosstask.plugins]\nfake-{n} = fake_{n}.plugin:PLUGIN\n")
    compileall.compile_dir(folder, quiet=2)


def cpu_seconds(command: list[str], environment: dict[str, str]) -> float:
    """User plus system time of one run of a command, which must succeed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, env=environment, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def measure(plugins: int, repeats: int, before: str | None) -> dict[str, float]:
    """Median CPU milliseconds: of bare python, and of each command over it."""
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as earlier:
        write_plugins(Path(folder), plugins)
        write_plugins(Path(earlier), plugins, before=True)

        def environment(place: str) -> dict[str, str]:
            return {**os.environ, "PYTHONPATH": place, "XDG_CONFIG_HOME": place}

        cli = ["-c", "from crosstask.cli import main; main()"]
        commands = {
            "bare python": ([sys.executable, "-c", "pass"], environment(folder)),
            "crosstask --help": ([sys.executable, *cli, "--help"], environment(folder)),
            "crosstask plugins": ([sys.executable, *cli, "plugins"], environment(folder)),
        }
        if before:
            commands["before: crosstask plugins"] = ([before, *cli, "plugins"], environment(earlier))
        seconds: dict[str, list[float]] = {name: [] for name in commands}
        for command, variables in commands.values():  # once unmeasured: caches of the file system, byte code
            cpu_seconds(command, variables)
        for _ in range(repeats):
            for name, (command, variables) in commands.items():
                seconds[name].append(cpu_seconds(command, variables))
    bare = statistics.median(seconds["bare python"])
    return {
        name: 1000 * (statistics.median(values) - (0 if name == "bare python" else bare))
        for name, values in seconds.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plugins", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--check", type=float, help="fail if `crosstask plugins` takes more milliseconds than this")
    parser.add_argument("--before", help="python of an environment with an earlier version, to compare with")
    arguments = parser.parse_args()
    found = measure(arguments.plugins, arguments.repeats, arguments.before)
    for name, milliseconds in found.items():
        over = "" if name == "bare python" else " over bare python"
        print(f"{name}: {milliseconds:.0f} ms CPU{over}")
    if arguments.before:
        ratio = found["crosstask plugins"] / found["before: crosstask plugins"]
        print(f"now / before: {ratio:.2f}")
    if arguments.check is not None and found["crosstask plugins"] > arguments.check:
        sys.exit(f"more than {arguments.check:.0f} ms")


if __name__ == "__main__":
    main()
