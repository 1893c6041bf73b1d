"""The manifest: the package offers networks to import and no component."""

from crosstask.manifest import Plugin

PLUGIN = Plugin("cross-domain", api=(2, 0))
