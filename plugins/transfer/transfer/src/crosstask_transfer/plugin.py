"""The manifest."""

from crosstask.manifest import Plugin

PLUGIN = Plugin("transfer", api=(2, 0))
