"""The manifest."""

from crosstask.manifest import Plugin

PLUGIN = Plugin("adapters", api=(2, 0))
