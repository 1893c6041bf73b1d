"""The manifest: it brings a callback, not a component."""

from crosstask.manifest import Plugin

PLUGIN = Plugin(name="lightning", api=(2, 0))
