"""For tests of commands: run one in this process, with the plugins of a registry."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from unittest import mock

import click

from crosstask.registry import Registry


@contextlib.contextmanager
def installed(registry: Registry) -> Iterator[Registry]:
    """Inside, `Registry.installed()` is this one: what a command finds."""
    with mock.patch.object(Registry, "installed", classmethod(lambda cls, settings=None: registry)):
        yield registry


def invoke(command: click.Command, *arguments: object) -> str:
    """What a command prints to standard output. AssertionError with its output if it does not end with 0; what it
    raises is raised here.
    """
    from click.testing import CliRunner  # deferred: only tests of commands need it

    result = CliRunner().invoke(command, [str(argument) for argument in arguments], catch_exceptions=False)
    if result.exit_code != 0:
        raise AssertionError(f"{command.name} ended with {result.exit_code}: {result.output}")
    return result.stdout
