"""The manifest."""

from crosstask.manifest import Plugin

PLUGIN = Plugin("alignment", api=(2, 0))
