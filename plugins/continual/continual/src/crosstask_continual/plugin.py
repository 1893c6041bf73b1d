"""The manifest."""

from crosstask.manifest import Plugin

PLUGIN = Plugin("continual", api=(2, 0))
