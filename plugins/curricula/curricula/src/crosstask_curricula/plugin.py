"""The manifest."""

from crosstask.manifest import Plugin

PLUGIN = Plugin("curricula", api=(2, 0))
