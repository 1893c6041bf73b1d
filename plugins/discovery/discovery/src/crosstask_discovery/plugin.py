"""The manifest."""

from crosstask.manifest import Plugin

PLUGIN = Plugin("discovery", api=(2, 0))
