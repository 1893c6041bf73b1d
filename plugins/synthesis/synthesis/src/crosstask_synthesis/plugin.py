"""The manifest."""

from crosstask.manifest import Plugin

PLUGIN = Plugin("synthesis", api=(2, 0))
