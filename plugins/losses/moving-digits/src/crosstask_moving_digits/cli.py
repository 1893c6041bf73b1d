"""`crosstask demo-mtl-flow` and `crosstask demo-aggregation`."""

from __future__ import annotations

import click

from crosstask.cli.common import emit_json, json_option, say


@click.command()
@click.option("--steps", default=100, show_default=True, type=click.IntRange(1), help="Updates of the model.")
@click.option("--balancer", default="rgb", show_default=True, help="Balancer component.")
@click.option("--seed", default=0, show_default=True, help="Of videos, model and steps.")
@json_option
def flow(steps: int, balancer: str, seed: int, as_json: bool) -> None:
    """Train a small video model on moving digits: observations, outputs, losses, a balanced step."""
    from crosstask_moving_digits.demo import flow_demo

    found = flow_demo(steps, balancer=balancer, seed=seed, echo=None if as_json else say)
    if as_json:
        emit_json(found)


@click.command()
@click.option("--seed", default=0, show_default=True, help="Of videos and model.")
@json_option
def aggregation(seed: int, as_json: bool) -> None:
    """Print what each objective makes of a model's outputs, and what is said when something is missing."""
    from crosstask_moving_digits.demo import aggregation_demo

    found = aggregation_demo(seed=seed, echo=None if as_json else say)
    if as_json:
        emit_json(found)
