"""The manifest."""

from crosstask.manifest import Plugin

PLUGIN = Plugin("search", api=(2, 0))
