"""The manifest."""

from crosstask.manifest import Plugin

PLUGIN = Plugin("multitask", api=(2, 0))
