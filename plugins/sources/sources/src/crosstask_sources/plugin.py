"""The manifest."""

from crosstask.manifest import Plugin

PLUGIN = Plugin("sources", api=(2, 0))
