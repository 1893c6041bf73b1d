"""The manifest."""

from crosstask.manifest import Plugin

PLUGIN = Plugin("distillation", api=(2, 0))
