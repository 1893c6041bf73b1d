"""CPU time of `crosstask plugins` with 100 installed plugins, over that of bare python.

    python tests/benchmarks/plugins_cli.py [--plugins 100] [--repeats 15] [--check 150]

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


def write_plugins(folder: Path, count: int) -> None:
    """`count` packages with their dist-info folders, byte-compiled as pip does."""
    import compileall

    for n in range(count):
        package, info = folder / f"fake_{n}", folder / f"crosstask_fake_{n}-1.0.dist-info"
        package.mkdir()
        info.mkdir()
        (package / "__init__.py").write_text("")
        (package / "plugin.py").write_text(MANIFEST.format(n=n))
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


def measure(plugins: int, repeats: int) -> dict[str, float]:
    """Median CPU milliseconds: of bare python, and of each command over it."""
    with tempfile.TemporaryDirectory() as folder:
        write_plugins(Path(folder), plugins)
        path = os.pathsep.join(filter(None, [folder, os.environ.get("PYTHONPATH")]))
        environment = {**os.environ, "PYTHONPATH": path, "XDG_CONFIG_HOME": folder}
        cli = [sys.executable, "-c", "from crosstask.cli import main; main()"]
        commands = {
            "bare python": [sys.executable, "-c", "pass"],
            "crosstask --help": [*cli, "--help"],
            "crosstask plugins": [*cli, "plugins"],
        }
        seconds: dict[str, list[float]] = {name: [] for name in commands}
        for command in commands.values():  # once unmeasured: caches of the file system, byte code
            cpu_seconds(command, environment)
        for _ in range(repeats):
            for name, command in commands.items():
                seconds[name].append(cpu_seconds(command, environment))
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
    arguments = parser.parse_args()
    found = measure(arguments.plugins, arguments.repeats)
    for name, milliseconds in found.items():
        over = "" if name == "bare python" else " over bare python"
        print(f"{name}: {milliseconds:.0f} ms CPU{over}")
    if arguments.check is not None and found["crosstask plugins"] > arguments.check:
        sys.exit(f"more than {arguments.check:.0f} ms")


if __name__ == "__main__":
    main()
