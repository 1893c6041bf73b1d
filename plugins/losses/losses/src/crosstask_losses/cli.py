"""`crosstask demo-balancing`."""

from __future__ import annotations

import click

from crosstask.cli.common import emit_json, json_option, say


@click.command()
@click.option("--tasks", default=4, show_default=True, type=click.IntRange(2), help="Gradients in a set.")
@click.option("--conflict", default=0.9, show_default=True, help="Weight of what the tasks disagree on, 0 to 1.")
@click.option("--spread", default=30.0, show_default=True, help="The longest gradient over the shortest.")
@click.option("--seed", default=0, show_default=True, help="Of the gradients.")
@json_option
def balancing(tasks: int, conflict: float, spread: float, seed: int, as_json: bool) -> None:
    """Balance made-up gradients that conflict, and say whom each balancer's update serves and whom it hurts."""
    from crosstask_losses.demo import balancing_demo

    found = balancing_demo(tasks=tasks, conflict=conflict, spread=spread, seed=seed, echo=None if as_json else say)
    if as_json:
        emit_json(found)
