"""The manifest."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="prefix",
    api=(2, 0),
    extensions=[
        Extension(
            "adapter",
            "prefix",
            "crosstask_prefix.prefix:Prefix",
            summary="Puts learned keys and values in front of those of attention layers",
            source="Li, Liang (2021), Prefix-Tuning, ACL",
        ),
    ],
)
