"""A command of a plugin."""

import click


@click.command()
@click.argument("name", default="world")
def command(name: str) -> None:
    """Say hello to NAME."""
    click.echo(f"hello {name}")


no_command = "a string"
