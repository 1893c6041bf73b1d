"""The manifest."""

from crosstask.manifest import Plugin

PLUGIN = Plugin("meta", api=(2, 0))
