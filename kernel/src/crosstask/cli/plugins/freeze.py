"""`crosstask plugins freeze`."""

from __future__ import annotations

from pathlib import Path

import click

from crosstask.cli.common import emit_json, json_option, say


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="File to write.  [default: print it]")
@json_option
def command(folder: Path, output: Path | None, as_json: bool) -> None:
    """Which plugins, in which versions, the run in FOLDER used: lines name==version.

    `pip install -r FILE` installs them, and `crosstask run --frozen FILE` refuses to run with others.
    """
    from crosstask.errors import RunError
    from crosstask.frozen import freeze
    from crosstask.job import load_run
    from crosstask.writing import atomic

    record = load_run(folder)
    if as_json:
        emit_json(record.used)
    elif output is None:
        say(freeze(record), nl=False)
    else:
        with atomic(output, kind=RunError) as part:
            part.write_text(freeze(record), encoding="utf-8")
        say(f"wrote {output}")
