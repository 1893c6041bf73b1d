"""`crosstask synthesize TASK`."""

from __future__ import annotations

import click

from crosstask.cli.common import Wanted, emit_json, emit_table, file_name, say, shown, task_options


@click.command()
@click.argument("task")
@click.option("--strategy", help="Synthesis component. [default: the one that a plugin marks]")
@task_options
def command(
    task: str,
    strategy: str | None,
    reference: str,
    wanted: Wanted,
) -> None:
    """Make a model for the unseen TASK without training it; write its weights to --out as safetensors."""
    with wanted.engine(reference) as (engine, _):
        chosen = {} if strategy is None else {"synthesizer": strategy}
        outcome = engine.run_stage("synthesis", task=task, **chosen)
    from safetensors.torch import save_file

    from crosstask.writing import atomic

    result = outcome.record
    path = wanted.out / f"{file_name(task)}.safetensors"
    # Cloned, because safetensors refuses tensors that share memory.
    state = outcome.artifacts["model"].state_dict()
    with atomic(path, "weights", needed=sum(tensor.nbytes for tensor in state.values())) as part:
        save_file({name: tensor.detach().cpu().clone() for name, tensor in state.items()}, part)
    if wanted.as_json:
        emit_json(result)
        return
    from rich.table import Table

    table = Table("Source", "Weight", title=f"{task}: made by {result.provenance.strategy}")
    for source, weight in sorted(result.provenance.sources.items(), key=lambda item: -item[1]):
        table.add_row(source, shown(weight))
    emit_table(table)
    for note in result.provenance.notes:
        say(note)
    if (expected := result.provenance.expected) is not None:
        say(f"{result.metric} expected: {expected.mean:.3f}, 95 % interval {expected.low:.3f} to {expected.high:.3f}")
    say(f"{result.metric}: {shown(result.score)} untrained, {shown(result.full_training_score)} with full training")
    say(f"weights: {path}")
