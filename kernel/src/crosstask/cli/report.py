"""`crosstask report DIR`, and `crosstask report --serve`."""

from __future__ import annotations

from pathlib import Path

import click
from click.core import ParameterSource

from crosstask.cli.common import emit_json, json_option, say

_PORT = 8765


@click.command()
@click.argument("runs", nargs=-1, metavar="[RUN]...")
@click.option(
    "--serve", "serving", is_flag=True, help="Show the runs as a local web page that only reads, until Ctrl-C."
)
@click.option("--store", help="With --serve: the runs of this store; RUN is then the id of one of them.")
@click.option("--host", default="127.0.0.1", show_default=True, help="With --serve: the address on which to listen.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=_PORT, show_default=True, help="With --serve; 0: any free one."
)
@click.option("--open", "opening", is_flag=True, help="With --serve: open the page in the browser.")
@json_option
def command(
    runs: tuple[str, ...], serving: bool, store: str | None, host: str, port: int, opening: bool, as_json: bool
) -> None:
    """Write report.html of the run in the folder RUN again, from its run.json and graph.json.

    With --serve, show the runs in these folders (a run's own, or one that holds those of several; the current one by
    default) as they are and, while they work, as they become.
    """
    if serving:
        _serve(runs, store, host, port, opening, as_json)
        return
    context = click.get_current_context()
    for option in context.command.params:
        given = context.get_parameter_source(option.name or "") is ParameterSource.COMMANDLINE
        if given and option.name in ("store", "host", "port", "opening"):
            raise click.UsageError(f"{option.opts[0]} goes with --serve")
    if len(runs) != 1:
        raise click.UsageError("name the folder of one RUN, or --serve several")
    _write(Path(runs[0]), as_json)


def _write(folder: Path, as_json: bool) -> None:
    from crosstask.graph import TransferGraph
    from crosstask.job import load_run
    from crosstask.registry import Registry
    from crosstask.report import write_report

    record = load_run(folder)
    graph = TransferGraph.load(folder / "graph.json")
    prefer = record.recipe.get("prefer")
    registry = Registry.installed().preferring(prefer if isinstance(prefer, dict) else {})  # as the run did
    path = write_report(record, graph, folder / "report.html", registry)
    if as_json:
        emit_json({"report": str(path), "run": record.run_id, "status": record.status})
    else:
        say(f"report: {path}")


def _serve(runs: tuple[str, ...], url: str | None, host: str, port: int, opening: bool, as_json: bool) -> None:
    import contextlib
    import webbrowser

    from crosstask.cli.store import opened
    from crosstask.errors import RunError
    from crosstask.job import runs_beside
    from crosstask.registry import Registry
    from crosstask.report import available

    if not available():
        raise RunError("the report needs plotly: pip install 'crosstask-kernel[report]'")
    from crosstask.cli.serve import Runs, Server, serve

    with contextlib.ExitStack() as stack:
        if url is None:
            folders = [Path(run) for run in runs or (".",)]
            for folder in folders:
                if not folder.is_dir():
                    what = f"{folder} is a file, not a folder of runs" if folder.is_file() else f"no folder {folder}"
                    raise RunError(f"{what}{runs_beside(folder)}")
            shown = Runs(folders)
            for folder in folders:
                if not Runs([folder]).all():
                    told = f"{folder} holds no run yet, and none of its folders does{runs_beside(folder)}"
                    say(f"{told}; runs that begin there are shown", err=True)
        else:
            shown = Runs(store=stack.enter_context(opened(url)), wanted=runs)
            if missing_ids := sorted(set(runs) - {run.record.run_id for run in shown.all().values()}):
                raise RunError(f"the store has no run {missing_ids[0]!r}")
        server = Server(shown, Registry.installed(), host, port)
        if as_json:
            emit_json({"url": server.url})
        else:
            say(f"{server.url} shows {len(shown.all())} runs and only reads; Ctrl-C ends it")
        if host not in ("127.0.0.1", "::1", "localhost"):
            say("whoever reaches this machine can read these runs: nobody is asked for a password", err=True)
        if opening:
            webbrowser.open(server.url)
        serve(server)
