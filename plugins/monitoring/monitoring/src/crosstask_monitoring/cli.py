"""`crosstask monitor`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from crosstask.cli.common import Wanted, emit_json, emit_table, say, shown, task_options

if TYPE_CHECKING:
    from crosstask_monitoring.monitor import Monitor
    from crosstask_monitoring.records import Entry

_FILE = click.option(
    "--file", "path", type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Labelled samples: an .npz file with inputs [N, …] and targets [N].",
)  # fmt: skip


@click.group()
def command() -> None:
    """Record scores of a task, show them, say whether they have dropped, and heal."""


def _options(function: Callable[..., None]) -> Callable[..., None]:
    """Those of every command on a recipe's tasks, and the detector."""
    named = click.option("--detector", help="What says that a score has dropped. [default: the one marked as default]")
    return named(task_options(function))


@contextlib.contextmanager
def _monitor(wanted: Wanted, reference: str | None, detector: str | None, *tasks: str) -> Iterator[Monitor]:
    """The monitor of a recipe's tasks, with the models of these in place."""
    from crosstask_monitoring.monitor import Monitor

    with wanted.engine(reference) as (engine, _):
        engine.train([engine.portfolio[task].task_id for task in tasks])
        yield Monitor(engine, detector)


@command.command()
@click.argument("task")
@click.argument("score", type=float, required=False)
@click.option("--samples", default=1, show_default=True, type=click.IntRange(1), help="Labelled samples behind it.")
@click.option("--reference", "healthy", is_flag=True, help="The model was healthy: later scores are compared with it.")
@click.option("--when", default="", help="Date and time in ISO form. [default: now]")
@_FILE
@_options
def record(
    task: str, score: float | None, samples: int, healthy: bool, when: str, path: Path | None, detector: str | None,
    reference: str | None, wanted: Wanted,
) -> None:  # fmt: skip
    """Write down a SCORE of TASK's model, or that on the labelled samples of a file."""
    with _monitor(wanted, reference, detector, task) as monitor:
        given = {} if path is None else _read(path)
        entry = monitor.record(task, score, samples=samples, when=when, reference=healthy, **given)
    if wanted.as_json:
        emit_json(entry)
    else:
        say(f"{task}: {entry.metric} {entry.score:.3f} of {entry.samples} samples")


@command.command()
@click.argument("task")
@_options
def show(task: str, detector: str | None, reference: str | None, wanted: Wanted) -> None:
    """Show what is known of TASK: scores, alarms, replacements."""
    with _monitor(wanted, reference, detector, task) as monitor:
        entries = monitor.history.of(task)
    if wanted.as_json:
        emit_json(entries)
    else:
        emit_table(_history(task, entries))


def _history(task: str, entries: list[Entry]) -> Any:
    from rich.table import Table

    table = Table("When", "What", "Score", "Samples", "Model", "Note", title=f"{task}: {len(entries)} entries")
    for entry in entries:
        count = "–" if entry.score is None else str(entry.samples)
        model = entry.model[:8] + (f" → {entry.after[:8]}" if entry.after else "")
        table.add_row(entry.when[:19], entry.kind, shown(entry.score), count, model, entry.note)
    return table


@command.command()
@click.argument("task")
@_options
def check(task: str, detector: str | None, reference: str | None, wanted: Wanted) -> None:
    """Say whether the score of TASK has dropped."""
    with _monitor(wanted, reference, detector, task) as monitor:
        reading = monitor.check(task)[task]
    if wanted.as_json:
        emit_json(reading)
        return
    say(reading._headline())
    say(f"while it was healthy: {reading.metric} {reading.reference}")
    if reading.recent is not None:
        say(f"{'since the drop' if reading.alarm else 'since then'}: {reading.recent}")


@command.command()
@click.argument("task")
@_FILE
@click.option("--planner", help="What plans the curriculum. [default: the one marked as default]")
@click.option("--max-tasks", default=3, show_default=True, type=click.IntRange(1), help="Tasks of the curriculum.")
@click.option("--force", is_flag=True, help="Also where no drop was found.")
@_options
def heal(
    task: str, path: Path | None, planner: str | None, max_tasks: int, force: bool, detector: str | None,
    reference: str | None, wanted: Wanted,
) -> None:  # fmt: skip
    """Heal TASK from the labelled samples of a file, where its score has dropped; its model is replaced only by a
    better one, and is kept.
    """
    with _monitor(wanted, reference, detector, task) as monitor:
        data = None if path is None else tuple(_read(path).values())
        done = monitor.heal(task, data=data, planner=planner, max_tasks=max_tasks, force=force)
    if wanted.as_json:
        emit_json(done)
    else:
        say(done._headline())


@command.command()
@click.argument("task")
@_options
def rollback(task: str, detector: str | None, reference: str | None, wanted: Wanted) -> None:
    """Put the model of TASK in place that was there before the last replacement."""
    with _monitor(wanted, reference, detector, task) as monitor:
        digest = monitor.roll_back(task)
    if wanted.as_json:
        emit_json({"task": task, "model": digest})
    else:
        say(f"{task}: model {digest[:8]} is in place again")


def _read(path: Path) -> dict[str, Any]:
    """Inputs and targets of a file. DataError for another one."""
    import numpy as np
    import torch

    from crosstask.errors import DataError

    try:
        with np.load(path, allow_pickle=False) as file:
            held = {name: torch.from_numpy(file[name]) for name in file.files}
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{path}: no .npz file of arrays: {error}") from None
    if set(held) != {"inputs", "targets"}:
        raise DataError(f"{path}: must hold inputs and targets, got {', '.join(sorted(held)) or 'nothing'}")
    return {"inputs": held["inputs"], "targets": held["targets"]}
